// SPDX-License-Identifier: MIT
/*
 * Counting all references of an image anew: to tell whether it is consistent, and to set its
 * refcounts right after a writer with lazy refcounts was killed. Nothing is written here, repairs
 * are made in memory. The writer's lock is held, or nobody else uses the image.
 */
#include <errno.h>
#include <stdlib.h>

#include "check.h"
#include "common/cleanup.h"
#include "common/size.h"

/* Clusters of a file that can be counted: four bytes of memory for each that is in use. */
#define CLUSTERS_MAX (UINT64_C(1) << 32)

/* ---- Counting ---- */

/* Counts a range of the file; what lies behind its end is a corruption. */
static void count_range(struct counting *counting, uint64_t offset, uint64_t length)
{
	const struct qcow2 *q = counting->q;
	uint64_t first = offset >> q->cluster_bits, last;

	if (!length)
		return;
	last = (offset + length - 1) >> q->cluster_bits;
	if (last >= counting->clusters) {
		counting->result->corruptions++;
		return;
	}
	for (uint64_t c = first; c <= last; c++)
		if (counting->counts[c] < UINT32_MAX)
			counting->counts[c]++;
}

static void count_mapping(struct counting *counting, const struct qcow2_mapping *mapping)
{
	uint64_t last;

	if (mapping->compressed) {
		last = (mapping->host + mapping->compressed_length - 1) >>
		       counting->q->cluster_bits;
		/* The last sector may lie behind the end of the file. */
		count_range(counting, mapping->host,
			    last < counting->clusters ? mapping->compressed_length : 1);
	} else if (mapping->has_host && !qcow2_has_data_file(&counting->q->header)) {
		count_range(counting, mapping->host, counting->q->cluster_size);
	}
}

static int count_l2(struct counting *counting, uint64_t table)
{
	struct qcow2 *q = counting->q;
	uint64_t entries = UINT64_C(1) << q->l2_bits, at = 0;

	while (at < entries) {
		struct qcow2_entry some[CHECK_ENTRIES];
		int count = qcow2_cache_read(
			q, table, at, (unsigned int)min_of(entries - at, (uint64_t)CHECK_ENTRIES),
			0, some);

		if (count < 0)
			return count;
		for (int i = 0; i < count; i++) {
			struct qcow2_mapping mapping;

			if (qcow2_decode(&q->header, some[i], &mapping))
				count_mapping(counting, &mapping);
			else
				counting->result->corruptions++;
		}
		at += (uint64_t)count;
	}
	return 0;
}

static int count_l1_entry(struct counting *counting, uint64_t entry)
{
	uint64_t table;

	if (!qcow2_decode_l1(&counting->q->header, entry, &table)) {
		counting->result->corruptions++;
		return 0;
	}
	if (!table)
		return 0;
	/* No table is named twice by one L1 table, or there would be no end of it. */
	if (++counting->tables > counting->clusters) {
		counting->result->corruptions++;
		return 0;
	}
	count_range(counting, table, counting->q->cluster_size);
	return count_l2(counting, table);
}

static int count_active(struct counting *counting)
{
	struct qcow2 *q = counting->q;
	int rc = 0;

	count_range(counting, q->header.l1_offset, (uint64_t)q->l1_size * 8);
	for (uint32_t i = 0; i < q->l1_size && !rc; i++)
		rc = count_l1_entry(counting, atomic_load(&q->l1[i]));
	return rc;
}

/* A table of words in the file, each handed to each(). */
static int each_word(struct counting *counting, uint64_t offset, uint64_t words,
		     int (*each)(struct counting *, uint64_t))
{
	AUTO_FREE uint8_t *bytes = NULL;
	int rc;

	/* A table that the file does not hold says nothing; reading it would only take time. */
	if (offset + words * 8 > counting->clusters << counting->q->cluster_bits) {
		counting->result->corruptions++;
		return 0;
	}
	count_range(counting, offset, words * 8);
	bytes = malloc(words * 8 + 1);
	if (!bytes)
		return -ENOMEM;
	counting->tables = 0;
	rc = hostfile_read(counting->q->file, bytes, words * 8, offset);
	if (rc == -ENODATA)
		rc = 0;
	for (uint64_t i = 0; i < words && !rc; i++)
		rc = each(counting, load_be64(bytes + i * 8));
	return rc;
}

static int count_snapshots(struct counting *counting)
{
	struct qcow2 *q = counting->q;
	int rc = 0;

	count_range(counting, q->header.snapshots_offset, q->snapshot_table_used);
	for (uint32_t i = 0; i < q->header.snapshots && !rc; i++)
		rc = each_word(counting, q->snapshots[i].l1_offset, q->snapshots[i].l1_size,
			       count_l1_entry);
	return rc;
}

static int count_bitmap_word(struct counting *counting, uint64_t word)
{
	if (word & QCOW2_OFFSET_MASK)
		count_range(counting, word & QCOW2_OFFSET_MASK, counting->q->cluster_size);
	return 0;
}

static int count_bitmaps(struct counting *counting)
{
	struct qcow2 *q = counting->q;
	uint64_t length = q->extensions.bitmap_directory_size, at = 0;
	AUTO_FREE uint8_t *directory = malloc(length + 1);
	int rc;

	if (!q->extensions.bitmaps)
		return 0;
	if (!directory)
		return -ENOMEM;
	count_range(counting, q->extensions.bitmap_directory_offset, length);
	rc = hostfile_read(q->file, directory, length, q->extensions.bitmap_directory_offset);
	for (uint32_t i = 0; i < q->extensions.bitmaps && !rc; i++) {
		struct qcow2_bitmap bitmap;
		int64_t used = qcow2_parse_bitmap(directory + at, length - at, &q->header, &bitmap);

		if (used < 0) {
			counting->result->corruptions++;
			break;
		}
		at += (uint64_t)used;
		rc = each_word(counting, bitmap.table_offset, bitmap.table_size, count_bitmap_word);
	}
	return rc;
}

static void count_refcounts(struct counting *counting)
{
	struct qcow2 *q = counting->q;

	count_range(counting, q->header.reftable_offset,
		    (uint64_t)q->header.reftable_clusters << q->cluster_bits);
	for (uint32_t i = 0; i < q->writer->reftable_size; i++)
		if (q->writer->reftable[i])
			count_range(counting, q->writer->reftable[i], q->cluster_size);
}

static int count_all(struct counting *counting)
{
	int rc;

	count_range(counting, 0, counting->q->cluster_size);
	count_refcounts(counting);
	if (counting->q->header.crypt == QCOW2_CRYPT_LUKS)
		count_range(counting, counting->q->extensions.crypt_offset,
			    counting->q->extensions.crypt_length);
	rc = count_active(counting);
	if (rc == 0)
		rc = count_snapshots(counting);
	return rc ? rc : count_bitmaps(counting);
}

/* ---- Comparing ---- */

/* Behind the end of the file nothing may be counted. */
static uint64_t clusters_counted(const struct qcow2 *q)
{
	uint64_t per_block = qcow2_block_refcounts(&q->header), end = 0;

	for (uint32_t i = 0; i < q->writer->reftable_size; i++)
		if (q->writer->reftable[i])
			end = (i + 1) * per_block;
	return end;
}

static int compare(struct counting *counting, bool repair)
{
	struct qcow2 *q = counting->q;
	uint64_t end = max_of(counting->clusters, clusters_counted(q));

	for (uint64_t c = 0; c < end; c++) {
		uint64_t wanted = c < counting->clusters ? counting->counts[c] : 0, value;
		int rc = qcow2_refcount(q, c, &value);

		if (rc)
			return rc;
		if (value == wanted)
			continue;
		if (repair)
			rc = check_set_refcount(counting, c, wanted);
		else if (value > wanted)
			counting->result->leaks++;
		else
			counting->result->corruptions++;
		if (rc)
			return rc;
	}
	return 0;
}

int qcow2_check(struct qcow2 *q, bool repair, struct qcow2_check *result)
{
	AUTO_FREE uint32_t *counts = NULL;
	struct counting counting = {.q = q, .result = result};
	uint64_t size;
	int rc = hostfile_size(q->file, &size);

	*result = (struct qcow2_check){0};
	if (rc)
		return rc;
	/* New clusters may lie behind what the file has grown to. */
	counting.clusters =
		max_of((size + q->cluster_size - 1) >> q->cluster_bits, q->writer->virgin);
	if (counting.clusters > CLUSTERS_MAX)
		return -EFBIG;
	counting.counts = counts = calloc(counting.clusters + 1, sizeof(*counts));
	if (!counts)
		return -ENOMEM;
	rc = count_all(&counting);
	if (rc || (repair && result->corruptions))
		return rc;
	rc = compare(&counting, repair);
	return rc ? rc : check_copied(&counting, repair);
}
