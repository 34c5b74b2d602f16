/* SPDX-License-Identifier: MIT */
/*
 * The inside of the qcow2 driver: what its files share.
 *
 * Reading needs no lock: the L1 table is an array of atomics, the L2 cache validates what it copied
 * out by a sequence number, and epochs keep the clusters of an old mapping from being reused.
 */
#ifndef HAWSER_SERVER_IMAGE_QCOW2_QCOW2_H
#define HAWSER_SERVER_IMAGE_QCOW2_QCOW2_H

#include <pthread.h>
#include <stdatomic.h>

#include "format.h"
#include "server/image/image.h"

struct qcow2_cache;
struct qcow2_decoder;
struct qcow2_writer;

struct qcow2 {
	struct image *image;
	struct qcow2_header header;
	struct hostfile *file;     /* metadata, and data unless there is a data file */
	struct hostfile *data;     /* where host offsets of guest clusters point */
	struct crypt *crypt;       /* guest data goes through it; NULL: it is not encrypted */
	bool temporary;            /* nothing of it shall survive */
	struct image *backing;     /* NULL: none */
	unsigned int cluster_bits; /* these three: of the header, for the fast path */
	unsigned int l2_bits;
	unsigned int subcluster_bits; /* = cluster_bits without extended L2 */
	uint64_t cluster_size;
	_Atomic uint64_t *l1; /* of the disk, or of the snapshot that is shown */
	uint32_t l1_size;
	struct qcow2_cache *cache;
	struct qcow2_decoder *decoder;
	struct qcow2_writer *writer; /* NULL: the image is read only */
	_Atomic uint64_t data_end;   /* the data file reached at least so far; what is behind reads
				      * as zeroes */
	bool bitmaps_active;         /* some record writes, which we do not */
	uint8_t *first_cluster;      /* header and extensions */
	size_t first_cluster_length;
	struct qcow2_extensions extensions;
	uint8_t *snapshot_table;
	size_t snapshot_table_length; /* of the buffer */
	size_t snapshot_table_used;
	struct qcow2_snapshot *snapshots; /* header.snapshots of them */
};

static inline uint64_t qcow2_in_cluster(const struct qcow2 *q, uint64_t offset)
{
	return offset & (q->cluster_size - 1);
}

/* ---- cache.c: L2 tables in slices ---- */

enum {
	QCOW2_SLICE_MAX = 4096,
	QCOW2_CACHE_BYTES = 32 << 20, /* of the top image; overlays have less and less */
};

/* depth: of the image in its chain. NULL: out of memory. */
struct qcow2_cache *qcow2_cache_new(const struct qcow2_header *header, unsigned int depth);
void qcow2_cache_free(struct qcow2_cache *cache);

/*
 * Copies up to count entries from the L2 table at host offset table, from index on; stops at the
 * end of a slice. Entries copied, -EAGAIN (with MAP_NOWAIT: not in memory), or -errno.
 */
int qcow2_cache_read(struct qcow2 *q, uint64_t table, uint64_t index, unsigned int count,
		     unsigned int flags, struct qcow2_entry *entries);

/* ---- map.c ---- */

int qcow2_map(struct image *image, uint64_t offset, uint64_t length, enum map_intent intent,
	      unsigned int flags, struct extent *extent);

/* What the image itself has at offset; copied is true only when the L2 table, too, belongs to
 * nobody else. An entry that breaks the format marks an image that is written. May block. */
int qcow2_mapping_of(struct qcow2 *q, uint64_t offset, struct qcow2_mapping *mapping);

/* ---- compressed.c ---- */

/* NULL: out of memory. */
struct qcow2_decoder *qcow2_decoder_new(const struct qcow2_header *header);
void qcow2_decoder_free(struct qcow2_decoder *decoder);
/* The driver's read: for runs of compressed clusters. */
int qcow2_read(struct image *image, void *buffer, uint64_t offset, uint64_t length);

/* ---- bitmaps.c ---- */

/* Visits the directory's entries until one says false. 0 or -errno with err set; a directory that
 * is broken is -EROFS: it does not hinder reading the disk. */
int qcow2_bitmaps_each(struct qcow2 *q,
		       bool (*visit)(void *context, const struct qcow2_bitmap *bitmap),
		       void *context, struct error *err);
/* The driver's. */
int qcow2_bitmap_open(struct image *image, const char *name, struct image_bitmap **bitmap,
		      struct error *err);
int qcow2_bitmap_walk(struct image_bitmap *bitmap, uint64_t offset, uint64_t length,
		      image_bitmap_visit *visit, void *context);
void qcow2_bitmap_close(struct image_bitmap *bitmap);

/* ---- snapshots.c ---- */

/* Reads and checks the table. */
int qcow2_snapshots_load(struct qcow2 *q, struct error *err);
/* The snapshot that -l means: "snapshot.id=ID,snapshot.name=NAME", or an id or name. */
int qcow2_snapshot_find(const struct qcow2 *q, const char *wanted,
			const struct qcow2_snapshot **snapshot, struct error *err);

#endif
