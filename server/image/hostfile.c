// SPDX-License-Identifier: MIT
/*
 * Host files. Must never decide policy: it does one operation and says how it went. What a file
 * system lacks is learned from its first refusal and remembered in the capability bits.
 */
#include "hostfile.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "direct.h"
#include "server/trace.h"

enum {
	ZERO_BUFFER = 1 << 18, /* what one write of zeroes moves where the host cannot zero */
	HOST_PAGE = 4096,
};

#define VIEW_ROOM (UINT64_C(1) << 34)

#ifndef SYS_cachestat
#define SYS_cachestat 451 /* one number on all architectures since Linux 6.5 */
#endif

struct cachestat_range_abi {
	uint64_t offset;
	uint64_t length;
};

struct cachestat_abi {
	uint64_t cached;
	uint64_t dirty;
	uint64_t writeback;
	uint64_t evicted;
	uint64_t recently_evicted;
};

static int check_kind(struct hostfile *file)
{
	struct stat status;
	int read_only = 0, sector = 0;

	if (fstat(file->fd, &status))
		return -errno;
	if (S_ISDIR(status.st_mode))
		return -EISDIR;
	file->block_size = 1;
	file->mincore_tells = file->writable || geteuid() == 0 || geteuid() == status.st_uid;
	if (S_ISREG(status.st_mode))
		return 0;
	if (!S_ISBLK(status.st_mode))
		return -EINVAL;
	file->is_block = true;
	if (file->writable && ioctl(file->fd, BLKROGET, &read_only) == 0 && read_only)
		return -EACCES;
	file->block_size = 512;
	if (ioctl(file->fd, BLKSSZGET, &sector) == 0 && sector > 0)
		file->block_size = (uint32_t)sector;
	return 0;
}

/* name: for messages. */
static int open_named(const char *path, const char *name, bool writable, struct hostfile **out)
{
	static _Atomic uint64_t last_identity;
	struct hostfile *file;
	int rc;

	*out = NULL;
	file = calloc(1, sizeof(*file));
	if (!file)
		return -ENOMEM;
	file->writable = writable;
	file->length = UINT64_MAX;
	file->identity = atomic_fetch_add(&last_identity, 1) + 1;
	pthread_mutex_init(&file->view_lock, NULL);
	/* O_NONBLOCK: opening a FIFO must not hang; files and disks ignore it. */
	file->fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	rc = file->fd < 0 ? -errno : check_kind(file);
	if (rc == 0 && !(file->path = strdup(name)))
		rc = -ENOMEM;
	if (rc) {
		hostfile_close(file);
		return rc;
	}
	file->nowait_read = true;
	file->nowait_write = true;
	file->cachestat = true;
	file->zero_range = true;
	file->punch_hole = true;
	*out = file;
	return 0;
}

int hostfile_open(const char *path, bool writable, struct hostfile **file)
{
	return open_named(path, path, writable, file);
}

int hostfile_reopen(const struct hostfile *file, bool writable, struct hostfile **again)
{
	char path[40];

	int rc;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
	rc = open_named(path, file->path, writable, again);
	if (rc == 0)
		(*again)->identity = file->identity;
	return rc;
}

void hostfile_close(struct hostfile *file)
{
	if (!file)
		return;
	direct_free(file->direct);
	if (file->view)
		munmap(file->view, (size_t)file->view_size);
	pthread_mutex_destroy(&file->view_lock);
	if (file->fd >= 0)
		close(file->fd);
	free(file->path);
	free(file);
}

int hostfile_use_direct(struct hostfile *file)
{
	char path[40];
	int flags = fcntl(file->fd, F_GETFL), rc;

	if (flags < 0 || fcntl(file->fd, F_SETFL, flags | O_DIRECT))
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
	rc = direct_new(file->fd, path, file->writable, &file->direct);
	if (rc)
		return rc;
	/* What asks or uses the page cache has no answer here. */
	file->nowait_read = false;
	file->nowait_write = false;
	file->cachestat = false;
	file->mincore_tells = false;
	return 0;
}

/* ---- A part of a file ---- */

void hostfile_set_part(struct hostfile *file, uint64_t base, uint64_t length)
{
	file->base = base;
	file->length = length;
}

/* How many of length bytes at offset are in the part that is meant. */
static size_t inside(const struct hostfile *file, uint64_t offset, uint64_t length)
{
	if (file->length == UINT64_MAX)
		return (size_t)length;
	return (size_t)(offset < file->length ? min_of(length, file->length - offset) : 0);
}

/* Where a byte of the part is in the file. */
static off_t place(const struct hostfile *file, uint64_t offset)
{
	return (off_t)(file->base + offset);
}

bool hostfile_same(const struct hostfile *one, const struct hostfile *other)
{
	struct stat a, b;

	if (fstat(one->fd, &a) || fstat(other->fd, &b) || one->is_block != other->is_block)
		return false;
	if (one->is_block)
		return a.st_rdev == b.st_rdev;
	return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Of all of the file. */
static int whole_size(const struct hostfile *file, uint64_t *size)
{
	struct stat status;

	if (file->is_block)
		return ioctl(file->fd, BLKGETSIZE64, size) ? -errno : 0;
	if (fstat(file->fd, &status))
		return -errno;
	*size = (uint64_t)status.st_size;
	return 0;
}

int hostfile_size(const struct hostfile *file, uint64_t *size)
{
	int rc = whole_size(file, size);

	if (rc == 0)
		*size = *size > file->base ? min_of(*size - file->base, file->length) : 0;
	return rc;
}

int hostfile_sparse(const struct hostfile *file, bool *sparse)
{
	struct stat status;

	*sparse = false;
	if (file->is_block)
		return 0;
	if (fstat(file->fd, &status))
		return -errno;
	*sparse = (uint64_t)status.st_blocks * 512 < (uint64_t)status.st_size;
	return 0;
}

/* Where RWF_NOWAIT is not known (tmpfs), what is in memory does not block either. */
static ssize_t read_resident(struct hostfile *file, void *buffer, size_t length, uint64_t offset)
{
	ssize_t got;

	if (hostfile_residency(file, offset, length) != HOSTFILE_RESIDENT)
		return -EAGAIN;
	got = pread(file->fd, buffer, length, place(file, offset));
	return got < 0 ? -errno : got;
}

static ssize_t read_nowait(struct hostfile *file, void *buffer, size_t length, uint64_t offset)
{
	struct iovec iov = {.iov_base = buffer, .iov_len = inside(file, offset, length)};
	ssize_t got;

	if (!atomic_load_explicit(&file->nowait_read, memory_order_relaxed))
		return read_resident(file, buffer, iov.iov_len, offset);
	got = preadv2(file->fd, &iov, 1, place(file, offset), RWF_NOWAIT);
	if (got >= 0)
		return got;
	if (errno == EOPNOTSUPP || errno == ENOSYS) {
		atomic_store_explicit(&file->nowait_read, false, memory_order_relaxed);
		return read_resident(file, buffer, iov.iov_len, offset);
	}
	return -errno;
}

ssize_t hostfile_read_nowait(struct hostfile *file, void *buffer, size_t length, uint64_t offset)
{
	ssize_t got = read_nowait(file, buffer, length, offset);

	trace_host_read_cached(file->fd, file->base + offset, length, got);
	return got;
}

/* At an offset of the file. */
static int read_all(struct hostfile *file, uint8_t *at, size_t length, uint64_t offset)
{
	if (file->direct)
		return direct_read(file->direct, at, length, offset);
	while (length) {
		ssize_t got = pread(file->fd, at, length, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0) {
			memset(at, 0, length);
			return -ENODATA;
		}
		at += got;
		offset += (uint64_t)got;
		length -= (size_t)got;
	}
	return 0;
}

int hostfile_read(struct hostfile *file, void *buffer, size_t length, uint64_t offset)
{
	size_t there = inside(file, offset, length);
	int rc;

	trace_host_read_begin(file->fd, file->base + offset, there);
	rc = read_all(file, buffer, there, file->base + offset);
	trace_host_read_end(file->fd, file->base + offset, rc);
	if ((rc && rc != -ENODATA) || there == length)
		return rc;
	memset((uint8_t *)buffer + there, 0, length - there);
	return -ENODATA;
}

/* At an offset of the file. */
static int write_all(struct hostfile *file, const uint8_t *at, size_t length, uint64_t offset)
{
	if (file->direct)
		return direct_write(file->direct, at, length, offset);
	while (length) {
		ssize_t put = pwrite(file->fd, at, length, (off_t)offset);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		if (put == 0)
			return -EIO;
		at += put;
		offset += (uint64_t)put;
		length -= (size_t)put;
	}
	return 0;
}

int hostfile_write(struct hostfile *file, const void *buffer, size_t length, uint64_t offset)
{
	int rc;

	if (inside(file, offset, length) < length)
		return -ENOSPC;
	offset += file->base;
	trace_host_write_begin(file->fd, offset, length);
	rc = write_all(file, buffer, length, offset);
	trace_host_write_end(file->fd, offset, rc);
	return rc;
}

ssize_t hostfile_write_nowait(struct hostfile *file, const void *buffer, size_t length,
			      uint64_t offset)
{
	struct iovec iov = {.iov_base = (void *)buffer, .iov_len = length};
	ssize_t put;

	if (!atomic_load_explicit(&file->nowait_write, memory_order_relaxed) ||
	    inside(file, offset, length) < length)
		return -EAGAIN;
	put = pwritev2(file->fd, &iov, 1, place(file, offset), RWF_NOWAIT);
	if (put >= 0)
		return put;
	if (errno == EOPNOTSUPP || errno == ENOSYS) {
		atomic_store_explicit(&file->nowait_write, false, memory_order_relaxed);
		return -EAGAIN;
	}
	return -errno;
}

ssize_t hostfile_splice(struct hostfile *file, uint64_t offset, int pipe_fd, size_t length)
{
	off64_t at = place(file, offset);
	ssize_t moved =
		splice(file->fd, &at, pipe_fd, NULL, inside(file, offset, length), SPLICE_F_MOVE);

	if (moved < 0)
		moved = -errno;
	trace_host_splice(file->fd, file->base + offset, length, moved);
	return moved;
}

/* Images grow while they are served: addresses are reserved for that, which costs nothing. */
static uint64_t view_room(const struct hostfile *file, uint64_t size)
{
	bool grows = file->writable && !file->is_block && sizeof(void *) > 4;

	return grows ? size + max_of(size, VIEW_ROOM) : size;
}

/* Maps the file once. A process that locks its memory must not lock the image's pages with it. */
static void make_view(struct hostfile *file)
{
	uint64_t size;
	void *view;

	pthread_mutex_lock(&file->view_lock);
	if (!file->view && !file->view_size && whole_size(file, &size) == 0 && size &&
	    size <= SIZE_MAX) {
		size = view_room(file, size);
		view = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED | MAP_NORESERVE, file->fd, 0);
		file->view_size = size; /* also remembers that there was a try */
		if (view != MAP_FAILED) {
			munlock(view, (size_t)size);
			atomic_store(&file->view, view);
		}
	}
	pthread_mutex_unlock(&file->view_lock);
}

void hostfile_adopt_view(struct hostfile *file, struct hostfile *from)
{
	void *fresh = MAP_FAILED;
	uint8_t *view;
	size_t size;

	pthread_mutex_lock(&from->view_lock);
	view = from->view;
	size = (size_t)from->view_size;
	if (view)
		fresh = mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_NORESERVE, file->fd, 0);
	if (fresh != MAP_FAILED) {
		munlock(fresh, size);
		/* One step for the kernel: there is never nothing at that address, and the bytes
		 * are the same. ThreadSanitizer would take the function for a writer of them. */
		if (syscall(SYS_mremap, fresh, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, view) ==
		    (long)view) {
			file->view_size = size;
			atomic_store(&file->view, view);
			/* Its size stays: there is no second try. */
			atomic_store(&from->view, NULL);
		} else {
			munmap(fresh, size);
		}
	}
	pthread_mutex_unlock(&from->view_lock);
}

/* offset is one of the file. */
static const uint8_t *view_at(struct hostfile *file, uint64_t offset, uint64_t length)
{
	uint8_t *view = atomic_load_explicit(&file->view, memory_order_acquire);

	if (file->direct)
		return NULL;
	if (!view) {
		make_view(file);
		view = atomic_load_explicit(&file->view, memory_order_acquire);
	}
	return view && range_inside(offset, length, file->view_size) ? view + offset : NULL;
}

const uint8_t *hostfile_view(struct hostfile *file, uint64_t offset, uint64_t length)
{
	return view_at(file, file->base + offset, length);
}

/* Pages of a range, and how many of them are in memory. */
struct page_count {
	uint64_t all, cached;
};

/* Asks cachestat(2), Linux 6.5. 0, or -errno where it does not answer. */
static int ask_cachestat(struct hostfile *file, uint64_t offset, uint64_t length,
			 struct page_count *count)
{
	struct cachestat_range_abi range = {file->base + offset, length};
	struct cachestat_abi answer;
	uint64_t first = range.offset / HOST_PAGE;

	if (syscall(SYS_cachestat, file->fd, &range, &answer, 0))
		return -errno;
	count->all = (range.offset + length + HOST_PAGE - 1) / HOST_PAGE - first;
	count->cached = answer.cached;
	return 0;
}

/* Asks mincore(2), which tells the truth only to those who may write the file or own it. */
static int ask_mincore(struct hostfile *file, uint64_t offset, uint64_t length,
		       struct page_count *count)
{
	unsigned char pages[256];
	uint64_t start = round_down(file->base + offset, HOST_PAGE);
	uint64_t end = file->base + offset + length;
	const uint8_t *view = view_at(file, start, end - start);

	if (!view || !file->mincore_tells)
		return -EOPNOTSUPP;
	*count = (struct page_count){0, 0};
	while (start < end) {
		uint64_t step = min_of(end - start, (uint64_t)sizeof(pages) * HOST_PAGE);

		if (mincore((void *)view, (size_t)step, pages))
			return -errno;
		for (uint64_t page = 0; page * HOST_PAGE < step; page++) {
			count->all++;
			count->cached += pages[page] & 1;
		}
		start += step;
		view += step;
	}
	return 0;
}

static int count_pages(struct hostfile *file, uint64_t offset, uint64_t length,
		       struct page_count *count)
{
	int rc = -ENOSYS;

	if (atomic_load_explicit(&file->cachestat, memory_order_relaxed)) {
		rc = ask_cachestat(file, offset, length, count);
		if (rc)
			atomic_store_explicit(&file->cachestat, false, memory_order_relaxed);
	}
	return rc ? ask_mincore(file, offset, length, count) : 0;
}

enum hostfile_residency hostfile_residency(struct hostfile *file, uint64_t offset, uint64_t length)
{
	struct page_count count;

	if (count_pages(file, offset, length, &count))
		return HOSTFILE_UNKNOWN;
	return count.cached >= count.all ? HOSTFILE_RESIDENT : HOSTFILE_MISSING;
}

static int write_zeroes(struct hostfile *file, uint64_t offset, uint64_t length)
{
	static const uint8_t zeroes[ZERO_BUFFER] __attribute__((aligned(4096)));

	while (length) {
		size_t step = (size_t)min_of(length, (uint64_t)sizeof(zeroes));
		int rc = hostfile_write(file, zeroes, step, offset);

		if (rc)
			return rc;
		offset += step;
		length -= step;
	}
	return 0;
}

/* fallocate(2) that remembers a mode which this file does not know. */
static int allocate(struct hostfile *file, int mode, atomic_bool *capability, uint64_t offset,
		    uint64_t length)
{
	int rc;

	if (capability && !atomic_load_explicit(capability, memory_order_relaxed))
		return -EOPNOTSUPP;
	do
		rc = fallocate(file->fd, mode, place(file, offset), (off_t)length);
	while (rc && errno == EINTR);
	if (!rc)
		return 0;
	/* Some block drivers answer EINVAL, old kernels ENODEV, for "this disk cannot". */
	if (errno != EOPNOTSUPP && errno != ENOSYS && errno != ENODEV &&
	    !(errno == EINVAL && file->is_block))
		return -errno;
	if (capability)
		atomic_store_explicit(capability, false, memory_order_relaxed);
	return -EOPNOTSUPP;
}

static int punch(struct hostfile *file, uint64_t offset, uint64_t length)
{
	return allocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, &file->punch_hole, offset,
			length);
}

/* Zeroes an aligned range by the host's own means; -EOPNOTSUPP when it has none. */
static int zero_by_host(struct hostfile *file, uint64_t offset, uint64_t length, bool may_unmap)
{
	int rc = -EOPNOTSUPP;

	if (may_unmap)
		rc = punch(file, offset, length);
	if (rc == -EOPNOTSUPP)
		rc = allocate(file, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, &file->zero_range,
			      offset, length);
	if (rc != -EOPNOTSUPP || may_unmap || file->is_block)
		return rc;
	/* tmpfs: a hole that is allocated again is allocated zeroes. */
	rc = punch(file, offset, length);
	if (rc == 0)
		rc = allocate(file, FALLOC_FL_KEEP_SIZE, NULL, offset, length);
	return rc;
}

/* The part of a range that is whole blocks of the file; false: there is none. */
static bool whole_blocks(const struct hostfile *file, uint64_t offset, uint64_t length,
			 uint64_t *start, uint64_t *end)
{
	*start = round_up(file->base + offset, file->block_size);
	*end = round_down(file->base + offset + length, file->block_size);
	if (*start >= *end)
		return false;
	*start -= file->base;
	*end -= file->base;
	return true;
}

static int zero(struct hostfile *file, uint64_t offset, uint64_t length, unsigned int flags)
{
	bool fast = flags & HOSTFILE_ZERO_FAST;
	uint64_t start, end;
	int rc;

	if (inside(file, offset, length) < length)
		return -ENOSPC;
	if (!whole_blocks(file, offset, length, &start, &end))
		return fast && file->is_block ? -EOPNOTSUPP : write_zeroes(file, offset, length);
	if (file->direct)
		direct_hold(file->direct, file->base + start, end - start);
	rc = zero_by_host(file, start, end - start, flags & HOSTFILE_ZERO_MAY_UNMAP);
	if (file->direct)
		direct_release(file->direct, file->base + start, end - start);
	if (rc == -EOPNOTSUPP)
		return fast ? rc : write_zeroes(file, offset, length);
	if (rc == 0)
		rc = write_zeroes(file, offset, start - offset);
	if (rc == 0)
		rc = write_zeroes(file, end, offset + length - end);
	return rc;
}

int hostfile_zero(struct hostfile *file, uint64_t offset, uint64_t length, unsigned int flags)
{
	int rc;

	trace_host_zero_begin(file->fd, file->base + offset, length, flags);
	rc = zero(file, offset, length, flags);
	trace_host_zero_end(file->fd, file->base + offset, rc);
	return rc;
}

static int discard(struct hostfile *file, uint64_t offset, uint64_t length)
{
	uint64_t start, end, range[2];
	int rc;

	if (!whole_blocks(file, offset, inside(file, offset, length), &start, &end))
		return 0;
	range[0] = file->base + start;
	range[1] = end - start;
	if (!file->is_block)
		rc = punch(file, start, end - start);
	else
		rc = ioctl(file->fd, BLKDISCARD, range) ? -errno : 0;
	/* TRIM is advice (S89). */
	return rc == -EOPNOTSUPP || rc == -EINVAL || rc == -ENOTTY ? 0 : rc;
}

int hostfile_discard(struct hostfile *file, uint64_t offset, uint64_t length)
{
	int rc;

	trace_host_discard_begin(file->fd, file->base + offset, length);
	rc = discard(file, offset, length);
	trace_host_discard_end(file->fd, file->base + offset, rc);
	return rc;
}

bool hostfile_detach(struct hostfile *file, uint64_t offset, uint64_t length)
{
	struct page_count count;

	return hostfile_discard(file, offset, length) == 0 &&
	       count_pages(file, offset, length, &count) == 0 && !count.cached;
}

int hostfile_sync(struct hostfile *file)
{
	int rc;

	trace_host_sync_begin(file->fd);
	do
		rc = fdatasync(file->fd);
	while (rc && errno == EINTR);
	rc = rc ? -errno : 0;
	trace_host_sync_end(file->fd, rc);
	return rc;
}

int hostfile_prefetch(struct hostfile *file, uint64_t offset, uint64_t length)
{
	int rc = -posix_fadvise(file->fd, place(file, offset), (off_t)length, POSIX_FADV_WILLNEED);

	trace_host_prefetch(file->fd, file->base + offset, length, rc);
	return rc;
}

/* No data follows. Where the file was cut there is no hole either: reading there must fail. */
static int last_hole(const struct hostfile *file, uint64_t offset, uint64_t *length, bool *hole)
{
	uint64_t size;
	int rc = hostfile_size(file, &size);

	if (rc || offset >= size)
		return rc;
	*hole = true;
	*length = min_of(*length, size - offset);
	return 0;
}

uint64_t hostfile_hole(struct hostfile *file, uint64_t offset, uint64_t length)
{
	off_t at = place(file, offset), data;

	if (file->is_block)
		return 0;
	data = lseek(file->fd, at, SEEK_DATA);
	if (data < 0)
		return errno == ENXIO ? length : 0;
	return min_of((uint64_t)(data - at), length);
}

static int find_extent(struct hostfile *file, uint64_t offset, uint64_t *length, bool *hole)
{
	off_t at = place(file, offset), data, end;

	*hole = false;
	if (file->is_block)
		return 0;
	data = lseek(file->fd, at, SEEK_DATA);
	if (data < 0 && errno == ENXIO)
		return last_hole(file, offset, length, hole);
	if (data < 0)
		return errno == EINVAL ? 0 : -errno;
	if (data > at) {
		*hole = true;
		*length = min_of(*length, (uint64_t)(data - at));
		return 0;
	}
	end = lseek(file->fd, at, SEEK_HOLE);
	if (end > data)
		*length = min_of(*length, (uint64_t)(end - at));
	return 0;
}

int hostfile_extent(struct hostfile *file, uint64_t offset, uint64_t *length, bool *hole)
{
	int rc = find_extent(file, offset, length, hole);

	trace_host_extent(file->fd, file->base + offset, *length, *hole, rc);
	return rc;
}
