// SPDX-License-Identifier: MIT
/*
 * The only way of metadata to the disk. A flush takes copies of all that is dirty, and writes them
 * in the order in which they depend on each other, with a sync between:
 *
 *   data and refcount blocks | refcount table | L2 | L1 | done
 *
 * A stage with nothing to write costs nothing; after in-place writes alone one sync remains. What
 * was freed before the copies were taken has then left the disk, and only now its refcounts go
 * down in memory.
 *
 * The sync before L1 is for safety only: a table is written as a whole when it is made, and stable
 * before L2, so an L1 entry that came early would show an older table, not a broken one. It costs
 * nothing but where new tables come to be.
 *
 * An image may allow lazy refcounts. They are not used: refcounts are written in batches anyway,
 * and so the image never has to be called dirty. One that somebody else left dirty is repaired
 * first.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/size.h"
#include "server/image/epoch.h"
#include "server/image/loan.h"
#include "writer.h"
#include "server/trace.h"

/* What one flush writes. */
struct batch {
	struct qcow2_updates reftable, l1;
	struct qcow2_slices slices;
	struct qcow2_freed_list freed;
};

/* ---- Freed clusters ---- */

/* Punches runs of what nobody refers to any more. */
static void punch(struct qcow2 *q, const struct qcow2_freed *freed)
{
	uint64_t start = 0, length = 0, value;

	for (uint64_t i = 0; i <= freed->count; i++) {
		bool unused = i < freed->count &&
			      qcow2_refcount(q, freed->first + i, &value) == 0 && value == 0;

		if (unused && !length)
			start = freed->first + i;
		if (unused)
			length++;
		if (unused || !length)
			continue;
		/* Advice: a host that cannot keeps the space. */
		hostfile_discard(q->file, start << q->cluster_bits, length << q->cluster_bits);
		length = 0;
	}
}

/* The lock is held, nobody can find the clusters any more. */
static int release(struct qcow2 *q, const struct qcow2_freed *freed)
{
	int rc;

	trace_qcow2_freed(q->file->fd, freed->first, freed->count);
	rc = qcow2_refcount_change(q, freed->first, freed->count, -1);
	if (rc == 0 && freed->punch)
		punch(q, freed);
	return rc;
}

static bool is_lent(const struct qcow2 *q, const struct qcow2_freed *freed)
{
	return loans_cover(q->file, freed->first << q->cluster_bits,
			   freed->count << q->cluster_bits);
}

/* Would other bytes in this cluster show in pages that a socket was lent? Not where somebody else
 * uses it on, and not when those pages are no longer the file's. */
static bool may_be_reused(struct qcow2 *q, const struct qcow2_freed *cluster)
{
	uint64_t value;

	if (!is_lent(q, cluster))
		return true;
	if (qcow2_refcount(q, cluster->first, &value))
		return false;
	return value > 1 ||
	       hostfile_detach(q->file, cluster->first << q->cluster_bits, q->cluster_size);
}

/* Releases what is not lent of a run; the rest waits for another time. */
static int release_returned(struct qcow2 *q, const struct qcow2_freed *freed)
{
	int rc = 0;

	if (!is_lent(q, freed))
		return release(q, freed);
	for (uint64_t i = 0; i < freed->count && rc == 0; i++) {
		struct qcow2_freed one = {
			.first = freed->first + i, .count = 1, .punch = freed->punch};

		if (may_be_reused(q, &one))
			rc = release(q, &one);
		else
			rc = qcow2_freed_add(&q->writer->lent, one);
	}
	return rc;
}

/* Tries again what was lent. */
static int reap_lent(struct qcow2 *q)
{
	struct qcow2_freed_list list = q->writer->lent;
	int rc = 0;

	if (!list.count)
		return 0;
	loans_settle();
	q->writer->lent = (struct qcow2_freed_list){0};
	for (size_t i = 0; i < list.count && rc == 0; i++)
		rc = release_returned(q, &list.items[i]);
	free(list.items);
	return rc;
}

/* The stamps in the list ascend. */
int qcow2_reap(struct qcow2 *q)
{
	struct qcow2_freed_list *stable = &q->writer->stable;
	size_t done = 0;
	int rc = 0;

	if (!stable->count || !epoch_passed(stable->items[0].stamp))
		return 0;
	loans_settle();
	while (done < stable->count && rc == 0 && epoch_passed(stable->items[done].stamp))
		rc = release_returned(q, &stable->items[done++]);
	stable->count -= done;
	memmove(stable->items, stable->items + done, stable->count * sizeof(*stable->items));
	return rc;
}

static int make_stable(struct qcow2 *q, const struct qcow2_freed_list *freed)
{
	int rc = 0;

	for (size_t i = 0; i < freed->count && !rc; i++)
		rc = qcow2_freed_add(&q->writer->stable, freed->items[i]);
	return rc;
}

/* ---- Stages ---- */

static int sync_file(struct qcow2 *q)
{
	return q->temporary ? 0 : hostfile_sync(q->file);
}

static int sync_all(struct qcow2 *q)
{
	int rc = q->data != q->file ? hostfile_sync(q->data) : 0;

	return rc ? rc : sync_file(q);
}

static int write_words(struct qcow2 *q, const struct qcow2_updates *updates, uint64_t table)
{
	int rc = 0;

	trace_qcow2_words_written(q->file->fd, table, updates->count);
	for (size_t i = 0; i < updates->count && !rc; i++) {
		uint8_t bytes[8];

		store_be64(bytes, updates->items[i].value);
		rc = hostfile_write(q->file, bytes, sizeof(bytes),
				    table + (uint64_t)updates->items[i].index * 8);
	}
	return rc;
}

/* Blocks are written, the rest is copied. The lock is held. */
static int collect(struct qcow2 *q, struct batch *batch)
{
	struct qcow2_writer *w = q->writer;
	int rc = reap_lent(q);

	if (rc == 0)
		rc = qcow2_reap(q);
	if (rc == 0)
		rc = qcow2_blocks_write(q);
	if (rc == 0)
		rc = qcow2_cache_collect(q, &batch->slices);
	if (rc)
		return rc;
	batch->reftable = w->reftable_updates;
	batch->l1 = w->l1_updates;
	batch->freed = w->freed;
	w->reftable_updates = w->l1_updates = (struct qcow2_updates){0};
	w->freed = (struct qcow2_freed_list){0};
	return 0;
}

/* The table may have moved since: its place is looked up under the lock. */
static int write_reftable(struct qcow2 *q, const struct batch *batch, bool locked)
{
	int rc;

	if (!batch->reftable.count)
		return 0;
	rc = sync_file(q);
	if (rc)
		return rc;
	if (!locked)
		pthread_mutex_lock(&q->writer->lock);
	rc = write_words(q, &batch->reftable, q->header.reftable_offset);
	if (!locked)
		pthread_mutex_unlock(&q->writer->lock);
	return rc;
}

static int write_stages(struct qcow2 *q, const struct batch *batch, bool locked)
{
	int rc;

	trace_qcow2_flush_begin(q->file->fd, batch->slices.count, batch->l1.count,
				batch->reftable.count, batch->freed.count);
	rc = write_reftable(q, batch, locked);

	if (rc == 0 && (batch->slices.count || batch->l1.count || batch->reftable.count))
		rc = sync_all(q);
	if (rc == 0)
		rc = qcow2_slices_write(q, &batch->slices);
	if (rc == 0 && batch->l1.count) {
		if (batch->slices.count)
			rc = sync_file(q);
		if (rc == 0)
			rc = write_words(q, &batch->l1, q->header.l1_offset);
	}
	return rc ? rc : sync_all(q);
}

/*
 * After a failure nobody knows what of it is on the disk, and a later sync that succeeds would not
 * tell: no more metadata is written, so that what is on the disk stays consistent.
 */
static void give_up(struct qcow2 *q, int rc)
{
	int none = 0;

	if (atomic_compare_exchange_strong(&q->writer->broken, &none, rc))
		log_error("%s: metadata could not be written (%s); clusters are not allocated any "
			  "more",
			  q->file->path, strerror(-rc));
}

/* The lock is held. */
static int finish(struct qcow2 *q, struct batch *batch, int rc)
{
	trace_qcow2_flush_end(q->file->fd, rc);
	qcow2_cache_written(q, &batch->slices, rc);
	if (rc == 0)
		rc = make_stable(q, &batch->freed);
	if (rc == 0)
		rc = qcow2_reap(q);
	if (rc)
		give_up(q, rc);
	free(batch->reftable.items);
	free(batch->l1.items);
	free(batch->freed.items);
	return rc;
}

int qcow2_flush_repairs(struct qcow2 *q)
{
	struct batch batch = {0};
	int rc = collect(q, &batch);

	return rc ? rc : finish(q, &batch, write_stages(q, &batch, true));
}

/* flush_lock is held. */
static int flush(struct qcow2 *q)
{
	struct qcow2_writer *w = q->writer;
	struct batch batch = {0};
	int rc;

	pthread_mutex_lock(&w->lock);
	rc = collect(q, &batch);
	pthread_mutex_unlock(&w->lock);
	if (rc)
		return rc;
	rc = write_stages(q, &batch, false);
	pthread_mutex_lock(&w->lock);
	rc = finish(q, &batch, rc);
	pthread_mutex_unlock(&w->lock);
	return rc;
}

int qcow2_flush(struct image *image)
{
	struct qcow2 *q = image->state;
	struct qcow2_writer *w = q->writer;
	int rc;

	if (!w)
		return 0;
	pthread_mutex_lock(&w->flush_lock);
	rc = atomic_load(&w->broken);
	if (rc)
		sync_all(q); /* data may have come before; the error stands anyway */
	else
		rc = flush(q);
	pthread_mutex_unlock(&w->flush_lock);
	return rc;
}

int qcow2_settle(struct image *image)
{
	struct qcow2 *q = image->state;
	struct qcow2_writer *w = q->writer;
	int rc = qcow2_flush(image);
	bool more;

	if (!w || rc)
		return rc;
	pthread_mutex_lock(&w->lock);
	more = w->freed.count || w->stable.count || w->lent.count || w->blocks_dirty;
	pthread_mutex_unlock(&w->lock);
	return more ? -EAGAIN : 0;
}

bool qcow2_is_full(struct qcow2 *q)
{
	struct qcow2_writer *w = q->writer;
	bool full;

	if (qcow2_cache_is_full(q))
		return true;
	pthread_mutex_lock(&w->lock);
	full = w->freed.count > QCOW2_FREED_MAX ||
	       (uint64_t)w->blocks_dirty << q->cluster_bits > QCOW2_BLOCKS_BYTES;
	pthread_mutex_unlock(&w->lock);
	return full;
}

int qcow2_relieve(struct qcow2 *q)
{
	struct qcow2_writer *w = q->writer;
	int rc = 0;

	if (!qcow2_is_full(q))
		return 0;
	pthread_mutex_lock(&w->flush_lock);
	if (qcow2_is_full(q)) /* nobody has done it while we waited */
		rc = atomic_load(&w->broken) ? atomic_load(&w->broken) : flush(q);
	pthread_mutex_unlock(&w->flush_lock);
	return rc;
}
