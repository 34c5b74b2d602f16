/* SPDX-License-Identifier: MIT */
/*
 * What clients did to each sector of a disk, and when: says whether what a sector holds after a cut
 * is possible, and what was promised. A sector belongs to one client, who alone notes what happens
 * to it; flushes are noted by all.
 */
#ifndef HAWSER_TESTS_CRASH_HISTORY_H
#define HAWSER_TESTS_CRASH_HISTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "features.h"

enum {
	VERSION_ZERO = 0, /* others: LAYER_BASE and LAYER_TOP, and from here on those of clients */
	VERSION_CLIENTS = 16,
};

/* disk: as it is when clients begin. Kept. */
void history_start(const struct disk *disk);

/* Content: each sector says which it is and of which version. */
void history_content(uint8_t *sector, uint64_t number, uint32_t version);
/* The content of new disks, for struct disk. */
void history_layer(uint8_t *sector, uint64_t number, enum layer layer);

struct history_change {
	uint64_t first, count; /* sectors */
	uint32_t version;
	bool maybe; /* a discard: zeroes, or what was there */
	bool fua;   /* once it has ended it is promised */
};

/* Is there room to note one more change of these sectors? */
bool history_has_room(uint64_t first, uint64_t count);
void history_begin(const struct history_change *change);
void history_end(const struct history_change *change);
/* A flush was asked for at this tick, and has just succeeded. */
void history_flushed(uint64_t begun);
/* How many flushes have. */
unsigned int history_flushes(void);

/* Whether the sectors of the disk, at bytes, may be so after a cut at tick; else the first that may
 * not in *bad. */
bool history_allows(const uint8_t *bytes, uint64_t tick, uint64_t *bad);
/* Tells on standard output what is known of a sector. */
void history_tell(const uint8_t *bytes, uint64_t number, uint64_t tick);
/* Whether they are as the disk was at the start. */
bool history_is_start(const uint8_t *bytes, uint64_t *bad);

#endif
