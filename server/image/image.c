// SPDX-License-Identifier: MIT
/*
 * Opening images (registry, access rules, locks) and the default operations over map. The rules
 * by which --auto-read-only degrades are in access_degrades(). Opening is done by one thread
 * before service begins; the operations run on workers.
 */
#include "image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "epoch.h"
#include "lock.h"

static const struct image_driver *const drivers[] = {&image_driver_raw, &image_driver_qcow2};

/* Magic numbers of formats that must not be mistaken for raw disks. */
static const struct {
	const char *format;
	uint32_t offset, length;
	const char *bytes;
} magics[] = {
	{"qcow2", 0, 4, "QFI\xfb"},     {"qed", 0, 4, "QED\0"},
	{"vmdk", 0, 4, "KDMV"},         {"vhdx", 0, 8, "vhdxfile"},
	{"vpc", 0, 8, "conectix"},      {"vdi", 0x40, 4, "\x7f\x10\xda\xbe"},
	{"luks", 0, 6, "LUKS\xba\xbe"}, {"parallels", 0, 16, "WithoutFreeSpace"},
};

static const struct image_driver *driver_find(const char *format)
{
	for (size_t i = 0; i < sizeof(drivers) / sizeof(drivers[0]); i++)
		if (strcmp(drivers[i]->name, format) == 0)
			return drivers[i];
	return NULL;
}

static const char *format_known(const char *format)
{
	for (size_t i = 0; i < sizeof(magics) / sizeof(magics[0]); i++)
		if (strcmp(magics[i].format, format) == 0)
			return magics[i].format;
	return NULL;
}

const char *image_probe_format(const uint8_t head[512])
{
	for (size_t i = 0; i < sizeof(magics) / sizeof(magics[0]); i++)
		if (memcmp(head + magics[i].offset, magics[i].bytes, magics[i].length) == 0)
			return magics[i].format;
	return "raw";
}

static const char *format_probe(struct hostfile *file)
{
	uint8_t head[512];
	int rc = hostfile_read(file, head, sizeof(head), 0);

	return rc && rc != -ENODATA ? "raw" : image_probe_format(head);
}

static int choose_driver(struct image *image, struct error *err)
{
	const char *format = image->options.format;

	image->probed = !format;
	if (image->probed)
		format = format_probe(image->file);
	image->driver = driver_find(format);
	if (image->driver && image->options.load_snapshot && !image->driver->snapshots)
		return error_set(err, ENOTSUP,
				 "Failed to load snapshot: Block format '%s' used by device '' "
				 "does not support temporarily loading internal snapshots",
				 format);
	if (image->driver)
		return 0;
	if (format_known(format))
		return error_set(err, ENOTSUP,
				 "the image format '%s' is not available in this version%s", format,
				 image->probed ? "; use -f raw to serve the file's own bytes" : "");
	return error_set(err, EINVAL, "Unknown driver '%s'", format);
}

/* Is this failure of opening for writing one that a read-only open may cure? Locks held by
 * others, missing files and I/O errors are not. */
static bool access_degrades(int rc)
{
	return rc == -EACCES || rc == -EROFS || rc == -EPERM || rc == -ETXTBSY;
}

static int open_file(const char *path, struct image *image, struct error *err)
{
	int rc = hostfile_open(path, !image->read_only, &image->file);

	if (rc == -EINVAL)
		return error_set(
			err, EINVAL,
			"Could not open '%s': It is neither a regular file nor a block device",
			path);
	return rc ? error_set_errno(err, -rc, "Could not open '%s'", path) : 0;
}

/* QEMU lets two writers share a raw image; we do not. Reading beside one is allowed, but not where
 * the file's metadata is read, or others build upon it. */
static int lock_image(struct image *image, struct error *err)
{
	unsigned int used = PERMISSION_CONSISTENT_READ, unshared = PERMISSION_RESIZE;

	if (!image->read_only)
		used |= PERMISSION_WRITE;
	if (!image->read_only && image->driver->metadata)
		used |= PERMISSION_RESIZE;
	if (!image->read_only || image->driver->metadata || image->parent || image->options.backing)
		unshared |= PERMISSION_WRITE;
	return lock_acquire(image->file, used, unshared, err);
}

static int open_once(const char *path, struct image *image, struct error *err)
{
	int rc = open_file(path, image, err);

	if (rc == 0)
		rc = choose_driver(image, err);
	if (rc == 0)
		rc = lock_image(image, err);
	if (rc == 0)
		rc = image->driver->open(image, err);
	if (rc) {
		hostfile_close(image->file);
		image->file = NULL;
	}
	return rc;
}

/* Tries again without the wish to write. When that fails, too, the first error stands. */
static int open_degraded(const char *path, struct image *image, int first, struct error *err)
{
	struct error again = ERROR_INIT;

	if (image->options.access == IMAGE_READ_WRITE)
		error_hint(err, "; use --read-only or --auto-read-only");
	if (image->options.access != IMAGE_AUTO_READ_ONLY)
		return first;
	image->read_only = true;
	if (open_once(path, image, &again))
		return first;
	log_warning("%s: exporting read-only: %s", path, err ? err->text : strerror(-first));
	return 0;
}

static int open_image(const char *path, struct image *image, struct error *err)
{
	int rc;

	image->read_only = image->options.access == IMAGE_READ_ONLY;
	rc = open_once(path, image, err);
	if (access_degrades(rc) && !image->read_only)
		rc = open_degraded(path, image, rc, err);
	if (rc == 0 && image->probed && !image->read_only && image->driver == &image_driver_raw)
		log_warning(
			"Image format was not specified for '%s' and probing guessed raw.\n"
			"         Automatically detecting the format is dangerous for raw images, "
			"write operations on block 0 will be restricted.\n"
			"         Specify the 'raw' format explicitly to remove the restrictions.",
			path);
	return rc;
}

int image_open(const char *path, const struct image_options *options, struct image **out,
	       struct error *err)
{
	struct image *image = calloc(1, sizeof(*image));
	int rc;

	*out = NULL;
	if (!image)
		return error_set(err, ENOMEM, "out of memory");
	image->options = *options;
	rc = open_image(path, image, err);
	if (rc) {
		free(image);
		/* Some say themselves, in words that are known, what has failed. */
		if (err && strncmp(err->text, "Failed ", 7))
			error_wrap(err, "Failed to blk_new_open '%s'", path);
		return rc;
	}
	*out = image;
	return 0;
}

void image_close(struct image *image)
{
	if (!image)
		return;
	if (image->driver->close)
		image->driver->close(image);
	hostfile_close(image->file);
	free(image);
}

/* ---- Chains ---- */

char *image_resolve_name(const struct image *image, const char *name, struct error *err)
{
	const char *overlay = image->file->path, *slash = strrchr(overlay, '/');
	char *path = NULL;
	int rc;

	if (image->options.no_references) {
		error_set(err, EPERM,
			  "the image names another file, '%s', which is not allowed here", name);
		return NULL;
	}
	/* QEMU reads a colon before any slash as a protocol: json:, nbd:, fat: ... */
	if (name[strcspn(name, ":/")] == ':') {
		error_set(err, ENOTSUP,
			  "the image names '%s', which is no plain file name; protocols are not "
			  "followed",
			  name);
		return NULL;
	}
	if (*name == '/' || !slash)
		path = strdup(name);
	else {
		rc = asprintf(&path, "%.*s/%s", (int)(slash - overlay), overlay, name);
		path = rc < 0 ? NULL : path;
	}
	if (!path)
		error_set(err, ENOMEM, "out of memory");
	return path;
}

static int check_chain(const struct image *image, struct error *err)
{
	if (image->depth > IMAGE_DEPTH_MAX)
		return error_set(err, ELOOP, "more than %d backing files in a chain",
				 IMAGE_DEPTH_MAX);
	for (const struct image *above = image->parent; above; above = above->parent)
		if (hostfile_same(image->file, above->file))
			return error_set(err, ELOOP, "the image is its own backing file");
	return 0;
}

/* Where an overlay does not say the format of its backing file, a guest may have made its raw disk
 * look like an image that names other files. */
static int check_guess(const struct image *image, struct error *err)
{
	if (!image->probed || !image->driver->metadata)
		return 0;
	return error_set(
		err, EPERM,
		"the overlay does not say that this is a %s image and not the content of a "
		"raw disk; say it by `qemu-img rebase -u -F %s -b BACKING OVERLAY'",
		image->driver->name, image->driver->name);
}

static int open_backing(struct image *image, const char *path, struct error *err)
{
	int rc = open_file(path, image, err);

	if (rc == 0)
		rc = check_chain(image, err);
	if (rc == 0)
		rc = choose_driver(image, err);
	if (rc == 0)
		rc = lock_image(image, err);
	if (rc == 0) {
		/* What is only guessed to be an image may be read, but not lead to other files. */
		image->options.no_references |= check_guess(image, NULL) != 0;
		rc = image->driver->open(image, err);
		if (rc == -EPERM && check_guess(image, NULL))
			check_guess(image, err);
	}
	return rc;
}

#define BACKING_FAILED "Could not open backing file"

int image_open_backing(const struct image *parent, const char *name, const char *format,
		       struct image **out, struct error *err)
{
	AUTO_FREE char *path = image_resolve_name(parent, name, err);
	struct image *image;
	int rc;

	*out = NULL;
	if (!path)
		return err ? -err->code : -EPERM;
	image = calloc(1, sizeof(*image));
	if (!image)
		return error_set(err, ENOMEM, "out of memory");
	image->options = (struct image_options){.format = format && *format ? format : NULL,
						.access = IMAGE_READ_ONLY,
						.no_references = parent->options.no_references};
	image->read_only = true;
	image->parent = parent;
	image->depth = parent->depth + 1;
	rc = open_backing(image, path, err);
	if (rc) {
		hostfile_close(image->file);
		free(image);
		/* In a long chain the image that failed is of interest, not the way to it. */
		if (err && strncmp(err->text, BACKING_FAILED, strlen(BACKING_FAILED)))
			error_wrap(err, BACKING_FAILED " '%s'", path);
		return rc == -EROFS || rc == -EACCES ? -EIO : rc; /* reading failed, not writing */
	}
	*out = image;
	return 0;
}

/* ---- Operations ---- */

/* Reads the bytes of one extent. A file that ends too early was cut under us: no data is made up
 * for it, unless the format says that its files may end so. */
static int read_extent(const struct image *image, void *buffer, uint64_t offset,
		       const struct extent *extent)
{
	int rc;

	switch (extent->kind) {
	case EXTENT_FILE:
		rc = hostfile_read(extent->file, buffer, extent->length, extent->file_offset);
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
			rc = hostfile_write(extent.file, at, extent.length, extent.file_offset);
		if (rc)
			return rc;
		at += extent.length;
		offset += extent.length;
		length -= extent.length;
	}
	return 0;
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

		if (rc == 0 && extent.kind == EXTENT_FILE)
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
