// SPDX-License-Identifier: MIT
/*
 * What is done with an open image: the drivers' functions where they have them, else defaults over
 * map. Never opens or closes anything. Workers; what does not wait, engine threads, too.
 */
#include "image.h"

#include <errno.h>
#include <string.h>

#include "crypt.h"
#include "epoch.h"

/* ---- Runs: what one extent covers ---- */

int image_read_run(const struct extent *extent, void *buffer)
{
	if (extent->kind == EXTENT_ENCRYPTED)
		return crypt_read(extent->crypt, extent->file, buffer, extent->length,
				  extent->file_offset);
	return hostfile_read(extent->file, buffer, extent->length, extent->file_offset);
}

int image_write_run(const struct extent *extent, const void *buffer)
{
	if (extent->kind == EXTENT_ENCRYPTED)
		return crypt_write(extent->crypt, extent->file, buffer, extent->length,
				   extent->file_offset);
	return hostfile_write(extent->file, buffer, extent->length, extent->file_offset);
}

int image_read_run_nowait(const struct extent *extent, void *buffer)
{
	if (extent->kind == EXTENT_ENCRYPTED)
		return crypt_read_nowait(extent->crypt, extent->file, buffer, extent->length,
					 extent->file_offset);
	return hostfile_read_nowait(extent->file, buffer, extent->length, extent->file_offset) ==
			       (ssize_t)extent->length
		       ? 0
		       : -EAGAIN;
}

/* Reads the bytes of one extent. A file that ends too early was cut under us: no data is made up
 * for it, unless the format says that its files may end so. */
static int read_extent(const struct image *image, void *buffer, uint64_t offset,
		       const struct extent *extent)
{
	int rc;

	switch (extent->kind) {
	case EXTENT_FILE:
	case EXTENT_ENCRYPTED:
		rc = image_read_run(extent, buffer);
		if (rc == -ENODATA)
			return image->driver->short_files ? 0 : -EIO;
		return rc;
	case EXTENT_ZERO:
		memset(buffer, 0, extent->length);
		return 0;
	case EXTENT_OPAQUE:
		return extent->owner->driver->read(extent->owner, buffer, offset, extent->length);
	}
	return -EIO;
}

/* ---- Operations ---- */

int image_read(struct image *image, void *buffer, uint64_t offset, uint64_t length)
{
	uint8_t *at = buffer;
	EPOCH_SCOPE;

	while (length) {
		struct extent extent;
		int rc = image_map(image, offset, length, MAP_READ, 0, &extent);

		if (rc == 0)
			rc = read_extent(image, at, offset, &extent);
		if (rc == -EAGAIN)
			continue; /* the map changed under us */
		if (rc)
			return rc;
		at += extent.length;
		offset += extent.length;
		length -= extent.length;
	}
	return 0;
}

int image_write(struct image *image, const void *buffer, uint64_t offset, uint64_t length)
{
	const uint8_t *at = buffer;
	EPOCH_SCOPE;

	while (length) {
		struct extent extent;
		int rc = image_map(image, offset, length, MAP_OVERWRITE, 0, &extent);

		if (rc == -EAGAIN && image->driver->write)
			return image->driver->write(image, at, offset, length);
		if (rc == 0)
			rc = image_write_run(&extent, at);
		if (rc)
			return rc;
		at += extent.length;
		offset += extent.length;
		length -= extent.length;
	}
	return 0;
}

void image_visit_files(struct image *image, image_visit_file *visit, void *context)
{
	while (image->child)
		image = image->child;
	visit(image->file, context);
	if (image->driver->visit_files)
		image->driver->visit_files(image, visit, context);
}

int image_settle(struct image *image)
{
	while (image->child)
		image = image->child;
	return image->driver->settle ? image->driver->settle(image) : image_flush(image);
}

void image_refresh(struct image *image)
{
	if (image->driver->refresh)
		image->driver->refresh(image);
}

int image_zero(struct image *image, uint64_t offset, uint64_t length, unsigned int flags)
{
	EPOCH_SCOPE;

	if (flags & ZERO_MAY_UNMAP)
		flags |= ZERO_MAY_STAY_HOLE;
	if (image->options.discard == DISCARD_IGNORE)
		flags &= ~(unsigned int)ZERO_MAY_UNMAP;
	if (image->driver->zero)
		return image->driver->zero(image, offset, length, flags);
	return hostfile_zero(image->file, offset, length, flags);
}

int image_discard(struct image *image, uint64_t offset, uint64_t length)
{
	EPOCH_SCOPE;

	if (image->options.discard == DISCARD_IGNORE)
		return 0;
	if (image->driver->discard)
		return image->driver->discard(image, offset, length);
	return hostfile_discard(image->file, offset, length);
}

int image_flush(struct image *image)
{
	if (image->driver->flush)
		return image->driver->flush(image);
	return hostfile_sync(image->file);
}

int image_prefetch(struct image *image, uint64_t offset, uint64_t length)
{
	while (length) {
		struct extent extent;
		int rc = image_map(image, offset, length, MAP_READ, 0, &extent);

		if (rc == 0 && extent_in_file(&extent))
			rc = hostfile_prefetch(extent.file, extent.file_offset, extent.length);
		if (rc)
			return rc;
		offset += extent.length;
		length -= extent.length;
	}
	return 0;
}

/* ---- Dirty bitmaps ---- */

int image_bitmap_open(struct image *image, const char *name, struct image_bitmap **bitmap,
		      struct error *err)
{
	*bitmap = NULL;
	if (!image->driver->bitmap_open)
		return error_set(err, ENOENT, "Bitmap '%s' is not found", name);
	return image->driver->bitmap_open(image, name, bitmap, err);
}

void image_bitmap_close(struct image_bitmap *bitmap)
{
	if (bitmap)
		bitmap->owner->driver->bitmap_close(bitmap);
}

int image_bitmap_walk(struct image_bitmap *bitmap, uint64_t offset, uint64_t length,
		      image_bitmap_visit *visit, void *context)
{
	return bitmap->owner->driver->bitmap_walk(bitmap, offset, length, visit, context);
}
