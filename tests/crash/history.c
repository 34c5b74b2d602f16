// SPDX-License-Identifier: MIT
/*
 * The history of a disk. A flush promises all that had ended when it was asked for.
 */
#include "history.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "record.h"

enum { EVENTS = 64, FLUSHES = 4096, SECTOR = FEATURES_SECTOR };

/* Newest last. */
struct event {
	uint64_t begun, ended; /* ended 0: not */
	uint32_t version;
	bool maybe, fua;
};

struct sector {
	struct event events[EVENTS];
	unsigned int count;
};

static const struct disk *disk;
static struct sector *sectors;
static struct {
	uint64_t begun, ended;
} flushes[FLUSHES];
static unsigned int flush_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void history_start(const struct disk *new_disk)
{
	disk = new_disk;
	free(sectors);
	sectors = calloc(disk->sectors, sizeof(*sectors));
	flush_count = 0;
}

/* ---- Content ---- */

void history_content(uint8_t *sector, uint64_t number, uint32_t version)
{
	uint32_t words[SECTOR / 4];

	if (version == VERSION_ZERO) {
		memset(sector, 0, SECTOR);
		return;
	}
	/* A half that compresses well and one that does not. */
	for (uint32_t i = 0; i < SECTOR / 4; i++)
		words[i] = i % 2 ? version : ((uint32_t)number * 64 + i) * UINT32_C(2654435761);
	memcpy(sector, words, SECTOR);
}

void history_layer(uint8_t *sector, uint64_t number, enum layer layer)
{
	history_content(sector, number, (uint32_t)layer);
}

static bool is_version(const uint8_t *sector, uint64_t number, uint32_t version)
{
	uint8_t wanted[SECTOR];

	history_content(wanted, number, version);
	return memcmp(sector, wanted, sizeof(wanted)) == 0;
}

/* ---- Noting ---- */

bool history_has_room(uint64_t first, uint64_t count)
{
	for (uint64_t s = first; s < first + count; s++)
		if (sectors[s].count == EVENTS)
			return false;
	return true;
}

void history_begin(const struct history_change *change)
{
	uint64_t tick = record_tick();

	for (uint64_t s = change->first; s < change->first + change->count; s++)
		sectors[s].events[sectors[s].count++] = (struct event){.begun = tick,
								       .version = change->version,
								       .maybe = change->maybe,
								       .fua = change->fua};
}

void history_end(const struct history_change *change)
{
	uint64_t tick = record_tick();

	for (uint64_t s = change->first; s < change->first + change->count; s++)
		sectors[s].events[sectors[s].count - 1].ended = tick;
}

void history_flushed(uint64_t begun)
{
	pthread_mutex_lock(&lock);
	if (flush_count < FLUSHES) {
		flushes[flush_count].begun = begun;
		flushes[flush_count++].ended = record_tick();
	}
	pthread_mutex_unlock(&lock);
}

unsigned int history_flushes(void)
{
	return flush_count;
}

/* ---- Judging ---- */

/* All that had ended before this tick is promised. */
static uint64_t promised_at(uint64_t tick)
{
	uint64_t begun = 0;

	for (unsigned int i = 0; i < flush_count; i++)
		if (flushes[i].ended < tick && flushes[i].begun > begun)
			begun = flushes[i].begun;
	return begun;
}

/* From the newest event that is promised on, any may be what is there. */
static bool is_allowed(const uint8_t *bytes, uint64_t number, uint64_t promise, uint64_t tick)
{
	const struct sector *sector = &sectors[number];

	for (unsigned int i = sector->count; i--;) {
		const struct event *event = &sector->events[i];
		uint64_t until = event->fua ? tick : promise;

		if (event->begun >= tick)
			continue;
		if (is_version(bytes, number, event->version))
			return true;
		if (event->ended && event->ended < until && !event->maybe)
			return false;
	}
	return is_version(bytes, number, (uint32_t)disk_layer(disk, number));
}

bool history_allows(const uint8_t *bytes, uint64_t tick, uint64_t *bad)
{
	uint64_t promise = promised_at(tick);

	for (*bad = 0; *bad < disk->sectors; ++*bad)
		if (!is_allowed(bytes + *bad * SECTOR, *bad, promise, tick))
			return false;
	return true;
}

bool history_is_start(const uint8_t *bytes, uint64_t *bad)
{
	for (*bad = 0; *bad < disk->sectors; ++*bad)
		if (!is_version(bytes + *bad * SECTOR, *bad, (uint32_t)disk_layer(disk, *bad)))
			return false;
	return true;
}

void history_tell(const uint8_t *bytes, uint64_t number, uint64_t tick)
{
	const struct sector *sector = &sectors[number];
	uint32_t words[2];

	memcpy(words, bytes + number * SECTOR, sizeof(words));
	printf("#   sector %llu has version %u%s; promised until %llu\n",
	       (unsigned long long)number, words[1],
	       is_version(bytes + number * SECTOR, number, words[1]) ? "" : " in part",
	       (unsigned long long)promised_at(tick));
	for (unsigned int i = 0; i < sector->count; i++)
		printf("#   %llu..%llu version %u%s%s\n",
		       (unsigned long long)sector->events[i].begun,
		       (unsigned long long)sector->events[i].ended, sector->events[i].version,
		       sector->events[i].maybe ? ", discard" : "",
		       sector->events[i].fua ? ", FUA" : "");
}
