// SPDX-License-Identifier: MIT
/*
 * Opening images (registry, access rules, locks) and the default operations over map. The rules
 * by which --auto-read-only degrades are in access_degrades(). Opening is done by one thread
 * before service begins; the operations run on workers.
 */
#include "image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/size.h"
#include "lock.h"

static const struct image_driver *const drivers[] = {&image_driver_raw};

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

/* The format whose magic the file carries, "raw" when none does. */
static const char *format_probe(struct hostfile *file)
{
	uint8_t head[512];
	int rc = hostfile_read(file, head, sizeof(head), 0);

	if (rc && rc != -ENODATA)
		return "raw";
	for (size_t i = 0; i < sizeof(magics) / sizeof(magics[0]); i++)
		if (memcmp(head + magics[i].offset, magics[i].bytes, magics[i].length) == 0)
			return magics[i].format;
	return "raw";
}

static int choose_driver(struct image *image, const char *format, struct error *err)
{
	bool probed = !format;

	if (probed)
		format = format_probe(image->file);
	image->driver = driver_find(format);
	if (image->driver)
		return 0;
	if (format_known(format))
		return error_set(err, ENOTSUP,
				 "the image format '%s' is not available in this version%s", format,
				 probed ? "; use -f raw to serve the file's own bytes" : "");
	return error_set(err, EINVAL, "Unknown driver '%s'", format);
}

/* Is this failure of opening for writing one that a read-only open may cure? Locks held by
 * others, missing files and I/O errors are not. */
static bool access_degrades(int rc)
{
	return rc == -EACCES || rc == -EROFS || rc == -EPERM || rc == -ETXTBSY;
}

static int open_file(const char *path, enum image_access access, struct image *image,
		     struct error *err)
{
	int rc = hostfile_open(path, access != IMAGE_READ_ONLY, &image->file), retry;

	image->read_only = access == IMAGE_READ_ONLY;
	if (rc == 0)
		return 0;
	if (access == IMAGE_AUTO_READ_ONLY && access_degrades(rc)) {
		retry = hostfile_open(path, false, &image->file);
		if (retry == 0) {
			image->read_only = true;
			log_warning("%s: exporting read-only: %s", path, strerror(-rc));
			return 0;
		}
	}
	if (rc == -EINVAL)
		error_set(err, EINVAL,
			  "Could not open '%s': It is neither a regular file nor a block device",
			  path);
	else
		error_set_errno(err, -rc, "Could not open '%s'", path);
	if (access == IMAGE_READ_WRITE && access_degrades(rc))
		error_hint(err, "; use --read-only or --auto-read-only");
	return rc;
}

static int lock_image(struct image *image, struct error *err)
{
	unsigned int used = PERMISSION_CONSISTENT_READ, unshared = PERMISSION_RESIZE;

	/* QEMU lets two writers share a raw image; we do not. Reading beside one is allowed. */
	if (!image->read_only) {
		used |= PERMISSION_WRITE;
		unshared |= PERMISSION_WRITE;
	}
	return lock_acquire(image->file, used, unshared, err);
}

int image_open(const char *path, const char *format, enum image_access access, struct image **out,
	       struct error *err)
{
	struct image *image = calloc(1, sizeof(*image));
	int rc;

	*out = NULL;
	if (!image)
		return error_set(err, ENOMEM, "out of memory");
	rc = open_file(path, access, image, err);
	if (rc == 0)
		rc = lock_image(image, err);
	if (rc == 0)
		rc = choose_driver(image, format, err);
	if (rc == 0)
		rc = image->driver->open(image, err);
	if (rc) {
		hostfile_close(image->file);
		free(image);
		return error_wrap(err, "Failed to blk_new_open '%s'", path);
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

/* Reads the bytes of one extent. A file that ends too early was cut under us: no data is made up
 * for it, unless the format says that its files may end so. */
static int read_extent(struct image *image, void *buffer, uint64_t offset,
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
		return image->driver->read(image, buffer, offset, extent->length);
	}
	return -EIO;
}

int image_read(struct image *image, void *buffer, uint64_t offset, uint64_t length)
{
	uint8_t *at = buffer;

	while (length) {
		struct extent extent;
		int rc = image_map(image, offset, length, MAP_READ, 0, &extent);

		if (rc == 0)
			rc = read_extent(image, at, offset, &extent);
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
	if (image->driver->write)
		return image->driver->write(image, buffer, offset, length);
	return hostfile_write(image->file, buffer, length, offset);
}

int image_zero(struct image *image, uint64_t offset, uint64_t length, unsigned int flags)
{
	if (image->driver->zero)
		return image->driver->zero(image, offset, length, flags);
	return hostfile_zero(image->file, offset, length, flags);
}

int image_discard(struct image *image, uint64_t offset, uint64_t length)
{
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
