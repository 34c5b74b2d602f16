// SPDX-License-Identifier: MIT
/*
 * Image locks against those of another open file, which stands for another process: OFD locks
 * belong to the open file, so a second descriptor is as good as a QEMU beside us.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/image/hostfile.h"
#include "server/image/lock.h"

enum { USED = 100, UNSHARED = 200, READ = 0, WRITE = 1, UNCHANGED = 2, RESIZE = 3 };

static char path[] = "/tmp/hawser-lock-XXXXXX";
static struct hostfile *file;
static int other = -1; /* the other process */
static struct error err;

static void setup(void)
{
	int fd = mkstemp(path);

	ck_assert_int_ge(fd, 0);
	close(fd);
	ck_assert_int_eq(hostfile_open(path, true, &file), 0);
	other = open(path, O_RDWR | O_CLOEXEC);
	ck_assert_int_ge(other, 0);
	err = (struct error)ERROR_INIT;
}

static void teardown(void)
{
	hostfile_close(file);
	close(other);
	unlink(path);
	strcpy(path + strlen(path) - 6, "XXXXXX");
}

static bool other_lock(short type, int byte)
{
	struct flock lock = {
		.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1, .l_pid = 0};

	return fcntl(other, F_OFD_SETLK, &lock) == 0;
}

/* Does anybody but the other process hold byte? */
static bool is_held(int byte)
{
	struct flock lock = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1, .l_pid = 0};

	ck_assert_int_eq(fcntl(other, F_OFD_GETLK, &lock), 0);
	return lock.l_type != F_UNLCK;
}

/* Exactly these bytes are held. */
static void assert_held(const int *bytes)
{
	for (int byte = 90; byte < 210; byte++) {
		bool wanted = false;

		for (const int *at = bytes; *at; at++)
			wanted |= *at == byte;
		ck_assert_msg(is_held(byte) == wanted, "byte %d", byte);
	}
}

/* What an image asks for that is opened for writing, and one that is only read. */
static int lock_writer(void)
{
	return lock_acquire(file, PERMISSION_CONSISTENT_READ | PERMISSION_WRITE,
			    PERMISSION_WRITE | PERMISSION_RESIZE, NODE_LOCKING_AUTO, &err);
}

static int lock_reader(void)
{
	return lock_acquire(file, PERMISSION_CONSISTENT_READ, PERMISSION_RESIZE, NODE_LOCKING_AUTO,
			    &err);
}

static void assert_refused(const char *words)
{
	static const int none[] = {0};

	ck_assert_int_eq(err.code, EAGAIN);
	ck_assert_msg(strstr(err.text, words) != NULL, "'%s' in: %s", words, err.text);
	ck_assert_msg(strstr(err.text, path) != NULL, "%s", err.text);
	assert_held(none);
}

START_TEST(test_bytes)
{
	static const int writer[] = {USED + READ, USED + WRITE, UNSHARED + WRITE, UNSHARED + RESIZE,
				     0};
	static const int reader[] = {USED + READ, UNSHARED + RESIZE, 0};
	static const int none[] = {0};

	ck_assert_int_eq(_i ? lock_reader() : lock_writer(), 0);
	assert_held(_i ? reader : writer);
	hostfile_close(file);
	file = NULL;
	assert_held(none);
}
END_TEST

/* Shared locks of others on the same bytes are no conflict by themselves. */
START_TEST(test_two_readers)
{
	ck_assert(other_lock(F_RDLCK, USED + READ));
	ck_assert(other_lock(F_RDLCK, UNSHARED + RESIZE));
	ck_assert_int_eq(lock_reader(), 0);
}
END_TEST

/* A running VM with the disk: raw, read-write, which shares writing. */
START_TEST(test_beside_a_writer)
{
	ck_assert(other_lock(F_RDLCK, USED + READ));
	ck_assert(other_lock(F_RDLCK, USED + WRITE));
	ck_assert(other_lock(F_RDLCK, UNSHARED + RESIZE));
	ck_assert_int_eq(lock_reader(), 0);
	hostfile_close(file);
	ck_assert_int_eq(hostfile_open(path, true, &file), 0);
	ck_assert_int_eq(lock_writer(), -EAGAIN);
	assert_refused("Failed to get shared \"write\" lock");
}
END_TEST

/* Somebody who lets nobody write: only that writing is refused. */
START_TEST(test_writing_not_shared)
{
	ck_assert(other_lock(F_RDLCK, UNSHARED + WRITE));
	ck_assert_int_eq(lock_writer(), -EAGAIN);
	assert_refused("Failed to get \"write\" lock");
	ck_assert_int_eq(lock_reader(), 0);
}
END_TEST

START_TEST(test_reading_not_shared)
{
	ck_assert(other_lock(F_RDLCK, UNSHARED + READ));
	ck_assert_int_eq(lock_reader(), -EAGAIN);
	assert_refused("Failed to get \"consistent read\" lock");
}
END_TEST

START_TEST(test_somebody_resizes)
{
	ck_assert(other_lock(F_RDLCK, USED + RESIZE));
	ck_assert_int_eq(lock_reader(), -EAGAIN);
	assert_refused("Failed to get shared \"resize\" lock");
}
END_TEST

/* QEMU takes no exclusive locks, others may: it is refused as well, and everything undone. */
START_TEST(test_exclusive)
{
	static const int bytes[] = {USED + READ, USED + WRITE, UNSHARED + WRITE, UNSHARED + RESIZE};

	ck_assert(other_lock(F_WRLCK, bytes[_i]));
	ck_assert_int_eq(lock_writer(), -EAGAIN);
	assert_refused("lock");
}
END_TEST

/* Bytes that are not ours are not looked at (libvirt locks byte 0). */
START_TEST(test_foreign_bytes)
{
	ck_assert(other_lock(F_WRLCK, 0));
	ck_assert(other_lock(F_WRLCK, USED + RESIZE + 1));
	ck_assert(other_lock(F_WRLCK, UNSHARED + RESIZE + 1));
	ck_assert_int_eq(lock_writer(), 0);
}
END_TEST

/* Two of us. */
START_TEST(test_two_files)
{
	struct hostfile *first = file;

	ck_assert_int_eq(lock_writer(), 0);
	ck_assert_int_eq(hostfile_open(path, true, &file), 0);
	ck_assert_int_eq(lock_writer(), -EAGAIN);
	ck_assert_int_eq(lock_reader(), 0);
	hostfile_close(file);
	file = first;
	ck_assert(is_held(USED + WRITE));
}
END_TEST

static const int held_writing[] = {USED + READ, USED + WRITE, UNSHARED + WRITE, UNSHARED + RESIZE,
				   0};
static const int held_reading[] = {USED + READ, UNSHARED + RESIZE, 0};
static const int held_resting[] = {USED + READ, 0};

/* Another opening of the same file takes the locks over, up and down: the own ones are no
 * conflict, and what it does not want is given up. */
START_TEST(test_taken_over)
{
	struct hostfile *again;

	ck_assert_int_eq(lock_reader(), 0);
	ck_assert_int_eq(hostfile_reopen(file, true, &again), 0);
	ck_assert_int_eq(lock_take_over(file, again, PERMISSION_CONSISTENT_READ | PERMISSION_WRITE,
					PERMISSION_WRITE | PERMISSION_RESIZE, NODE_LOCKING_AUTO,
					&err),
			 0);
	hostfile_close(file);
	file = again;
	assert_held(held_writing);
	ck_assert_int_eq(hostfile_reopen(file, false, &again), 0);
	ck_assert_int_eq(lock_take_over(file, again, PERMISSION_CONSISTENT_READ, PERMISSION_RESIZE,
					NODE_LOCKING_AUTO, &err),
			 0);
	assert_held(held_reading); /* although the old one is still open */
	hostfile_close(file);
	file = again;
	lock_rest(file);
	assert_held(held_resting);
	lock_restore(file);
	assert_held(held_resting);
	lock_release(file);
	assert_held(held_resting + 1);
}
END_TEST

/* Somebody is in the way: the old opening has its locks as before, the new one none. */
START_TEST(test_not_taken_over)
{
	struct hostfile *again;

	ck_assert_int_eq(lock_reader(), 0);
	ck_assert(other_lock(F_RDLCK, UNSHARED + WRITE));
	ck_assert_int_eq(hostfile_reopen(file, true, &again), 0);
	ck_assert_int_eq(lock_take_over(file, again, PERMISSION_CONSISTENT_READ | PERMISSION_WRITE,
					PERMISSION_WRITE | PERMISSION_RESIZE, NODE_LOCKING_AUTO,
					&err),
			 -EAGAIN);
	assert_held(held_reading);
	hostfile_close(again);
	assert_held(held_reading);
}
END_TEST

START_TEST(test_no_locking)
{
	ck_assert(other_lock(F_RDLCK, UNSHARED + WRITE));
	ck_assert_int_eq(
		lock_acquire(file, PERMISSION_WRITE, PERMISSION_WRITE, NODE_LOCKING_OFF, &err), 0);
	assert_held(held_resting + 1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("lock");
	TCase *tcase = tcase_create("bytes");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_loop_test(tcase, test_bytes, 0, 2);
	tcase_add_test(tcase, test_two_readers);
	tcase_add_test(tcase, test_beside_a_writer);
	tcase_add_test(tcase, test_writing_not_shared);
	tcase_add_test(tcase, test_reading_not_shared);
	tcase_add_test(tcase, test_somebody_resizes);
	tcase_add_loop_test(tcase, test_exclusive, 0, 4);
	tcase_add_test(tcase, test_foreign_bytes);
	tcase_add_test(tcase, test_two_files);
	tcase_add_test(tcase, test_taken_over);
	tcase_add_test(tcase, test_not_taken_over);
	tcase_add_test(tcase, test_no_locking);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
