// SPDX-License-Identifier: MIT
/*
 * Host files on tmpfs and on a disk's file system: what one knows and the other does not must end
 * in the same bytes. Each test runs in both places (the loop's number).
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/image/hostfile.h"

enum { SIZE = 1 << 20, ODD = SIZE + 333, PLACES = 2 };

static char path[64];
static struct hostfile *file;
static uint8_t *bytes, *expected;

static void make_file(int place)
{
	int fd;

	snprintf(path, sizeof(path), "%s/hawser-hostfile-XXXXXX", place ? "/var/tmp" : "/dev/shm");
	fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, ODD), 0);
	close(fd);
	ck_assert_int_eq(hostfile_open(path, true, &file), 0);
}

static void setup(void)
{
	bytes = malloc(ODD);
	expected = malloc(ODD);
	memset(expected, 0, ODD);
}

static void teardown(void)
{
	hostfile_close(file);
	file = NULL;
	if (path[0])
		unlink(path);
	path[0] = '\0';
	free(bytes);
	free(expected);
}

static void fill(uint8_t value)
{
	memset(expected, value, ODD);
	ck_assert_int_eq(hostfile_write(file, expected, ODD, 0), 0);
}

static void assert_content(void)
{
	uint64_t size;

	ck_assert_int_eq(hostfile_size(file, &size), 0);
	ck_assert_uint_eq(size, ODD);
	ck_assert_int_eq(hostfile_read(file, bytes, ODD, 0), 0);
	for (size_t i = 0; i < ODD; i++)
		if (bytes[i] != expected[i])
			ck_abort_msg("byte %zu is %02x", i, bytes[i]);
}

static uint64_t allocated(void)
{
	struct stat status;

	ck_assert_int_eq(stat(path, &status), 0);
	return (uint64_t)status.st_blocks * 512;
}

/* ---- Opening ---- */

START_TEST(test_what_is_no_image)
{
	const struct {
		const char *path;
		int code;
	} rows[] = {{"/tmp", -EISDIR},
		    {"/dev/null", -EINVAL},
		    {"/nonexistent/file", -ENOENT},
		    {"", -ENOENT}};

	ck_assert_int_eq(hostfile_open(rows[_i].path, false, &file), rows[_i].code);
	ck_assert_ptr_null(file);
}
END_TEST

/* A FIFO without a writer must not be waited for. */
START_TEST(test_fifo)
{
	strcpy(path, "/tmp/hawser-fifo-XXXXXX");
	close(mkstemp(path));
	unlink(path);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	ck_assert_int_eq(hostfile_open(path, false, &file), -EINVAL);
}
END_TEST

START_TEST(test_same)
{
	struct hostfile *again, *other;

	make_file(_i);
	ck_assert_int_eq(hostfile_open(path, false, &again), 0);
	ck_assert(hostfile_same(file, again));
	ck_assert_int_eq(hostfile_open("/proc/self/exe", false, &other), 0);
	ck_assert(!hostfile_same(file, other));
	hostfile_close(again);
	hostfile_close(other);
}
END_TEST

/* The same file, whatever its name is now, with a view that stays where it was. */
START_TEST(test_reopen)
{
	struct hostfile *again;
	const uint8_t *view;
	char moved[80];

	make_file(_i);
	fill(7);
	view = hostfile_view(file, 0, 4096);
	ck_assert_ptr_nonnull(view);
	snprintf(moved, sizeof(moved), "%s.moved", path);
	ck_assert_int_eq(rename(path, moved), 0);
	ck_assert_int_eq(hostfile_reopen(file, false, &again), 0);
	ck_assert(hostfile_same(file, again) && !again->writable);
	ck_assert_str_eq(again->path, path);
	ck_assert_uint_eq(again->identity, file->identity);
	hostfile_adopt_view(again, file);
	ck_assert_ptr_null(hostfile_view(file, 0, 4096)); /* it does not make another */
	hostfile_close(file);
	file = again;
	ck_assert_ptr_eq(hostfile_view(file, 0, 4096), view);
	ck_assert_int_eq(memcmp(view, expected, 4096), 0);
	assert_content();
	ck_assert_int_eq(hostfile_write(file, "x", 1, 0), -EBADF);
	ck_assert_int_eq(rename(moved, path), 0);
}
END_TEST

enum { PART_AT = 1000, PART_LENGTH = 3000 };

/* A part of a file: nothing outside of it is seen or changed. */
START_TEST(test_part)
{
	uint64_t size, length = 1 << 20;
	uint8_t buffer[PART_LENGTH];
	bool hole;

	make_file(_i);
	fill(7);
	hostfile_set_part(file, PART_AT, PART_LENGTH);
	ck_assert_int_eq(hostfile_size(file, &size), 0);
	ck_assert_uint_eq(size, PART_LENGTH);
	ck_assert_int_eq(hostfile_read(file, buffer, PART_LENGTH, 0), 0);
	ck_assert_int_eq(memcmp(buffer, expected + PART_AT, PART_LENGTH), 0);
	ck_assert_int_eq(hostfile_read(file, buffer, 20, PART_LENGTH - 10), -ENODATA);
	ck_assert_int_eq(memcmp(buffer, expected + PART_AT + PART_LENGTH - 10, 10), 0);
	ck_assert_int_eq(buffer[10] | buffer[19], 0);
	ck_assert_int_eq(hostfile_read(file, buffer, 1, UINT64_C(1) << 62), -ENODATA);
	ck_assert_int_le(hostfile_read_nowait(file, buffer, 20, PART_LENGTH - 10), 10);
	ck_assert_int_eq(hostfile_write(file, "12", 2, PART_LENGTH - 1), -ENOSPC);
	ck_assert_int_eq(hostfile_write_nowait(file, "12", 2, PART_LENGTH - 1), -EAGAIN);
	ck_assert_int_eq(hostfile_zero(file, PART_LENGTH - 1, 2, 0), -ENOSPC);
	ck_assert_int_eq(hostfile_write(file, "1", 1, PART_LENGTH - 1), 0);
	expected[PART_AT + PART_LENGTH - 1] = '1';
	ck_assert_int_eq(hostfile_zero(file, 0, 500, 0), 0);
	memset(expected + PART_AT, 0, 500);
	ck_assert_int_eq(hostfile_extent(file, 0, &length, &hole), 0);
	ck_assert_int_eq(hostfile_discard(file, 2000, 1 << 20), 0);
	memset(expected + PART_AT + 2000, 0, PART_LENGTH - 2000);
	hostfile_set_part(file, 0, UINT64_MAX);
	assert_content();
}
END_TEST

/* ---- Reading and writing ---- */

START_TEST(test_edges)
{
	make_file(_i);
	expected[0] = 1;
	expected[ODD - 1] = 2;
	ck_assert_int_eq(hostfile_write(file, "\1", 1, 0), 0);
	ck_assert_int_eq(hostfile_write(file, "\2", 1, ODD - 1), 0);
	ck_assert_int_eq(hostfile_write(file, "", 0, ODD), 0);
	ck_assert_int_eq(hostfile_read(file, bytes, 0, ODD), 0);
	assert_content();
}
END_TEST

/* What is past the end is told, and is zero in the buffer. */
START_TEST(test_past_the_end)
{
	make_file(_i);
	fill(7);
	memset(bytes, 0xee, 100);
	ck_assert_int_eq(hostfile_read(file, bytes, 100, ODD - 40), -ENODATA);
	for (int i = 0; i < 100; i++)
		ck_assert_uint_eq(bytes[i], i < 40 ? 7 : 0);
	ck_assert_int_eq(hostfile_read(file, bytes, 1, 2 * ODD), -ENODATA);
	ck_assert_int_eq(hostfile_read(file, bytes, 1, UINT64_MAX), -EINVAL);
}
END_TEST

START_TEST(test_read_only)
{
	struct hostfile *reader;

	make_file(_i);
	ck_assert_int_eq(hostfile_open(path, false, &reader), 0);
	ck_assert_int_eq(hostfile_write(reader, "x", 1, 0), -EBADF);
	ck_assert_int_lt(hostfile_zero(reader, 0, 4096, HOSTFILE_ZERO_MAY_UNMAP), 0);
	hostfile_close(reader);
	assert_content();
}
END_TEST

/* Without waiting: the bytes, or "not now"; never wrong ones. */
START_TEST(test_nowait)
{
	ssize_t got;

	make_file(_i);
	fill(0x5a);
	got = hostfile_read_nowait(file, bytes, 5000, 123);
	ck_assert(got == -EAGAIN || (got > 0 && got <= 5000));
	for (ssize_t i = 0; i < got; i++)
		ck_assert_uint_eq(bytes[i], 0x5a);
	ck_assert_int_eq(hostfile_read_nowait(file, bytes, 1, ODD) == 0 || got == -EAGAIN, 1);
	memset(expected + 4096, 0xa5, 4096);
	got = hostfile_write_nowait(file, expected + 4096, 4096, 4096);
	ck_assert(got == -EAGAIN || (got > 0 && got <= 4096));
	if (got < 0)
		got = 0;
	ck_assert_int_eq(hostfile_write(file, expected + 4096 + got, 4096 - (size_t)got,
					4096 + (uint64_t)got),
			 0);
	assert_content();
}
END_TEST

/* A file system that has no such thing is asked once only. */
START_TEST(test_nowait_is_unlearned)
{
	make_file(_i);
	fill(1);
	file->nowait_read = false;
	file->nowait_write = false;
	ck_assert_int_eq(hostfile_write_nowait(file, bytes, 1, 0), -EAGAIN);
	/* Reads ask the page cache instead, where it answers. */
	ck_assert_int_eq(hostfile_read_nowait(file, bytes, 1, 0), 1);
	ck_assert_int_eq(bytes[0], expected[0]);
	file->cachestat = false;
	ck_assert_int_eq(hostfile_read_nowait(file, bytes, 1, 0), 1);
	file->mincore_tells = false;
	ck_assert_int_eq(hostfile_read_nowait(file, bytes, 1, 0), -EAGAIN);
	assert_content();
}
END_TEST

/* ---- Zeroes ---- */

static const struct {
	uint64_t offset, length;
} ranges[] = {
	{0, ODD},     {0, 1},       {ODD - 1, 1}, {4095, 2},           {4096, 4096},
	{1, ODD - 2}, {511, 70000}, {100, 300},   {SIZE - 4096, 4429}, {65536, 0},
};
enum { RANGES = sizeof(ranges) / sizeof(ranges[0]) };

/* Any range, any wish: the bytes in it are zero, the others as before. */
START_TEST(test_zero)
{
	unsigned int flags = (unsigned int)_i / PLACES % 4;
	size_t row = (size_t)_i / PLACES / 4;
	int rc;

	make_file(_i % PLACES);
	fill(0xc3);
	rc = hostfile_zero(file, ranges[row].offset, ranges[row].length, flags);
	if (rc == -EOPNOTSUPP && flags & HOSTFILE_ZERO_FAST)
		rc = hostfile_zero(file, ranges[row].offset, ranges[row].length,
				   flags & ~(unsigned int)HOSTFILE_ZERO_FAST);
	ck_assert_int_eq(rc, 0);
	memset(expected + ranges[row].offset, 0, ranges[row].length);
	assert_content();
}
END_TEST

/* The same where the host has no means at all, and then fast is refused without a change. */
START_TEST(test_zero_by_writing)
{
	size_t row = (size_t)_i / PLACES;

	make_file(_i % PLACES);
	fill(0xc3);
	file->zero_range = false;
	file->punch_hole = false;
	if (ranges[row].length)
		ck_assert_int_eq(hostfile_zero(file, ranges[row].offset, ranges[row].length,
					       HOSTFILE_ZERO_FAST | HOSTFILE_ZERO_MAY_UNMAP),
				 -EOPNOTSUPP);
	assert_content();
	ck_assert_int_eq(hostfile_zero(file, ranges[row].offset, ranges[row].length,
				       HOSTFILE_ZERO_MAY_UNMAP),
			 0);
	memset(expected + ranges[row].offset, 0, ranges[row].length);
	assert_content();
}
END_TEST

/* NO_HOLE keeps the place (S92), MAY_UNMAP gives it back. */
START_TEST(test_allocation)
{
	make_file(_i);
	fill(1);
	ck_assert_int_eq(hostfile_sync(file), 0);
	ck_assert_int_eq(hostfile_zero(file, 0, SIZE, 0), 0);
	ck_assert_int_eq(hostfile_sync(file), 0);
	ck_assert_uint_ge(allocated(), SIZE);
	ck_assert_int_eq(hostfile_zero(file, 0, SIZE, HOSTFILE_ZERO_MAY_UNMAP), 0);
	if (file->punch_hole)
		ck_assert_uint_lt(allocated(), SIZE / 2);
	memset(expected, 0, SIZE);
	assert_content();
}
END_TEST

/* Discarding touches nothing outside, and never fails for want of means. */
START_TEST(test_discard)
{
	make_file(_i);
	fill(0x3c);
	ck_assert_int_eq(hostfile_discard(file, 5000, 100000), 0);
	ck_assert_int_eq(hostfile_discard(file, 9, 0), 0);
	ck_assert_int_eq(hostfile_discard(file, ODD - 1, 1), 0);
	file->punch_hole = false;
	ck_assert_int_eq(hostfile_discard(file, 0, ODD), 0);
	ck_assert_int_eq(hostfile_read(file, bytes, ODD, 0), 0);
	memcpy(expected + 5000, bytes + 5000, 100000); /* undefined now */
	expected[ODD - 1] = bytes[ODD - 1];
	assert_content();
}
END_TEST

/* ---- Holes ---- */

START_TEST(test_extents)
{
	uint64_t length = ODD, done = 0;
	bool hole, sparse;

	make_file(_i);
	ck_assert_int_eq(hostfile_sparse(file, &sparse), 0);
	ck_assert(sparse);
	memset(expected + 262144, 1, 65536);
	ck_assert_int_eq(hostfile_write(file, expected + 262144, 65536, 262144), 0);
	while (done < ODD) {
		length = ODD - done;
		ck_assert_int_eq(hostfile_extent(file, done, &length, &hole), 0);
		ck_assert(length > 0 && length <= ODD - done);
		/* A hole is never told where data is; the reverse is allowed. */
		for (uint64_t i = done; hole && i < done + length; i++)
			if (expected[i])
				ck_abort_msg("byte %llu is no hole", (unsigned long long)i);
		done += length;
	}
	length = 10;
	ck_assert_int_eq(hostfile_extent(file, 262144, &length, &hole), 0);
	ck_assert(!hole && length == 10);
}
END_TEST

/* ---- The page cache ---- */

START_TEST(test_residency)
{
	enum hostfile_residency told;

	make_file(_i);
	fill(9);
	told = hostfile_residency(file, 4096, 65536);
	ck_assert(told == HOSTFILE_RESIDENT || told == HOSTFILE_UNKNOWN);
	ck_assert_int_eq(hostfile_residency(file, 5, 1), told);
	ck_assert_int_eq(hostfile_residency(file, ODD - 1, 1), told);
	ck_assert_int_eq(hostfile_prefetch(file, 0, ODD), 0);
	if (!_i || told == HOSTFILE_UNKNOWN)
		return;
	ck_assert_int_eq(hostfile_sync(file), 0);
	ck_assert_int_eq(posix_fadvise(file->fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	ck_assert_int_eq(hostfile_residency(file, 4096, 65536), HOSTFILE_MISSING);
	ck_assert_int_eq(hostfile_read(file, bytes, ODD, 0), 0);
	ck_assert_int_eq(hostfile_residency(file, 4096, 65536), HOSTFILE_RESIDENT);
}
END_TEST

START_TEST(test_view)
{
	const uint8_t *view;

	make_file(_i);
	fill(0x77);
	view = hostfile_view(file, 100, 5000);
	ck_assert_ptr_nonnull(view);
	ck_assert_int_eq(memcmp(view, expected, 5000), 0);
	ck_assert_ptr_eq(hostfile_view(file, 0, ODD), view - 100);
	ck_assert_ptr_null(hostfile_view(file, UINT64_MAX, 2));
	ck_assert_ptr_null(hostfile_view(file, UINT64_C(1) << 62, 2));
	/* Later writes are seen, also where the file was not yet. */
	ck_assert_int_eq(hostfile_write(file, "w", 1, 100), 0);
	ck_assert_uint_eq(view[0], 'w');
	ck_assert_int_eq(hostfile_write(file, "x", 1, ODD + 100000), 0);
	view = hostfile_view(file, ODD + 100000, 1);
	ck_assert_ptr_nonnull(view);
	ck_assert_uint_eq(*view, 'x');
}
END_TEST

START_TEST(test_detach)
{
	int ends[2];

	make_file(_i);
	fill(0x42);
	ck_assert_int_eq(hostfile_sync(file), 0);
	ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
	ck_assert_int_eq(hostfile_splice(file, 4096, ends[1], 4096), 4096);
	if (hostfile_detach(file, 0, 65536)) {
		memset(bytes, 0xee, 65536);
		ck_assert_int_eq(hostfile_write(file, bytes, 65536, 0), 0);
		ck_assert_int_eq(read(ends[0], bytes, 4096), 4096);
		for (int i = 0; i < 4096; i++)
			ck_assert(bytes[i] == expected[4096 + i] || bytes[i] == 0);
	}
	close(ends[0]);
	close(ends[1]);
}
END_TEST

START_TEST(test_splice)
{
	int ends[2];

	make_file(_i);
	fill(0x42);
	ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
	ck_assert_int_eq(hostfile_splice(file, ODD - 100, ends[1], 4096), 100);
	ck_assert_int_eq(read(ends[0], bytes, 4096), 100);
	ck_assert_int_eq(memcmp(bytes, expected, 100), 0);
	ck_assert_int_eq(hostfile_splice(file, ODD, ends[1], 4096), 0);
	close(ends[0]);
	close(ends[1]);
}
END_TEST

static void add_tests(TCase *tcase)
{
	tcase_add_loop_test(tcase, test_what_is_no_image, 0, 4);
	tcase_add_test(tcase, test_fifo);
	tcase_add_loop_test(tcase, test_same, 0, PLACES);
	tcase_add_loop_test(tcase, test_reopen, 0, PLACES);
	tcase_add_loop_test(tcase, test_part, 0, PLACES);
	tcase_add_loop_test(tcase, test_edges, 0, PLACES);
	tcase_add_loop_test(tcase, test_past_the_end, 0, PLACES);
	tcase_add_loop_test(tcase, test_read_only, 0, PLACES);
	tcase_add_loop_test(tcase, test_nowait, 0, PLACES);
	tcase_add_loop_test(tcase, test_nowait_is_unlearned, 0, PLACES);
	tcase_add_loop_test(tcase, test_zero, 0, RANGES * 4 * PLACES);
	tcase_add_loop_test(tcase, test_zero_by_writing, 0, RANGES * PLACES);
	tcase_add_loop_test(tcase, test_allocation, 0, PLACES);
	tcase_add_loop_test(tcase, test_discard, 0, PLACES);
	tcase_add_loop_test(tcase, test_extents, 0, PLACES);
	tcase_add_loop_test(tcase, test_residency, 0, PLACES);
	tcase_add_loop_test(tcase, test_view, 0, PLACES);
	tcase_add_loop_test(tcase, test_detach, 0, PLACES);
	tcase_add_loop_test(tcase, test_splice, 0, PLACES);
}

int main(void)
{
	Suite *suite = suite_create("hostfile");
	TCase *tcase = tcase_create("files");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_set_timeout(tcase, 60);
	add_tests(tcase);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
