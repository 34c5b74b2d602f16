// SPDX-License-Identifier: MIT
/*
 * A failing host under the qcow2 driver, on images of all pairs of features: the n-th operation on
 * the files fails, for every n, with an I/O error (of reads, too) or with a full disk, once or from
 * then on. The error reaches the caller as it is; what succeeded is read back at once, and the
 * image can be read on; after closing and opening anew the image is consistent and has all that the
 * last good flush promised, and its snapshot is what it was. An error of the host never makes an
 * image count as corrupt.
 *
 *   crash-qcow2-faults [-a] [-f "AXIS=VALUE ..."]     -a: each n in all four ways
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/log.h"
#include "features.h"
#include "server/image/image.h"

enum {
	SECTOR = FEATURES_SECTOR,
	SECTORS = 512 + 5,
	DISK = SECTORS * SECTOR,
	OPERATIONS = 44,
	LONGEST = 24,    /* sectors */
	VALUE_FIRST = 3, /* below: those of the layers */
	QEMU_EVERY = 40,
};

/* What fails. */
static struct {
	bool armed;
	unsigned int count, at; /* operations so far, and the first that fails */
	bool for_good;
	int code;
	unsigned int hits;
} fault;

/* The linker finds these before the C library's. */
ssize_t pread64(int fd, void *buffer, size_t length, off64_t offset);
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

ssize_t pread64(int fd, void *buffer, size_t length, off64_t offset)
{
	/* A full disk can be read. */
	return fault.code == EIO && fails() ? -1 : syscall(SYS_pread64, fd, buffer, length, offset);
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
static uint8_t bytes[DISK];
static unsigned int bad;
static unsigned int went_on; /* writes that succeeded after a fault */
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

static void content(uint8_t *sector, uint64_t number, enum layer layer)
{
	(void)number;
	memset(sector, (int)layer, SECTOR);
}

static void note(uint64_t offset, uint64_t length, uint8_t value, bool known)
{
	for (uint64_t s = offset / SECTOR; s < (offset + length) / SECTOR; s++)
		sectors[s] = (struct sector){.value = value, .known = known};
}

static int operate(struct image *image, unsigned int *seed, unsigned int number)
{
	uint64_t length = (1 + (uint64_t)rand_r(seed) / 8 % LONGEST) * SECTOR;
	uint64_t offset = (uint64_t)rand_r(seed) / 8 % (SECTORS - LONGEST) * SECTOR;
	uint8_t value = (uint8_t)(number + VALUE_FIRST);
	int kind = rand_r(seed) / 16 % 9, rc;

	if (kind == 0) {
		rc = image_flush(image);
		for (int s = 0; s < SECTORS && !rc; s++)
			sectors[s].safe = sectors[s].known;
		return rc;
	}
	if (kind < 5) {
		memset(bytes, value, length);
		rc = image_write(image, bytes, offset, length);
		note(offset, length, value, rc == 0);
		went_on += rc == 0 && fault.hits;
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
	int rc = image_read(image, bytes, 0, DISK);

	if (rc)
		complain("cannot be read: %s", strerror(-rc));
	for (int s = 0; s < SECTORS && !rc; s++) {
		const struct sector *sector = &sectors[s];

		if (!sector->known || (reopened && !sector->safe))
			continue;
		if (bytes[s * SECTOR] != sector->value ||
		    bytes[s * SECTOR + 511] != sector->value) {
			complain("sector %d is %d, not %d, %s", s, bytes[s * SECTOR], sector->value,
				 reopened ? "after opening" : "at once");
			return;
		}
	}
}

static void judge_snapshot(const struct disk *disk)
{
	const struct image_options options = {
		.format = "qcow2", .access = IMAGE_READ_ONLY, .load_snapshot = "before"};
	struct error err = ERROR_INIT;
	struct image *image;
	int rc;

	if (features_has(disk->row, AXIS_SNAPSHOT, "no"))
		return;
	if (image_open(disk->path, &options, &image, &err)) {
		complain("the snapshot: %s", err.text);
		return;
	}
	rc = image_read(image, bytes, 0, DISK);
	for (int s = 0; s < SECTORS && !rc; s++)
		rc = bytes[s * SECTOR] != disk_layer(disk, (uint64_t)s);
	if (rc)
		complain("the snapshot has changed (%d)", rc);
	image_close(image);
}

static void judge(const struct disk *disk)
{
	const struct image_options options = {
		.format = "qcow2", .access = IMAGE_READ_WRITE, .discard = DISCARD_UNMAP};
	struct error err = ERROR_INIT;
	struct image *image;
	int64_t corruptions;
	int rc;

	if (image_open(disk->path, &options, &image, &err)) {
		complain("cannot be opened: %s", err.text);
		return;
	}
	corruptions = disk_corruptions(image);
	if (corruptions)
		complain("%lld corruptions", (long long)corruptions);
	compare(image, true);
	image_close(image);
	judge_snapshot(disk);
	if (fault.at % QEMU_EVERY)
		return;
	rc = disk_ask_qemu(disk);
	if (rc != 0 && rc != 3)
		complain("qemu-img check: %d", rc);
}

/* ---- Lives ---- */

/* One life of the image with the fault; returns how many operations reached the files. */
static unsigned int live(const struct disk *disk)
{
	const struct image_options options = {
		.format = "qcow2", .access = IMAGE_READ_WRITE, .discard = DISCARD_UNMAP};
	struct error err = ERROR_INIT;
	struct image *image;
	unsigned int seed = 15; /* flushes nine times, the last time at the end */

	for (uint64_t s = 0; s < SECTORS; s++)
		sectors[s] = (struct sector){
			.value = (uint8_t)disk_layer(disk, s), .known = true, .safe = true};
	if (image_open(disk->path, &options, &image, &err)) {
		complain("%s", err.text);
		return 0;
	}
	fault.armed = true;
	for (unsigned int i = 0; i < OPERATIONS; i++) {
		int rc = operate(image, &seed, i);

		if (rc && rc != -fault.code && rc != -EIO)
			complain("the error is %s", strerror(-rc));
		if (rc && !fault.hits)
			complain("an error came from nowhere: %s", strerror(-rc));
	}
	fault.armed = false; /* the disk that failed is read again */
	compare(image, false);
	fault.armed = true;
	image_close(image);
	fault.armed = false;
	return fault.count;
}

/* The files as they were made. */
struct fresh {
	uint8_t *bytes[2];
	size_t size[2];
};

/* A life on fresh files; way: bit 0 a full disk, bit 1 for good. Operations. */
static unsigned int live_anew(const struct disk *disk, const struct fresh *fresh, unsigned int at,
			      unsigned int way)
{
	unsigned int count;

	fault.at = at;
	fault.code = way & 1 ? ENOSPC : EIO;
	fault.for_good = way & 2;
	fault.count = fault.hits = 0;
	if (!file_store(disk->path, fresh->bytes[0], fresh->size[0]) ||
	    (*disk->data && !file_store(disk->data, fresh->bytes[1], fresh->size[1])))
		complain("no room for the files");
	count = live(disk);
	judge(disk);
	return count;
}

/* In a short run an operation fails in two of four ways. */
static bool is_wanted(unsigned int at, unsigned int way, bool all_ways)
{
	return all_ways || ((way ^ way >> 1 ^ at) & 1);
}

static int play(const struct features *row, bool all_ways)
{
	struct disk disk = {.row = row, .folder = folder, .sectors = SECTORS, .content = content};
	struct fresh fresh;
	unsigned int count, step = 1;

	bad = went_on = 0;
	if (disk_make(&disk)) {
		printf("not ok %s: cannot make the image\n", features_name(row));
		return 1;
	}
	fresh.bytes[0] = file_load(disk.path, &fresh.size[0]);
	fresh.bytes[1] = file_load(disk.data, &fresh.size[1]);
	count = live_anew(&disk, &fresh, UINT_MAX, 0);
	if (features_has(row, AXIS_CLUSTER, "2097152") && !all_ways)
		step = 1 + count / 16; /* their tables are long, each life takes its time */
	for (unsigned int at = 1; at <= count && !bad; at += step)
		for (unsigned int way = 0; way < 4; way++)
			if (is_wanted(at, way, all_ways))
				live_anew(&disk, &fresh, at, way);
	if (!went_on)
		complain("nothing could be written after a fault that was not for good");
	printf("%s %s: %u operations\n", bad ? "not ok" : "ok", features_name(row), count);
	free(fresh.bytes[0]);
	free(fresh.bytes[1]);
	return bad != 0;
}

static int play_all(bool all_ways)
{
	static struct features rows[FEATURES_MAX];
	size_t count = features_pairwise(rows, AXIS_WAY, 7);
	int failed = 0;

	for (size_t i = 0; i < count; i++)
		failed |= play(&rows[i], all_ways);
	return failed;
}

int main(int argc, char **argv)
{
	const char *words = NULL;
	struct features row;
	bool all_ways = false;
	int option, failed;

	while ((option = getopt(argc, argv, "af:")) != -1) {
		all_ways |= option == 'a';
		if (option == 'f')
			words = optarg;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	log_init("crash-qcow2-faults");
	log_threshold = LOG_LEVEL_ERROR;
	if (run("qemu-img --version >/dev/null 2>&1"))
		return 77;
	/* The driver says of each fault that it cannot go on. */
	if (!freopen("/dev/null", "w", stderr))
		return 1;
	if (access("/dev/shm", W_OK) == 0)
		strcpy(folder, "/dev/shm/hawser-faults-XXXXXX");
	if (!mkdtemp(folder))
		return 77;
	row = features_of(words ? words : "");
	failed = words ? play(&row, all_ways) : play_all(all_ways);
	run("rm -rf %s", folder);
	return failed;
}
