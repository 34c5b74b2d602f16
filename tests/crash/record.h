/* SPDX-License-Identifier: MIT */
/*
 * The record of all that a program does to one file, and the states in which a power cut may leave
 * it. This program's own pwrite64, fdatasync and fallocate64 take the place of the C library's, so
 * engine and drivers run as they are.
 */
#ifndef HAWSER_TESTS_CRASH_RECORD_H
#define HAWSER_TESTS_CRASH_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum record_kind { RECORD_WRITE, RECORD_PUNCH, RECORD_SYNC };

struct record_op {
	enum record_kind kind;
	uint64_t offset, length;
	uint8_t *bytes;        /* of a write */
	uint64_t begun, ended; /* ticks; ended 0: not */
	bool flush_ends;       /* a sync: the last of a flush that succeeded */
	unsigned long thread;
};

struct record {
	struct record_op *ops;
	size_t count;
};

/* From now on operations on the file that path names are recorded. */
void record_start(const char *path);
/* The record, in the order in which operations began. Nothing runs any more. */
struct record *record_stop(void);
void record_free(struct record *record);

/* The clock of the record: each tick is later than the one before. */
uint64_t record_tick(void);
/* Marks the calling thread's last sync as the end of a flush. */
void record_flush_ended(void);

/* The file at a cut. */
struct replay {
	const struct record *record;
	uint8_t *durable; /* what certainly is in the file */
	size_t size;      /* of the buffers */
	size_t end;       /* of the durable file */
	size_t next;      /* first operation that is not in durable */
	bool *applied;
	bool plant; /* syncs in the middle of a flush count for nothing: a planted bug */
};

void replay_init(struct replay *replay, const struct record *record, const uint8_t *start,
		 size_t start_size, size_t size);
void replay_clear(struct replay *replay);
/*
 * A state after a cut at this tick, which must not go back: what is durable, and each 512 bytes of
 * what is not by chance (all of it, nothing, or some). Written to image, replay->size bytes;
 * returns how long the file is.
 */
size_t replay_cut(struct replay *replay, uint64_t tick, uint8_t *image, unsigned int *seed);

#endif
