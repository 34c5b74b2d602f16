// SPDX-License-Identifier: MIT
/*
 * A failing host under the qcow2 driver: the n-th operation on the file fails, for every n, with
 * an I/O error, with a full disk, once or from then on. The error reaches the caller as it is;
 * what succeeded is read back at once; after closing and opening anew the image is consistent and
 * has all that the last good flush promised.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/log.h"
#include "server/image/image.h"
#include "server/image/qcow2/writer.h"

enum { DISK = 256 << 10, SECTOR = 512, SECTORS = DISK / SECTOR, OPERATIONS = 36 };

/* What fails. */
static struct {
	bool armed;
	unsigned int count, at; /* operations so far, and the first that fails */
	bool for_good;
	int code;
	unsigned int hits;
} fault;

/* The linker finds these before the C library's. */
ssize_t pwrite64(int fd, const void *buffer, size_t length, off64_t offset);
int fdatasync(int fd);
int fallocate64(int fd, int mode, off64_t offset, off64_t length);

static bool fails(void)
{
	if (!fault.armed)
		return false;
	fault.count++;
	if (fault.for_good ? fault.count < fault.at : fault.count != fault.at)
		return false;
	fault.hits++;
	errno = fault.code;
	return true;
}

ssize_t pwrite64(int fd, const void *buffer, size_t length, off64_t offset)
{
	return fails() ? -1 : syscall(SYS_pwrite64, fd, buffer, length, offset);
}

int fdatasync(int fd)
{
	return fails() ? -1 : (int)syscall(SYS_fdatasync, fd);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
	return fails() ? -1 : (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

/* ---- The disk as it must be ---- */

struct sector {
	uint8_t value;
	bool known; /* false: an operation on it failed, or it was discarded */
	bool safe;  /* a flush has succeeded since it last changed */
};

static struct sector sectors[SECTORS];
static uint8_t disk[DISK];
static unsigned int bad;
static char folder[64] = "/tmp/hawser-faults-XXXXXX";

#define complain(...)                                                                  \
	do {                                                                           \
		if (bad++ < 10) {                                                      \
			printf("# operation %u fails by %d%s: ", fault.at, fault.code, \
			       fault.for_good ? " for good" : "");                     \
			printf(__VA_ARGS__);                                           \
			putchar('\n');                                                 \
		}                                                                      \
	} while (0)

static void note(uint64_t offset, uint64_t length, uint8_t value, bool known)
{
	for (uint64_t s = offset / SECTOR; s < (offset + length) / SECTOR; s++)
		sectors[s] = (struct sector){.value = value, .known = known};
}

static int operate(struct image *image, unsigned int *seed, unsigned int number)
{
	uint64_t length = (1 + (uint64_t)rand_r(seed) / 8 % 24) * SECTOR;
	uint64_t offset = (uint64_t)rand_r(seed) / 8 % (SECTORS - 24) * SECTOR;
	uint8_t value = (uint8_t)(number + 1);
	int kind = rand_r(seed) / 16 % 9, rc;

	if (kind == 0) {
		rc = image_flush(image);
		for (int s = 0; s < SECTORS && !rc; s++)
			sectors[s].safe = sectors[s].known;
		return rc;
	}
	if (kind < 5) {
		memset(disk, value, length);
		rc = image_write(image, disk, offset, length);
		note(offset, length, value, rc == 0);
	} else if (kind < 8) {
		static const unsigned int flags[] = {0, ZERO_MAY_UNMAP, ZERO_MAY_STAY_HOLE};

		rc = image_zero(image, offset, length, flags[kind - 5]);
		note(offset, length, 0, rc == 0);
	} else {
		rc = image_discard(image, offset, length);
		note(offset, length, 0, false);
	}
	return rc;
}

static void compare(struct image *image, bool reopened)
{
	int rc = image_read(image, disk, 0, DISK);

	if (rc)
		complain("cannot be read: %s", strerror(-rc));
	for (int s = 0; s < SECTORS && !rc; s++) {
		const struct sector *sector = &sectors[s];

		if (!sector->known || (reopened && !sector->safe))
			continue;
		if (disk[s * SECTOR] != sector->value || disk[s * SECTOR + 511] != sector->value) {
			complain("sector %d is %d, not %d, %s", s, disk[s * SECTOR], sector->value,
				 reopened ? "after opening" : "at once");
			return;
		}
	}
}

static void judge(const char *path)
{
	const struct image_options options = {
		.format = "qcow2", .access = IMAGE_READ_WRITE, .discard = DISCARD_UNMAP};
	struct error err = ERROR_INIT;
	struct qcow2_check check;
	struct image *image;

	if (image_open(path, &options, &image, &err)) {
		complain("cannot be opened: %s", err.text);
		return;
	}
	if (qcow2_check(image->state, false, &check) || check.corruptions)
		complain("%llu corruptions", (unsigned long long)check.corruptions);
	compare(image, true);
	image_close(image);
}

/* One life of the image with the fault; returns how many operations reached the file. */
static unsigned int live(const char *path, unsigned int at, int code, bool for_good)
{
	const struct image_options options = {
		.format = "qcow2", .access = IMAGE_READ_WRITE, .discard = DISCARD_UNMAP};
	struct error err = ERROR_INIT;
	struct image *image;
	unsigned int seed = 5, count;

	fault.at = at;
	fault.code = code;
	fault.for_good = for_good;
	fault.count = fault.hits = 0;
	for (int s = 0; s < SECTORS; s++)
		sectors[s] = (struct sector){.value = 1, .known = true, .safe = true};
	if (image_open(path, &options, &image, &err)) {
		complain("%s", err.text);
		return 0;
	}
	fault.armed = true;
	for (unsigned int i = 0; i < OPERATIONS; i++) {
		int rc = operate(image, &seed, i + 1);

		if (rc && rc != -code && rc != -EIO)
			complain("the error is %s", strerror(-rc));
		if (rc && !fault.hits)
			complain("an error came from nowhere: %s", strerror(-rc));
	}
	compare(image, false);
	image_close(image);
	fault.armed = false;
	count = fault.count;
	judge(path);
	return count;
}

static int copy(const char *from, const char *to)
{
	char command[512];

	snprintf(command, sizeof(command), "cp %s %s", from, to);
	return system(command);
}

static int play(const char *name, const char *options, bool snapshot)
{
	char command[512], fresh[128], path[128];
	unsigned int count = 1000;

	bad = 0;
	snprintf(fresh, sizeof(fresh), "%s/fresh", folder);
	snprintf(path, sizeof(path), "%s/disk", folder);
	snprintf(command, sizeof(command),
		 "qemu-img create -q -f qcow2 -o %s %s %d && qemu-io -f qcow2 -c 'write -P 1 0 %d' "
		 "%s >/dev/null && %s %s",
		 options, fresh, DISK, DISK, fresh,
		 snapshot ? "qemu-img snapshot -c before" : "true", fresh);
	if (system(command))
		return 1;
	for (unsigned int at = 1; at <= count + 1 && !bad; at++)
		for (int way = 0; way < 4; way++) {
			if (copy(fresh, path))
				return 1;
			count = live(path, at, way & 1 ? ENOSPC : EIO, way & 2);
		}
	printf("%s %s\n", bad ? "not ok" : "ok", name);
	return bad != 0;
}

int main(void)
{
	char command[128];
	int failed = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	log_init("crash-qcow2-faults");
	log_threshold = LOG_LEVEL_ERROR;
	if (system("qemu-img --version >/dev/null 2>&1"))
		return 77;
	/* The driver says of each fault that it cannot go on. */
	if (!freopen("/dev/null", "w", stderr))
		return 1;
	if (access("/dev/shm", W_OK) == 0)
		strcpy(folder, "/dev/shm/hawser-faults-XXXXXX");
	if (!mkdtemp(folder))
		return 77;
	failed |= play("clusters of 512, snapshot", "cluster_size=512", true);
	failed |= play("clusters of 4096, snapshot", "cluster_size=4096", true);
	failed |= play("clusters of 64K", "cluster_size=65536", false);
	failed |= play("subclusters", "cluster_size=16384,extended_l2=on", true);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command) ? 1 : failed;
}
