// SPDX-License-Identifier: MIT
/*
 * Direct I/O. Blocks are guarded by read-write locks, one for each of a few stripes of the file:
 * aligned writes hold theirs shared, a read-change-write of a block holds it alone, because the
 * bytes around the change must not be those of yesterday.
 */
#include "direct.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "stripes.h"

enum {
	ALIGNMENT_SAFE = 4096, /* every disk in use takes it */
	BOUNCE_MAX = 1 << 20,
};

struct direct {
	int fd;
	int tail_fd; /* the same file through the page cache, -1 when never written */
	uint32_t alignment;
	struct stripes stripes;
};

/* ---- Alignment ---- */

/* Linux 6.1 tells what a file wants. */
static uint32_t alignment_of(int fd)
{
	int sector = 0;
#ifdef STATX_DIOALIGN
	struct statx status;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
	    status.stx_mask & STATX_DIOALIGN && status.stx_dio_offset_align) {
		uint32_t wanted = max_of(status.stx_dio_offset_align, status.stx_dio_mem_align);

		if (is_power_of_two(wanted) && wanted <= BOUNCE_MAX)
			return max_of(wanted, 512u);
	}
#endif
	if (ioctl(fd, BLKSSZGET, &sector) == 0 && sector > 0)
		return (uint32_t)sector;
	return ALIGNMENT_SAFE;
}

int direct_new(int fd, const char *path, bool writable, struct direct **out)
{
	struct direct *direct = calloc(1, sizeof(*direct));

	*out = NULL;
	if (!direct)
		return -ENOMEM;
	direct->fd = fd;
	direct->tail_fd = -1;
	direct->alignment = alignment_of(fd);
	stripes_init(&direct->stripes);
	if (writable) {
		direct->tail_fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
		if (direct->tail_fd < 0) {
			int rc = -errno;

			direct_free(direct);
			return rc;
		}
	}
	*out = direct;
	return 0;
}

void direct_free(struct direct *direct)
{
	if (!direct)
		return;
	if (direct->tail_fd >= 0)
		close(direct->tail_fd);
	stripes_destroy(&direct->stripes);
	free(direct);
}

uint32_t direct_alignment(const struct direct *direct)
{
	return direct->alignment;
}

/* ---- Locks ---- */

void direct_hold(struct direct *direct, uint64_t offset, uint64_t length)
{
	stripes_lock(&direct->stripes, stripes_of(offset, length), false);
}

void direct_release(struct direct *direct, uint64_t offset, uint64_t length)
{
	stripes_unlock(&direct->stripes, stripes_of(offset, length));
}

/* ---- Aligned transfers ---- */

static bool is_aligned(const struct direct *direct, const void *buffer, size_t length,
		       uint64_t offset)
{
	return !(((uintptr_t)buffer | length | offset) & (direct->alignment - 1));
}

/* Bytes read; fewer than length only at the end of the file. */
static ssize_t read_aligned(struct direct *direct, uint8_t *buffer, size_t length, uint64_t offset)
{
	size_t done = 0;

	while (done < length) {
		ssize_t got =
			pread(direct->fd, buffer + done, length - done, (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		done += (size_t)got;
		if (got == 0 || (size_t)got % direct->alignment)
			break;
	}
	return (ssize_t)done;
}

static int write_all(int fd, const uint8_t *buffer, size_t length, uint64_t offset)
{
	while (length) {
		ssize_t put = pwrite(fd, buffer, length, (off_t)offset);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return put ? -errno : -EIO;
		buffer += put;
		offset += (uint64_t)put;
		length -= (size_t)put;
	}
	return 0;
}

/* ---- Reading ---- */

/* The file ended: the rest is zeroes. */
static int ended(uint8_t *buffer, size_t got, size_t length)
{
	if (got >= length)
		return 0;
	memset(buffer + got, 0, length - got);
	return -ENODATA;
}

static int read_bounced(struct direct *direct, uint8_t *bounce, uint8_t *buffer, size_t length,
			uint64_t offset)
{
	uint64_t start = round_down(offset, direct->alignment);
	uint64_t end = round_up(offset + length, direct->alignment);
	size_t skip = (size_t)(offset - start);
	ssize_t got = read_aligned(direct, bounce, (size_t)(end - start), start);
	size_t useful;

	if (got < 0)
		return (int)got;
	useful = (size_t)got > skip ? min_of((size_t)got - skip, length) : 0;
	memcpy(buffer, bounce + skip, useful);
	return ended(buffer, useful, length);
}

int direct_read(struct direct *direct, void *buffer, size_t length, uint64_t offset)
{
	AUTO_FREE uint8_t *bounce = NULL;
	uint8_t *at = buffer;

	if (is_aligned(direct, buffer, length, offset)) {
		ssize_t got = read_aligned(direct, at, length, offset);

		return got < 0 ? (int)got : ended(at, (size_t)got, length);
	}
	bounce = aligned_alloc(direct->alignment, BOUNCE_MAX);
	if (!bounce)
		return -ENOMEM;
	while (length) {
		size_t skip = (size_t)(offset & (direct->alignment - 1));
		size_t step = min_of(length, (size_t)BOUNCE_MAX - skip);
		int rc = read_bounced(direct, bounce, at, step, offset);

		if (rc == -ENODATA)
			memset(at, 0, length);
		if (rc)
			return rc;
		at += step;
		offset += step;
		length -= step;
	}
	return 0;
}

/* ---- Writing ---- */

/* A part of one block: read, change, write. The block is locked alone. */
static int write_part(struct direct *direct, uint8_t *block, const uint8_t *buffer, size_t length,
		      uint64_t offset)
{
	uint64_t start = round_down(offset, direct->alignment);
	ssize_t got = read_aligned(direct, block, direct->alignment, start);

	if (got < 0)
		return (int)got;
	/* The last block of the file is not whole: writing all of it would make the file grow. */
	if ((size_t)got < direct->alignment)
		return write_all(direct->tail_fd, buffer, length, offset);
	memcpy(block + (offset - start), buffer, length);
	return write_all(direct->fd, block, direct->alignment, start);
}

static int write_part_alone(struct direct *direct, uint8_t *block, const uint8_t *buffer,
			    size_t length, uint64_t offset)
{
	uint64_t stripes = stripes_of(offset, length);
	int rc;

	stripes_lock(&direct->stripes, stripes, true);
	rc = write_part(direct, block, buffer, length, offset);
	stripes_unlock(&direct->stripes, stripes);
	return rc;
}

/* Whole blocks, from memory at any address. */
static int write_blocks(struct direct *direct, uint8_t *bounce, const uint8_t *buffer,
			size_t length, uint64_t offset)
{
	uint64_t stripes = stripes_of(offset, length);
	int rc = 0;

	stripes_lock(&direct->stripes, stripes, false);
	if (is_aligned(direct, buffer, length, offset)) {
		rc = write_all(direct->fd, buffer, length, offset);
	} else {
		while (length && !rc) {
			size_t step = min_of(length, (size_t)BOUNCE_MAX);

			memcpy(bounce, buffer, step);
			rc = write_all(direct->fd, bounce, step, offset);
			buffer += step;
			offset += step;
			length -= step;
		}
	}
	stripes_unlock(&direct->stripes, stripes);
	return rc;
}

/* How much of a write at offset is the begin of a block, whole blocks, or the end of one. */
static size_t next_part(const struct direct *direct, size_t length, uint64_t offset, bool *whole)
{
	uint64_t mask = direct->alignment - 1;

	*whole = !(offset & mask) && length > mask;
	if (*whole)
		return length & ~mask;
	return min_of(length, (size_t)(direct->alignment - (offset & mask)));
}

int direct_write(struct direct *direct, const void *buffer, size_t length, uint64_t offset)
{
	AUTO_FREE uint8_t *bounce = NULL;
	const uint8_t *at = buffer;

	if (!is_aligned(direct, buffer, length, offset)) {
		bounce = aligned_alloc(direct->alignment, BOUNCE_MAX);
		if (!bounce)
			return -ENOMEM;
	}
	while (length) {
		bool whole;
		size_t step = next_part(direct, length, offset, &whole);
		int rc = whole ? write_blocks(direct, bounce, at, step, offset)
			       : write_part_alone(direct, bounce, at, step, offset);

		if (rc)
			return rc;
		at += step;
		offset += step;
		length -= step;
	}
	return 0;
}
