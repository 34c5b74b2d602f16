// SPDX-License-Identifier: MIT
/*
 * Setting refcounts and COPIED bits right, in memory. As check.c.
 */
#include <errno.h>
#include <stdlib.h>

#include "check.h"
#include "common/size.h"

int check_set_refcount(struct counting *counting, uint64_t cluster, uint64_t value)
{
	struct qcow2 *q = counting->q;
	int rc;

	if (value > qcow2_refcount_max(q->header.refcount_order))
		return -EINVAL;
	rc = qcow2_refcount_put(q, cluster, value);
	if (rc != -ENXIO)
		return rc;
	/* The new block goes where nothing was ever: behind the file. */
	rc = qcow2_block_make(q, cluster);
	return rc ? rc : qcow2_refcount_put(q, cluster, value);
}

/* Is the bit right for what lies at host? */
static bool copied_is_right(const struct counting *counting, bool copied, uint64_t host)
{
	uint64_t cluster = host >> counting->q->cluster_bits;

	return !copied || (cluster < counting->clusters && counting->counts[cluster] == 1);
}

static int check_l2(struct counting *counting, uint64_t table, bool repair)
{
	struct qcow2 *q = counting->q;
	uint64_t entries = UINT64_C(1) << q->l2_bits;

	for (uint64_t i = 0; i < entries; i++) {
		struct qcow2_entry entry;
		struct qcow2_mapping mapping;
		int rc = qcow2_cache_read(q, table, i, 1, 0, &entry);

		if (rc < 0)
			return rc;
		if (!qcow2_decode(&q->header, entry, &mapping) || mapping.compressed ||
		    copied_is_right(counting, mapping.copied, mapping.host))
			continue;
		if (!repair) {
			counting->result->corruptions++;
			continue;
		}
		entry.descriptor &= ~QCOW2_COPIED;
		rc = qcow2_cache_write(q, table, i, entry);
		if (rc)
			return rc;
		if (qcow2_cache_is_full(q)) {
			rc = qcow2_flush_repairs(q);
			if (rc)
				return rc;
		}
	}
	return 0;
}

int check_copied(struct counting *counting, bool repair)
{
	struct qcow2 *q = counting->q;
	int rc = 0;

	for (uint32_t i = 0; i < q->l1_size && !rc; i++) {
		uint64_t entry = atomic_load(&q->l1[i]), table;

		if (!qcow2_decode_l1(&q->header, entry, &table) || !table)
			continue;
		if (!copied_is_right(counting, entry & QCOW2_COPIED, table)) {
			if (!repair) {
				counting->result->corruptions++;
				continue;
			}
			atomic_store(&q->l1[i], table);
			rc = qcow2_updates_add(&q->writer->l1_updates, i, table);
		}
		if (rc == 0 && !qcow2_has_data_file(&q->header))
			rc = check_l2(counting, table, repair);
	}
	return rc;
}
