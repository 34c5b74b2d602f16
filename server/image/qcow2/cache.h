/* SPDX-License-Identifier: MIT */
/*
 * The L2 cache inside: for cache.c, which reads, and cache-write.c, which changes and writes back.
 */
#ifndef HAWSER_SERVER_IMAGE_QCOW2_CACHE_H
#define HAWSER_SERVER_IMAGE_QCOW2_CACHE_H

#include "qcow2.h"

struct cache_slot {
	_Atomic uint64_t key;  /* offset of the slice in the file; 0: unused */
	_Atomic uint32_t next; /* in the chain: number + 1, 0: last */
	atomic_bool used;      /* lately; any thread */
	bool dirty;            /* newer than the file; under the lock, as the next */
	bool writing;          /* a copy is on its way to the file */
};

struct cache_bucket {
	_Atomic uint32_t sequence; /* odd: the chain or a slot of it is changing */
	_Atomic uint32_t head;     /* number of the first slot + 1, 0: none */
};

struct qcow2_cache {
	pthread_mutex_t lock; /* for all changes */
	uint32_t slot_count, hand;
	uint32_t slice_bytes, slice_bits, words, entry_words;
	unsigned int hash_shift;
	uint64_t generation; /* counts write-backs; under the lock */
	struct cache_slot *slots;
	_Atomic uint64_t *arena; /* words of slot i: from i * words on */
	struct cache_bucket *buckets;
	uint32_t *dirty_slots; /* numbers of the dirty slots, as many as there are slots */
	uint32_t dirty_count;
	_Atomic uint32_t pinned; /* slots that are dirty or on their way; changed under the lock */
};

static inline _Atomic uint64_t *slot_words(const struct qcow2_cache *cache,
					   const struct cache_slot *slot)
{
	return cache->arena + (uint64_t)(slot - cache->slots) * cache->words;
}

/* For the hash chain of key. Under the lock, but for readers that look at the sequence. */
struct cache_bucket *cache_bucket_of(const struct qcow2_cache *cache, uint64_t key);
struct cache_slot *cache_find(const struct qcow2_cache *cache, const struct cache_bucket *bucket,
			      uint64_t key);
void cache_change_begin(struct cache_bucket *bucket);
void cache_change_end(struct cache_bucket *bucket);
/* Takes a slot that is not dirty out of the cache. */
void cache_unlink(struct qcow2_cache *cache, struct cache_slot *slot);

/* Brings the slice at key into memory. 0 or -errno. */
int cache_load(struct qcow2 *q, uint64_t key, unsigned int flags);

#endif
