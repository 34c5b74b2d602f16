// SPDX-License-Identifier: MIT
/*
 * Exports: the arithmetic of windows up to the last byte that there can be, what is told of them,
 * and the flush error that is never forgotten. Most of it over a driver that only writes down what
 * it is asked for.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/nbd-protocol.h"
#include "server/export.h"

#define LAST ((uint64_t)INT64_MAX)

/* ---- A driver that remembers ---- */

static struct {
	uint64_t offset, length; /* of the last call */
	unsigned int calls, flushes, flags;
	int flush_result;
	uint64_t run; /* what map answers at most */
	bool hole;
} seen;

static int note(uint64_t offset, uint64_t length)
{
	seen.offset = offset;
	seen.length = length;
	seen.calls++;
	return 0;
}

static int note_map(struct image *image, uint64_t offset, uint64_t length, enum map_intent intent,
		    unsigned int flags, struct extent *extent)
{
	(void)image, (void)intent, (void)flags;
	*extent = (struct extent){
		.kind = EXTENT_ZERO, .hole = seen.hole, .length = min_of(length, seen.run)};
	return note(offset, length);
}

static int note_zero(struct image *image, uint64_t offset, uint64_t length, unsigned int flags)
{
	(void)image;
	seen.flags = flags;
	return note(offset, length);
}

static int note_discard(struct image *image, uint64_t offset, uint64_t length)
{
	(void)image;
	return note(offset, length);
}

static int note_flush(struct image *image)
{
	(void)image;
	seen.flushes++;
	return seen.flush_result;
}

static const struct image_driver driver = {.name = "note",
					   .map = note_map,
					   .zero = note_zero,
					   .discard = note_discard,
					   .flush = note_flush};
static struct image image;
static struct export export;
static struct error err;
static char path[] = "/tmp/hawser-export-XXXXXX";

static void setup(void)
{
	memset(&seen, 0, sizeof(seen));
	seen.run = UINT64_MAX;
	image = (struct image){.driver = &driver, .size = LAST, .options.discard = DISCARD_UNMAP};
	export = (struct export){.name = "x", .image = &image, .offset = 0, .size = LAST};
	err = (struct error)ERROR_INIT;
}

/* ---- Windows ---- */

START_TEST(test_contains)
{
	const struct {
		uint64_t offset, length, size;
		bool inside;
	} rows[] = {
		{0, 0, 0, true},
		{0, 1, 0, false},
		{1, 0, 0, false},
		{0, LAST, LAST, true},
		{LAST, 0, LAST, true},
		{LAST - 1, 1, LAST, true},
		{LAST, 1, LAST, false},
		{LAST - 1, 2, LAST, false},
		{1, LAST, LAST, false},
		{LAST + 1, 0, LAST, false},
		{UINT64_MAX, 1, LAST, false},
		{1, UINT64_MAX, LAST, false},
		{UINT64_MAX, UINT64_MAX, LAST, false},
		{LAST + 1, LAST + 1, LAST, false},
		{4096, UINT64_MAX - 4095, LAST, false},
	};

	export.size = rows[_i].size;
	ck_assert(export_contains(&export, rows[_i].offset, rows[_i].length) == rows[_i].inside);
}
END_TEST

/* Offsets of the window become those of the image, to the last byte. */
START_TEST(test_offsets)
{
	const uint64_t offsets[] = {0, 1, 4096, LAST - 4096, LAST - 1};
	struct extent extent;

	export.offset = offsets[_i];
	export.size = LAST - offsets[_i];
	ck_assert_int_eq(export_map(&export, export.size - 1, 1, MAP_READ, 0, &extent), 0);
	ck_assert_uint_eq(seen.offset, LAST - 1);
	ck_assert_int_eq(export_zero(&export, 0, export.size, 0), 0);
	ck_assert_uint_eq(seen.offset, offsets[_i]);
	ck_assert_uint_eq(seen.offset + seen.length, LAST);
	ck_assert_int_eq(export_discard(&export, 0, 1), 0);
	ck_assert_uint_eq(seen.offset, offsets[_i]);
}
END_TEST

/* Where the image keeps what it has, nothing is discarded and zeroes free nothing. */
START_TEST(test_discard_ignored)
{
	image.options.discard = DISCARD_IGNORE;
	ck_assert_int_eq(export_discard(&export, 0, LAST), 0);
	ck_assert_uint_eq(seen.calls, 0);
	ck_assert_int_eq(export_zero(&export, 0, 5, ZERO_MAY_UNMAP | ZERO_FAST), 0);
	ck_assert_uint_eq(seen.flags, ZERO_MAY_STAY_HOLE | ZERO_FAST);
	ck_assert_int_eq(export_zero(&export, 0, 5, 0), 0);
	ck_assert_uint_eq(seen.flags, 0);
	image.options.discard = DISCARD_UNMAP;
	ck_assert_int_eq(export_zero(&export, 0, 5, ZERO_MAY_UNMAP), 0);
	ck_assert_uint_eq(seen.flags, ZERO_MAY_STAY_HOLE | ZERO_MAY_UNMAP);
}
END_TEST

/* A read goes through as many extents as there are. */
START_TEST(test_read_in_runs)
{
	uint8_t buffer[1000];

	export.offset = 77;
	seen.run = 300;
	memset(buffer, 1, sizeof(buffer));
	ck_assert_int_eq(export_read(&export, buffer, 5, sizeof(buffer)), 0);
	ck_assert_uint_eq(seen.calls, 4);
	ck_assert_uint_eq(seen.offset, 77 + 5 + 900);
	ck_assert_uint_eq(seen.length, 100);
	for (size_t i = 0; i < sizeof(buffer); i++)
		ck_assert_uint_eq(buffer[i], 0);
}
END_TEST

/* A hole that ends within a sector is told up to that sector, which is data (S98). */
START_TEST(test_extents_end_at_sectors)
{
	const struct {
		uint64_t offset, length, run, told;
		bool hole;
	} rows[] = {
		{0, 4096, 4096, 4096, true},  {0, 4096, 1024, 1024, true},
		{0, 4096, 1100, 1024, true},  {0, 4096, 100, 512, false},
		{100, 4096, 100, 412, false}, {100, 4096, 500, 412, true},
		{100, 200, 100, 200, false},  {100, 50, 50, 50, true},
		{1024, 99, 98, 99, false},
	};
	struct extent extent;

	seen.hole = true;
	seen.run = rows[_i].run;
	ck_assert_int_eq(
		export_map(&export, rows[_i].offset, rows[_i].length, MAP_STATUS, 0, &extent), 0);
	ck_assert_uint_eq(extent.length, rows[_i].told);
	ck_assert(extent.hole == rows[_i].hole);
	ck_assert(rows[_i].hole || extent.kind == EXTENT_OPAQUE);
}
END_TEST

/* ---- Flush ---- */

START_TEST(test_flush_error_stays)
{
	ck_assert_int_eq(export_flush(&export), 0);
	seen.flush_result = -EIO;
	ck_assert_int_eq(export_flush(&export), -EIO);
	/* The kernel has told it once and would now say that all is well. */
	seen.flush_result = 0;
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(export_flush(&export), -EIO);
	seen.flush_result = -ENOSPC;
	ck_assert_int_eq(export_flush(&export), -EIO);
	ck_assert_uint_eq(seen.flushes, 2);
}
END_TEST

/* ---- What is told ---- */

START_TEST(test_flags)
{
	const unsigned int writing =
		NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
	const unsigned int always =
		NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;

	export.multi_conn = true;
	ck_assert_uint_eq(export_flags(&export, export.read_only, false, false, false),
			  always | writing | NBD_FLAG_CAN_MULTI_CONN);
	export.multi_conn = false;
	export.read_only = true;
	ck_assert_uint_eq(export_flags(&export, export.read_only, false, false, false),
			  always | NBD_FLAG_READ_ONLY);
	ck_assert_uint_eq(export_flags(&export, export.read_only, true, false, true),
			  always | NBD_FLAG_READ_ONLY | NBD_FLAG_SEND_DF);
	ck_assert_uint_eq(export_flags(&export, export.read_only, false, true, false),
			  always | NBD_FLAG_READ_ONLY | NBD_FLAG_SEND_DF);
	ck_assert_uint_eq(export_flags(&export, export.read_only, false, true, true),
			  always | NBD_FLAG_READ_ONLY | NBD_FLAG_SEND_DF |
				  NBD_FLAG_BLOCK_STATUS_PAYLOAD);
}
END_TEST

/* ---- Opening ---- */

static int open_window(uint64_t offset)
{
	const struct export_config config = {.file = path,
					     .format = "raw",
					     .name = "disk",
					     .offset = offset,
					     .access = IMAGE_READ_WRITE};

	return export_open(&export, &config, &err);
}

static void make_file(void)
{
	int fd = mkstemp(path);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, 10000), 0);
	close(fd);
}

static void remove_file(void)
{
	unlink(path);
	strcpy(path + strlen(path) - 6, "XXXXXX");
}

START_TEST(test_open_window)
{
	const uint64_t offsets[] = {0, 1, 9999, 10000};

	make_file();
	ck_assert_msg(open_window(offsets[_i]) == 0, "%s", err.text);
	ck_assert_uint_eq(export.size, 10000 - offsets[_i]);
	ck_assert_str_eq(export.name, "disk");
	ck_assert(!export.read_only);
	export_close(&export);
	remove_file();
}
END_TEST

START_TEST(test_open_beyond)
{
	const uint64_t offsets[] = {10001, LAST, LAST + 1, UINT64_MAX};

	make_file();
	ck_assert_int_eq(open_window(offsets[_i]), -EINVAL);
	ck_assert_msg(strstr(err.text, "Invalid offset") != NULL, "%s", err.text);
	ck_assert_ptr_null(export.image);
	/* Nothing is held: it can be opened anew. */
	ck_assert_int_eq(open_window(0), 0);
	export_close(&export);
	remove_file();
}
END_TEST

/* A window's writes stay in it, byte for byte. */
START_TEST(test_window_of_a_file)
{
	uint8_t bytes[10000], expected[10000];
	int fd;

	make_file();
	ck_assert_int_eq(open_window(777), 0);
	memset(bytes, 0xaa, sizeof(bytes));
	ck_assert_int_eq(export_write(&export, bytes, 0, export.size), 0);
	ck_assert_int_eq(export_zero(&export, 1, 600, ZERO_MAY_UNMAP), 0);
	ck_assert_int_eq(export_zero(&export, export.size - 1, 1, 0), 0);
	ck_assert_int_eq(export_flush(&export), 0);
	memset(expected, 0, 777);
	memset(expected + 777, 0xaa, sizeof(expected) - 777);
	memset(expected + 778, 0, 600);
	expected[9999] = 0;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(read(fd, bytes, sizeof(bytes)), sizeof(bytes));
	ck_assert_int_eq(lseek(fd, 0, SEEK_END), sizeof(bytes));
	ck_assert_int_eq(memcmp(bytes, expected, sizeof(bytes)), 0);
	close(fd);
	export_close(&export);
	remove_file();
}
END_TEST

/* A file that was cut under us gives an error, no made-up zeroes. */
START_TEST(test_file_was_cut)
{
	uint8_t bytes[4096];

	make_file();
	ck_assert_int_eq(open_window(0), 0);
	memset(bytes, 0x55, sizeof(bytes));
	ck_assert_int_eq(export_write(&export, bytes, 4096, 4096), 0);
	ck_assert_int_eq(export_read(&export, bytes, 4096, 4096), 0);
	ck_assert_int_eq(truncate(path, 5000), 0);
	ck_assert_int_eq(export_read(&export, bytes, 4096, 904), 0);
	/* What is past the new end may be told as a hole or as an error, not as data. */
	memset(bytes, 0x55, sizeof(bytes));
	if (export_read(&export, bytes, 5000, 1000) == 0)
		for (int i = 0; i < 1000; i++)
			ck_assert_uint_eq(bytes[i], 0);
	export_close(&export);
	remove_file();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("export");
	TCase *tcase = tcase_create("export");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, setup, NULL);
	tcase_add_loop_test(tcase, test_contains, 0, 15);
	tcase_add_loop_test(tcase, test_offsets, 0, 5);
	tcase_add_test(tcase, test_discard_ignored);
	tcase_add_test(tcase, test_read_in_runs);
	tcase_add_loop_test(tcase, test_extents_end_at_sectors, 0, 9);
	tcase_add_test(tcase, test_flush_error_stays);
	tcase_add_test(tcase, test_flags);
	tcase_add_loop_test(tcase, test_open_window, 0, 4);
	tcase_add_loop_test(tcase, test_open_beyond, 0, 4);
	tcase_add_test(tcase, test_window_of_a_file);
	tcase_add_test(tcase, test_file_was_cut);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
