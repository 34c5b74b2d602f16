// SPDX-License-Identifier: MIT
/*
 * The qcow2 driver where time and memory matter: more metadata than its cache holds, slices that
 * change while they are read, clusters that are freed while somebody reads them. On a temporary
 * overlay over an empty disk. This program's pread64 takes the place of the C library's, so that
 * something can happen in the middle of a read.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "server/image/epoch.h"
#include "server/image/image.h"
#include "server/image/qcow2/cache.h"
#include "server/image/qcow2/writer.h"

enum { SECTOR = 512, CLUSTER = 65536, TABLE_ENTRIES = CLUSTER / 8 };

enum { IN_BASE = 5 * CLUSTER }; /* the cluster that the disk below has */

#define STRIDE (UINT64_C(512) * CLUSTER)        /* guest bytes of one slice of an L2 table */
#define SLICES (QCOW2_CACHE_BYTES / 4096 + 900) /* more than are kept */

static char path[64];
static struct image *image;
static struct qcow2 *q;

/* Happens once, when a file is read at this offset: after the bytes have been read. */
static struct {
	const struct hostfile *file;
	uint64_t offset; /* 0: never */
	void (*happen)(void);
} event;

static atomic_uint reads; /* of any file, until now */

ssize_t pread64(int fd, void *buffer, size_t length, off64_t offset);

ssize_t pread64(int fd, void *buffer, size_t length, off64_t offset)
{
	ssize_t got = syscall(SYS_pread64, fd, buffer, length, offset);
	bool now = event.offset && (uint64_t)offset == event.offset && fd == event.file->fd;

	reads++;
	if (now) {
		event.offset = 0;
		event.happen();
	}
	return got;
}

static void setup(void)
{
	const struct image_options options = {
		.format = "raw", .access = IMAGE_READ_WRITE, .discard = DISCARD_UNMAP};
	struct error err = ERROR_INIT;
	const char *folder = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
	int fd;

	snprintf(path, sizeof(path), "%s/hawser-qcow2-write-XXXXXX", folder);
	fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, (off_t)(SLICES * STRIDE)), 0);
	ck_assert_int_eq(pwrite(fd, "base", 4, IN_BASE), 4);
	close(fd);
	ck_assert_int_eq(setenv("TMPDIR", folder, 1), 0);
	ck_assert_msg(image_open_temporary(path, &options, &image, &err) == 0, "%s", err.text);
	q = image->state;
	event.offset = 0;
}

static void teardown(void)
{
	image_close(image);
	unlink(path);
}

static void put(uint64_t offset, uint32_t value)
{
	uint32_t sector[SECTOR / 4];

	for (size_t i = 0; i < SECTOR / 4; i++)
		sector[i] = value;
	ck_assert_int_eq(image_write(image, sector, offset, SECTOR), 0);
}

static uint32_t get(uint64_t offset)
{
	uint32_t sector[SECTOR / 4];

	ck_assert_int_eq(image_read(image, sector, offset, SECTOR), 0);
	/* One assertion: each is a message to the parent, and there are many sectors. */
	ck_assert_int_eq(memcmp(sector, sector + 1, SECTOR - sizeof(*sector)), 0);
	return sector[0];
}

/* A cluster for each slice, and with them more slices than the cache can hold. */
static void fill(void)
{
	for (uint32_t i = 0; i < SLICES; i++)
		put(i * STRIDE, i + 1);
}

/* Reads them all, twice: of the cache's slots none is left as it was. */
static void read_all(void)
{
	for (int pass = 0; pass < 2; pass++)
		for (uint32_t i = 1; i < SLICES; i++)
			ck_assert_uint_eq(get(i * STRIDE), i + 1);
}

START_TEST(test_more_than_the_cache)
{
	fill();
	ck_assert_uint_eq(get(0), 1);
	read_all();
	ck_assert_int_eq(qcow2_flush(image), 0);
	ck_assert_uint_eq(q->cache->dirty_count, 0);
	ck_assert_uint_eq(q->cache->pinned, 0);
	read_all();
	for (uint32_t i = 0; i < SLICES; i += 7)
		put(i * STRIDE + CLUSTER, ~i);
	for (uint32_t i = 0; i < SLICES; i += 7)
		ck_assert_uint_eq(get(i * STRIDE + CLUSTER), ~i);
	ck_assert_uint_eq(get(0), 1);
}
END_TEST

/* ---- A slice that changes while it is read ---- */

static uint64_t table_of(uint64_t offset)
{
	return atomic_load(&q->l1[offset / CLUSTER / TABLE_ENTRIES]) & QCOW2_OFFSET_MASK;
}

static void change_flush_evict(void)
{
	put(CLUSTER, 77);
	ck_assert_int_eq(qcow2_flush(image), 0);
	read_all();
}

START_TEST(test_slice_changes_while_it_is_read)
{
	fill();
	ck_assert_int_eq(qcow2_flush(image), 0);
	read_all(); /* the first slice is no longer in memory */
	event.happen = change_flush_evict;
	event.file = q->file;
	event.offset = table_of(0);
	ck_assert_uint_eq(get(0), 1);
	ck_assert_uint_eq(event.offset, 0);
	ck_assert_uint_eq(get(CLUSTER), 77);
}
END_TEST

/* ---- Two who change one cluster ---- */

static struct {
	pthread_t thread;
	void (*change)(void);
	atomic_int number; /* the kernel's, of the thread */
	atomic_bool done;
} other;

static void *change_beside(void *argument)
{
	atomic_store(&other.number, (int)gettid());
	other.change();
	atomic_store(&other.done, true);
	return argument;
}

static bool other_sleeps(void)
{
	char name[64], text[256] = "";
	const char *state;
	FILE *file;

	snprintf(name, sizeof(name), "/proc/self/task/%d/stat", atomic_load(&other.number));
	file = fopen(name, "r");
	if (!file)
		return false;
	if (!fgets(text, sizeof(text), file))
		*text = '\0';
	fclose(file);
	state = strrchr(text, ')');
	return state && state[1] == ' ' && state[2] == 'S';
}

/* In the middle of the first change: the other one goes on until it is done, or waits. */
static void let_the_other_change(void)
{
	int asleep = 0;

	ck_assert_int_eq(pthread_create(&other.thread, NULL, change_beside, NULL), 0);
	while (!atomic_load(&other.done) && asleep < 5) {
		usleep(1000);
		asleep = other_sleeps() ? asleep + 1 : 0;
	}
}

/* Writes to the cluster, so that what is before has to be copied; change happens meanwhile, after
 * that was read and before it is written. */
static void write_while(void (*change)(void))
{
	other.change = change;
	atomic_store(&other.number, 0);
	atomic_store(&other.done, false);
	event.happen = let_the_other_change;
	event.file = q->backing->file;
	event.offset = IN_BASE;
	put(IN_BASE + 64 * SECTOR, 1);
	ck_assert_uint_eq(event.offset, 0);
	ck_assert_int_eq(pthread_join(other.thread, NULL), 0);
}

static void check_counts(void)
{
	struct qcow2_check result;

	ck_assert_int_eq(qcow2_flush(image), 0);
	ck_assert_int_eq(qcow2_flush(image), 0);
	ck_assert_int_eq(qcow2_check(q, false, &result), 0);
	ck_assert_uint_eq(result.corruptions, 0);
	ck_assert_uint_eq(result.leaks, 0);
}

static void write_before(void)
{
	put(IN_BASE + 8 * SECTOR, 2);
}

START_TEST(test_two_writers_of_a_new_cluster)
{
	write_while(write_before);
	ck_assert_uint_eq(get(IN_BASE + 64 * SECTOR), 1);
	ck_assert_uint_eq(get(IN_BASE + 8 * SECTOR), 2);
	check_counts();
}
END_TEST

static void zero_all(void)
{
	ck_assert_int_eq(image_zero(image, IN_BASE, CLUSTER, ZERO_MAY_UNMAP), 0);
}

static void reserve_all(void)
{
	ck_assert_int_eq(image_zero(image, IN_BASE, CLUSTER, 0), 0);
}

static void discard_all(void)
{
	ck_assert_int_eq(image_discard(image, IN_BASE, CLUSTER), 0);
}

START_TEST(test_zeroes_beside_a_writer)
{
	static void (*const changes[])(void) = {zero_all, reserve_all, discard_all};
	char bytes[4];

	write_while(changes[_i]);
	ck_assert_uint_le(get(IN_BASE + 64 * SECTOR), 1);
	ck_assert_int_eq(image_read(image, bytes, IN_BASE, sizeof(bytes)), 0);
	ck_assert_int_eq(memcmp(bytes, "\0\0\0\0", 4), 0);
	check_counts();
}
END_TEST

/* ---- Writes that the engine's thread may do itself ---- */

static bool is_quick(uint64_t offset, uint64_t length)
{
	uint32_t piece;

	return image_write_is_quick(image, offset, length, &piece);
}

/* What is called quick reads nothing. */
static void write_quickly(uint64_t offset, uint64_t length)
{
	AUTO_FREE uint8_t *bytes = calloc(1, length);
	unsigned int before = reads;

	memset(bytes, 7, length);
	ck_assert(is_quick(offset, length));
	ck_assert_int_eq(image_write(image, bytes, offset, length), 0);
	ck_assert_uint_eq(reads, before);
}

START_TEST(test_what_is_quick)
{
	ck_assert(!is_quick(CLUSTER, CLUSTER)); /* the first write has more to do */
	put(0, 1);
	ck_assert(!is_quick(0, CLUSTER));                   /* there are clusters already */
	ck_assert(!is_quick(IN_BASE + SECTOR, SECTOR));     /* bytes from below around it */
	ck_assert(!is_quick(IN_BASE - SECTOR, 2 * SECTOR)); /* at one end */
	write_quickly(IN_BASE, CLUSTER);
	write_quickly(2 * CLUSTER + SECTOR, SECTOR);
	write_quickly(8 * CLUSTER, 3 * CLUSTER);
}
END_TEST

START_TEST(test_shared_table_is_not_quick)
{
	put(0, 1);
	ck_assert(is_quick(CLUSTER, CLUSTER));
	atomic_fetch_and(&q->l1[0], ~QCOW2_COPIED);
	ck_assert(!is_quick(CLUSTER, CLUSTER));
	atomic_fetch_or(&q->l1[0], QCOW2_COPIED);
	write_quickly(CLUSTER, CLUSTER);
}
END_TEST

START_TEST(test_search_for_room_is_not_quick)
{
	uint64_t per_block = qcow2_block_refcounts(&q->header);
	struct qcow2_block *block;
	uint8_t *bytes;

	put(0, 1);
	block = &q->writer->blocks[q->writer->next_free / per_block];
	bytes = block->bytes;
	block->bytes = NULL; /* as if it had gone out of memory */
	ck_assert(!is_quick(CLUSTER, CLUSTER));
	block->bytes = bytes;
	write_quickly(CLUSTER, CLUSTER);
}
END_TEST

START_TEST(test_used_room_is_not_quick)
{
	put(0, 1);
	ck_assert_int_eq(qcow2_flush(image), 0);
	epoch_enter();
	ck_assert_int_eq(image_discard(image, 0, CLUSTER), 0);
	ck_assert_int_eq(qcow2_flush(image), 0);
	ck_assert(!is_quick(CLUSTER, CLUSTER)); /* the discarded cluster would be released first */
	epoch_leave();
	ck_assert_int_eq(qcow2_flush(image), 0);
	/* Now it is free, and has old bytes in it: only a whole cluster needs no more. */
	ck_assert(!is_quick(CLUSTER + SECTOR, SECTOR));
	write_quickly(CLUSTER, CLUSTER);
}
END_TEST

static bool quick_beside;

static void ask_for_the_same(void)
{
	quick_beside = is_quick(IN_BASE, CLUSTER);
	ck_assert(is_quick(IN_BASE + CLUSTER, CLUSTER));
}

START_TEST(test_claimed_cluster_is_not_quick)
{
	put(0, 1);
	quick_beside = true;
	write_while(ask_for_the_same);
	ck_assert(!quick_beside);
}
END_TEST

/* ---- Tables that are new ---- */

START_TEST(test_new_tables_are_guarded)
{
	uint8_t entry[8];

	fill();
	ck_assert_int_eq(qcow2_flush(image), 0);
	read_all();
	/* The file says that a guest cluster is where another table is. */
	store_be64(entry, table_of(SLICES / 2 * STRIDE) | QCOW2_COPIED);
	ck_assert_int_eq(pwrite(q->file->fd, entry, 8, (off_t)(table_of(0) + 8)), 8);
	memset(entry, 0, sizeof(entry));
	ck_assert_int_eq(image_write(image, entry, CLUSTER, sizeof(entry)), -EIO);
	ck_assert_uint_eq(get(SLICES / 2 * STRIDE), SLICES / 2 + 1);
}
END_TEST

/* ---- Clusters that are freed while somebody reads them ---- */

START_TEST(test_freed_cluster_waits_for_readers)
{
	struct extent extent;
	uint32_t sector[SECTOR / 4];
	int rounds = 0;

	put(0, 1);
	ck_assert_int_eq(qcow2_flush(image), 0);
	epoch_enter();
	ck_assert_int_eq(image_map(image, 0, SECTOR, MAP_READ, 0, &extent), 0);
	ck_assert_int_eq(extent.kind, EXTENT_FILE);
	ck_assert_int_eq(image_discard(image, 0, CLUSTER), 0);
	for (uint64_t i = 1; i < 8; i++) {
		ck_assert_int_eq(qcow2_flush(image), 0);
		put(i * CLUSTER, 100 + (uint32_t)i);
	}
	ck_assert_int_eq(hostfile_read(extent.file, sector, SECTOR, extent.file_offset), 0);
	ck_assert_uint_eq(sector[0], 1);
	epoch_leave();
	/* Now its place is given to others. */
	for (uint64_t i = 8; sector[0] == 1 || sector[0] == 0; i++) {
		ck_assert_int_lt(rounds++, 8);
		ck_assert_int_eq(qcow2_flush(image), 0);
		put(i * CLUSTER, 100 + (uint32_t)i);
		ck_assert_int_eq(hostfile_read(extent.file, sector, SECTOR, extent.file_offset), 0);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("qcow2-write");
	TCase *tcase = tcase_create("time");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(tcase, 120);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, test_more_than_the_cache);
	tcase_add_test(tcase, test_slice_changes_while_it_is_read);
	tcase_add_test(tcase, test_two_writers_of_a_new_cluster);
	tcase_add_loop_test(tcase, test_zeroes_beside_a_writer, 0, 3);
	tcase_add_test(tcase, test_what_is_quick);
	tcase_add_test(tcase, test_shared_table_is_not_quick);
	tcase_add_test(tcase, test_search_for_room_is_not_quick);
	tcase_add_test(tcase, test_used_room_is_not_quick);
	tcase_add_test(tcase, test_claimed_cluster_is_not_quick);
	tcase_add_test(tcase, test_new_tables_are_guarded);
	tcase_add_test(tcase, test_freed_cluster_waits_for_readers);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
