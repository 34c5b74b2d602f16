/* SPDX-License-Identifier: MIT */
/*
 * Locks for ranges of a file: a read-write lock for each MiB, of which a few serve all of it. Who
 * changes a part of a block, and so must read and write back the rest, holds it alone; whole
 * blocks are moved side by side. Any thread; a thread holds one range of one set at a time.
 */
#ifndef HAWSER_SERVER_IMAGE_STRIPES_H
#define HAWSER_SERVER_IMAGE_STRIPES_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum { STRIPES = 64, STRIPE_SHIFT = 20 };

struct stripes {
	pthread_rwlock_t lock[STRIPES];
};

void stripes_init(struct stripes *stripes);
void stripes_destroy(struct stripes *stripes);

/* The stripes of [offset, offset + length), a bit each; length is not 0. */
uint64_t stripes_of(uint64_t offset, uint64_t length);

void stripes_lock(struct stripes *stripes, uint64_t bits, bool alone);
/* Shared, or false: somebody is there alone. */
bool stripes_try_share(struct stripes *stripes, uint64_t bits);
void stripes_unlock(struct stripes *stripes, uint64_t bits);

#endif
