// SPDX-License-Identifier: MIT
/* Counters: buckets and quantiles, what counts as what, what is left of a connection. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/latency.h"
#include "common/nbd-protocol.h"
#include "server/statistics.h"

/* ---- Histograms ---- */

START_TEST(test_buckets_touch)
{
	ck_assert_uint_eq(latency_bucket(0), 0);
	ck_assert_uint_eq(latency_bucket(1023), 0);
	ck_assert_uint_eq(latency_bound(0), 1024);
	for (unsigned int i = 0; i < LATENCY_BUCKETS - 1; i++) {
		uint64_t bound = latency_bound(i);

		ck_assert_msg(latency_bucket(bound - 1) == i, "below the bound of %u", i);
		ck_assert_msg(latency_bucket(bound) == i + 1, "at the bound of %u", i);
	}
	ck_assert_uint_eq(latency_bound(LATENCY_BUCKETS - 2), UINT64_C(1) << LATENCY_LAST_BIT);
	ck_assert_uint_eq(latency_bucket(UINT64_MAX), LATENCY_BUCKETS - 1);
	ck_assert_uint_eq(latency_bound(LATENCY_BUCKETS - 1), UINT64_MAX);
}
END_TEST

START_TEST(test_buckets_are_narrow)
{
	for (unsigned int i = 1; i < LATENCY_BUCKETS - 1; i++)
		ck_assert_uint_le((latency_bound(i) - latency_bound(i - 1)) * LATENCY_STEPS,
				  latency_bound(i - 1));
}
END_TEST

START_TEST(test_quantiles)
{
	uint64_t buckets[LATENCY_BUCKETS] = {0};
	uint64_t p50, p99;

	ck_assert_uint_eq(latency_quantile(buckets, 500, 0), 0);
	/* 1 to 10000 us, each once. */
	for (uint64_t us = 1; us <= 10000; us++)
		buckets[latency_bucket(us * 1000)]++;
	p50 = latency_quantile(buckets, 500, 10000000);
	p99 = latency_quantile(buckets, 990, 10000000);
	ck_assert_msg(p50 > 4900000 && p50 < 5100000, "p50 is %lu", (unsigned long)p50);
	ck_assert_msg(p99 > 9700000 && p99 <= 10000000, "p99 is %lu", (unsigned long)p99);
	ck_assert_uint_eq(latency_quantile(buckets, 1000, 10000000), 10000000);
}
END_TEST

START_TEST(test_quantiles_at_the_ends)
{
	uint64_t buckets[LATENCY_BUCKETS] = {0};

	buckets[0] = 1;
	ck_assert_uint_le(latency_quantile(buckets, 500, 700), 700);
	memset(buckets, 0, sizeof(buckets));
	buckets[LATENCY_BUCKETS - 1] = 3;
	ck_assert_uint_eq(latency_quantile(buckets, 500, UINT64_C(200) * CLOCK_SECOND),
			  UINT64_C(200) * CLOCK_SECOND);
	/* The largest is not known: then the bucket's lower end. */
	ck_assert_uint_eq(latency_quantile(buckets, 500, UINT64_MAX), UINT64_C(1)
									      << LATENCY_LAST_BIT);
}
END_TEST

/* ---- Counting ---- */

static struct statistics_book book;

static struct statistics *new_statistics(void)
{
	struct statistics *statistics = calloc(1, sizeof(*statistics));

	statistics->now = statistics->began = statistics->received = clock_now();
	return statistics;
}

static uint64_t timed(const struct statistics_latency *latency)
{
	uint64_t count = 0;

	for (int i = 0; i < LATENCY_BUCKETS; i++)
		count += latency->buckets[i];
	return count;
}

START_TEST(test_commands)
{
	static const struct {
		uint16_t type;
		enum statistics_command command;
		enum statistics_kind kind;
		uint64_t bytes; /* that a length of 10 counts as */
	} cases[] = {
		{NBD_CMD_READ, STATISTICS_READ, STATISTICS_KIND_READ, 10},
		{NBD_CMD_WRITE, STATISTICS_WRITE, STATISTICS_KIND_WRITE, 10},
		{NBD_CMD_FLUSH, STATISTICS_FLUSH, STATISTICS_KIND_FLUSH, 0},
		{NBD_CMD_TRIM, STATISTICS_TRIM, STATISTICS_KIND_OTHER, 10},
		{NBD_CMD_CACHE, STATISTICS_CACHE, STATISTICS_KIND_OTHER, 10},
		{NBD_CMD_WRITE_ZEROES, STATISTICS_ZERO, STATISTICS_KIND_OTHER, 10},
		{NBD_CMD_BLOCK_STATUS, STATISTICS_STATUS, STATISTICS_KIND_OTHER, 10},
		{NBD_CMD_BLOCK_STATUS + 1, STATISTICS_UNKNOWN, STATISTICS_KIND_OTHER, 0},
		{UINT16_MAX, STATISTICS_UNKNOWN, STATISTICS_KIND_OTHER, 0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct statistics *statistics = new_statistics();
		const struct statistics_numbers *numbers = &statistics->numbers;

		statistics_count(statistics, cases[i].type, 10, 0);
		statistics_count(statistics, cases[i].type, 7, -EIO);
		ck_assert_uint_eq(numbers->commands[cases[i].command].requests, 2);
		ck_assert_uint_eq(numbers->commands[cases[i].command].errors, 1);
		ck_assert_uint_eq(numbers->commands[cases[i].command].bytes, cases[i].bytes);
		ck_assert_uint_eq(timed(&numbers->latency[cases[i].kind]), 0);
		statistics_flushed(statistics);
		ck_assert_uint_eq(timed(&numbers->latency[cases[i].kind]), 2);
		free(statistics);
	}
}
END_TEST

/* Replies that began at different times keep their own latencies, however many they are. */
START_TEST(test_latencies_of_a_batch)
{
	struct statistics *statistics = new_statistics();
	const struct statistics_latency *latency =
		&statistics->numbers.latency[STATISTICS_KIND_READ];
	uint64_t now = clock_now();

	for (int i = 0; i < 5 * STATISTICS_WAITING; i++) {
		statistics->began = now - (i % 2 ? 2 : 50) * CLOCK_SECOND;
		statistics_count(statistics, NBD_CMD_READ, 1, 0);
	}
	statistics->began = now - 50 * CLOCK_SECOND;
	for (int i = 0; i < 1000; i++)
		statistics_count(statistics, NBD_CMD_WRITE, 1, 0);
	statistics_flushed(statistics);
	ck_assert_uint_eq(timed(latency), 5 * STATISTICS_WAITING);
	ck_assert_uint_eq(latency->buckets[latency_bucket(2 * CLOCK_SECOND + 1000)] +
				  latency->buckets[latency_bucket(50 * CLOCK_SECOND + 1000)],
			  5 * STATISTICS_WAITING);
	ck_assert_uint_ge(latency->max, 50 * CLOCK_SECOND);
	ck_assert_uint_ge(latency->sum, 5 * STATISTICS_WAITING / 2 * 52 * CLOCK_SECOND);
	ck_assert_uint_eq(timed(&statistics->numbers.latency[STATISTICS_KIND_WRITE]), 1000);
	free(statistics);
}
END_TEST

START_TEST(test_book)
{
	struct statistics *one = new_statistics(), *two = new_statistics();
	struct statistics_view view;
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	statistics_book_init(&book);
	statistics_leave(&book, one); /* it never came */
	statistics_join(&book, one, 1, pair[0]);
	statistics_join(&book, two, 2, pair[1]);
	statistics_count(one, NBD_CMD_READ, 100, 0);
	statistics_count(two, NBD_CMD_READ, 10, 0);
	statistics_miss(two);
	statistics_gauge(one, 3, 4096);
	ck_assert_int_eq(statistics_view(&book, 1, &view), 0);
	ck_assert_uint_eq(view.live, 2);
	ck_assert_uint_eq(view.client_count, 1);
	ck_assert_uint_eq(view.clients[0].id, 1);
	ck_assert_int_eq(view.clients[0].pid, getpid());
	ck_assert_uint_eq(view.clients[0].numbers.commands[STATISTICS_READ].bytes, 100);
	ck_assert_uint_eq(view.total.commands[STATISTICS_READ].bytes, 110);
	ck_assert_uint_eq(view.total.jobs, 3);
	ck_assert_uint_eq(view.total.buffers, 4096);
	statistics_view_clear(&view);

	statistics_leave(&book, one);
	statistics_leave(&book, one);
	free(one);
	ck_assert_int_eq(statistics_view(&book, 10, &view), 0);
	ck_assert_uint_eq(view.live, 1);
	ck_assert_uint_eq(view.joined, 2);
	ck_assert_uint_eq(view.client_count, 1);
	ck_assert_uint_eq(view.clients[0].id, 2);
	ck_assert_uint_eq(view.total.commands[STATISTICS_READ].requests, 2);
	ck_assert_uint_eq(view.total.commands[STATISTICS_READ].bytes, 110);
	ck_assert_uint_eq(view.total.misses, 1);
	ck_assert_uint_eq(view.total.jobs, 0); /* what it had in hand went with it */
	statistics_view_clear(&view);
	statistics_leave(&book, two);
	free(two);
	close(pair[0]);
	close(pair[1]);
}
END_TEST

/* ---- A writer and a reader at the same time ---- */

enum { ROUNDS = 200000 };

static void *write_many(void *argument)
{
	struct statistics *statistics = argument;

	for (int i = 0; i < ROUNDS; i++) {
		statistics_count(statistics, NBD_CMD_READ, 1, 0);
		if (i % 64 == 0)
			statistics_flushed(statistics);
	}
	statistics_flushed(statistics);
	return NULL;
}

START_TEST(test_sums_never_go_back)
{
	struct statistics *statistics = new_statistics();
	struct statistics_view view;
	uint64_t last = 0;
	pthread_t writer;
	int null[2];

	ck_assert_int_eq(pipe(null), 0);
	statistics_book_init(&book);
	statistics_join(&book, statistics, 1, null[0]);
	ck_assert_int_eq(pthread_create(&writer, NULL, write_many, statistics), 0);
	while (last < ROUNDS) {
		ck_assert_int_eq(statistics_view(&book, 1, &view), 0);
		ck_assert_uint_ge(view.total.commands[STATISTICS_READ].requests, last);
		last = view.total.commands[STATISTICS_READ].requests;
		statistics_view_clear(&view);
	}
	pthread_join(writer, NULL);
	ck_assert_uint_eq(last, ROUNDS);
	ck_assert_uint_eq(timed(&statistics->numbers.latency[STATISTICS_KIND_READ]), ROUNDS);
	statistics_leave(&book, statistics);
	free(statistics);
	close(null[0]);
	close(null[1]);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("statistics");
	TCase *tests = tcase_create("statistics");
	SRunner *runner;
	int failed;

	tcase_add_test(tests, test_buckets_touch);
	tcase_add_test(tests, test_buckets_are_narrow);
	tcase_add_test(tests, test_quantiles);
	tcase_add_test(tests, test_quantiles_at_the_ends);
	tcase_add_test(tests, test_commands);
	tcase_add_test(tests, test_latencies_of_a_batch);
	tcase_add_test(tests, test_book);
	tcase_add_test(tests, test_sums_never_go_back);
	suite_add_tcase(suite, tests);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
