/* SPDX-License-Identifier: MIT */
/*
 * The record of all that a program does to some files, in one order, and the states in which a
 * power cut may leave them. This program's own pwrite64, pwritev64v2, ftruncate64, fallocate64 and
 * fdatasync take the place of the C library's, so engine and drivers run as they are, whichever of
 * them makes the operation.
 */
#ifndef HAWSER_TESTS_CRASH_RECORD_H
#define HAWSER_TESTS_CRASH_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RECORD_FILES = 2 };

enum record_kind { RECORD_WRITE, RECORD_PUNCH, RECORD_SIZE, RECORD_SYNC, RECORD_NOTHING };

struct record_op {
	enum record_kind kind;
	unsigned int file;
	uint64_t offset, length; /* RECORD_SIZE: the new size is offset */
	uint8_t *bytes;          /* of a write */
	uint64_t begun, ended;   /* ticks; ended 0: not */
	bool flush_begins;       /* a sync: the first since the thread's last flush ended */
	bool flush_ends;         /* a sync: the last of a flush that succeeded */
	unsigned long thread;
};

struct record {
	struct record_op *ops;
	size_t count, room;
};

/* From now on operations on these files are recorded; "" for none. */
void record_start(const char *const paths[RECORD_FILES]);
/* The record, in the order in which operations began. Nothing runs any more. */
struct record *record_stop(void);
void record_free(struct record *record);

/* The clock of the record: each tick is later than the one before. */
uint64_t record_tick(void);
/* Marks the calling thread's last sync as the end of a flush. */
void record_flush_ended(void);

/* Ordering bugs that a replay can plant: syncs that count for nothing. */
enum plant {
	PLANT_NONE,
	PLANT_FIRST,  /* the first of each flush that has several */
	PLANT_MIDDLE, /* all in a flush but its last */
	PLANT_LAST,   /* the last of each flush */
	PLANT_DATA,   /* all of the second file */
};

/* The files at a cut. */
struct replay {
	const struct record *record;
	enum plant plant;
	struct replay_file {
		size_t room;      /* of the buffers: as far as any operation reaches */
		uint8_t *durable; /* what certainly is in the file */
		size_t end;       /* of the durable file */
		uint8_t *cut;     /* as the last cut left it */
		size_t cut_end;
	} files[RECORD_FILES];
	size_t next; /* first operation that is not in durable */
	bool *applied;
};

/* start, start_size: the files before the record. */
void replay_init(struct replay *replay, const struct record *record, enum plant plant,
		 uint8_t *const start[RECORD_FILES], const size_t start_size[RECORD_FILES]);
void replay_clear(struct replay *replay);
/*
 * Makes a state after a cut at this tick, which must not go back: what is durable, and of what is
 * not each 512 bytes by chance (all of it, nothing, or some), in files[].cut.
 */
void replay_cut(struct replay *replay, uint64_t tick, unsigned int *seed);

#endif
