/* SPDX-License-Identifier: MIT */
/*
 * The features of qcow2 images that crash tests combine: rows in which every pair of values that
 * the format allows occurs, and the images that belong to them, made by qemu-img. One thread.
 */
#ifndef HAWSER_TESTS_CRASH_FEATURES_H
#define HAWSER_TESTS_CRASH_FEATURES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum axis {
	AXIS_CLUSTER,
	AXIS_VERSION,
	AXIS_REFCOUNT,
	AXIS_BACKING,
	AXIS_SUBCLUSTERS,
	AXIS_SNAPSHOT,
	AXIS_DATA_FILE,
	AXIS_CONTENT,
	AXIS_LAZY,
	AXIS_WAY, /* from here on: not for faults of the host */
	AXIS_ENCRYPTION,
	AXES
};

enum { FEATURES_MAX = 96, FEATURES_SECTOR = 512 };

/* One combination: which value of each axis. */
struct features {
	uint8_t value[AXES];
};

/* Has the row this value? Names are those of the table in features.c. */
bool features_has(const struct features *row, enum axis axis, const char *value);
/* The first value of each axis in words, unless words ("cluster=512 snapshot=yes") say another. */
struct features features_of(const char *words);
bool features_possible(const struct features *row);
/* Every pair of values; returns how many rows. Only axes below `axes` are combined. */
size_t features_pairwise(struct features rows[FEATURES_MAX], int axes, unsigned int seed);
/* All values that are not the first. */
const char *features_name(const struct features *row);

/* Which file shows a sector of a new disk. */
enum layer { LAYER_NONE, LAYER_BASE, LAYER_TOP };

struct disk {
	const struct features *row;
	const char *folder;
	uint64_t sectors;
	/* Content of a sector in one of the layers. */
	void (*content)(uint8_t *sector, uint64_t number, enum layer layer);
	char path[128], data[128]; /* made here; data is "" without a data file */
};

/* The layer that a guest sees when the image is new. */
enum layer disk_layer(const struct disk *disk, uint64_t sector);
/* Makes the image, its backing file and its data file. 0, or -1. */
int disk_make(struct disk *disk);

struct image_options;
/* What opens the image for writing: with a key only where it is encrypted, else it is refused. */
struct image_options disk_options(const struct disk *disk);

/* qemu-img check, what it says in the file `said` of the folder: 0 clean, 3 leaks, 2 corruptions,
 * 1 or other: cannot be opened or read. Of a dirty image: after it has been repaired. */
int disk_ask_qemu(const struct disk *disk);
/* Our own checker: how many corruptions, after repairs in memory when the image is dirty. -errno:
 * it could not count. */
struct image;
int64_t disk_corruptions(struct image *image);

/* A whole file: to be freed, empty where there is none; and back. false: it could not be written.
 */
uint8_t *file_load(const char *path, size_t *size);
bool file_store(const char *path, const uint8_t *bytes, size_t size);
/* Runs a command of the shell; its exit status. */
__attribute__((format(printf, 1, 2))) int run(const char *format, ...);

#endif
