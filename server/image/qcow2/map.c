// SPDX-License-Identifier: MIT
/*
 * Where do guest bytes live? One walk over the L2 entries of a range gives a run of one kind; what
 * this image does not have is asked from its backing file. No locks; any thread.
 */
#include <errno.h>

#include "common/size.h"
#include "qcow2.h"
#include "server/image/epoch.h"
#include "writer.h"

enum { ENTRIES_AT_ONCE = 64 };

enum run_kind { RUN_NONE, RUN_DATA, RUN_ZERO, RUN_COMPRESSED };

/* A run of this image alone. */
struct run {
	enum run_kind kind;
	bool has_host; /* host clusters belong to it */
	bool copied;   /* to it alone */
	uint64_t host;
	uint64_t length;
};

static enum run_kind kind_of(const struct qcow2_mapping *mapping, unsigned int subcluster)
{
	uint32_t bit = 1u << subcluster;

	if (mapping->compressed)
		return RUN_COMPRESSED;
	if (mapping->zero & bit)
		return RUN_ZERO;
	return mapping->data & bit ? RUN_DATA : RUN_NONE;
}

/* Does the next cluster's mapping continue the run, from its first byte on? */
static bool continues(const struct run *run, const struct qcow2_mapping *next)
{
	if (kind_of(next, 0) != run->kind)
		return false;
	if (run->kind == RUN_DATA)
		return next->copied == run->copied && next->host == run->host + run->length;
	return run->kind != RUN_ZERO || next->has_host == run->has_host;
}

/* How far the kind at offset in a cluster goes on in it. */
static uint64_t length_in_cluster(const struct qcow2 *q, const struct qcow2_mapping *mapping,
				  uint64_t in_cluster)
{
	unsigned int first = (unsigned int)(in_cluster >> q->subcluster_bits), at = first;
	unsigned int count = 1u << (q->cluster_bits - q->subcluster_bits);

	if (count == 1 || mapping->compressed)
		return q->cluster_size - in_cluster;
	while (at < count && kind_of(mapping, at) == kind_of(mapping, first))
		at++;
	return ((uint64_t)at << q->subcluster_bits) - in_cluster;
}

/* Reads the entries for the clusters of a range; their number, or -errno. */
static int read_entries(struct qcow2 *q, uint64_t table, uint64_t offset, uint64_t length,
			unsigned int flags, struct qcow2_entry *entries)
{
	uint64_t first = offset >> q->cluster_bits;
	uint64_t last = (offset + length - 1) >> q->cluster_bits;
	uint64_t index = first & ((UINT64_C(1) << q->l2_bits) - 1);

	return qcow2_cache_read(q, table, index,
				(unsigned int)min_of(last - first + 1, (uint64_t)ENTRIES_AT_ONCE),
				flags, entries);
}

/* An entry breaks the format. Whoever may wait marks the image, if it is one that is written. */
static int broken_entry(struct qcow2 *q, unsigned int flags, const char *what, uint64_t offset)
{
	if (!q->writer)
		return -EIO;
	return flags & MAP_NOWAIT ? -EAGAIN : qcow2_corrupt(q, what, offset);
}

/* A run inside one L2 table. */
static int find_in_table(struct qcow2 *q, uint64_t table, uint64_t offset, uint64_t length,
			 unsigned int flags, struct run *run)
{
	struct qcow2_entry entries[ENTRIES_AT_ONCE];
	struct qcow2_mapping mapping;
	uint64_t in_cluster = qcow2_in_cluster(q, offset);
	int count = read_entries(q, table, offset, length, flags, entries);

	if (count < 0)
		return count;
	if (!qcow2_decode(&q->header, entries[0], &mapping))
		return broken_entry(q, flags, "an L2 entry is broken", table);
	*run = (struct run){.kind = kind_of(&mapping, (unsigned)(in_cluster >> q->subcluster_bits)),
			    .has_host = mapping.has_host,
			    .copied = mapping.copied,
			    .host = mapping.host + in_cluster,
			    .length = length_in_cluster(q, &mapping, in_cluster)};
	for (int i = 1; i < count && !qcow2_in_cluster(q, offset + run->length); i++) {
		if (!qcow2_decode(&q->header, entries[i], &mapping))
			break; /* whoever asks for it gets the error */
		if (!continues(run, &mapping))
			break;
		run->length += length_in_cluster(q, &mapping, 0);
	}
	run->length = min_of(run->length, length);
	return 0;
}

/* A run in this image: up to the end of an L2 table, or over all tables that are not there. */
static int find_run(struct qcow2 *q, uint64_t offset, uint64_t length, unsigned int flags,
		    struct run *run)
{
	unsigned int shift = q->cluster_bits + q->l2_bits;
	uint64_t index = offset >> shift, end = offset + length, table, entry;

	entry = atomic_load_explicit(&q->l1[index], memory_order_acquire);
	if (!qcow2_decode_l1(&q->header, entry, &table))
		return broken_entry(q, flags, "an L1 entry is broken", entry);
	if (table) {
		int rc = find_in_table(q, table, offset, min_of(end, (index + 1) << shift) - offset,
				       flags, run);

		if (rc == 0)
			run->copied = run->copied && entry & QCOW2_COPIED;
		return rc;
	}
	while (++index << shift < end && !atomic_load_explicit(&q->l1[index], memory_order_acquire))
		;
	*run = (struct run){.kind = RUN_NONE, .length = min_of(end, index << shift) - offset};
	return 0;
}

int qcow2_mapping_of(struct qcow2 *q, uint64_t offset, struct qcow2_mapping *mapping)
{
	uint64_t entry = atomic_load_explicit(&q->l1[offset >> (q->cluster_bits + q->l2_bits)],
					      memory_order_acquire);
	struct qcow2_entry l2 = {0, 0};
	uint64_t table;

	if (!qcow2_decode_l1(&q->header, entry, &table))
		return broken_entry(q, 0, "an L1 entry is broken", entry);
	if (table) {
		int count = read_entries(q, table, offset, 1, 0, &l2);

		if (count < 0)
			return count;
	}
	if (!qcow2_decode(&q->header, l2, mapping))
		return broken_entry(q, 0, "an L2 entry is broken", table);
	mapping->copied = mapping->copied && entry & QCOW2_COPIED;
	return 0;
}

static void answer_zero(struct extent *extent, uint64_t length, bool hole)
{
	*extent = (struct extent){
		.kind = EXTENT_ZERO, .stable = true, .hole = hole, .length = length, .depth = 1};
}

/*
 * What the image does not have: the backing file's. The zeroes beyond its end count as its own, as
 * QEMU counts them: they hide what images further down have there.
 */
static int map_backing(struct qcow2 *q, uint64_t offset, uint64_t length, enum map_intent intent,
		       unsigned int flags, struct extent *extent)
{
	int rc;

	if (!q->backing || offset >= q->backing->size) {
		answer_zero(extent, length, true);
		extent->depth = q->backing ? 2 : 0;
		return 0;
	}
	rc = image_map(q->backing, offset, min_of(length, q->backing->size - offset), intent, flags,
		       extent);
	if (rc == 0 && extent->depth)
		extent->depth++;
	return rc;
}

/* Data behind the end of the file, which may be short, reads as zeroes; encrypted data as what they
 * decrypt to, because that is what is there when the file grows beyond it. */
static int answer_data(struct qcow2 *q, const struct run *run, struct extent *extent)
{
	uint64_t end =
		q->crypt ? UINT64_MAX : atomic_load_explicit(&q->data_end, memory_order_relaxed);
	uint64_t length = run->length;

	if (run->host + length > end) {
		int rc = hostfile_size(q->data, &end);

		if (rc)
			return rc;
		atomic_store_explicit(&q->data_end, end, memory_order_relaxed);
	}
	if (run->host >= end) {
		answer_zero(extent, length, false);
		return 0;
	}
	*extent = (struct extent){.kind = q->crypt ? EXTENT_ENCRYPTED : EXTENT_FILE,
				  .crypt = q->crypt,
				  .stable = (q->image->read_only && !q->image->options.dynamic) ||
					    q->data != q->file,
				  .length = min_of(length, end - run->host),
				  .file = q->data,
				  .file_offset = run->host,
				  .depth = 1};
	return 0;
}

static int answer_run(struct image *image, const struct run *run, uint64_t offset,
		      enum map_intent intent, unsigned int flags, struct extent *extent)
{
	switch (run->kind) {
	case RUN_NONE:
		return map_backing(image->state, offset, run->length, intent, flags, extent);
	case RUN_DATA:
		return answer_data(image->state, run, extent);
	case RUN_ZERO:
		answer_zero(extent, run->length, !run->has_host);
		return 0;
	case RUN_COMPRESSED:
		*extent = (struct extent){
			.kind = EXTENT_OPAQUE,
			.unit = (uint32_t)((struct qcow2 *)image->state)->cluster_size,
			.length = run->length,
			.owner = image,
			.depth = 1};
		return 0;
	}
	return -EIO;
}

/* Until the image is prepared, and when it is broken, writes go the slow way, which knows. */
static bool may_overwrite(const struct qcow2 *q)
{
	return q->writer && atomic_load_explicit(&q->writer->prepared, memory_order_acquire) &&
	       !atomic_load_explicit(&q->writer->broken, memory_order_relaxed);
}

/* Clusters that are ours alone are overwritten where they are, unless they are metadata. */
static int answer_overwrite(const struct qcow2 *q, const struct run *run, struct extent *extent)
{
	uint64_t length = run->length;

	if (run->kind != RUN_DATA || !run->copied)
		return -EAGAIN;
	if (q->data == q->file && qcow2_guard_hits(q, run->host, length)) {
		length = min_of(length, q->cluster_size - qcow2_in_cluster(q, run->host));
		if (qcow2_guard_hits(q, run->host, length))
			return -EAGAIN;
	}
	*extent = (struct extent){.kind = q->crypt ? EXTENT_ENCRYPTED : EXTENT_FILE,
				  .crypt = q->crypt,
				  .length = length,
				  .file = q->data,
				  .file_offset = run->host};
	return 0;
}

int qcow2_map(struct image *image, uint64_t offset, uint64_t length, enum map_intent intent,
	      unsigned int flags, struct extent *extent)
{
	struct qcow2 *q = image->state;
	struct run run = {.kind = RUN_NONE};
	int rc;
	EPOCH_SCOPE;

	if (intent == MAP_OVERWRITE && !may_overwrite(q))
		return -EAGAIN;
	rc = find_run(q, offset, length, flags, &run);
	if (rc)
		return rc;
	if (intent == MAP_OVERWRITE)
		return answer_overwrite(q, &run, extent);
	return answer_run(image, &run, offset, intent, flags, extent);
}
