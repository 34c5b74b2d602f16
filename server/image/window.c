// SPDX-License-Identifier: MIT
/*
 * A raw node over a node of another format: a part of that one's disk. Arithmetic only; where a
 * raw node stands over a file, the part is one of the file and this driver is not needed.
 */
#include "window.h"

#include <errno.h>
#include <stdlib.h>

#include "common/size.h"

struct window {
	uint64_t base;
	uint64_t length; /* NODE_TO_THE_END: all that follows */
};

static uint64_t size_of(const struct window *window, uint64_t disk)
{
	return disk > window->base ? min_of(disk - window->base, window->length) : 0;
}

int window_open(struct image *image, struct image *child, const struct image_place *place,
		struct error *err)
{
	struct window *window;
	int rc = place_check_size(place, child->size, err);

	if (rc)
		return rc;
	window = calloc(1, sizeof(*window));
	if (!window)
		return error_set(err, ENOMEM, "out of memory");
	*window = (struct window){.base = place->base, .length = place->length};
	image->driver = &image_driver_window;
	image->state = window;
	image->child = child;
	image->file = child->file;
	image->size = size_of(window, child->size);
	image->encrypted = child->encrypted;
	image->read_only = child->read_only;
	image->encrypted = child->encrypted;
	image->zero_unit = child->zero_unit;
	return 0;
}

static void window_close(struct image *image)
{
	free(image->state);
}

static void window_refresh(struct image *image)
{
	image_refresh(image->child);
	image->size = size_of(image->state, image->child->size);
}

static uint64_t place(const struct image *image, uint64_t offset)
{
	const struct window *window = image->state;

	return window->base + offset;
}

static int window_map(struct image *image, uint64_t offset, uint64_t length, enum map_intent intent,
		      unsigned int flags, struct extent *extent)
{
	int rc = image_map(image->child, place(image, offset), length, intent, flags, extent);

	/* Whoever reads it speaks in our offsets. */
	if (rc == 0 && extent->kind == EXTENT_OPAQUE)
		extent->owner = image;
	return rc;
}

static int window_read(struct image *image, void *buffer, uint64_t offset, uint64_t length)
{
	return image_read(image->child, buffer, place(image, offset), length);
}

static int window_write(struct image *image, const void *buffer, uint64_t offset, uint64_t length)
{
	return image_write(image->child, buffer, place(image, offset), length);
}

static int window_zero(struct image *image, uint64_t offset, uint64_t length, unsigned int flags)
{
	return image_zero(image->child, place(image, offset), length, flags);
}

static int window_discard(struct image *image, uint64_t offset, uint64_t length)
{
	return image_discard(image->child, place(image, offset), length);
}

static int window_flush(struct image *image)
{
	return image_flush(image->child);
}

const struct image_driver image_driver_window = {
	.name = "raw",
	.close = window_close,
	.refresh = window_refresh,
	.map = window_map,
	.read = window_read,
	.write = window_write,
	.zero = window_zero,
	.discard = window_discard,
	.flush = window_flush,
};
