/* SPDX-License-Identifier: MIT */
/*
 * An export: a window onto an image under a name, with its rights. Window arithmetic happens here
 * and nowhere else: callers speak in offsets of the export, which they have checked with
 * export_contains().
 *
 * A failed fsync is never forgotten: the kernel reports a lost page once, so after the first
 * failure every flush of the export fails until the image is opened anew.
 */
#ifndef HAWSER_SERVER_EXPORT_H
#define HAWSER_SERVER_EXPORT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/nbd-protocol.h"
#include "common/size.h"
#include "image/image.h"
#include "server.h"
#include "statistics.h"
#include "zeroes.h"

struct export
{
	const char *name;
	const char *description; /* NULL: none */
	/* Whoever uses it stands in an epoch, or has the turn to flush; export_reopen() changes it.
	 */
	struct image *_Atomic image;
	uint64_t offset;         /* of the window in the image */
	uint64_t length;         /* of the window at most, UINT64_MAX: to the end of the image */
	_Atomic uint64_t size;   /* any thread reads it; export_refresh() changes it */
	_Atomic bool read_only;  /* nobody writes it now; what a client was told is its own */
	bool dynamic;            /* --auto-read-only: see access.h */
	struct error unwritable; /* why it could not be written when it was opened; code 0 */
	const struct export_config *config; /* the caller's */
	struct cache_mode cache;
	struct throttle_group *throttle; /* NULL: no limits */
	struct zeroes_rule zeroes;       /* unit 0: written bytes are not looked at */
	bool multi_conn;                 /* more than one client at a time is served */
	bool allocation_depth;
	struct image_bitmap **bitmaps;
	char **bitmap_contexts; /* their names on the wire */
	size_t bitmap_count;
	struct statistics_book statistics;

	/* Any thread, under flush_lock. */
	pthread_mutex_t flush_lock;
	pthread_cond_t flush_ended;
	bool flushing;
	uint64_t flushes_begun, flushes_ended;
	int flush_error; /* negative errno of the first failed flush */
};

/* What a server tells about the sizes of requests (INFO_BLOCK_SIZE). */
enum {
	EXPORT_BLOCK_MINIMUM = 1,
	EXPORT_BLOCK_PREFERRED = 4096,
	EXPORT_PAYLOAD_MAX = 32 << 20, /* told; READ and WRITE up to twice that are served */
	EXPORT_REQUEST_MAX = 64 << 20,
};

int export_open(struct export *export, const struct export_config *config, struct error *err);
/* Takes note of an image that was resized outside; new clients are told. Main loop. */
void export_refresh(struct export *export);
void export_close(struct export *export);

/*
 * Opens the image of a dynamic export anew, for writing or only for reading. *old is the image as
 * it was: to be closed when the epoch has passed. Nobody writes meanwhile. When it fails all is as
 * before. Blocks; one thread at a time. 0 or -errno with err set.
 */
int export_reopen(struct export *export, bool writable, struct image **old, struct error *err);

/*
 * What block status can tell of an export, its metadata contexts. A context's id, on the wire, too,
 * is its number here; those of bitmaps follow.
 */
enum export_context {
	CONTEXT_BASE_ALLOCATION,
	CONTEXT_ALLOCATION_DEPTH,
	CONTEXT_FIRST_BITMAP,
	CONTEXTS_MAX = CONTEXT_FIRST_BITMAP + SERVER_BITMAPS_MAX,
};
_Static_assert(CONTEXTS_MAX <= 64, "a set of contexts is a word of bits");

/* Part of export_open(): the bitmaps that the configuration names, in the image or below it. */
int export_bitmaps_open(struct export *export, const struct export_config *config,
			struct error *err);
void export_bitmaps_close(struct export *export);

/* The name of the context with this id; NULL: the export has none such. */
const char *export_context_name(const struct export *export, unsigned int id);

/* A run of equal status, in order and without gaps; neighbours may be equal. False: enough. */
typedef bool export_status_visit(void *context, uint64_t length, uint32_t status);

/* Tells one context of a range. Blocking. 0 or -errno. */
int export_status(struct export *export, unsigned int id, uint64_t offset, uint64_t length,
		  export_status_visit *visit, void *context);

/* Transmission flags of a connection that negotiated these replies. */
uint16_t export_flags(const struct export *export, bool read_only, bool structured, bool extended,
		      bool contexts);

static inline bool export_contains(const struct export *export, uint64_t offset, uint64_t length)
{
	return range_inside(offset, length, export->size);
}

/* As image_*(), in the window. Blocking but for map with MAP_NOWAIT. */
int export_map(struct export *export, uint64_t offset, uint64_t length, enum map_intent intent,
	       unsigned int flags, struct extent *extent);
int export_read(struct export *export, void *buffer, uint64_t offset, uint64_t length);
int export_write(struct export *export, const void *buffer, uint64_t offset, uint64_t length);
/* As export_write(); what export_next_zeroes() finds is zeroed instead. */
int export_write_or_zero(struct export *export, const uint8_t *bytes, uint64_t offset,
			 uint64_t length);
/* The length of the first part of the bytes that is to be written, or zeroed (*zero) by
 * export_zero() with the flags of the rule. */
size_t export_next_zeroes(const struct export *export, const uint8_t *bytes, uint64_t offset,
			  size_t length, bool *zero);
/* As image_write_is_quick(). */
bool export_write_is_quick(const struct export *export, uint64_t offset, uint64_t length,
			   uint32_t *piece);
int export_zero(struct export *export, uint64_t offset, uint64_t length, unsigned int flags);
int export_discard(struct export *export, uint64_t offset, uint64_t length);
int export_prefetch(struct export *export, uint64_t offset, uint64_t length);
/* Must a request with these flags be on stable storage before it is answered? */
static inline bool export_wants_stable(const struct export *export, uint16_t flags)
{
	return flags & NBD_CMD_FLAG_FUA || export->cache.write_through;
}
/* Makes all completed writes durable, on whichever connection they came. */
int export_flush(struct export *export);

#endif
