// SPDX-License-Identifier: MIT
/* Listening sockets and pid files: a living holder is never disturbed, a dead one's remains are
 * replaced, only what is ours is removed. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/daemon.h"
#include "server/listener.h"

static char folder[] = "/tmp/test-listener-XXXXXX";
static char path[64];
static struct listener_set set, other;
static struct error err;

static void setup(void)
{
	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/socket", folder);
}

static void teardown(void)
{
	listener_close_all(&set);
	listener_close_all(&other);
	unlink(path);
	ck_assert_int_eq(rmdir(folder), 0);
	memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
}

static bool exists(const char *name)
{
	struct stat status;

	return lstat(name, &status) == 0;
}

static bool answers(const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), rc;

	strcpy(address.sun_path, name);
	rc = connect(fd, (struct sockaddr *)&address, sizeof(address));
	close(fd);
	return rc == 0;
}

/* A socket file that nobody listens on. */
static void leave_stale(int type)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, type, 0);

	strcpy(address.sun_path, path);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
}

START_TEST(test_unix)
{
	char text[LISTENER_TEXT_MAX];

	ck_assert_int_eq(listener_open_unix(&set, path, &err), 0);
	ck_assert_uint_eq(set.count, 1);
	ck_assert(answers(path));
	ck_assert(fcntl(set.items[0].fd, F_GETFL) & O_NONBLOCK);
	ck_assert(fcntl(set.items[0].fd, F_GETFD) & FD_CLOEXEC);
	ck_assert_str_eq(listener_describe(&set.items[0], text), path);
	listener_close_all(&set);
	ck_assert(!exists(path));
}
END_TEST

START_TEST(test_stale)
{
	leave_stale(_i ? SOCK_DGRAM : SOCK_STREAM);
	ck_assert_int_eq(listener_open_unix(&set, path, &err), 0);
	ck_assert(answers(path));
}
END_TEST

START_TEST(test_live)
{
	ck_assert_int_eq(listener_open_unix(&set, path, &err), 0);
	ck_assert_int_eq(listener_open_unix(&other, path, &err), -EADDRINUSE);
	ck_assert_ptr_nonnull(strstr(err.text, "already answers"));
	ck_assert_uint_eq(other.count, 0);
	ck_assert(answers(path));
}
END_TEST

/* A server whose backlog is full lives, too. */
START_TEST(test_live_but_full)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(address.sun_path, path);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listen(fd, 0), 0);
	ck_assert_int_eq(connect(client, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listener_open_unix(&set, path, &err), -EADDRINUSE);
	close(client);
	close(fd);
}
END_TEST

START_TEST(test_other_kinds)
{
	char target[80];

	if (_i == 0)
		close(open(path, O_CREAT | O_WRONLY, 0600));
	else if (_i == 1)
		ck_assert_int_eq(symlink("nowhere", path), 0);
	else
		ck_assert_int_eq(mkfifo(path, 0600), 0);
	ck_assert_int_eq(listener_open_unix(&set, path, &err), -EEXIST);
	ck_assert_ptr_nonnull(strstr(err.text, "is not a socket"));
	ck_assert(exists(path));
	snprintf(target, sizeof(target), "%s/nowhere", folder);
	ck_assert(!exists(target));
}
END_TEST

/* Somebody put another socket there meanwhile: it is not ours to remove. */
START_TEST(test_removes_only_its_own)
{
	ck_assert_int_eq(listener_open_unix(&set, path, &err), 0);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(listener_open_unix(&other, path, &err), 0);
	listener_close_all(&set);
	ck_assert(answers(path));
}
END_TEST

/* The folder's lock in strange hands delays, no more. */
START_TEST(test_locked_folder)
{
	int fd = open(folder, O_RDONLY | O_DIRECTORY);

	ck_assert_int_eq(flock(fd, LOCK_SH), 0);
	ck_assert_int_eq(listener_open_unix(&set, path, &err), 0);
	close(fd);
}
END_TEST

enum { RACERS = 16, RACES = 40 };

/* Stays until its standard input ends, if it got the path. */
static void race(int gate, int result)
{
	char byte;

	if (read(gate, &byte, 1) < 0)
		_exit(2);
	if (listener_open_unix(&set, path, &err) < 0)
		_exit(0);
	if (write(result, "w", 1) != 1 || read(STDIN_FILENO, &byte, 1) < 0)
		_exit(2);
	_exit(answers(path) ? 0 : 3);
}

/* Many starts at once over a stale socket: exactly one wins, and its path stays its own. */
START_TEST(test_race)
{
	int gate[2], result[2], hold[2], status;
	char winners[RACERS + 1];
	ssize_t count;

	leave_stale(SOCK_STREAM);
	ck_assert_int_eq(pipe(gate) | pipe(result) | pipe(hold), 0);
	for (int i = 0; i < RACERS; i++)
		if (fork() == 0) {
			dup2(hold[0], STDIN_FILENO);
			close(hold[1]);
			close(gate[1]);
			race(gate[0], result[1]);
		}
	close(gate[1]);
	for (int ended = 0; ended < RACERS - 1; ended++) {
		ck_assert_int_gt(wait(&status), 0);
		ck_assert_int_eq(status, 0);
	}
	count = read(result[0], winners, sizeof(winners));
	ck_assert_int_eq(count, 1);
	close(hold[1]);
	ck_assert_int_gt(wait(&status), 0);
	ck_assert_int_eq(status, 0);
	close(hold[0]);
	close(gate[0]);
	close(result[0]);
	close(result[1]);
}
END_TEST

START_TEST(test_tcp)
{
	struct sockaddr_in address;
	socklen_t length = sizeof(address);
	char port[8], text[LISTENER_TEXT_MAX], expected[32];

	ck_assert_int_eq(listener_open_tcp(&set, "127.0.0.1", "0", &err), 0);
	getsockname(set.items[0].fd, (struct sockaddr *)&address, &length);
	snprintf(port, sizeof(port), "%d", ntohs(address.sin_port));
	snprintf(expected, sizeof(expected), "127.0.0.1:%s", port);
	ck_assert_str_eq(listener_describe(&set.items[0], text), expected);
	ck_assert_int_eq(listener_open_tcp(&other, "127.0.0.1", port, &err), -EADDRINUSE);
	ck_assert_str_eq(err.text, "Failed to find an available port: Address already in use");
	ck_assert_int_eq(listener_open_tcp(&other, "host.invalid", port, &err), -EADDRNOTAVAIL);
	ck_assert_ptr_nonnull(strstr(err.text, "address resolution failed for host.invalid:"));
	ck_assert_int_eq(listener_open_tcp(&other, "192.0.2.1", port, &err), -EADDRNOTAVAIL);
	ck_assert_ptr_nonnull(strstr(err.text, "Failed to bind socket"));
	ck_assert_uint_eq(other.count, 0);
}
END_TEST

START_TEST(test_adopt)
{
	int file = open("/dev/null", O_RDWR), fd = socket(AF_INET, SOCK_STREAM, 0);

	ck_assert_int_eq(listener_adopt(&set, file, &err), -ENOTSOCK);
	ck_assert_int_eq(listener_adopt(&set, fd, &err), -EINVAL);
	ck_assert_int_eq(listen(fd, 1), 0);
	ck_assert_int_eq(listener_adopt(&set, fd, &err), 0);
	ck_assert(fcntl(fd, F_GETFL) & O_NONBLOCK);
	close(file);
}
END_TEST

static void read_pid(char text[16])
{
	int fd = open(path, O_RDONLY);
	ssize_t got = read(fd, text, 15);

	text[got < 0 ? 0 : got] = '\0';
	close(fd);
}

START_TEST(test_pid_file)
{
	struct pid_file file = PID_FILE_INIT, second = PID_FILE_INIT;
	char text[16], expected[16];
	struct stat status;

	snprintf(expected, sizeof(expected), "%d\n", getpid());
	ck_assert_int_eq(pid_file_create(&file, path, &err), 0);
	read_pid(text);
	ck_assert_str_eq(text, expected);
	ck_assert_int_eq(stat(path, &status), 0);
	ck_assert_uint_eq(status.st_mode & 0777, 0600);
	ck_assert_int_eq(pid_file_create(&second, path, &err), -EAGAIN);
	pid_file_remove(&second);
	ck_assert(exists(path));
	pid_file_remove(&file);
	ck_assert(!exists(path));
}
END_TEST

/* The remains of a server that was killed, longer than what we write. */
START_TEST(test_pid_file_stale)
{
	struct pid_file file = PID_FILE_INIT;
	int fd = open(path, O_CREAT | O_WRONLY, 0644);
	char text[16], expected[16];

	ck_assert_int_eq(write(fd, "1234567890123\n", 14), 14);
	close(fd);
	snprintf(expected, sizeof(expected), "%d\n", getpid());
	ck_assert_int_eq(pid_file_create(&file, path, &err), 0);
	read_pid(text);
	ck_assert_str_eq(text, expected);
	ck_assert_int_eq(unlink(path), 0);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	pid_file_remove(&file); /* somebody else's now */
	ck_assert(exists(path));
}
END_TEST

START_TEST(test_pid_file_symlink)
{
	struct pid_file file = PID_FILE_INIT;

	ck_assert_int_eq(symlink("victim", path), 0);
	ck_assert_int_eq(pid_file_create(&file, path, &err), -ELOOP);
	ck_assert_int_eq(pid_file_create(&file, "/nonexistent/pid", &err), -ENOENT);
	ck_assert_str_eq(err.text,
			 "Could not create '/nonexistent/pid': No such file or directory");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("listener");
	TCase *tcase = tcase_create("sockets and pid files");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, test_unix);
	tcase_add_loop_test(tcase, test_stale, 0, 2);
	tcase_add_test(tcase, test_live);
	tcase_add_test(tcase, test_live_but_full);
	tcase_add_loop_test(tcase, test_other_kinds, 0, 3);
	tcase_add_test(tcase, test_removes_only_its_own);
	tcase_add_test(tcase, test_locked_folder);
	tcase_add_loop_test(tcase, test_race, 0, RACES);
	tcase_add_test(tcase, test_tcp);
	tcase_add_test(tcase, test_adopt);
	tcase_add_test(tcase, test_pid_file);
	tcase_add_test(tcase, test_pid_file_stale);
	tcase_add_test(tcase, test_pid_file_symlink);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
