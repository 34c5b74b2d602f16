// SPDX-License-Identifier: MIT
/*
 * The cache of L2 tables: a fixed number of slots, each a slice of a table in host byte order,
 * keyed by the slice's offset in the file. Readers take no lock: they copy entries out and look
 * whether the sequence number of the hash chain is still the same. Changes of a chain or of the
 * slots in it happen under the lock and make the number odd meanwhile. Files are never read under
 * the lock.
 *
 * A slice that was read from the file may have been changed, written back and evicted by others in
 * the meantime; the generation, which counts write-backs, tells.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "common/size.h"
#include "server/image/epoch.h"

enum {
	CHAIN_MAX = 64,  /* steps of a reader in a chain that is changing under it */
	READ_TRIES = 16, /* of a reader among writers */
	CACHE_MIN = 64,  /* slots at least */
	DEPTH_SHIFT_MAX = 4,
};

static unsigned int log2_of(uint64_t power)
{
	return (unsigned int)__builtin_ctzll(power);
}

/* As many slots as the disk can use, or the memory may hold. */
static uint32_t slots_wanted(const struct qcow2_header *header, uint32_t slice_size,
			     unsigned int depth)
{
	uint64_t tables = max_of(qcow2_l1_needed(header, header->size), (uint64_t)1);
	uint64_t slices = tables * (qcow2_cluster_size(header) / slice_size);
	uint64_t room =
		(QCOW2_CACHE_BYTES >> min_of(depth, (unsigned int)DEPTH_SHIFT_MAX)) / slice_size;

	return (uint32_t)max_of(min_of(slices + CACHE_MIN, room), (uint64_t)CACHE_MIN);
}

struct qcow2_cache *qcow2_cache_new(const struct qcow2_header *header, unsigned int depth)
{
	struct qcow2_cache *cache = calloc(1, sizeof(*cache));
	uint32_t slice = (uint32_t)min_of(qcow2_cluster_size(header), (uint64_t)QCOW2_SLICE_MAX);
	uint32_t buckets = 1;

	if (!cache)
		return NULL;
	pthread_mutex_init(&cache->lock, NULL);
	cache->slot_count = slots_wanted(header, slice, depth);
	while (buckets < cache->slot_count)
		buckets *= 2;
	cache->slice_bytes = slice;
	cache->slice_bits = log2_of(slice);
	cache->words = slice / 8;
	cache->entry_words = qcow2_has_subclusters(header) ? 2 : 1;
	cache->hash_shift = 64 - log2_of(buckets);
	/* Pages that are never touched are never there. */
	cache->slots = calloc(cache->slot_count, sizeof(*cache->slots));
	cache->arena = calloc(cache->slot_count, slice);
	cache->buckets = calloc(buckets, sizeof(*cache->buckets));
	cache->dirty_slots = calloc(cache->slot_count, sizeof(*cache->dirty_slots));
	if (!cache->slots || !cache->arena || !cache->buckets || !cache->dirty_slots) {
		qcow2_cache_free(cache);
		return NULL;
	}
	return cache;
}

void qcow2_cache_free(struct qcow2_cache *cache)
{
	if (!cache)
		return;
	free(cache->slots);
	free(cache->arena);
	free(cache->buckets);
	free(cache->dirty_slots);
	pthread_mutex_destroy(&cache->lock);
	free(cache);
}

/* ---- Readers ---- */

struct cache_bucket *cache_bucket_of(const struct qcow2_cache *cache, uint64_t key)
{
	uint64_t hash = (key >> cache->slice_bits) * UINT64_C(0x9e3779b97f4a7c15);

	return &cache->buckets[hash >> cache->hash_shift];
}

/* The slot of key in a chain that may be changing; NULL: not seen. */
struct cache_slot *cache_find(const struct qcow2_cache *cache, const struct cache_bucket *bucket,
			      uint64_t key)
{
	uint32_t at = atomic_load_explicit(&bucket->head, memory_order_acquire);

	for (int steps = 0; at && steps < CHAIN_MAX; steps++) {
		struct cache_slot *slot = &cache->slots[at - 1];

		if (atomic_load_explicit(&slot->key, memory_order_acquire) == key)
			return slot;
		at = atomic_load_explicit(&slot->next, memory_order_acquire);
	}
	return NULL;
}

static void copy_out(const struct qcow2_cache *cache, const struct cache_slot *slot, uint64_t first,
		     unsigned int count, struct qcow2_entry *entries)
{
	const _Atomic uint64_t *words = slot_words(cache, slot) + first * cache->entry_words;

	for (unsigned int i = 0; i < count; i++) {
		entries[i].descriptor = atomic_load_explicit(words++, memory_order_acquire);
		entries[i].bitmap = 0;
		if (cache->entry_words == 2)
			entries[i].bitmap = atomic_load_explicit(words++, memory_order_acquire);
	}
}

/* Copies entries of the slice at key, if it is in memory. */
static bool try_copy(struct qcow2_cache *cache, uint64_t key, uint64_t first, unsigned int count,
		     struct qcow2_entry *entries)
{
	struct cache_bucket *bucket = cache_bucket_of(cache, key);

	for (int tries = 0; tries < READ_TRIES; tries++) {
		uint32_t sequence = atomic_load_explicit(&bucket->sequence, memory_order_acquire);
		struct cache_slot *slot = sequence & 1 ? NULL : cache_find(cache, bucket, key);

		if (slot)
			copy_out(cache, slot, first, count, entries);
		if (sequence & 1 ||
		    atomic_load_explicit(&bucket->sequence, memory_order_acquire) != sequence)
			continue;
		if (slot && !atomic_load_explicit(&slot->used, memory_order_relaxed))
			atomic_store_explicit(&slot->used, true, memory_order_relaxed);
		return slot;
	}
	return false;
}

/* ---- Changes, under the lock ---- */

void cache_change_begin(struct cache_bucket *bucket)
{
	uint32_t sequence = atomic_load_explicit(&bucket->sequence, memory_order_relaxed);

	atomic_store_explicit(&bucket->sequence, sequence + 1, memory_order_relaxed);
}

void cache_change_end(struct cache_bucket *bucket)
{
	uint32_t sequence = atomic_load_explicit(&bucket->sequence, memory_order_relaxed);

	atomic_store_explicit(&bucket->sequence, sequence + 1, memory_order_release);
}

void cache_unlink(struct qcow2_cache *cache, struct cache_slot *slot)
{
	struct cache_bucket *bucket = cache_bucket_of(cache, atomic_load(&slot->key));
	uint32_t number = (uint32_t)(slot - cache->slots) + 1;
	_Atomic uint32_t *link = &bucket->head;

	cache_change_begin(bucket);
	while (atomic_load(link) != number)
		link = &cache->slots[atomic_load(link) - 1].next;
	atomic_store_explicit(link, atomic_load(&slot->next), memory_order_release);
	atomic_store_explicit(&slot->key, 0, memory_order_release);
	cache_change_end(bucket);
}

/* A slot for a new slice, unlinked: the clock's hand passes those that were used lately, and those
 * that are not yet in the file. NULL: all of them. */
static struct cache_slot *slot_evict(struct qcow2_cache *cache)
{
	for (uint64_t steps = 0; steps < 2 * (uint64_t)cache->slot_count; steps++) {
		struct cache_slot *slot = &cache->slots[cache->hand];

		cache->hand = (cache->hand + 1) % cache->slot_count;
		if (slot->dirty || slot->writing)
			continue;
		if (atomic_exchange_explicit(&slot->used, false, memory_order_relaxed))
			continue;
		if (atomic_load(&slot->key))
			cache_unlink(cache, slot);
		return slot;
	}
	return NULL;
}

static void slot_link(struct qcow2_cache *cache, struct cache_slot *slot, uint64_t key)
{
	struct cache_bucket *bucket = cache_bucket_of(cache, key);

	cache_change_begin(bucket);
	atomic_store_explicit(&slot->key, key, memory_order_release);
	atomic_store_explicit(&slot->next, atomic_load(&bucket->head), memory_order_release);
	atomic_store_explicit(&bucket->head, (uint32_t)(slot - cache->slots) + 1,
			      memory_order_release);
	cache_change_end(bucket);
	atomic_store_explicit(&slot->used, true, memory_order_relaxed);
}

/* Puts what was read from the file into a slot; false when that is no longer what the file says,
 * or no slot is free. */
static bool insert(struct qcow2_cache *cache, uint64_t key, const uint8_t *bytes,
		   uint64_t generation)
{
	struct cache_slot *slot;
	bool done = true;

	pthread_mutex_lock(&cache->lock);
	if (!cache_find(cache, cache_bucket_of(cache, key), key)) {
		slot = cache->generation == generation ? slot_evict(cache) : NULL;
		if (slot) {
			_Atomic uint64_t *words = slot_words(cache, slot);

			for (uint32_t i = 0; i < cache->words; i++)
				atomic_store_explicit(&words[i], load_be64(bytes + i * 8),
						      memory_order_release);
			slot_link(cache, slot, key);
		}
		done = slot;
	}
	pthread_mutex_unlock(&cache->lock);
	return done;
}

/* ---- Loading ---- */

/* Tables that the file cuts short read as zeroes. */
static int read_slice(struct qcow2 *q, uint64_t key, unsigned int flags, uint8_t *bytes)
{
	uint32_t length = q->cache->slice_bytes;
	int rc;

	if (flags & MAP_NOWAIT)
		return hostfile_read_nowait(q->file, bytes, length, key) == (ssize_t)length
			       ? 0
			       : -EAGAIN;
	rc = hostfile_read(q->file, bytes, length, key);
	return rc == -ENODATA ? 0 : rc;
}

int cache_load(struct qcow2 *q, uint64_t key, unsigned int flags)
{
	struct qcow2_cache *cache = q->cache;
	uint8_t bytes[QCOW2_SLICE_MAX];
	uint64_t generation;
	int rc;
	EPOCH_SCOPE;

	pthread_mutex_lock(&cache->lock);
	generation = cache->generation;
	pthread_mutex_unlock(&cache->lock);
	rc = read_slice(q, key, flags, bytes);
	if (rc == 0)
		insert(cache, key, bytes, generation);
	return rc;
}

int qcow2_cache_read(struct qcow2 *q, uint64_t table, uint64_t index, unsigned int count,
		     unsigned int flags, struct qcow2_entry *entries)
{
	struct qcow2_cache *cache = q->cache;
	uint64_t per_slice = cache->words / cache->entry_words;
	uint64_t key = table + index / per_slice * cache->slice_bytes, first = index % per_slice;

	count = (unsigned int)min_of((uint64_t)count, per_slice - first);
	while (!try_copy(cache, key, first, count, entries)) {
		int rc = cache_load(q, key, flags);

		if (rc)
			return rc;
		if (flags & MAP_NOWAIT && !try_copy(cache, key, first, count, entries))
			return -EAGAIN;
	}
	return (int)count;
}
