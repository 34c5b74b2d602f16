// SPDX-License-Identifier: MIT
/*
 * Zeroes and discards: whole subclusters are a matter of the mapping, what is left at both ends is
 * written. A discard over a backing file leaves zeroes, never what the backing file has there.
 * Workers only.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "writer.h"

enum { WRITE_STEP = 1 << 20 };

struct change {
	bool discard;
	bool unmap;  /* give host clusters back */
	bool room;   /* what has no host cluster gets one */
	bool strict; /* never write zeroes instead */
	unsigned int host_flags;
};

static uint32_t all_bits(const struct qcow2 *q)
{
	return q->subcluster_bits == q->cluster_bits ? 1 : UINT32_MAX;
}

/* ---- Writing zeroes as bytes ---- */

static int reads_as_zero(struct qcow2 *q, uint64_t offset, uint64_t length, bool *zero)
{
	*zero = true;
	while (length && *zero) {
		struct extent extent;
		int rc = qcow2_map(q->image, offset, length, MAP_READ, 0, &extent);

		if (rc)
			return rc;
		*zero = extent.kind == EXTENT_ZERO;
		offset += extent.length;
		length -= extent.length;
	}
	return 0;
}

/* keep: what reads as zeroes already needs no host cluster. */
static int write_zeroes(struct qcow2 *q, uint64_t offset, uint64_t length, bool keep)
{
	AUTO_FREE uint8_t *bytes = NULL;
	bool zero = false;
	int rc = keep && length ? reads_as_zero(q, offset, length, &zero) : 0;

	if (rc || zero || !length)
		return rc;
	bytes = calloc(1, min_of(length, (uint64_t)WRITE_STEP));
	if (!bytes)
		return -ENOMEM;
	while (length && rc == 0) {
		uint64_t step = min_of(length, (uint64_t)WRITE_STEP);

		rc = qcow2_relieve(q);
		if (rc == 0)
			rc = qcow2_write(q->image, bytes, offset, step);
		offset += step;
		length -= step;
	}
	return rc;
}

/* ---- Mappings; the lock is held ---- */

/*
 * What becomes of a mapping when the subclusters in bits are to read as zeroes. -EOPNOTSUPP: they
 * must be written.
 */
static int zero_mapping(const struct qcow2 *q, const struct qcow2_mapping *old, uint32_t bits,
			const struct change *change, struct qcow2_mapping *new)
{
	bool whole = bits == all_bits(q);
	bool empty = !old->has_host && !old->compressed;

	*new = *old;
	if (change->discard && !q->backing) { /* nothing is below: unallocated reads as zeroes */
		if (whole)
			*new = (struct qcow2_mapping){0};
		return 0;
	}
	if (q->header.version < 3) {
		if (empty && !q->backing && !change->room)
			return 0;
		if (q->backing || !change->unmap)
			return -EOPNOTSUPP;
		*new = (struct qcow2_mapping){0};
		return 0;
	}
	if (change->room && (empty || old->compressed || !old->copied))
		return -EOPNOTSUPP;
	if (whole && (change->unmap || !old->has_host || !old->copied)) {
		*new = (struct qcow2_mapping){.zero = bits};
		return 0;
	}
	if (old->compressed || (old->has_host && !old->copied))
		return -EOPNOTSUPP;
	new->zero |= bits;
	new->data &= ~bits;
	return 0;
}

static bool same_mapping(const struct qcow2_mapping *a, const struct qcow2_mapping *b)
{
	return a->has_host == b->has_host && a->compressed == b->compressed && a->host == b->host &&
	       a->data == b->data && a->zero == b->zero;
}

/* Nothing to do, and no L2 table shall be made for it. */
static bool is_nothing(const struct qcow2 *q, const struct qcow2_mapping *old,
		       const struct qcow2_mapping *new, const struct change *change)
{
	return same_mapping(old, new) ||
	       (!q->backing && !old->has_host && !old->compressed && !old->data && !change->room);
}

static int change_cluster(struct qcow2 *q, uint64_t cluster, uint32_t bits,
			  const struct change *change)
{
	struct qcow2_mapping old, new;
	uint64_t table;
	int rc = qcow2_mapping_of(q, cluster << q->cluster_bits, &old);

	if (rc)
		return rc;
	rc = zero_mapping(q, &old, bits, change, &new);
	if (rc || is_nothing(q, &old, &new, change))
		return rc;
	rc = qcow2_table_for_change(q, cluster, &table);
	if (rc == 0)
		rc = qcow2_mapping_set(q, table, cluster, &new);
	if (rc == 0 && !new.has_host && !qcow2_has_data_file(&q->header))
		qcow2_mapping_free(q, &old, change->unmap);
	return rc;
}

/* ---- Ranges of whole subclusters ---- */

/* The bits of cluster that lie in a range; the last cluster of the disk counts as whole. */
static uint32_t bits_in_range(const struct qcow2 *q, uint64_t cluster, uint64_t offset,
			      uint64_t end)
{
	uint64_t start = cluster << q->cluster_bits;
	uint64_t from = offset > start ? offset - start : 0;
	uint64_t to = end == q->image->size ? q->cluster_size : end - start;
	uint64_t first = from >> q->subcluster_bits;
	uint64_t last = min_of(to, q->cluster_size) >> q->subcluster_bits;

	return (uint32_t)((UINT64_C(1) << last) - (UINT64_C(1) << first));
}

/* Changes up to a step of clusters; *next: the first byte that was not. */
static int change_step(struct qcow2 *q, uint64_t offset, uint64_t end, const struct change *change,
		       uint64_t *next)
{
	uint64_t first = offset >> q->cluster_bits, last = (end - 1) >> q->cluster_bits, c;
	struct qcow2_claim claim;
	int rc = 0;

	last = min_of(last, (first | (QCOW2_STEP_CLUSTERS - 1)));
	pthread_mutex_lock(&q->writer->lock);
	qcow2_claim(q, &claim, first, last);
	rc = atomic_load(&q->writer->broken);
	for (c = first; c <= last && rc == 0; c++)
		rc = change_cluster(q, c, bits_in_range(q, c, offset, end), change);
	c -= rc != 0; /* the one that failed */
	qcow2_unclaim(q, &claim);
	pthread_mutex_unlock(&q->writer->lock);
	*next = min_of(max_of(c << q->cluster_bits, offset), end);
	return rc;
}

/* Without a backing file, what has no L2 table has nothing to be zeroed. */
static uint64_t skip_missing(const struct qcow2 *q, uint64_t offset, uint64_t end,
			     const struct change *change)
{
	unsigned int shift = q->cluster_bits + q->l2_bits;

	while (!change->room && !q->backing && offset < end &&
	       !atomic_load(&q->l1[offset >> shift]))
		offset = min_of(((offset >> shift) + 1) << shift, end);
	return offset;
}

/* The data file of an image that calls it raw must itself read as zeroes. */
static int zero_data_file(struct qcow2 *q, uint64_t offset, uint64_t end,
			  const struct change *change)
{
	if (!qcow2_data_file_is_raw(&q->header) || q->crypt)
		return 0;
	return hostfile_zero(q->data, offset, end - offset, change->host_flags);
}

/* Zeroes the first part of a range that change_step() could not: by giving whole clusters room, or
 * by writing the rest of one. *next: the first byte that was not. */
static int fill_step(struct qcow2 *q, uint64_t offset, uint64_t end, const struct change *change,
		     uint64_t *next)
{
	uint64_t whole = round_down(end - offset, q->cluster_size), done = 0, cluster_end;
	int rc;

	if (change->room && q->header.version >= 3 && whole && !qcow2_in_cluster(q, offset)) {
		rc = qcow2_reserve(q, offset, whole, &done);
		*next = offset + done;
		return rc;
	}
	cluster_end = min_of(round_down(offset, q->cluster_size) + q->cluster_size, end);
	*next = cluster_end;
	return write_zeroes(q, offset, cluster_end - offset, false);
}

static int change_range(struct qcow2 *q, uint64_t offset, uint64_t end, const struct change *change)
{
	int rc = offset < end ? zero_data_file(q, offset, end, change) : 0;

	while (offset < end && rc == 0) {
		uint64_t next = offset;

		offset = skip_missing(q, offset, end, change);
		if (offset == end)
			return 0;
		rc = qcow2_relieve(q);
		if (rc == 0)
			rc = change_step(q, offset, end, change, &next);
		if (rc == -EOPNOTSUPP && !change->strict)
			rc = fill_step(q, next, end, change, &next);
		offset = next;
	}
	return rc;
}

/* ---- The operations ---- */

/* Can change_range() do it without writing zeroes? Asked first, so that a client who is told "not
 * fast" finds its bytes as they were. */
static int check_fast(struct qcow2 *q, uint64_t offset, uint64_t end, const struct change *change)
{
	while ((offset = skip_missing(q, offset, end, change)) < end) {
		uint64_t cluster = offset >> q->cluster_bits;
		struct qcow2_mapping old, new;
		int rc = qcow2_mapping_of(q, offset, &old);

		if (rc == 0)
			rc = zero_mapping(q, &old, bits_in_range(q, cluster, offset, end), change,
					  &new);
		if (rc)
			return rc;
		offset = min_of((cluster + 1) << q->cluster_bits, end);
	}
	return 0;
}

/* The whole units inside a range; a last one that the disk cuts short is whole. */
static void inner_range(const struct qcow2 *q, uint64_t unit, uint64_t offset, uint64_t length,
			uint64_t *begin, uint64_t *end)
{
	*begin = round_up(offset, unit);
	*end = offset + length;
	if (*end != q->image->size)
		*end = round_down(*end, unit);
	if (*begin > *end)
		*begin = *end = offset + length;
}

/* Would the ends have to be written? */
static int ends_are_zero(struct qcow2 *q, uint64_t offset, uint64_t begin, uint64_t end,
			 uint64_t tail, bool *zero)
{
	int rc = reads_as_zero(q, offset, begin - offset, zero);

	if (rc == 0 && *zero)
		rc = reads_as_zero(q, end, tail - end, zero);
	return rc;
}

int qcow2_zero(struct image *image, uint64_t offset, uint64_t length, unsigned int flags)
{
	struct qcow2 *q = image->state;
	struct change change = {.unmap = flags & ZERO_MAY_UNMAP,
				.room = !(flags & (ZERO_MAY_UNMAP | ZERO_MAY_STAY_HOLE)),
				.strict = flags & ZERO_FAST,
				.host_flags = flags};
	uint64_t begin, end, tail = offset + length;
	bool zero;
	int rc = qcow2_prepare(q);

	inner_range(q, UINT64_C(1) << q->subcluster_bits, offset, length, &begin, &end);
	if (rc == 0 && change.strict) {
		rc = ends_are_zero(q, offset, begin, end, tail, &zero);
		if (rc == 0 && (!zero || begin == end))
			rc = zero && !change.room ? 0 : -EOPNOTSUPP;
		if (rc == 0)
			rc = check_fast(q, begin, end, &change);
	}
	if (rc == 0)
		rc = write_zeroes(q, offset, begin - offset, !change.room);
	if (rc == 0)
		rc = change_range(q, begin, end, &change);
	return rc ? rc : write_zeroes(q, end, tail - end, !change.room);
}

int qcow2_discard(struct image *image, uint64_t offset, uint64_t length)
{
	struct qcow2 *q = image->state;
	struct change change = {
		.discard = true, .unmap = true, .strict = true, .host_flags = ZERO_MAY_UNMAP};
	uint64_t begin, end;
	int rc = qcow2_prepare(q);

	/* Version 2 cannot say "zero", and unallocated would show the backing file. */
	if (rc || (q->backing && q->header.version < 3))
		return rc;
	inner_range(q, q->cluster_size, offset, length, &begin, &end);
	return begin < end ? change_range(q, begin, end, &change) : 0;
}
