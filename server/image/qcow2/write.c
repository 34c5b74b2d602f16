// SPDX-License-Identifier: MIT
/*
 * Writes that cannot be done in place: clusters are allocated, filled around the new bytes with
 * what the guest sees there now, and only then the mapping changes. The claim keeps others from
 * changing the same guest clusters meanwhile; readers see the old mapping. Workers only.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "server/image/crypt.h"
#include "server/image/epoch.h"
#include "writer.h"

enum { ZEROES_STEP = 64 << 10 };

/* One step: guest clusters in a row that get host clusters in a row. */
struct plan {
	struct qcow2_claim claim;
	uint64_t cluster; /* the first */
	unsigned int count;
	uint64_t table; /* their L2 table */
	uint64_t host;  /* of the first */
	bool moved;     /* they get new host clusters */
	bool fresh;     /* which read as zeroes */
	bool zeroes;    /* all of them are to read as zeroes */
	struct qcow2_mapping old[QCOW2_STEP_CLUSTERS];
};

static uint32_t all_subclusters(const struct qcow2 *q)
{
	return q->subcluster_bits == q->cluster_bits ? 1 : UINT32_MAX;
}

/* The bits of the subclusters that a range of a cluster touches. */
static uint32_t touched(const struct qcow2 *q, uint64_t begin, uint64_t end)
{
	uint64_t first = begin >> q->subcluster_bits, last = (end - 1) >> q->subcluster_bits;

	return (uint32_t)((UINT64_C(2) << last) - (UINT64_C(1) << first));
}

static uint32_t old_data(const struct qcow2 *q, const struct qcow2_mapping *old)
{
	return old->compressed ? all_subclusters(q) : old->data;
}

/* The range of cluster number i of the plan that the write covers, relative to the cluster. */
static void covered(const struct qcow2 *q, const struct plan *plan, unsigned int i, uint64_t offset,
		    uint64_t length, uint64_t *begin, uint64_t *end)
{
	uint64_t start = (plan->cluster + i) << q->cluster_bits;

	*begin = offset > start ? offset - start : 0;
	*end = min_of(offset + length - start, q->cluster_size);
}

/* ---- Planning; the lock is held ---- */

static bool keeps_host(const struct qcow2_mapping *mapping)
{
	return mapping->has_host && mapping->copied && !mapping->compressed;
}

/* The clusters from the first on that need new host clusters. */
static int count_moved(struct qcow2 *q, struct plan *plan, unsigned int wanted)
{
	for (plan->count = 1; plan->count < wanted; plan->count++) {
		struct qcow2_mapping *mapping = &plan->old[plan->count];
		int rc = qcow2_mapping_of(q, (plan->cluster + plan->count) << q->cluster_bits,
					  mapping);

		if (rc)
			return rc;
		if (keeps_host(mapping))
			return 0;
	}
	return 0;
}

static int allocate_hosts(struct qcow2 *q, struct plan *plan)
{
	uint64_t first, got;
	int rc;

	plan->moved = true;
	if (qcow2_has_data_file(&q->header)) {
		plan->host = plan->cluster << q->cluster_bits;
		return 0;
	}
	rc = qcow2_allocate(q, plan->count, &first, &got, &plan->fresh);
	if (rc)
		return rc;
	plan->host = first << q->cluster_bits;
	plan->count = (unsigned int)got;
	plan->fresh = plan->fresh && !q->crypt; /* zeroes are the file's, not the guest's */
	return 0;
}

/* -EAGAIN: somebody has made it writable in place. */
static int plan_hosts(struct qcow2 *q, struct plan *plan, uint64_t offset, uint64_t length)
{
	uint64_t last = (offset + length - 1) >> q->cluster_bits, begin, end;
	unsigned int wanted =
		(unsigned int)min_of(last - plan->cluster + 1, (uint64_t)QCOW2_STEP_CLUSTERS);
	int rc = qcow2_mapping_of(q, offset, &plan->old[0]);

	if (rc)
		return rc;
	covered(q, plan, 0, offset, length, &begin, &end);
	if (!keeps_host(&plan->old[0])) {
		rc = count_moved(q, plan, wanted);
		return rc ? rc : allocate_hosts(q, plan);
	}
	plan->host = plan->old[0].host;
	plan->count = 1;
	if (q->data == q->file && qcow2_guard_hits(q, plan->host, q->cluster_size))
		return qcow2_corrupt(q, "guest data lies in metadata", plan->host);
	return touched(q, begin, end) & ~plan->old[0].data ? 0 : -EAGAIN;
}

static int make_plan(struct qcow2 *q, struct plan *plan, uint64_t offset, uint64_t length)
{
	uint64_t last = (offset + length - 1) >> q->cluster_bits;
	int rc;

	plan->cluster = offset >> q->cluster_bits;
	last = min_of(last, plan->cluster + QCOW2_STEP_CLUSTERS - 1);
	pthread_mutex_lock(&q->writer->lock);
	qcow2_claim(q, &plan->claim, plan->cluster, last);
	rc = atomic_load(&q->writer->broken);
	if (rc == 0)
		rc = qcow2_table_for_change(q, plan->cluster, &plan->table);
	if (rc == 0)
		rc = plan_hosts(q, plan, offset, length);
	if (rc)
		qcow2_unclaim(q, &plan->claim);
	pthread_mutex_unlock(&q->writer->lock);
	return rc;
}

/* ---- Filling; no lock ---- */

static int write_host(struct qcow2 *q, const void *bytes, uint64_t length, uint64_t host)
{
	return q->crypt ? crypt_write(q->crypt, q->data, bytes, length, host)
			: hostfile_write(q->data, bytes, length, host);
}

/* Copies what the guest sees at a range into its new place. */
static int copy_range(struct qcow2 *q, uint64_t offset, uint64_t length, uint64_t host, bool fresh)
{
	AUTO_FREE uint8_t *bytes = NULL;
	uint64_t visible = offset < q->image->size ? min_of(length, q->image->size - offset) : 0;
	struct extent extent = {.kind = EXTENT_ZERO, .length = visible};
	int rc;

	if (visible) {
		rc = qcow2_map(q->image, offset, visible, MAP_READ, 0, &extent);
		if (rc)
			return rc;
	}
	if (extent.kind == EXTENT_ZERO && extent.length == visible && fresh)
		return 0;
	bytes = calloc(1, length);
	if (!bytes)
		return -ENOMEM;
	rc = image_read(q->image, bytes, offset, visible);
	return rc ? rc : write_host(q, bytes, length, host);
}

/* Copies the parts [from, to) of the plan's cluster i outside of what is written. */
static int copy_around(struct qcow2 *q, const struct plan *plan, unsigned int i, uint64_t from,
		       uint64_t to, uint64_t begin, uint64_t end)
{
	uint64_t guest = (plan->cluster + i) << q->cluster_bits;
	uint64_t host = plan->host + ((uint64_t)i << q->cluster_bits);
	int rc = 0;

	if (from < begin)
		rc = copy_range(q, guest + from, min_of(to, begin) - from, host + from,
				plan->fresh);
	from = max_of(from, end);
	if (rc == 0 && from < to)
		rc = copy_range(q, guest + from, to - from, host + from, plan->fresh);
	return rc;
}

/* The subclusters that must be filled so that they can be called data. */
static int fill_cluster(struct qcow2 *q, const struct plan *plan, unsigned int i, uint64_t begin,
			uint64_t end)
{
	const struct qcow2_mapping *old = &plan->old[i];
	unsigned int count = 1u << (q->cluster_bits - q->subcluster_bits), first, at = 0;
	uint32_t wanted = touched(q, begin, end);
	int rc = 0;

	wanted = plan->moved ? wanted | old_data(q, old) : wanted & ~old->data;
	if (begin == 0 && end == q->cluster_size)
		return 0;
	while (at < count && rc == 0) {
		while (at < count && !(wanted & (1u << at)))
			at++;
		for (first = at; at < count && wanted & (1u << at);)
			at++;
		if (first < at)
			rc = copy_around(q, plan, i, (uint64_t)first << q->subcluster_bits,
					 (uint64_t)at << q->subcluster_bits, begin, end);
	}
	return rc;
}

static int write_zeroes(struct qcow2 *q, uint64_t host, uint64_t length)
{
	uint64_t room = min_of(length, (uint64_t)ZEROES_STEP);
	AUTO_FREE uint8_t *zeroes = calloc(1, room);
	int rc = zeroes ? 0 : -ENOMEM;

	while (length && rc == 0) {
		uint64_t step = min_of(length, room);

		rc = write_host(q, zeroes, step, host);
		host += step;
		length -= step;
	}
	return rc;
}

/* Room that reads as zeroes. In a data file a cluster has only one place, which the tables on the
 * disk may still call data: there it must decrypt to zeroes, too. Elsewhere the file must reach so
 * far, or the image would be called broken. */
static int reserve_zeroes(struct qcow2 *q, uint64_t host, uint64_t length)
{
	uint64_t size, end = host + length;
	int rc;

	if (q->crypt && qcow2_has_data_file(&q->header))
		return write_zeroes(q, host, length);
	rc = hostfile_zero(q->data, host, length, 0);
	if (rc == 0)
		rc = hostfile_size(q->data, &size);
	if (rc == 0 && size < end)
		rc = hostfile_write(q->data, "", 1, end - 1);
	return rc;
}

static int move_bytes(struct qcow2 *q, const struct plan *plan, const void *buffer, uint64_t offset,
		      uint64_t length)
{
	unsigned int last = plan->count - 1;
	uint64_t begin, end;
	int rc;

	covered(q, plan, 0, offset, length, &begin, &end);
	rc = fill_cluster(q, plan, 0, begin, end);
	if (rc == 0)
		rc = write_host(q, buffer, length, plan->host + begin);
	if (rc || last == 0)
		return rc;
	covered(q, plan, last, offset, length, &begin, &end);
	return fill_cluster(q, plan, last, begin, end);
}

/* ---- The change; the lock is held ---- */

static int change_mapping(struct qcow2 *q, const struct plan *plan, unsigned int i, uint64_t begin,
			  uint64_t end)
{
	const struct qcow2_mapping *old = &plan->old[i];
	struct qcow2_mapping new = {
		.has_host = true,
		.copied = true,
		.host = plan->host + ((uint64_t)i << q->cluster_bits),
		.data = touched(q, begin, end) | old_data(q, old),
	};
	int rc;

	new.zero = old->compressed ? 0 : old->zero & ~new.data;
	if (plan->zeroes) {
		new.zero = all_subclusters(q);
		new.data = 0;
	}
	rc = qcow2_mapping_set(q, plan->table, plan->cluster + i, &new);
	if (rc == 0 && plan->moved && !qcow2_has_data_file(&q->header))
		qcow2_mapping_free(q, old, false);
	return rc;
}

/* Clusters that were not put into use. */
static void give_back(struct qcow2 *q, const struct plan *plan, unsigned int from)
{
	if (plan->moved && !qcow2_has_data_file(&q->header))
		qcow2_refcount_change(q, (plan->host >> q->cluster_bits) + from, plan->count - from,
				      -1);
}

static int complete(struct qcow2 *q, struct plan *plan, uint64_t offset, uint64_t length, int rc)
{
	unsigned int i = 0;

	pthread_mutex_lock(&q->writer->lock);
	for (; i < plan->count && rc == 0; i++) {
		uint64_t begin, end;

		covered(q, plan, i, offset, length, &begin, &end);
		rc = change_mapping(q, plan, i, begin, end);
		if (rc)
			break;
	}
	if (rc)
		give_back(q, plan, i);
	qcow2_unclaim(q, &plan->claim);
	pthread_mutex_unlock(&q->writer->lock);
	return rc;
}

/* Writes the first part of a range that cannot be overwritten in place; *done bytes of it. Without
 * a buffer whole clusters become zeroes that have room. */
static int write_step(struct qcow2 *q, const void *buffer, uint64_t offset, uint64_t length,
		      uint64_t *done)
{
	unsigned int shift = q->cluster_bits + q->l2_bits;
	struct plan plan = {.zeroes = !buffer};
	int rc = qcow2_relieve(q);

	*done = 0;
	if (rc)
		return rc;
	length = min_of(length, (((offset >> shift) + 1) << shift) - offset);
	rc = make_plan(q, &plan, offset, length);
	if (rc)
		return rc == -EAGAIN ? 0 : rc;
	length = min_of(length, ((plan.cluster + plan.count) << q->cluster_bits) - offset);
	rc = plan.zeroes ? reserve_zeroes(q, plan.host, length)
			 : move_bytes(q, &plan, buffer, offset, length);
	rc = complete(q, &plan, offset, length, rc);
	if (rc == 0)
		*done = length;
	return rc;
}

int qcow2_reserve(struct qcow2 *q, uint64_t offset, uint64_t length, uint64_t *done)
{
	return write_step(q, NULL, offset, length, done);
}

int qcow2_write(struct image *image, const void *buffer, uint64_t offset, uint64_t length)
{
	struct qcow2 *q = image->state;
	const uint8_t *at = buffer;
	int rc = qcow2_prepare(q);

	while (length && rc == 0) {
		struct extent extent;
		uint64_t done = 0;

		rc = qcow2_map(image, offset, length, MAP_OVERWRITE, 0, &extent);
		if (rc == 0) {
			done = extent.length;
			rc = image_write_run(&extent, at);
		} else if (rc == -EAGAIN) {
			rc = write_step(q, at, offset, length, &done);
		}
		at += done;
		offset += done;
		length -= done;
	}
	return rc;
}

/* ---- What can be written at once ---- */

enum { QUICK_CLUSTER_MAX = 128 << 10 };

/* Has the image nothing of its own in the range? *zero: and it reads as zeroes. */
static bool is_unused(struct qcow2 *q, uint64_t offset, uint64_t length, bool *zero)
{
	*zero = true;
	while (length) {
		struct extent extent;

		if (qcow2_map(q->image, offset, length, MAP_READ, MAP_NOWAIT, &extent))
			return false;
		if (extent.kind != EXTENT_ZERO || !extent.hole) {
			*zero = false;
			if (extent.depth < 2)
				return false;
		}
		offset += extent.length;
		length -= extent.length;
	}
	return true;
}

/* No L2 table of the range has to be copied. */
static bool tables_are_ours(const struct qcow2 *q, uint64_t first, uint64_t last)
{
	for (uint64_t i = first >> q->l2_bits; i <= last >> q->l2_bits; i++) {
		uint64_t entry = atomic_load(&q->l1[i]);

		if (entry && !(entry & QCOW2_COPIED))
			return false;
	}
	return true;
}

bool qcow2_write_is_quick(struct image *image, uint64_t offset, uint64_t length, uint32_t *piece)
{
	struct qcow2 *q = image->state;
	struct qcow2_writer *w = q->writer;
	uint64_t begin = round_down(offset, q->cluster_size);
	uint64_t end = round_up(offset + length, q->cluster_size);
	uint64_t first = begin >> q->cluster_bits, last = (end - 1) >> q->cluster_bits;
	bool whole = begin == offset && end == offset + length, zero, fresh, quick;
	EPOCH_SCOPE;

	if (!w || !atomic_load_explicit(&w->prepared, memory_order_acquire) ||
	    q->cluster_size > QUICK_CLUSTER_MAX || !hostfile_is_cached(q->data) ||
	    qcow2_has_data_file(&q->header) || end > image->size || q->crypt)
		return false;
	if (!tables_are_ours(q, first, last) || !is_unused(q, begin, end - begin, &zero) ||
	    !(whole || zero) || qcow2_is_full(q))
		return false;
	if (pthread_mutex_trylock(&w->lock))
		return false;
	quick = !atomic_load(&w->broken) && !qcow2_is_claimed(q, first, last) &&
		qcow2_allocation_is_quick(q, last - first + 1, &fresh) && (whole || fresh);
	pthread_mutex_unlock(&w->lock);
	*piece = (uint32_t)q->cluster_size;
	return quick;
}
