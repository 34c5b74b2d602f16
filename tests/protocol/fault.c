/* SPDX-License-Identifier: MIT */
/*
 * LD_PRELOAD shim for tests: fails, cuts or delays the file operations that a process makes on
 * one file, and logs them in the order in which they end. It must change nothing about any other
 * file. Any thread; no state but what start sets, and whether an error of once: was told.
 *
 *   FAULT_TARGET  the file (told by device and inode)
 *   FAULT_LOG     gets "OPERATION OFFSET LENGTH FLAGS RESULT" per operation
 *   FAULT_RULES   file of rules, read anew at each operation: "OPERATION ACTION [LOW HIGH]"
 *                 OPERATION read, nowait (a read with RWF_NOWAIT), write, sync, dsync (a write
 *                 with RWF_DSYNC or RWF_SYNC) or allocate; ACTION an errno number, "short" (half
 *                 the bytes), "delay:MILLISECONDS", or "once:ERRNO:MILLISECONDS" (the first of
 *                 the process fails, so much later; those beside it do not, as with a lost page);
 *                 LOW and HIGH limit it to a byte range.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The linker must find these under their plain and their 64-bit names. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

struct operation {
	const char *name;
	long long offset;
	long long length;
	int flags;
	bool cut; /* do half of it */
};

static struct stat target;
static bool have_target;
static const char *rules_path;
static int log_fd = -1;
static atomic_flag told_once = ATOMIC_FLAG_INIT;

__attribute__((constructor)) static void fault_start(void)
{
	const char *path = getenv("FAULT_TARGET");
	const char *log_path = getenv("FAULT_LOG");

	have_target = path && stat(path, &target) == 0;
	rules_path = getenv("FAULT_RULES");
	if (log_path)
		log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static bool is_target(int fd)
{
	struct stat status;

	return have_target && fstat(fd, &status) == 0 && status.st_dev == target.st_dev &&
	       status.st_ino == target.st_ino;
}

static void operation_log(const struct operation *op, long long result)
{
	char line[160];
	int length;
	int kept = errno;

	length = snprintf(line, sizeof(line), "%s %lld %lld %d %lld\n", op->name, op->offset,
			  op->length, op->flags, result);
	if (log_fd >= 0)
		syscall(SYS_write, log_fd, line, (size_t)length);
	errno = kept;
}

static void sleep_ms(long ms)
{
	struct timespec span = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&span, NULL);
}

/* Applies one line of rules; true when the operation fails with errno set. */
static bool rule_apply(struct operation *op, const char *line)
{
	char name[16], action[32];
	long long low = 0, high = -1;
	int fields = sscanf(line, "%15s %31s %lld %lld", name, action, &low, &high);

	if (fields < 2 || strcmp(name, op->name) != 0)
		return false;
	if (fields == 4 && (op->offset >= high || op->offset + op->length <= low))
		return false;
	if (strncmp(action, "delay:", 6) == 0) {
		sleep_ms(atol(action + 6));
		return false;
	}
	if (strcmp(action, "short") == 0) {
		op->cut = op->length > 1;
		return false;
	}
	if (strncmp(action, "once:", 5) == 0) {
		if (atomic_flag_test_and_set(&told_once))
			return false;
		memmove(action, action + 5, strlen(action + 5) + 1);
		sleep_ms(atol(strchr(action, ':') + 1));
	}
	errno = atoi(action);
	operation_log(op, -errno);
	return true;
}

/* Applies all rules; true when the operation fails with errno set. */
static bool operation_fails(struct operation *op)
{
	char text[1024];
	char *line, *rest = text;
	ssize_t length;
	int fd;

	if (!rules_path)
		return false;
	fd = (int)syscall(SYS_openat, AT_FDCWD, rules_path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	length = syscall(SYS_read, fd, text, sizeof(text) - 1);
	syscall(SYS_close, fd);
	text[length > 0 ? length : 0] = '\0';
	while ((line = strsep(&rest, "\n")))
		if (rule_apply(op, line))
			return true;
	return false;
}

static void *real(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

static ssize_t vector_length(const struct iovec *iov, int count)
{
	ssize_t length = 0;

	for (int i = 0; i < count; i++)
		length += (ssize_t)iov[i].iov_len;
	return length;
}

/* One vectored read or write: all others are this. cut: only the first half moves. */
static ssize_t vector_io(int fd, const struct iovec *iov, int count, off64_t offset, int flags,
			 bool writes)
{
	ssize_t (*readv)(int, const struct iovec *, int, off64_t, int) = real("preadv64v2");
	ssize_t (*writev)(int, const struct iovec *, int, off64_t, int) = real("pwritev64v2");
	bool durable = writes && (flags & (RWF_DSYNC | RWF_SYNC));
	struct operation op = {
		.name = durable              ? "dsync"
			: writes             ? "write"
			: flags & RWF_NOWAIT ? "nowait"
					     : "read",
		.offset = offset,
		.length = vector_length(iov, count),
		.flags = flags,
	};
	struct iovec half;
	ssize_t result;

	if (is_target(fd)) {
		if (operation_fails(&op))
			return -1;
		if (op.cut && count > 0 && iov[0].iov_len > 1) {
			half = (struct iovec){iov[0].iov_base, iov[0].iov_len / 2};
			iov = &half;
			count = 1;
		}
		result = (writes ? writev : readv)(fd, iov, count, offset, flags);
		operation_log(&op, result < 0 ? -errno : result);
		return result;
	}
	return (writes ? writev : readv)(fd, iov, count, offset, flags);
}

ssize_t pread64(int fd, void *buffer, size_t length, off64_t offset)
{
	struct iovec iov = {buffer, length};

	return vector_io(fd, &iov, 1, offset, 0, false);
}

ssize_t __pread64_chk(int fd, void *buffer, size_t length, off64_t offset, size_t room)
{
	if (length > room)
		abort();
	return pread64(fd, buffer, length, offset);
}

ssize_t pwrite64(int fd, const void *buffer, size_t length, off64_t offset)
{
	struct iovec iov = {(void *)(uintptr_t)buffer, length};

	return vector_io(fd, &iov, 1, offset, 0, true);
}

ssize_t preadv64(int fd, const struct iovec *iov, int count, off64_t offset)
{
	return vector_io(fd, iov, count, offset, 0, false);
}

ssize_t preadv64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
{
	return vector_io(fd, iov, count, offset, flags, false);
}

ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t offset)
{
	return vector_io(fd, iov, count, offset, 0, true);
}

ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
{
	return vector_io(fd, iov, count, offset, flags, true);
}

ssize_t sendfile64(int out, int fd, off64_t *offset, size_t count)
{
	ssize_t (*call)(int, int, off64_t *, size_t) = real("sendfile64");
	struct operation op = {"read", offset ? *offset : -1, (long long)count, 0, false};
	ssize_t result;

	if (!is_target(fd))
		return call(out, fd, offset, count);
	if (operation_fails(&op))
		return -1;
	result = call(out, fd, offset, op.cut ? count / 2 : count);
	operation_log(&op, result < 0 ? -errno : result);
	return result;
}

ssize_t splice(int in, off64_t *in_offset, int out, off64_t *out_offset, size_t length,
	       unsigned int flags)
{
	ssize_t (*call)(int, off64_t *, int, off64_t *, size_t, unsigned int) = real("splice");
	struct operation op = {"read", in_offset ? *in_offset : -1, (long long)length, 0, false};
	ssize_t result;

	if (!is_target(in))
		return call(in, in_offset, out, out_offset, length, flags);
	if (operation_fails(&op))
		return -1;
	result = call(in, in_offset, out, out_offset, op.cut ? length / 2 : length, flags);
	operation_log(&op, result < 0 ? -errno : result);
	return result;
}

static int sync_with(int fd, const char *name)
{
	int (*call)(int) = real(name);
	struct operation op = {"sync", 0, 0, 0, false};
	int result;

	if (!is_target(fd))
		return call(fd);
	if (operation_fails(&op))
		return -1;
	result = call(fd);
	operation_log(&op, result < 0 ? -errno : result);
	return result;
}

int fsync(int fd)
{
	return sync_with(fd, "fsync");
}

int fdatasync(int fd)
{
	return sync_with(fd, "fdatasync");
}

int syncfs(int fd)
{
	return sync_with(fd, "syncfs");
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
	int (*call)(int, int, off64_t, off64_t) = real("fallocate64");
	struct operation op = {"allocate", offset, length, mode, false};
	int result;

	if (!is_target(fd))
		return call(fd, mode, offset, length);
	if (operation_fails(&op))
		return -1;
	result = call(fd, mode, offset, length);
	operation_log(&op, result < 0 ? -errno : result);
	return result;
}

/* On 64-bit systems a program may use either name. */
ssize_t pread(int, void *, size_t, off_t) __attribute__((alias("pread64")));
ssize_t pwrite(int, const void *, size_t, off_t) __attribute__((alias("pwrite64")));
ssize_t preadv(int, const struct iovec *, int, off_t) __attribute__((alias("preadv64")));
ssize_t pwritev(int, const struct iovec *, int, off_t) __attribute__((alias("pwritev64")));
ssize_t preadv2(int, const struct iovec *, int, off_t, int) __attribute__((alias("preadv64v2")));
ssize_t pwritev2(int, const struct iovec *, int, off_t, int) __attribute__((alias("pwritev64v2")));
ssize_t sendfile(int, int, off_t *, size_t) __attribute__((alias("sendfile64")));
int fallocate(int, int, off_t, off_t) __attribute__((alias("fallocate64")));
