// SPDX-License-Identifier: MIT
/*
 * Exports. The window and the memory of failed flushes; workers and connection threads call it.
 */
#include "export.h"

#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "common/nbd-protocol.h"
#include "image/epoch.h"
#include "image/lock.h"
#include "trace.h"

static int read_disk(void *context, void *buffer, uint64_t offset, uint64_t length)
{
	return image_read(context, buffer, offset, length);
}

/* Part of an image. */
struct window {
	uint64_t offset, length;
};

static int find_partition(const struct export_config *config, struct image *image, bool writable,
			  struct window *window, struct error *err)
{
	const struct partition_disk disk = {
		.read = read_disk,
		.context = image,
		.size = image->size,
		.sector = image->driver == &image_driver_raw && image->file->is_block
				  ? image->file->block_size
				  : 0,
		.writable = writable,
	};
	struct partition found;
	int rc = partition_find(&disk, &config->partition, &found, err);

	if (rc)
		return rc;
	if (found.warning[0])
		log_warning("%s: %s", config->file, found.warning);
	log_info("partition %u: %llu bytes from byte %llu on", found.number,
		 (unsigned long long)found.length, (unsigned long long)found.offset);
	*window = (struct window){found.offset, found.length};
	return 0;
}

static int place_window(const struct export_config *config, struct image *image, bool writable,
			struct window *window, struct error *err)
{
	*window = (struct window){config->offset, UINT64_MAX};
	if (config->partition.text)
		return find_partition(config, image, writable, window, err);
	if (config->offset > image->size)
		return error_set(err, EINVAL,
				 "Invalid offset '%llu': the image '%s' has only %llu bytes",
				 (unsigned long long)config->offset, config->file,
				 (unsigned long long)image->size);
	return 0;
}

/* The window may end before the image; an image that was cut may end before the window. */
static uint64_t window_size(const struct export *export, const struct image *image)
{
	uint64_t size = image->size;

	return size > export->offset ? min_of(size - export->offset, export->length) : 0;
}

static void rest(struct hostfile *file, void *context)
{
	(void)context;
	lock_rest(file);
}

static int open_image(struct export *export, const struct image_options *options,
		      struct image **image, struct error *err)
{
	const struct export_config *config = export->config;
	struct error *why = &export->unwritable;
	int rc;

	if (config->snapshot)
		return image_open_temporary(config->file, options, image, err);
	if (!export->dynamic)
		return image_open(config->file, options, image, err);
	rc = image_open_resting(config->file, options, image, why, err);
	if (rc)
		return rc;
	if (why->code)
		log_warning("%s: exporting read-only: %s", config->file, why->text);
	return 0;
}

static int set_up(struct export *export, struct image *image, struct error *err)
{
	const struct export_config *config = export->config;
	bool writable = export->dynamic ? !export->unwritable.code
					: !image->read_only && config->access != IMAGE_READ_ONLY;
	struct window window;
	int rc = place_window(config, image, writable, &window, err);

	if (rc)
		return rc;
	export->offset = window.offset;
	export->length = window.length;
	export->size = window_size(export, image);
	export->read_only = export->dynamic || !writable;
	if (config->detect_zeroes != DETECT_ZEROES_OFF)
		zeroes_rule_init(&export->zeroes, config->detect_zeroes, image->zero_unit);
	rc = export_bitmaps_open(export, config, err);
	if (!rc && export->dynamic)
		image_visit_files(image, rest, NULL);
	return rc;
}

int export_open(struct export *export, const struct export_config *config, struct error *err)
{
	const struct image_options options = {.node = config->node,
					      .format = config->format,
					      .access = config->access,
					      .load_snapshot = config->load_snapshot,
					      .no_references = config->no_references,
					      .bitmaps_may_break = config->drop_bitmaps,
					      .discard = config->discard,
					      .direct = config->cache.direct,
					      .key_secret = config->key_secret,
					      .objects = config->objects};
	struct image *image = NULL;
	int rc;

	*export = (struct export){.name = config->name ? config->name : "",
				  .description = config->description,
				  .throttle = config->throttle,
				  .length = UINT64_MAX,
				  .cache = config->cache,
				  .config = config,
				  .allocation_depth = config->allocation_depth};
	/* What bitmaps tell is about one opening of the image. */
	export->dynamic = config->access == IMAGE_AUTO_READ_ONLY && !config->snapshot &&
			  !config->bitmap_count;
	statistics_book_init(&export->statistics);
	pthread_mutex_init(&export->flush_lock, NULL);
	pthread_cond_init(&export->flush_ended, NULL);
	rc = open_image(export, &options, &image, err);
	if (rc)
		return rc;
	export->image = image;
	rc = set_up(export, image, err);
	if (rc)
		export_close(export);
	return rc;
}

/* Nobody begins to flush until the turn ends. */
static void turn_begin(struct export *export)
{
	pthread_mutex_lock(&export->flush_lock);
	while (export->flushing)
		pthread_cond_wait(&export->flush_ended, &export->flush_lock);
	export->flushing = true;
	pthread_mutex_unlock(&export->flush_lock);
}

static void turn_end(struct export *export)
{
	pthread_mutex_lock(&export->flush_lock);
	export->flushing = false;
	pthread_cond_broadcast(&export->flush_ended);
	pthread_mutex_unlock(&export->flush_lock);
}

/* Clients that are there have been told a size and see a place: both stay as they were, unless
 * nobody was there to keep others from writing. */
static void exchange(struct export *export, struct image *image, struct window window)
{
	/* Before anybody can make a view of the new one. */
	image_hand_over(export->image, image);
	turn_begin(export);
	if (export->offset != window.offset || export->length != window.length) {
		export->offset = window.offset;
		export->length = window.length;
	}
	export->image = image;
	export->size = window_size(export, image);
	export->read_only = image->read_only;
	turn_end(export);
}

int export_reopen(struct export *export, bool writable, struct image **old, struct error *err)
{
	struct image *image;
	struct window window;
	int rc;

	*old = export->image;
	/* A page that was lost is not on the disk, though it can be read: nothing builds on it. */
	pthread_mutex_lock(&export->flush_lock);
	rc = writable ? export->flush_error : 0;
	pthread_mutex_unlock(&export->flush_lock);
	if (rc)
		return error_set(err, EIO,
				 "a flush has failed; restart the server after checking the image");
	rc = image_reopen(*old, writable, &image, err);
	if (rc)
		return rc;
	rc = place_window(export->config, image, writable, &window, err);
	if (rc) {
		image_reopen_undo(*old, image);
		return rc;
	}
	exchange(export, image, window);
	return 0;
}

void export_refresh(struct export *export)
{
	struct image *image;
	EPOCH_SCOPE;

	image = export->image;
	image_refresh(image);
	export->size = window_size(export, image);
}

void export_close(struct export *export)
{
	export_bitmaps_close(export);
	image_close(export->image);
	export->image = NULL;
	pthread_mutex_destroy(&export->flush_lock);
	pthread_cond_destroy(&export->flush_ended);
}

uint16_t export_flags(const struct export *export, bool read_only, bool structured, bool extended,
		      bool contexts)
{
	unsigned int flags =
		NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;

	/* True because all connections share one open file and one flush covers it (S61). */
	if (export->multi_conn)
		flags |= NBD_FLAG_CAN_MULTI_CONN;
	if (read_only)
		flags |= NBD_FLAG_READ_ONLY;
	else
		flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
	if (structured || extended)
		flags |= NBD_FLAG_SEND_DF;
	if (extended && contexts)
		flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
	return (uint16_t)flags;
}

/*
 * Extents that clients are told of end at sectors (S79, S98): a window or a file that ends inside
 * one gives sectors of which a part is a hole. Such a sector is data.
 */
static void align_extent(uint64_t offset, uint64_t length, struct extent *extent)
{
	uint64_t end = offset + extent->length, sector = round_down(end, NBD_SECTOR);

	if (extent->length == length || sector == end)
		return;
	if (sector > offset) {
		extent->length = sector - offset;
		return;
	}
	extent->kind = EXTENT_OPAQUE;
	extent->hole = false;
	extent->length = min_of(length, sector + NBD_SECTOR - offset);
}

int export_map(struct export *export, uint64_t offset, uint64_t length, enum map_intent intent,
	       unsigned int flags, struct extent *extent)
{
	int rc;
	EPOCH_SCOPE;

	rc = image_map(export->image, export->offset + offset, length, intent, flags, extent);
	if (rc == 0)
		align_extent(offset, length, extent);
	trace_map_answered(offset, length, rc, rc ? 0 : (int)extent->kind, rc ? 0 : extent->length);
	return rc;
}

int export_read(struct export *export, void *buffer, uint64_t offset, uint64_t length)
{
	EPOCH_SCOPE;

	return image_read(export->image, buffer, export->offset + offset, length);
}

int export_write(struct export *export, const void *buffer, uint64_t offset, uint64_t length)
{
	EPOCH_SCOPE;

	return image_write(export->image, buffer, export->offset + offset, length);
}

bool export_write_is_quick(const struct export *export, uint64_t offset, uint64_t length,
			   uint32_t *piece)
{
	return image_write_is_quick(export->image, export->offset + offset, length, piece) &&
	       !(export->offset & (*piece - 1));
}

size_t export_next_zeroes(const struct export *export, const uint8_t *bytes, uint64_t offset,
			  size_t length, bool *zero)
{
	*zero = false;
	if (!export->zeroes.unit)
		return length;
	return zeroes_next(&export->zeroes, bytes, export->offset + offset, length, zero);
}

int export_write_or_zero(struct export *export, const uint8_t *bytes, uint64_t offset,
			 uint64_t length)
{
	int rc = 0;

	/* What can only be written by the driver would get room; zeroes may need none. */
	if (export->zeroes.unit && export->image->zero_unit && zeroes_all(bytes, length))
		return export_zero(export, offset, length, export->zeroes.flags);
	while (length && rc == 0) {
		bool zero;
		size_t step = export_next_zeroes(export, bytes, offset, (size_t)length, &zero);

		rc = zero ? export_zero(export, offset, step, export->zeroes.flags)
			  : export_write(export, bytes, offset, step);
		bytes += step;
		offset += step;
		length -= step;
	}
	return rc;
}

int export_zero(struct export *export, uint64_t offset, uint64_t length, unsigned int flags)
{
	EPOCH_SCOPE;

	return image_zero(export->image, export->offset + offset, length, flags);
}

int export_discard(struct export *export, uint64_t offset, uint64_t length)
{
	EPOCH_SCOPE;

	return image_discard(export->image, export->offset + offset, length);
}

int export_prefetch(struct export *export, uint64_t offset, uint64_t length)
{
	EPOCH_SCOPE;

	return image_prefetch(export->image, export->offset + offset, length);
}

static int flush_alone(struct export *export)
{
	int rc = export->flush_error;

	export->flushing = true;
	export->flushes_begun++;
	pthread_mutex_unlock(&export->flush_lock);
	trace_flush_begin(export->name);
	if (!rc)
		rc = image_flush(export->image);
	trace_flush_end(export->name, rc);
	pthread_mutex_lock(&export->flush_lock);
	if (rc && !export->flush_error)
		log_error("export '%s': flush failed: %s; every flush fails from now on, because "
			  "data was lost: restart the server after checking the image",
			  export->name, strerror(-rc));
	export->flushing = false;
	export->flushes_ended++;
	export->flush_error = rc;
	pthread_cond_broadcast(&export->flush_ended);
	return rc;
}

/*
 * One flush at a time: the kernel tells a lost page to one fsync only, and one beside it, which
 * covers the same page, succeeds. Whoever comes meanwhile shares the next one.
 */
int export_flush(struct export *export)
{
	uint64_t mine;
	int rc;

	if (export->cache.ignore_flush)
		return 0;
	pthread_mutex_lock(&export->flush_lock);
	mine = export->flushes_begun + 1;
	while (export->flushing && export->flushes_ended < mine)
		pthread_cond_wait(&export->flush_ended, &export->flush_lock);
	rc = export->flushes_ended < mine ? flush_alone(export) : export->flush_error;
	pthread_mutex_unlock(&export->flush_lock);
	return rc;
}
