// SPDX-License-Identifier: MIT
/*
 * Loans that outlive their connection: over when the peer has read all, also where the process has
 * no descriptor left; and no descriptor stays behind.
 */
#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/image/hostfile.h"
#include "server/image/loan.h"

enum { SERVER, PEER, BYTES = 4096 };

static int ends[2];
static struct hostfile file = {.identity = 7};

static void setup(void)
{
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
}

static void teardown(void)
{
	close(ends[PEER]);
}

/* The lowest descriptor that is free. */
static int next_descriptor(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	close(fd);
	return fd;
}

/* Sends bytes that count as lent, and does not close the socket. */
static struct lender *lend(void)
{
	static const uint8_t bytes[BYTES];
	struct lender *lender = lender_new(ends[SERVER]);

	ck_assert_ptr_nonnull(lender);
	ck_assert(lender_add(lender, &file, 0, BYTES, BYTES));
	ck_assert_int_eq(write(ends[SERVER], bytes, BYTES), BYTES);
	lender_sent(lender, BYTES);
	return lender;
}

static void peer_reads(void)
{
	uint8_t bytes[BYTES];

	ck_assert_int_eq(recv(ends[PEER], bytes, BYTES, MSG_WAITALL), BYTES);
}

START_TEST(test_read_before_the_end)
{
	int before = next_descriptor();
	struct lender *lender = lend();

	ck_assert(loans_settle());
	ck_assert(loans_cover(&file, BYTES - 1, 1));
	ck_assert(!loans_cover(&file, BYTES, 1));
	peer_reads();
	ck_assert(!loans_settle());
	ck_assert(!loans_cover(&file, 0, BYTES));
	lender_end(lender);
	ck_assert_int_eq(next_descriptor(), before);
	close(ends[SERVER]);
}
END_TEST

/* _i: can the process open any more files? */
START_TEST(test_read_after_the_end)
{
	struct rlimit limit, none;
	struct lender *lender = lend();
	uint8_t byte;

	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit){0, limit.rlim_max};
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, _i ? &limit : &none), 0);
	lender_end(lender);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	close(ends[SERVER]);
	ck_assert(loans_settle());
	ck_assert(loans_cover(&file, 0, 1));
	peer_reads();
	ck_assert_int_eq(recv(ends[PEER], &byte, 1, 0), 0); /* the end */
	ck_assert(!loans_settle());
	ck_assert(!loans_cover(&file, 0, BYTES));
	ck_assert_int_le(next_descriptor(), ends[SERVER]);
}
END_TEST

START_TEST(test_no_descriptor_no_loan)
{
	struct rlimit limit, none;

	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit){0, limit.rlim_max};
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	ck_assert_ptr_null(lender_new(ends[SERVER]));
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	close(ends[SERVER]);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("loan");
	TCase *tcase = tcase_create("sockets");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, test_read_before_the_end);
	tcase_add_loop_test(tcase, test_read_after_the_end, 0, 2);
	tcase_add_test(tcase, test_no_descriptor_no_loan);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
