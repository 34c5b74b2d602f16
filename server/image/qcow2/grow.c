// SPDX-License-Identifier: MIT
/*
 * Growth of the refcount table. The new table and the blocks that count it lie behind all clusters
 * that the old one can count; everything is made stable, then twelve bytes of the header switch
 * over. The writer's lock is held: this is rare, and others wait.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "writer.h"

/* The plan of the new area: the table first, then new blocks. All in clusters. */
struct area {
	uint64_t first;
	uint64_t table;  /* clusters of the table */
	uint64_t blocks; /* new blocks, for consecutive entries */
	uint64_t entry;  /* first of them */
};

/* Table and blocks depend on each other's size. */
static void plan(const struct qcow2 *q, uint64_t entries, struct area *area)
{
	uint64_t per_block = qcow2_block_refcounts(&q->header);
	uint64_t per_cluster = q->cluster_size / 8;

	area->entry = q->writer->reftable_size;
	area->first = area->entry * per_block;
	/* Half as much again, so that growing stays rare. */
	entries += entries / 2;
	area->table = (entries + per_cluster - 1) / per_cluster;
	area->blocks = 1;
	while (area->blocks * per_block < area->table + area->blocks)
		area->blocks++;
	while (area->table * per_cluster < area->entry + area->blocks)
		area->table++;
	while (area->blocks * per_block < area->table + area->blocks)
		area->blocks++;
}

static int write_blocks(struct qcow2 *q, const struct area *area)
{
	uint64_t per_block = qcow2_block_refcounts(&q->header), used = area->table + area->blocks;
	AUTO_FREE uint8_t *bytes = malloc(q->cluster_size);
	int rc = bytes ? 0 : -ENOMEM;

	for (uint64_t b = 0; b < area->blocks && !rc; b++) {
		memset(bytes, 0, q->cluster_size);
		for (uint64_t i = 0; i < per_block && b * per_block + i < used; i++)
			qcow2_refcount_set(bytes, q->header.refcount_order, i, 1);
		rc = hostfile_write(q->file, bytes, q->cluster_size,
				    (area->first + area->table + b) << q->cluster_bits);
	}
	return rc;
}

static int write_table(struct qcow2 *q, const struct area *area, const uint64_t *table)
{
	size_t length = area->table << q->cluster_bits;
	AUTO_FREE uint8_t *bytes = malloc(length);

	if (!bytes)
		return -ENOMEM;
	for (size_t i = 0; i < length / 8; i++)
		store_be64(bytes + i * 8, table[i]);
	return hostfile_write(q->file, bytes, length, area->first << q->cluster_bits);
}

static int switch_header(struct qcow2 *q, const struct area *area)
{
	uint8_t bytes[12];
	int rc;

	store_be64(bytes, area->first << q->cluster_bits);
	store_be32(bytes + 8, area->table);
	rc = hostfile_sync(q->file);
	if (rc == 0)
		rc = hostfile_write(q->file, bytes, sizeof(bytes), QCOW2_AT_REFTABLE);
	return rc ? rc : hostfile_sync(q->file);
}

/* The new table in memory; its old blocks stay loaded. */
static int extend_memory(struct qcow2 *q, const struct area *area)
{
	struct qcow2_writer *w = q->writer;
	uint64_t size = (area->table << q->cluster_bits) / 8;
	uint64_t *table = calloc(size, sizeof(*table));
	struct qcow2_block *blocks = calloc(size, sizeof(*blocks));

	if (!table || !blocks) {
		free(table);
		free(blocks);
		return -ENOMEM;
	}
	memcpy(table, w->reftable, w->reftable_size * sizeof(*table));
	memcpy(blocks, w->blocks, w->reftable_size * sizeof(*blocks));
	for (uint64_t b = 0; b < area->blocks; b++)
		table[area->entry + b] = (area->first + area->table + b) << q->cluster_bits;
	free(w->reftable);
	free(w->blocks);
	w->reftable = table;
	w->blocks = blocks;
	w->reftable_size = (uint32_t)size;
	return 0;
}

/* Blocks that the table in memory names are in the file, or become so here. */
static int write_all(struct qcow2 *q, const struct area *area)
{
	int rc = qcow2_blocks_write(q);

	if (rc == 0)
		rc = write_blocks(q, area);
	if (rc == 0)
		rc = write_table(q, area, q->writer->reftable);
	return rc ? rc : switch_header(q, area);
}

int qcow2_reftable_grow(struct qcow2 *q, uint64_t entries)
{
	struct qcow2_writer *w = q->writer;
	uint64_t old_offset = q->header.reftable_offset;
	uint64_t old_length = (uint64_t)q->header.reftable_clusters << q->cluster_bits;
	uint32_t old_size = w->reftable_size;
	struct area area;
	int rc;

	plan(q, entries, &area);
	if (area.table << q->cluster_bits > QCOW2_REFTABLE_BYTES_MAX ||
	    (area.first + area.table + area.blocks) >= UINT64_C(1) << (56 - q->cluster_bits))
		return -EFBIG;
	rc = extend_memory(q, &area);
	if (rc == 0)
		rc = qcow2_guard_mark(q, area.first << q->cluster_bits,
				      (area.table + area.blocks) << q->cluster_bits);
	if (rc == 0)
		rc = write_all(q, &area);
	if (rc) { /* the file may have either table; both are right, but only one can grow */
		w->reftable_size = old_size;
		atomic_store(&w->broken, rc);
		return rc;
	}
	q->header.reftable_offset = area.first << q->cluster_bits;
	q->header.reftable_clusters = (uint32_t)area.table;
	w->reftable_updates.count = 0; /* all of them are in the new table */
	w->virgin = max_of(w->virgin, area.first + area.table + area.blocks);
	qcow2_guard_unmark(q, old_offset, old_length);
	return qcow2_refcount_change(q, old_offset >> q->cluster_bits,
				     old_length >> q->cluster_bits, -1);
}
