// SPDX-License-Identifier: MIT
/*
 * L2 tables that are about to change: made when there is none, copied when a snapshot uses them,
 * too. The writer's lock is held.
 */
#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "server/image/epoch.h"
#include "writer.h"
#include "server/trace.h"

/* What the new table begins with: zeroes, or the shared table without its COPIED bits. */
static int read_template(struct qcow2 *q, uint64_t shared, uint8_t *bytes)
{
	size_t step = qcow2_has_subclusters(&q->header) ? 16 : 8;
	int rc;

	if (!shared)
		return 0;
	rc = hostfile_read(q->file, bytes, q->cluster_size, shared);
	for (size_t at = 0; at < q->cluster_size; at += step)
		if (!qcow2_has_data_file(&q->header))
			bytes[at] &= 0x7f;
	return rc == -ENODATA ? 0 : rc;
}

/* Puts a table into a cluster of its own. Nothing refers to it yet. */
static int make_table(struct qcow2 *q, uint64_t shared, uint64_t *table)
{
	AUTO_FREE uint8_t *bytes = calloc(1, q->cluster_size);
	uint64_t cluster, got;
	bool fresh;
	int rc = bytes ? read_template(q, shared, bytes) : -ENOMEM;

	if (rc == 0)
		rc = qcow2_allocate(q, 1, &cluster, &got, &fresh);
	if (rc)
		return rc;
	*table = cluster << q->cluster_bits;
	trace_qcow2_table_made(q->file->fd, *table, shared);
	qcow2_cache_forget(q, *table);
	rc = hostfile_write(q->file, bytes, q->cluster_size, *table);
	if (rc == 0)
		rc = qcow2_guard_mark(q, *table, q->cluster_size);
	if (rc)
		qcow2_refcount_change(q, cluster, 1, -1);
	return rc;
}

int qcow2_table_for_change(struct qcow2 *q, uint64_t cluster, uint64_t *table)
{
	uint32_t index = (uint32_t)(cluster >> q->l2_bits);
	uint64_t entry = atomic_load(&q->l1[index]), old;
	int rc;

	if (!qcow2_decode_l1(&q->header, entry, &old))
		return qcow2_corrupt(q, "an L1 entry is broken", entry);
	if (old && entry & QCOW2_COPIED) {
		*table = old;
		return 0;
	}
	rc = make_table(q, old, table);
	if (rc == 0)
		rc = qcow2_updates_add(&q->writer->l1_updates, index, *table | QCOW2_COPIED);
	if (rc)
		return rc;
	atomic_store_explicit(&q->l1[index], *table | QCOW2_COPIED, memory_order_release);
	if (!old)
		return 0;
	qcow2_guard_unmark(q, old, q->cluster_size);
	qcow2_mapping_free(q, &(struct qcow2_mapping){.has_host = true, .host = old}, false);
	return 0;
}

int qcow2_mapping_set(struct qcow2 *q, uint64_t table, uint64_t cluster,
		      const struct qcow2_mapping *mapping)
{
	uint64_t index = cluster & ((UINT64_C(1) << q->l2_bits) - 1);

	return qcow2_cache_write(q, table, index, qcow2_encode(&q->header, mapping));
}

void qcow2_mapping_free(struct qcow2 *q, const struct qcow2_mapping *mapping, bool punch)
{
	struct qcow2_freed freed = {.first = qcow2_host_cluster(q, mapping->host), .count = 1};

	if (mapping->compressed) {
		uint64_t last = mapping->host + mapping->compressed_length - 1;

		freed.count = qcow2_host_cluster(q, last) - freed.first + 1;
	} else if (!mapping->has_host) {
		return;
	}
	freed.punch = punch;
	freed.stamp = epoch_stamp();
	/* Without memory for it the cluster leaks; nothing else is wrong. */
	qcow2_freed_add(&q->writer->freed, freed);
}
