// SPDX-License-Identifier: MIT
/*
 * Refcounts and the allocator. Blocks are kept in memory as they are in the file; dirty ones stay
 * until flush.c has them written. A new block may count its own cluster. The writer's lock is held
 * throughout.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "writer.h"
#include "server/trace.h"

/* Refcounts that one search looks at: those of 4 TiB in clusters of 64 KiB. A broken image may
 * count for ever. */
#define SEARCH_MAX (UINT64_C(1) << 26)

int qcow2_refcounts_load(struct qcow2 *q, struct error *err)
{
	struct qcow2_writer *w = q->writer;
	uint64_t bytes = (uint64_t)q->header.reftable_clusters << q->cluster_bits;
	AUTO_FREE uint8_t *table = malloc(bytes);
	int rc;

	w->reftable_size = (uint32_t)(bytes / 8);
	w->reftable = calloc(w->reftable_size, sizeof(*w->reftable));
	w->blocks = calloc(w->reftable_size, sizeof(*w->blocks));
	if (!table || !w->reftable || !w->blocks)
		return error_set(err, ENOMEM, "out of memory");
	rc = hostfile_read(q->file, table, bytes, q->header.reftable_offset);
	if (rc && rc != -ENODATA)
		return error_set_errno(err, -rc, "Could not read the reference count table");
	for (uint32_t i = 0; i < w->reftable_size; i++)
		w->reftable[i] = load_be64(table + (size_t)i * 8);
	return 0;
}

/* ---- Blocks ---- */

static void evict_blocks(struct qcow2 *q)
{
	struct qcow2_writer *w = q->writer;
	uint64_t room = max_of(QCOW2_BLOCKS_BYTES >> q->cluster_bits, 8);
	struct qcow2_block *oldest;

	while (w->blocks_loaded - w->blocks_dirty > room) {
		oldest = NULL;
		for (uint32_t i = 0; i < w->reftable_size; i++) {
			struct qcow2_block *block = &w->blocks[i];

			if (block->bytes && !block->dirty &&
			    (!oldest || block->used < oldest->used))
				oldest = block;
		}
		if (!oldest)
			return;
		free(oldest->bytes);
		oldest->bytes = NULL;
		w->blocks_loaded--;
	}
}

static void block_dirty(struct qcow2 *q, struct qcow2_block *block)
{
	q->writer->blocks_dirty += !block->dirty;
	block->dirty = true;
}

/* The block in memory; NULL bytes: it does not exist. */
static int block_load(struct qcow2 *q, uint64_t index, struct qcow2_block **out)
{
	struct qcow2_writer *w = q->writer;
	struct qcow2_block *block = &w->blocks[index];
	int rc;

	*out = block;
	block->used = ++w->clock;
	if (block->bytes || !w->reftable[index])
		return 0;
	if (w->reftable[index] & ~QCOW2_OFFSET_MASK || qcow2_in_cluster(q, w->reftable[index]))
		return qcow2_corrupt(q, "a refcount block is misplaced", w->reftable[index]);
	evict_blocks(q);
	block->bytes = malloc(q->cluster_size);
	if (!block->bytes)
		return -ENOMEM;
	rc = hostfile_read(q->file, block->bytes, q->cluster_size, w->reftable[index]);
	if (rc && rc != -ENODATA) {
		free(block->bytes);
		block->bytes = NULL;
		return rc;
	}
	w->blocks_loaded++;
	return 0;
}

/* A new block in a free cluster, which it counts itself when it can. Zeroes are written at once, so
 * that a full disk is noticed here. */
static int block_create(struct qcow2 *q, uint64_t index, uint64_t cluster)
{
	struct qcow2_writer *w = q->writer;
	struct qcow2_block *block = &w->blocks[index];
	uint64_t offset = cluster << q->cluster_bits;
	uint64_t per_block = qcow2_block_refcounts(&q->header);
	uint8_t *bytes = calloc(1, q->cluster_size);
	int rc = bytes ? 0 : -ENOMEM;

	if (rc == 0 && qcow2_guard_hits(q, offset, q->cluster_size))
		rc = qcow2_corrupt(q, "metadata counts as free", offset);
	if (rc == 0)
		rc = hostfile_write(q->file, bytes, q->cluster_size, offset);
	if (rc == 0)
		rc = qcow2_guard_mark(q, offset, q->cluster_size);
	if (rc == 0)
		rc = qcow2_updates_add(&w->reftable_updates, (uint32_t)index, offset);
	if (rc) {
		free(bytes);
		return rc;
	}
	if (cluster / per_block == index)
		qcow2_refcount_set(bytes, q->header.refcount_order, cluster % per_block, 1);
	block->bytes = bytes;
	w->blocks_loaded++;
	block_dirty(q, block);
	w->reftable[index] = offset;
	w->virgin = max_of(w->virgin, cluster + 1);
	return 0;
}

int qcow2_block_make(struct qcow2 *q, uint64_t cluster)
{
	uint64_t index = cluster / qcow2_block_refcounts(&q->header), place, got;
	bool fresh;
	int rc;

	q->writer->next_free = max_of(q->writer->next_free, q->writer->virgin);
	rc = qcow2_allocate(q, 1, &place, &got, &fresh);
	/* Allocation itself may have made the block. */
	if (rc == 0 && !q->writer->reftable[index])
		rc = block_create(q, index, place);
	else if (rc == 0)
		rc = qcow2_refcount_change(q, place, 1, -1);
	return rc;
}

int qcow2_blocks_write(struct qcow2 *q)
{
	struct qcow2_writer *w = q->writer;

	for (uint32_t i = 0; i < w->reftable_size && w->blocks_dirty; i++) {
		struct qcow2_block *block = &w->blocks[i];
		int rc;

		if (!block->dirty)
			continue;
		rc = hostfile_write(q->file, block->bytes, q->cluster_size, w->reftable[i]);
		if (rc)
			return rc;
		block->dirty = false;
		w->blocks_dirty--;
	}
	return 0;
}

/* ---- Counts ---- */

int qcow2_refcount(struct qcow2 *q, uint64_t cluster, uint64_t *value)
{
	uint64_t per_block = qcow2_block_refcounts(&q->header), index = cluster / per_block;
	struct qcow2_block *block;
	int rc;

	*value = 0;
	if (index >= q->writer->reftable_size)
		return 0;
	rc = block_load(q, index, &block);
	if (rc == 0 && block->bytes)
		*value = qcow2_refcount_get(block->bytes, q->header.refcount_order,
					    cluster % per_block);
	return rc;
}

/* Where no block is, one is made behind everything else in the range that it counts. */
static int block_for(struct qcow2 *q, uint64_t cluster, struct qcow2_block **block)
{
	uint64_t per_block = qcow2_block_refcounts(&q->header), index = cluster / per_block;
	int rc = 0;

	if (index >= q->writer->reftable_size)
		rc = qcow2_reftable_grow(q, index + 1);
	if (rc == 0)
		rc = block_load(q, index, block);
	return rc;
}

int qcow2_refcount_put(struct qcow2 *q, uint64_t cluster, uint64_t value)
{
	uint64_t per_block = qcow2_block_refcounts(&q->header);
	struct qcow2_block *block;
	int rc = block_for(q, cluster, &block);

	if (rc)
		return rc;
	if (!block->bytes)
		return -ENXIO;
	qcow2_refcount_set(block->bytes, q->header.refcount_order, cluster % per_block, value);
	block_dirty(q, block);
	return 0;
}

static int change_one(struct qcow2 *q, uint64_t cluster, int change)
{
	struct qcow2_writer *w = q->writer;
	uint64_t value;
	int rc = qcow2_refcount(q, cluster, &value);

	if (rc)
		return rc;
	if (change < 0 && value == 0)
		return qcow2_corrupt(q, "a cluster in use counts as free",
				     cluster << q->cluster_bits);
	if (change > 0 && value == qcow2_refcount_max(q->header.refcount_order))
		return -EINVAL;
	value = change > 0 ? value + 1 : value - 1;
	if (value == 0)
		w->next_free = min_of(w->next_free, cluster);
	return qcow2_refcount_put(q, cluster, value);
}

int qcow2_refcount_change(struct qcow2 *q, uint64_t first, uint64_t count, int change)
{
	for (uint64_t i = 0; i < count; i++) {
		int rc = change_one(q, first + i, change);

		if (rc)
			return rc;
	}
	return 0;
}

/* ---- Allocation ---- */

/* The first free cluster from the hint on, in a range that has a block. */
static int find_free(struct qcow2 *q, uint64_t *cluster)
{
	struct qcow2_writer *w = q->writer;
	uint64_t per_block = qcow2_block_refcounts(&q->header), value;
	int rc;

	for (uint64_t steps = 0; steps < SEARCH_MAX; steps++, w->next_free++) {
		uint64_t index = w->next_free / per_block;

		if (index >= w->reftable_size) {
			rc = qcow2_reftable_grow(q, index + 1);
			if (rc)
				return rc;
		}
		if (!w->reftable[index]) {
			rc = block_create(q, index, w->next_free);
			if (rc)
				return rc;
			continue;
		}
		rc = qcow2_refcount(q, w->next_free, &value);
		if (rc)
			return rc;
		if (value == 0) {
			*cluster = w->next_free;
			return 0;
		}
	}
	return -ENOSPC; /* for now: the next search goes on from here */
}

/* How many clusters from first on are free, up to wanted. */
static int measure_run(struct qcow2 *q, uint64_t first, uint64_t wanted, uint64_t *got)
{
	uint64_t per_block = qcow2_block_refcounts(&q->header), value;

	for (*got = 1; *got < wanted; ++*got) {
		uint64_t cluster = first + *got;
		int rc;

		if (cluster / per_block >= q->writer->reftable_size ||
		    !q->writer->reftable[cluster / per_block])
			return 0;
		rc = qcow2_refcount(q, cluster, &value);
		if (rc)
			return rc;
		if (value)
			return 0;
	}
	return 0;
}

int qcow2_allocate(struct qcow2 *q, uint64_t wanted, uint64_t *first, uint64_t *got, bool *fresh)
{
	struct qcow2_writer *w = q->writer;
	int rc = qcow2_reap(q);

	if (rc == 0)
		rc = find_free(q, first);
	if (rc == 0)
		rc = measure_run(q, *first, wanted, got);
	if (rc)
		return rc;
	if (qcow2_guard_hits(q, *first << q->cluster_bits, *got << q->cluster_bits))
		return qcow2_corrupt(q, "metadata counts as free", *first << q->cluster_bits);
	rc = qcow2_refcount_change(q, *first, *got, 1);
	if (rc)
		return rc;
	*fresh = *first >= w->virgin;
	w->virgin = max_of(w->virgin, *first + *got);
	w->next_free = *first + *got;
	trace_qcow2_allocated(q->file->fd, *first, *got);
	return 0;
}

bool qcow2_allocation_is_quick(const struct qcow2 *q, uint64_t wanted, bool *fresh)
{
	const struct qcow2_writer *w = q->writer;
	uint64_t per_block = qcow2_block_refcounts(&q->header);
	/* Behind the clusters may come a table and a block. */
	uint64_t first = w->next_free / per_block, last = (w->next_free + wanted + 2) / per_block;

	*fresh = w->next_free >= w->virgin;
	for (uint64_t index = first; index <= last; index++)
		if (index >= w->reftable_size || (w->reftable[index] && !w->blocks[index].bytes))
			return false;
	return !w->stable.count;
}
