// SPDX-License-Identifier: MIT
/*
 * The raw driver: guest bytes are file bytes. Everything but map is nearly the default.
 *
 * Reads of a sparse file are answered from its extent map, so that holes are told and not read.
 * Asking the file system for each request would cost as much as reading, so runs of data are
 * remembered, a bit for each granule that is data throughout. A stale "data" is always safe: the
 * hole behind it reads as zeroes. A hole is never remembered, because others may write the file.
 *
 * Where nobody said that the image is raw, its first sector must not become that of another
 * format: whoever opens it next would follow what the guest has written there.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/size.h"
#include "image.h"

enum {
	GRANULE_SHIFT = 18, /* 256 KiB: a bit map of 512 KiB for a disk of 1 TiB */
	WORD_BITS = 64,
	GUARDED = 512, /* bytes that a probe looks at */
	SMALL_ZERO = 1 << 20,
};
/* Beyond 64 TiB nothing is remembered; the bit map up to there takes 32 MiB where it is used. */
#define GRANULES_MAX (UINT64_C(1) << 28)
/* How far one question to the file system looks ahead. */
#define LOOK_AHEAD (UINT64_C(1) << 30)

struct raw {
	atomic_bool sparse; /* there may be holes; false: all is data */
	uint64_t granules;
	_Atomic uint64_t *data; /* a bit a granule, any thread; bits are only hints */
	pthread_mutex_t guard;  /* one change of a guarded sector at a time */
};

static int raw_open(struct image *image, struct error *err)
{
	struct raw *raw;
	bool sparse;
	uint64_t size;
	int rc = hostfile_size(image->file, &size);

	if (rc)
		return error_set_errno(err, -rc, "cannot tell the size");
	raw = calloc(1, sizeof(*raw));
	if (!raw)
		return error_set(err, ENOMEM, "out of memory");
	rc = hostfile_sparse(image->file, &sparse);
	atomic_init(&raw->sparse, rc == 0 && sparse);
	image->size = size;
	raw->granules = min_of((size >> GRANULE_SHIFT) + 1, GRANULES_MAX);
	raw->data = calloc(raw->granules / WORD_BITS + 1, sizeof(*raw->data));
	if (!raw->data) {
		free(raw);
		return error_set(err, ENOMEM, "out of memory");
	}
	pthread_mutex_init(&raw->guard, NULL);
	image->state = raw;
	return 0;
}

/* A block device may grow and shrink; a file may grow. One that was cut has lost data that its
 * clients count on: they keep the size and get errors. */
static void raw_refresh(struct image *image)
{
	uint64_t size;

	if (hostfile_size(image->file, &size) == 0 && (image->file->is_block || size > image->size))
		image->size = size;
}

static void raw_close(struct image *image)
{
	struct raw *raw = image->state;

	pthread_mutex_destroy(&raw->guard);
	free(raw->data);
	free(raw);
}

static bool granules_are_data(const struct raw *raw, uint64_t offset, uint64_t length)
{
	uint64_t first = offset >> GRANULE_SHIFT, last = (offset + length - 1) >> GRANULE_SHIFT;

	if (last >= raw->granules)
		return false;
	for (uint64_t g = first; g <= last; g++)
		if (!(atomic_load_explicit(&raw->data[g / WORD_BITS], memory_order_relaxed) &
		      UINT64_C(1) << g % WORD_BITS))
			return false;
	return true;
}

/* Remembers the granules that lie in [offset, offset + length) entirely. */
static void granules_set(struct raw *raw, uint64_t offset, uint64_t length)
{
	uint64_t first = round_up(offset, UINT64_C(1) << GRANULE_SHIFT) >> GRANULE_SHIFT;

	uint64_t end = min_of((offset + length) >> GRANULE_SHIFT, raw->granules);

	for (uint64_t g = first; g < end; g++)
		atomic_fetch_or_explicit(&raw->data[g / WORD_BITS], UINT64_C(1) << g % WORD_BITS,
					 memory_order_relaxed);
}

/* Whatever the range touches may be a hole now. */
static void granules_forget(struct raw *raw, uint64_t offset, uint64_t length)
{
	uint64_t end = min_of(((offset + length - 1) >> GRANULE_SHIFT) + 1, raw->granules);

	atomic_store_explicit(&raw->sparse, true, memory_order_relaxed);
	for (uint64_t g = offset >> GRANULE_SHIFT; g < end; g++)
		atomic_fetch_and_explicit(&raw->data[g / WORD_BITS],
					  ~(UINT64_C(1) << g % WORD_BITS), memory_order_relaxed);
}

/* Asks the file system; a run of data is remembered beyond what was asked. */
static int look(struct image *image, uint64_t offset, uint64_t length, struct extent *extent)
{
	uint64_t run = max_of(length, LOOK_AHEAD), size = image->size;
	int rc;

	if (size > offset) /* it may just have shrunk */
		run = min_of(run, size - offset);
	rc = hostfile_extent(image->file, offset, &run, &extent->hole);
	if (rc)
		return rc;
	if (extent->hole)
		extent->kind = EXTENT_ZERO;
	else
		granules_set(image->state, offset, run);
	extent->length = min_of(run, length);
	return 0;
}

/* lseek(2) answers from the inode's extents; it is quick enough for the connection's thread. */
static int raw_map(struct image *image, uint64_t offset, uint64_t length, enum map_intent intent,
		   unsigned int flags, struct extent *extent)
{
	struct raw *raw = image->state;
	bool known = !atomic_load_explicit(&raw->sparse, memory_order_relaxed) ||
		     granules_are_data(raw, offset, length);

	*extent = (struct extent){.kind = EXTENT_FILE,
				  .stable = true,
				  .length = length,
				  .file = image->file,
				  .file_offset = offset,
				  .depth = 1};
	if (intent == MAP_OVERWRITE && image->probed && offset < GUARDED)
		return -EAGAIN;
	if (intent == MAP_OVERWRITE || (intent == MAP_READ && known))
		return 0;
	if (intent == MAP_STATUS && flags & MAP_NOWAIT)
		return -EAGAIN;
	return look(image, offset, length, extent);
}

/* May these bytes (NULL: zeroes) be written over a part of the guarded sector? The guard is held.
 */
static int check_guarded(struct image *image, const void *buffer, uint64_t offset, uint64_t length)
{
	uint8_t head[GUARDED];
	size_t part = (size_t)min_of(length, GUARDED - offset);
	int rc = hostfile_read(image->file, head, sizeof(head), 0);

	if (rc && rc != -ENODATA)
		return rc;
	if (buffer)
		memcpy(head + offset, buffer, part);
	else
		memset(head + offset, 0, part);
	return strcmp(image_probe_format(head), image->driver->name) ? -EPERM : 0;
}

/* Only comes here for the guarded sector. */
static int raw_write(struct image *image, const void *buffer, uint64_t offset, uint64_t length)
{
	struct raw *raw = image->state;
	int rc;

	pthread_mutex_lock(&raw->guard);
	rc = check_guarded(image, buffer, offset, length);
	if (rc == 0)
		rc = hostfile_write(image->file, buffer, length, offset);
	pthread_mutex_unlock(&raw->guard);
	return rc;
}

/* Zeroes where there is data; in small ranges also what follows it, because the end of data can be
 * far behind, and some file systems look at each page on the way. */
static int zero_data(struct image *image, uint64_t offset, uint64_t length, unsigned int flags)
{
	if (length <= SMALL_ZERO) {
		uint64_t hole = hostfile_hole(image->file, offset, length);

		if (hole == length)
			return 0;
		return hostfile_zero(image->file, offset + hole, length - hole, flags);
	}
	while (length) {
		uint64_t step = length;
		bool hole;
		int rc = hostfile_extent(image->file, offset, &step, &hole);

		if (rc == 0 && !hole)
			rc = hostfile_zero(image->file, offset, step, flags);
		if (rc)
			return rc;
		offset += step;
		length -= step;
	}
	return 0;
}

static int raw_zero(struct image *image, uint64_t offset, uint64_t length, unsigned int flags)
{
	struct raw *raw = image->state;
	bool guarded = image->probed && offset < GUARDED;
	bool keep = flags & ZERO_MAY_STAY_HOLE && !(flags & ZERO_MAY_UNMAP);
	int rc = 0;

	if (guarded) {
		pthread_mutex_lock(&raw->guard);
		rc = check_guarded(image, NULL, offset, length);
	}
	if (rc == 0)
		rc = keep ? zero_data(image, offset, length, flags)
			  : hostfile_zero(image->file, offset, length, flags);
	if (guarded)
		pthread_mutex_unlock(&raw->guard);
	granules_forget(image->state, offset, length);
	return rc;
}

static int raw_discard(struct image *image, uint64_t offset, uint64_t length)
{
	uint64_t skip = image->probed && offset < GUARDED ? min_of(length, GUARDED - offset) : 0;
	int rc = 0;

	if (length > skip)
		rc = hostfile_discard(image->file, offset + skip, length - skip);
	granules_forget(image->state, offset, length);
	return rc;
}

const struct image_driver image_driver_raw = {
	.name = "raw",
	.open = raw_open,
	.close = raw_close,
	.refresh = raw_refresh,
	.map = raw_map,
	.write = raw_write,
	.zero = raw_zero,
	.discard = raw_discard,
};
