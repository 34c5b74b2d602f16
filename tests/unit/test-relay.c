// SPDX-License-Identifier: MIT
/*
 * The process that carries a connection for the kernel: both directions, the last words of a device
 * that goes, and a server that takes nothing. The transport is a plain one: TLS has its own tests.
 */
#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/relay.h"
#include "common/clock.h"

enum { PIECE = 100000 };

static int device, server;

static void setup(void)
{
	struct error err = ERROR_INIT;
	struct transport transport, *transports[] = {&transport};
	int ends[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends),
			 0);
	/* The relay keeps what is above the standard streams only. */
	server = fcntl(ends[0], F_DUPFD_CLOEXEC, 10);
	transport_init_plain(&transport, fcntl(ends[1], F_DUPFD_CLOEXEC, 10));
	close(ends[0]);
	close(ends[1]);
	ck_assert_msg(!relay_start_process(transports, 1, &device, &err), "%s", err.text);
	ck_assert_int_eq(transport.fd, -1);
	fcntl(device, F_SETFL, O_NONBLOCK);
}

static void teardown(void)
{
	close(server);
}

static bool happens(int fd, short events, int milliseconds)
{
	struct pollfd item = {.fd = fd, .events = events};

	return poll(&item, 1, milliseconds) > 0;
}

static size_t take(int fd, size_t length)
{
	static uint8_t bytes[PIECE];
	size_t have = 0;
	ssize_t got = 1;

	while (have < length && got > 0 && happens(fd, POLLIN, 5000)) {
		got = read(fd, bytes, length - have < PIECE ? length - have : PIECE);
		have += got > 0 ? (size_t)got : 0;
	}
	return have;
}

/* Gives as much as anybody takes. */
static size_t stuff(int fd)
{
	static const uint8_t bytes[PIECE];
	size_t given = 0;

	while (happens(fd, POLLOUT, 200)) {
		ssize_t sent = write(fd, bytes, sizeof(bytes));

		ck_assert_int_gt(sent, 0);
		given += (size_t)sent;
	}
	return given;
}

START_TEST(test_both_directions)
{
	ck_assert_int_eq(write(device, "request", 7), 7);
	ck_assert_uint_eq(take(server, 7), 7);
	ck_assert_int_eq(write(server, "reply", 5), 5);
	ck_assert_uint_eq(take(device, 5), 5);
	close(device);
	ck_assert(happens(server, POLLIN, 5000));
	ck_assert_uint_eq(take(server, 1), 0);
}
END_TEST

/* What the device said before it went arrives, however slowly it is taken. */
START_TEST(test_last_words)
{
	size_t given = stuff(device);

	ck_assert_int_eq(shutdown(device, SHUT_WR), 0);
	usleep(100000);
	ck_assert_uint_eq(take(server, given), given);
	ck_assert(happens(server, POLLIN, 5000));
	ck_assert_uint_eq(take(server, 1), 0);
	close(device);
}
END_TEST

/* The device has gone and the server takes nothing: the process ends all the same. */
START_TEST(test_deaf_server)
{
	uint64_t began;

	ck_assert_uint_gt(stuff(device), PIECE);
	close(device);
	began = clock_now();
	ck_assert(happens(server, POLLRDHUP, 20000));
	ck_assert_uint_gt(clock_now() - began, 2 * CLOCK_SECOND); /* it had its chance */
}
END_TEST

/* The server has gone: so has the device's connection. */
START_TEST(test_server_goes)
{
	ck_assert_int_eq(write(server, "last", 4), 4);
	shutdown(server, SHUT_RDWR);
	ck_assert_uint_eq(take(device, 4), 4);
	ck_assert(happens(device, POLLIN, 5000));
	ck_assert_uint_eq(take(device, 1), 0);
	close(device);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("relay");
	TCase *tcase = tcase_create("process");
	SRunner *runner;
	int failed;

	signal(SIGPIPE, SIG_IGN);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, test_both_directions);
	tcase_add_test(tcase, test_last_words);
	tcase_add_test(tcase, test_deaf_server);
	tcase_add_test(tcase, test_server_goes);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
