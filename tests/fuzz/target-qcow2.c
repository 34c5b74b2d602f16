// SPDX-License-Identifier: MIT
/*
 * The input is a whole qcow2 image: header, tables, snapshots, data. It is opened, mapped, read,
 * written, zeroed, discarded, flushed and checked; the last byte chooses how. What was written to
 * an image that took it must be read back.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/log.h"
#include "common/size.h"
#include "fuzz.h"
#include "server/image/image.h"
#include "server/image/qcow2/writer.h"

enum { STEP = 70000, EXTENTS = 200 };

static uint8_t buffer[STEP];

/* Runs cover the range without gaps, each inside of what was asked. */
static void walk(struct image *image)
{
	uint64_t offset = 0;

	for (int i = 0; i < EXTENTS && offset < image->size; i++) {
		uint64_t left = image->size - offset;
		struct extent extent;

		if (image_map(image, offset, left, MAP_STATUS, 0, &extent))
			return;
		FUZZ_CHECK(extent.length > 0 && extent.length <= left);
		FUZZ_CHECK(extent.kind != EXTENT_FILE || extent.file);
		offset += extent.length;
	}
}

/* Runs of a bitmap cover what was asked for, unless they cannot be read. */
static bool add_length(void *context, uint64_t length, bool dirty)
{
	uint64_t *sum = context;

	(void)dirty;
	FUZZ_CHECK(length > 0);
	*sum += length;
	return true;
}

static void walk_bitmap(struct image *image, const char *name)
{
	uint64_t size = min_of((uint64_t)image->size, UINT64_C(1) << 32), at = size / 3, sum = 0;
	struct error err = ERROR_INIT;
	struct image_bitmap *bitmap;

	if (image_bitmap_open(image, name, &bitmap, &err)) {
		FUZZ_CHECK(*err.text && !bitmap);
		return;
	}
	if (size && image_bitmap_walk(bitmap, at, size - at + 512, add_length, &sum) == 0)
		FUZZ_CHECK(sum == size - at + 512);
	FUZZ_CHECK(sum <= size - at + 512);
	image_bitmap_close(bitmap);
}

static void read_around(struct image *image, uint64_t offset)
{
	uint64_t size = image->size;

	if (offset < size)
		image_read(image, buffer, offset, min_of(size - offset, (uint64_t)STEP));
}

/* What was written is there, whatever the image says otherwise. */
static void write_around(struct image *image, uint64_t offset, uint8_t byte)
{
	uint64_t size = image->size, length;

	if (offset >= size)
		return;
	length = min_of(size - offset, (uint64_t)STEP / (1 + byte % 5));
	memset(buffer, byte, length);
	if (image_write(image, buffer, offset, length))
		return;
	memset(buffer, 0, length);
	if (image_read(image, buffer, offset, length))
		return;
	for (uint64_t i = 0; i < length; i += 97)
		FUZZ_CHECK(buffer[i] == byte);
}

static void change(struct image *image, uint8_t choice)
{
	uint64_t size = image->size, middle = size / 2, length = min_of(size, UINT64_C(1) << 20);

	write_around(image, choice * 331u, choice);
	if (choice & 1)
		image_zero(image, 0, length,
			   choice & 2   ? ZERO_MAY_UNMAP
			   : choice & 8 ? ZERO_MAY_STAY_HOLE
					: 0);
	if (choice & 4)
		image_discard(image, 0, length);
	write_around(image, middle, (uint8_t)(choice + 1));
	image_flush(image);
	write_around(image, 100, (uint8_t)(choice + 2));
}

static void use(struct image *image, uint8_t choice)
{
	struct qcow2 *q = image->state;
	struct qcow2_check check;

	walk(image);
	walk_bitmap(image, "b");
	walk_bitmap(image, "b2");
	read_around(image, 0);
	read_around(image, image->size / 2);
	read_around(image, image->size - min_of((uint64_t)image->size, (uint64_t)STEP));
	if (image->read_only || image->size > UINT64_C(1) << 40)
		return;
	qcow2_check(q, false, &check);
	change(image, choice);
	qcow2_check(q, false, &check);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image_options options = {
		.format = "qcow2", .no_references = true, .discard = DISCARD_UNMAP};
	struct error err = ERROR_INIT;
	struct image *image;
	char path[64];
	int fd;

	if (size < 2)
		return 0;
	log_threshold = LOG_LEVEL_ERROR;
	options.access = data[size - 1] & 64 ? IMAGE_READ_ONLY : IMAGE_READ_WRITE;
	options.bitmaps_may_break = data[size - 1] & 32;
	options.load_snapshot = data[size - 1] & 64 && data[size - 1] & 128 ? "1" : NULL;
	fd = memfd_create("image", MFD_CLOEXEC);
	FUZZ_CHECK(fd >= 0 && write(fd, data, size - 1) == (ssize_t)size - 1);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (image_open(path, &options, &image, &err) == 0) {
		use(image, data[size - 1]);
		image_close(image);
	} else {
		FUZZ_CHECK(*err.text);
	}
	close(fd);
	return 0;
}
