/* SPDX-License-Identifier: MIT */
/*
 * The inside of writing: what the files that change an image share.
 *
 * Locks, in this order: flush_lock (one flush at a time), lock (all metadata in memory), the L2
 * cache's own. Data is moved without any of them: a claim keeps others away from the guest
 * clusters whose mapping is about to change.
 *
 * Order on disk, whatever the host does between two syncs: refcounts, then L2 entries, then L1
 * entries; the other way round for what is freed. All changes wait in memory for flush.c, which
 * alone writes them, so a cut leaves clusters that nobody uses, and nothing worse.
 */
#ifndef HAWSER_SERVER_IMAGE_QCOW2_WRITER_H
#define HAWSER_SERVER_IMAGE_QCOW2_WRITER_H

#include "qcow2.h"

enum {
	QCOW2_STEP_CLUSTERS = 64,     /* changed at once */
	QCOW2_FREED_MAX = 1 << 16,    /* runs of freed clusters in memory, else a flush comes */
	QCOW2_BLOCKS_BYTES = 8 << 20, /* refcount blocks in memory, unless more are dirty */
};

/* Guest clusters whose mapping somebody is about to change. */
struct qcow2_claim {
	uint64_t first, last;
	struct qcow2_claim *next;
};

/* A run of host clusters that lost a reference. */
struct qcow2_freed {
	uint64_t first, count;
	uint64_t stamp; /* of the epoch in which the reference went away */
	bool punch;     /* give the space back to the host */
};

struct qcow2_freed_list {
	struct qcow2_freed *items;
	size_t count, room;
};

/* Words of a table in the file that changed: L1 or refcount table. */
struct qcow2_update {
	uint32_t index;
	uint64_t value;
};

struct qcow2_updates {
	struct qcow2_update *items;
	size_t count, room;
};

struct qcow2_block {
	uint8_t *bytes; /* as in the file */
	bool dirty;
	uint64_t used; /* when, for eviction */
};

struct qcow2_guard;

struct qcow2_writer {
	pthread_mutex_t flush_lock;
	atomic_bool prepared; /* the first write may happen */
	atomic_int broken;    /* negative errno: nothing may be changed any more */
	struct qcow2_guard *guard;

	pthread_mutex_t feature_lock;     /* for the next line; the last one to be taken */
	uint64_t incompatible, autoclear; /* the header's, as they are in the file */

	pthread_mutex_t lock; /* for all below */
	pthread_cond_t claim_ended;
	struct qcow2_claim *claims;
	uint64_t *reftable; /* offsets of refcount blocks */
	uint32_t reftable_size;
	struct qcow2_block *blocks; /* parallel to reftable */
	uint32_t blocks_loaded, blocks_dirty;
	uint64_t clock;
	uint64_t next_free; /* no free host cluster is below */
	uint64_t virgin;    /* clusters from here on have never been used: they read as zeroes */
	struct qcow2_updates reftable_updates, l1_updates;
	struct qcow2_freed_list freed;  /* references cleared in memory */
	struct qcow2_freed_list stable; /* and on disk; waiting for the epoch */
	struct qcow2_freed_list lent;   /* and that has passed; waiting for sockets */
};

static inline uint64_t qcow2_host_cluster(const struct qcow2 *q, uint64_t offset)
{
	return offset >> q->cluster_bits;
}

/* ---- writer.c ---- */

/* Makes an image that is open ready for writing; changes nothing in the file. */
int qcow2_writer_open(struct qcow2 *q, struct error *err);
void qcow2_writer_free(struct qcow2 *q);
/* What must happen before the first change: repairs, feature bits. */
int qcow2_prepare(struct qcow2 *q);
/* Waits until nobody else changes these guest clusters. The lock is held. */
void qcow2_claim(struct qcow2 *q, struct qcow2_claim *claim, uint64_t first, uint64_t last);
bool qcow2_is_claimed(const struct qcow2 *q, uint64_t first, uint64_t last);
void qcow2_unclaim(struct qcow2 *q, struct qcow2_claim *claim);
/* The image contradicts itself: says so, marks it, and stops all writing. Returns -EIO. Blocks. */
int qcow2_corrupt(struct qcow2 *q, const char *what, uint64_t offset);
int qcow2_updates_add(struct qcow2_updates *updates, uint32_t index, uint64_t value);
int qcow2_freed_add(struct qcow2_freed_list *list, struct qcow2_freed freed);

/* ---- guard.c: which host clusters hold metadata ---- */

struct qcow2_guard *qcow2_guard_new(const struct qcow2_header *header);
void qcow2_guard_free(struct qcow2_guard *guard);
/* The lock is held (or nobody else is there). 0 or -ENOMEM. */
int qcow2_guard_mark(struct qcow2 *q, uint64_t offset, uint64_t length);
void qcow2_guard_unmark(struct qcow2 *q, uint64_t offset, uint64_t length);
/* Does the range touch metadata? Any thread, no lock. */
bool qcow2_guard_hits(const struct qcow2 *q, uint64_t offset, uint64_t length);
/* Marks everything that is metadata now. */
int qcow2_guard_fill(struct qcow2 *q);

/* ---- refcount.c; the lock is held ---- */

int qcow2_refcounts_load(struct qcow2 *q, struct error *err);
int qcow2_refcount(struct qcow2 *q, uint64_t cluster, uint64_t *value);
/* Sets the count of one cluster; -ENXIO: there is no block. */
int qcow2_refcount_put(struct qcow2 *q, uint64_t cluster, uint64_t value);
/* Makes the block that counts cluster, behind all that was ever used. */
int qcow2_block_make(struct qcow2 *q, uint64_t cluster);
/* Adds 1 or takes 1 away from each of a run of clusters. */
int qcow2_refcount_change(struct qcow2 *q, uint64_t first, uint64_t count, int change);
/* Finds up to wanted free clusters in a row, counts a reference to each; fresh: they read as
 * zeroes. */
int qcow2_allocate(struct qcow2 *q, uint64_t wanted, uint64_t *first, uint64_t *got, bool *fresh);
/* Can qcow2_allocate() find so many clusters without a disk? *fresh: they will read as zeroes. */
bool qcow2_allocation_is_quick(const struct qcow2 *q, uint64_t wanted, bool *fresh);
/* Writes all dirty blocks. */
int qcow2_blocks_write(struct qcow2 *q);

/* ---- grow.c ---- */

/* Makes the refcount table at least so long. The lock is held. */
int qcow2_reftable_grow(struct qcow2 *q, uint64_t entries);

/* ---- cache-write.c ---- */

/* Changes an entry; the lock is held. */
int qcow2_cache_write(struct qcow2 *q, uint64_t table, uint64_t index, struct qcow2_entry entry);
/* A table begins a new life at this place: what is known of it is forgotten. The lock is held. */
void qcow2_cache_forget(struct qcow2 *q, uint64_t table);
/* Copies of the dirty slices, which count as clean from now on, but stay in memory until
 * qcow2_cache_written(). */
struct qcow2_slices {
	uint64_t *keys;
	uint8_t *bytes; /* one slice after the other */
	uint32_t count;
	uint32_t *slots;
};
int qcow2_cache_collect(struct qcow2 *q, struct qcow2_slices *slices);
int qcow2_slices_write(struct qcow2 *q, const struct qcow2_slices *slices);
/* failed: they are dirty again. Frees what slices holds. */
void qcow2_cache_written(struct qcow2 *q, struct qcow2_slices *slices, bool failed);
bool qcow2_cache_is_full(const struct qcow2 *q);

/* ---- table.c; the lock is held ---- */

/* The L2 table for a guest cluster, made or copied so that it may be changed. */
int qcow2_table_for_change(struct qcow2 *q, uint64_t cluster, uint64_t *table);
/* Replaces the mapping of a guest cluster in such a table. */
int qcow2_mapping_set(struct qcow2 *q, uint64_t table, uint64_t cluster,
		      const struct qcow2_mapping *mapping);
/* Drops the host clusters of a mapping (not those of a data file), when the mapping is no longer in
 * the table. */
void qcow2_mapping_free(struct qcow2 *q, const struct qcow2_mapping *mapping, bool punch);

/* ---- flush.c ---- */

/* Brings all metadata that is in memory to the disk, in order. */
int qcow2_flush(struct image *image);
/* As image_settle(). */
int qcow2_settle(struct image *image);
/* The same for what repairs have changed, with both locks held. */
int qcow2_flush_repairs(struct qcow2 *q);
/* Is too much of it in memory? */
bool qcow2_is_full(struct qcow2 *q);
/* Then the same. */
int qcow2_relieve(struct qcow2 *q);
/* Gives freed clusters that nobody can use any more to the allocator. The lock is held. */
int qcow2_reap(struct qcow2 *q);

/* ---- write.c, zero.c ---- */

int qcow2_write(struct image *image, const void *buffer, uint64_t offset, uint64_t length);
/* Gives room that reads as zeroes to the first of these whole clusters, which have none of their
 * own; *done bytes, 0 when they have it meanwhile. For version 3. */
int qcow2_reserve(struct qcow2 *q, uint64_t offset, uint64_t length, uint64_t *done);
bool qcow2_write_is_quick(struct image *image, uint64_t offset, uint64_t length, uint32_t *piece);
int qcow2_zero(struct image *image, uint64_t offset, uint64_t length, unsigned int flags);
int qcow2_discard(struct image *image, uint64_t offset, uint64_t length);

/* ---- check.c ---- */

struct qcow2_check {
	uint64_t leaks;       /* clusters counted more often than used */
	uint64_t corruptions; /* counted less, or entries that break the format */
};
/* Counts all references anew and compares; with repair, refcounts and COPIED bits are set right in
 * memory. Nothing else may use the image meanwhile. */
int qcow2_check(struct qcow2 *q, bool repair, struct qcow2_check *result);

#endif
