// SPDX-License-Identifier: MIT
/*
 * The writing half of the L2 cache: entries change in memory, flush.c takes copies of the dirty
 * slices and writes them when what they refer to is stable. A slice whose copy is on its way stays
 * in memory, so that nobody reads the old one from the file.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "common/size.h"
#include "writer.h"

enum { CHANGE_TRIES = 100 }; /* others may evict a slice before it is changed */

static void mark_dirty(struct qcow2_cache *cache, struct cache_slot *slot)
{
	if (slot->dirty)
		return;
	slot->dirty = true;
	if (!slot->writing)
		atomic_fetch_add(&cache->pinned, 1);
	cache->dirty_slots[cache->dirty_count++] = (uint32_t)(slot - cache->slots);
}

/* Changes the entry if its slice is in memory. */
static bool try_change(struct qcow2_cache *cache, uint64_t key, uint64_t index,
		       struct qcow2_entry entry)
{
	struct cache_bucket *bucket = cache_bucket_of(cache, key);
	struct cache_slot *slot;

	pthread_mutex_lock(&cache->lock);
	slot = cache_find(cache, bucket, key);
	if (slot) {
		_Atomic uint64_t *words = slot_words(cache, slot) + index * cache->entry_words;

		cache_change_begin(bucket);
		atomic_store_explicit(words, entry.descriptor, memory_order_release);
		if (cache->entry_words == 2)
			atomic_store_explicit(words + 1, entry.bitmap, memory_order_release);
		cache_change_end(bucket);
		mark_dirty(cache, slot);
	}
	pthread_mutex_unlock(&cache->lock);
	return slot;
}

int qcow2_cache_write(struct qcow2 *q, uint64_t table, uint64_t index, struct qcow2_entry entry)
{
	struct qcow2_cache *cache = q->cache;
	uint64_t per_slice = cache->words / cache->entry_words;
	uint64_t key = table + index / per_slice * cache->slice_bytes;

	for (int tries = 0; tries < CHANGE_TRIES; tries++) {
		int rc;

		if (try_change(cache, key, index % per_slice, entry))
			return 0;
		rc = cache_load(q, key, 0);
		if (rc)
			return rc;
	}
	return -ENOBUFS; /* qcow2_relieve() was not called before */
}

void qcow2_cache_forget(struct qcow2 *q, uint64_t table)
{
	struct qcow2_cache *cache = q->cache;

	pthread_mutex_lock(&cache->lock);
	for (uint64_t key = table; key < table + q->cluster_size; key += cache->slice_bytes) {
		struct cache_slot *slot = cache_find(cache, cache_bucket_of(cache, key), key);

		if (slot)
			cache_unlink(cache, slot);
	}
	cache->generation++; /* whoever is reading it from the file shall not keep it */
	pthread_mutex_unlock(&cache->lock);
}

static void copy_slice(struct qcow2_cache *cache, uint32_t number, uint8_t *to)
{
	const _Atomic uint64_t *words = slot_words(cache, &cache->slots[number]);

	for (uint32_t i = 0; i < cache->words; i++)
		store_be64(to + i * 8, atomic_load_explicit(&words[i], memory_order_relaxed));
}

int qcow2_cache_collect(struct qcow2 *q, struct qcow2_slices *slices)
{
	struct qcow2_cache *cache = q->cache;
	uint32_t count;
	int rc = 0;

	pthread_mutex_lock(&cache->lock);
	count = cache->dirty_count;
	*slices = (struct qcow2_slices){
		.keys = calloc(count + 1, sizeof(*slices->keys)),
		.slots = calloc(count + 1, sizeof(*slices->slots)),
		.bytes = malloc((size_t)count * cache->slice_bytes + 1),
		.count = count,
	};
	if (slices->keys && slices->slots && slices->bytes) {
		for (uint32_t i = 0; i < count; i++) {
			uint32_t number = cache->dirty_slots[i];

			slices->slots[i] = number;
			slices->keys[i] = atomic_load(&cache->slots[number].key);
			copy_slice(cache, number, slices->bytes + (size_t)i * cache->slice_bytes);
			cache->slots[number].dirty = false;
			cache->slots[number].writing = true;
		}
		cache->dirty_count = 0;
	} else {
		free(slices->keys);
		free(slices->slots);
		free(slices->bytes);
		*slices = (struct qcow2_slices){0};
		rc = -ENOMEM;
	}
	pthread_mutex_unlock(&cache->lock);
	return rc;
}

int qcow2_slices_write(struct qcow2 *q, const struct qcow2_slices *slices)
{
	uint32_t length = q->cache->slice_bytes;
	int rc = 0;

	for (uint32_t i = 0; i < slices->count && !rc; i++)
		rc = hostfile_write(q->file, slices->bytes + (size_t)i * length, length,
				    slices->keys[i]);
	return rc;
}

void qcow2_cache_written(struct qcow2 *q, struct qcow2_slices *slices, bool failed)
{
	struct qcow2_cache *cache = q->cache;

	pthread_mutex_lock(&cache->lock);
	for (uint32_t i = 0; i < slices->count; i++) {
		struct cache_slot *slot = &cache->slots[slices->slots[i]];

		slot->writing = false;
		if (!slot->dirty)
			atomic_fetch_sub(&cache->pinned, 1);
		if (failed)
			mark_dirty(cache, slot);
	}
	cache->generation++;
	pthread_mutex_unlock(&cache->lock);
	free(slices->keys);
	free(slices->slots);
	free(slices->bytes);
}

/* Some slots must stay clean: for those who read, and for changes that have begun. */
bool qcow2_cache_is_full(const struct qcow2 *q)
{
	return atomic_load_explicit(&q->cache->pinned, memory_order_relaxed) >
	       q->cache->slot_count - max_of(q->cache->slot_count / 8, 48u);
}
