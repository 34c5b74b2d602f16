// SPDX-License-Identifier: MIT
/*
 * The guard knows which host clusters hold metadata, a bit each, so that nothing that a broken
 * image says, and no fault of ours, makes guest data overwrite it. Two levels, filled as needed;
 * asked on the fast path without a lock.
 */
#include <errno.h>
#include <stdlib.h>

#include "common/size.h"
#include "writer.h"

enum { CHUNK_BITS = 18, CHUNK_WORDS = (1 << CHUNK_BITS) / 64 };
/* Tables of hostile snapshots may overlap without end; beyond this they are not looked at. */
#define MARKS_MAX (UINT64_C(1) << 22)

struct chunk {
	_Atomic uint64_t words[CHUNK_WORDS];
};

struct qcow2_guard {
	uint64_t chunks; /* that there can be */
	struct chunk *_Atomic *top;
};

/* Host clusters that an image can address, by offsets and by refcounts. */
static uint64_t clusters_max(const struct qcow2_header *header)
{
	uint64_t by_offset = UINT64_C(1) << (56 - header->cluster_bits);
	uint64_t by_table = QCOW2_REFTABLE_BYTES_MAX / 8 * qcow2_block_refcounts(header);

	return min_of(by_offset, by_table);
}

struct qcow2_guard *qcow2_guard_new(const struct qcow2_header *header)
{
	struct qcow2_guard *guard = calloc(1, sizeof(*guard));

	if (!guard)
		return NULL;
	guard->chunks = (clusters_max(header) >> CHUNK_BITS) + 1;
	guard->top = calloc(guard->chunks, sizeof(*guard->top));
	if (guard->top)
		return guard;
	free(guard);
	return NULL;
}

void qcow2_guard_free(struct qcow2_guard *guard)
{
	if (!guard)
		return;
	for (uint64_t i = 0; i < guard->chunks; i++)
		free(atomic_load(&guard->top[i]));
	free(guard->top);
	free(guard);
}

/* The word with the cluster's bit; NULL when there is none and make is false, or no memory. */
static _Atomic uint64_t *word_of(const struct qcow2_guard *guard, uint64_t cluster, bool make)
{
	uint64_t index = cluster >> CHUNK_BITS;
	struct chunk *chunk;

	if (index >= guard->chunks)
		return NULL;
	chunk = atomic_load_explicit(&guard->top[index], memory_order_acquire);
	if (!chunk && make) {
		chunk = calloc(1, sizeof(*chunk));
		atomic_store_explicit(&guard->top[index], chunk, memory_order_release);
	}
	return chunk ? &chunk->words[cluster % (1 << CHUNK_BITS) / 64] : NULL;
}

static uint64_t bit_of(uint64_t cluster)
{
	return UINT64_C(1) << cluster % 64;
}

int qcow2_guard_mark(struct qcow2 *q, uint64_t offset, uint64_t length)
{
	uint64_t end = (offset + length + q->cluster_size - 1) >> q->cluster_bits;

	for (uint64_t c = offset >> q->cluster_bits; c < end; c++) {
		_Atomic uint64_t *word = word_of(q->writer->guard, c, true);

		if (word)
			atomic_fetch_or(word, bit_of(c));
		else if (c >> CHUNK_BITS < q->writer->guard->chunks)
			return -ENOMEM;
	}
	return 0;
}

void qcow2_guard_unmark(struct qcow2 *q, uint64_t offset, uint64_t length)
{
	uint64_t end = (offset + length + q->cluster_size - 1) >> q->cluster_bits;

	for (uint64_t c = offset >> q->cluster_bits; c < end; c++) {
		_Atomic uint64_t *word = word_of(q->writer->guard, c, false);

		if (word)
			atomic_fetch_and(word, ~bit_of(c));
	}
}

bool qcow2_guard_hits(const struct qcow2 *q, uint64_t offset, uint64_t length)
{
	uint64_t last = (offset + length - 1) >> q->cluster_bits;

	for (uint64_t c = offset >> q->cluster_bits; c <= last; c++) {
		_Atomic uint64_t *word = word_of(q->writer->guard, c, false);

		if (word && atomic_load_explicit(word, memory_order_relaxed) & bit_of(c))
			return true;
	}
	return false;
}

/* ---- Filling ---- */

static int mark_l2_tables(struct qcow2 *q)
{
	int rc = 0;

	for (uint32_t i = 0; i < q->l1_size && !rc; i++) {
		uint64_t table;

		if (qcow2_decode_l1(&q->header, atomic_load(&q->l1[i]), &table) && table)
			rc = qcow2_guard_mark(q, table, q->cluster_size);
	}
	return rc;
}

static int mark_refcounts(struct qcow2 *q)
{
	struct qcow2_writer *w = q->writer;
	int rc = qcow2_guard_mark(q, q->header.reftable_offset,
				  (uint64_t)q->header.reftable_clusters << q->cluster_bits);

	for (uint32_t i = 0; i < w->reftable_size && !rc; i++)
		if (w->reftable[i])
			rc = qcow2_guard_mark(q, w->reftable[i], q->cluster_size);
	return rc;
}

static int mark_snapshots(struct qcow2 *q)
{
	uint64_t marks = 0;
	int rc = 0;

	if (q->header.snapshots)
		rc = qcow2_guard_mark(q, q->header.snapshots_offset, q->snapshot_table_used);
	for (uint32_t i = 0; i < q->header.snapshots && !rc; i++) {
		uint64_t length = (uint64_t)q->snapshots[i].l1_size * 8;

		marks += length / q->cluster_size + 1;
		if (marks > MARKS_MAX)
			break;
		rc = qcow2_guard_mark(q, q->snapshots[i].l1_offset, length);
	}
	return rc;
}

int qcow2_guard_fill(struct qcow2 *q)
{
	int rc = qcow2_guard_mark(q, 0, q->cluster_size);

	if (rc == 0)
		rc = qcow2_guard_mark(q, q->header.l1_offset, (uint64_t)q->l1_size * 8);
	if (rc == 0)
		rc = mark_l2_tables(q);
	if (rc == 0)
		rc = mark_refcounts(q);
	if (rc == 0)
		rc = mark_snapshots(q);
	if (rc == 0 && q->header.crypt == QCOW2_CRYPT_LUKS)
		rc = qcow2_guard_mark(q, q->extensions.crypt_offset, q->extensions.crypt_length);
	if (rc == 0 && q->extensions.bitmaps)
		rc = qcow2_guard_mark(q, q->extensions.bitmap_directory_offset,
				      q->extensions.bitmap_directory_size);
	return rc;
}
