// SPDX-License-Identifier: MIT
/*
 * The life of a writer: what it needs when an image is opened, what happens before the first
 * change, claims, and the end when an image contradicts itself.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "writer.h"
#include "server/trace.h"

/* ---- Lists ---- */

/* Makes room for one more item of that size. */
static int list_grow(void **items, size_t count, size_t *room, size_t item)
{
	size_t wanted = *room ? *room * 2 : 16;
	void *larger;

	if (count < *room)
		return 0;
	larger = reallocarray(*items, wanted, item);
	if (!larger)
		return -ENOMEM;
	*items = larger;
	*room = wanted;
	return 0;
}

int qcow2_updates_add(struct qcow2_updates *updates, uint32_t index, uint64_t value)
{
	int rc = list_grow((void **)&updates->items, updates->count, &updates->room,
			   sizeof(*updates->items));

	if (rc == 0)
		updates->items[updates->count++] =
			(struct qcow2_update){.index = index, .value = value};
	return rc;
}

int qcow2_freed_add(struct qcow2_freed_list *list, struct qcow2_freed freed)
{
	struct qcow2_freed *last = list->count ? &list->items[list->count - 1] : NULL;
	int rc;

	if (last && last->first + last->count == freed.first && last->punch == freed.punch) {
		last->count += freed.count;
		last->stamp = freed.stamp;
		return 0;
	}
	rc = list_grow((void **)&list->items, list->count, &list->room, sizeof(*list->items));
	if (rc == 0)
		list->items[list->count++] = freed;
	return rc;
}

/* ---- Claims ---- */

bool qcow2_is_claimed(const struct qcow2 *q, uint64_t first, uint64_t last)
{
	for (const struct qcow2_claim *claim = q->writer->claims; claim; claim = claim->next)
		if (first <= claim->last && claim->first <= last)
			return true;
	return false;
}

void qcow2_claim(struct qcow2 *q, struct qcow2_claim *claim, uint64_t first, uint64_t last)
{
	struct qcow2_writer *w = q->writer;

	while (qcow2_is_claimed(q, first, last))
		pthread_cond_wait(&w->claim_ended, &w->lock);
	*claim = (struct qcow2_claim){.first = first, .last = last, .next = w->claims};
	w->claims = claim;
}

void qcow2_unclaim(struct qcow2 *q, struct qcow2_claim *claim)
{
	struct qcow2_claim **link = &q->writer->claims;

	while (*link != claim)
		link = &(*link)->next;
	*link = claim->next;
	pthread_cond_broadcast(&q->writer->claim_ended);
}

/* ---- The header ---- */

/* Changes one of the words of feature bits, here and in the file. */
static int change_features(struct qcow2 *q, uint64_t offset, uint64_t *word, uint64_t clear,
			   uint64_t set)
{
	struct qcow2_writer *w = q->writer;
	uint64_t value;
	uint8_t bytes[8];
	int rc = 0;

	pthread_mutex_lock(&w->feature_lock);
	value = (*word & ~clear) | set;
	if (value != *word) {
		store_be64(bytes, value);
		rc = hostfile_write(q->file, bytes, sizeof(bytes), offset);
		if (rc == 0)
			rc = hostfile_sync(q->file);
		if (rc == 0)
			*word = value;
	}
	pthread_mutex_unlock(&w->feature_lock);
	return rc;
}

int qcow2_corrupt(struct qcow2 *q, const char *what, uint64_t offset)
{
	struct qcow2_writer *w = q->writer;

	trace_qcow2_corrupt(q->file->path, offset);
	if (atomic_exchange(&w->broken, -EIO))
		return -EIO;
	log_error("%s: %s (host offset %#llx): the image is corrupt and is not written any more; "
		  "check it by qemu-img check",
		  q->file->path, what, (unsigned long long)offset);
	if (q->header.version < 3)
		return -EIO;
	if (change_features(q, QCOW2_AT_INCOMPATIBLE, &w->incompatible, 0,
			    QCOW2_INCOMPATIBLE_CORRUPT))
		log_error("%s: it cannot be marked as corrupt", q->file->path);
	return -EIO;
}

/* ---- Before the first change ---- */

/* A dirty image: its refcounts may be wrong. They are made anew, written, and only then it is no
 * longer called dirty. */
static int repair(struct qcow2 *q)
{
	struct qcow2_check result;
	int rc;

	if (!(q->header.incompatible & QCOW2_INCOMPATIBLE_DIRTY))
		return 0;
	log_info("%s: was not closed properly, counting references anew", q->file->path);
	rc = qcow2_check(q, true, &result);
	if (rc == 0 && result.corruptions)
		return qcow2_corrupt(q, "the tables of a dirty image are broken", 0);
	return rc;
}

static int clear_features(struct qcow2 *q)
{
	struct qcow2_writer *w = q->writer;
	uint64_t void_bits = ~(uint64_t)QCOW2_AUTOCLEAR_KNOWN;
	int rc;

	if (q->header.version < 3)
		return 0;
	if (q->extensions.bitmaps && q->bitmaps_active)
		void_bits |= QCOW2_AUTOCLEAR_BITMAPS;
	rc = change_features(q, QCOW2_AT_AUTOCLEAR, &w->autoclear, void_bits, 0);
	return rc ? rc
		  : change_features(q, QCOW2_AT_INCOMPATIBLE, &w->incompatible,
				    QCOW2_INCOMPATIBLE_DIRTY, 0);
}

int qcow2_prepare(struct qcow2 *q)
{
	struct qcow2_writer *w = q->writer;
	int rc = 0;

	if (!w)
		return -EROFS;
	if (atomic_load(&w->broken))
		return atomic_load(&w->broken);
	if (atomic_load_explicit(&w->prepared, memory_order_acquire))
		return 0;
	pthread_mutex_lock(&w->flush_lock);
	pthread_mutex_lock(&w->lock);
	if (!atomic_load(&w->prepared)) {
		rc = repair(q);
		if (rc == 0)
			rc = qcow2_flush_repairs(q);
		if (rc == 0)
			rc = clear_features(q);
		if (rc == 0)
			atomic_store_explicit(&w->prepared, true, memory_order_release);
		trace_qcow2_prepared(q->file->path, rc);
	}
	pthread_mutex_unlock(&w->lock);
	pthread_mutex_unlock(&w->flush_lock);
	return rc;
}

/* ---- Open and close ---- */

int qcow2_writer_open(struct qcow2 *q, struct error *err)
{
	struct qcow2_writer *w;
	uint64_t size;
	int rc;

	if (q->image->read_only)
		return 0;
	w = calloc(1, sizeof(*w));
	if (!w)
		return error_set(err, ENOMEM, "out of memory");
	w->incompatible = q->header.incompatible;
	w->autoclear = q->header.autoclear;
	pthread_mutex_init(&w->feature_lock, NULL);
	pthread_mutex_init(&w->flush_lock, NULL);
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->claim_ended, NULL);
	q->writer = w;
	rc = hostfile_size(q->file, &size);
	if (rc)
		return error_set_errno(err, -rc, "cannot tell the size");
	w->virgin = (size + q->cluster_size - 1) >> q->cluster_bits;
	w->guard = qcow2_guard_new(&q->header);
	if (!w->guard)
		return error_set(err, ENOMEM, "out of memory");
	rc = qcow2_refcounts_load(q, err);
	if (rc == 0 && qcow2_guard_fill(q))
		rc = error_set(err, ENOMEM, "out of memory");
	return rc;
}

void qcow2_writer_free(struct qcow2 *q)
{
	struct qcow2_writer *w = q->writer;

	if (!w)
		return;
	for (uint32_t i = 0; w->blocks && i < w->reftable_size; i++)
		free(w->blocks[i].bytes);
	free(w->blocks);
	free(w->reftable);
	free(w->reftable_updates.items);
	free(w->l1_updates.items);
	free(w->freed.items);
	free(w->stable.items);
	free(w->lent.items);
	qcow2_guard_free(w->guard);
	pthread_mutex_destroy(&w->feature_lock);
	pthread_mutex_destroy(&w->flush_lock);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->claim_ended);
	free(w);
	q->writer = NULL;
}
