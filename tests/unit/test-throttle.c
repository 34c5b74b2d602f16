// SPDX-License-Identifier: MIT
/* Limits, with a clock that the test moves. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "server/object-throttle.h"

enum { CONNECTIONS = 8 };

static struct throttle_limits limits;
static struct throttle_group *group;
static struct error err;

static void setup(void)
{
	throttle_limits_init(&limits);
}

static void teardown(void)
{
	throttle_group_free(group);
	group = NULL;
}

static void make(void)
{
	ck_assert_msg(throttle_limits_check(&limits, &err) == 0, "%s", err.text);
	group = throttle_group_new(&limits);
	ck_assert_ptr_nonnull(group);
}

/* Connections that each ask for the next place when the last one has come, for so many seconds:
 * requests that have begun, of each. */
static uint64_t play(unsigned int connections, enum throttle_direction direction, uint64_t bytes,
		     uint64_t start, double seconds, uint64_t begun[CONNECTIONS])
{
	uint64_t place[CONNECTIONS], end = start + (uint64_t)(seconds * CLOCK_SECOND), sum = 0;

	memset(begun, 0, CONNECTIONS * sizeof(*begun));
	for (unsigned int i = 0; i < connections; i++)
		place[i] = throttle_reserve(group, direction, bytes, start);
	for (;;) {
		unsigned int next = 0;

		for (unsigned int i = 1; i < connections; i++)
			if (place[i] < place[next] ||
			    (place[i] == place[next] && begun[i] < begun[next]))
				next = i;
		if (place[next] >= end)
			return sum;
		begun[next]++;
		sum++;
		place[next] = throttle_reserve(group, direction, bytes, place[next]);
	}
}

static void check_near(uint64_t got, double expected)
{
	ck_assert_msg((double)got >= expected * 0.98 - 2 && (double)got <= expected * 1.02 + 2,
		      "%llu, not %.0f", (unsigned long long)got, expected);
}

START_TEST(test_no_limits)
{
	make();
	for (int i = 0; i < 1000; i++)
		ck_assert_uint_eq(throttle_reserve(group, i % 2, UINT64_C(64) << 20, 5), 5);
}
END_TEST

/* After a tenth of a second's worth, the rate and no more; however many ask, all get the same. */
static const struct {
	enum throttle_kind kind;
	enum throttle_direction direction;
	uint64_t rate, bytes;
	unsigned int connections;
	double requests; /* a second */
} rates[] = {
	{THROTTLE_IOPS_TOTAL, THROTTLE_READ, 100, 4096, 1, 100},
	{THROTTLE_IOPS_TOTAL, THROTTLE_WRITE, 100, 0, 8, 100},
	{THROTTLE_IOPS_READ, THROTTLE_READ, 1000, 1 << 20, 3, 1000},
	{THROTTLE_IOPS_WRITE, THROTTLE_WRITE, 100000, 512, 2, 100000},
	{THROTTLE_BPS_TOTAL, THROTTLE_WRITE, 1 << 20, 4096, 4, 256},
	{THROTTLE_BPS_READ, THROTTLE_READ, 1 << 20, 64 << 10, 4, 16},
	{THROTTLE_BPS_WRITE, THROTTLE_WRITE, 100 << 20, 1 << 20, 1, 100},
};

START_TEST(test_rate)
{
	uint64_t begun[CONNECTIONS], sum;

	limits.limit[rates[_i].kind].rate = rates[_i].rate;
	make();
	sum = play(rates[_i].connections, rates[_i].direction, rates[_i].bytes, 7777, 10, begun);
	check_near(sum, rates[_i].requests * 10.1);
	for (unsigned int i = 0; i < rates[_i].connections; i++)
		ck_assert_msg(begun[i] + 1 >= sum / rates[_i].connections &&
				      begun[i] <= sum / rates[_i].connections + 1,
			      "%llu of %llu", (unsigned long long)begun[i],
			      (unsigned long long)sum);
}
END_TEST

/* Reads are not held up by a limit on writes. */
START_TEST(test_directions)
{
	limits.limit[THROTTLE_BPS_WRITE].rate = 1000;
	limits.limit[THROTTLE_IOPS_WRITE].rate = 1;
	make();
	throttle_reserve(group, THROTTLE_WRITE, 1000000, 1);
	ck_assert_uint_gt(throttle_reserve(group, THROTTLE_WRITE, 1, 1), 900 * CLOCK_SECOND);
	for (int i = 0; i < 100; i++)
		ck_assert_uint_eq(throttle_reserve(group, THROTTLE_READ, 1000000, 1), 1);
}
END_TEST

/* Any request can pass; the next waits for what it took. 32 MiB at 1 MiB a second. */
START_TEST(test_large_request)
{
	uint64_t place;

	limits.limit[THROTTLE_BPS_TOTAL].rate = 1 << 20;
	make();
	ck_assert_uint_eq(throttle_reserve(group, THROTTLE_WRITE, 32 << 20, CLOCK_SECOND),
			  CLOCK_SECOND);
	place = throttle_reserve(group, THROTTLE_READ, 512, CLOCK_SECOND);
	ck_assert_uint_ge(place, CLOCK_SECOND * 329 / 10 - 1000);
	ck_assert_uint_le(place, CLOCK_SECOND * 329 / 10 + 1000);
	/* Much later nothing is left of it. */
	place += 3600 * CLOCK_SECOND;
	ck_assert_uint_eq(throttle_reserve(group, THROTTLE_READ, 512, place), place);
}
END_TEST

/* The burst for its length, then the rate; after a rest the burst is there again. */
static const struct {
	uint64_t rate, burst, length;
	double after[4]; /* requests in each of the first seconds */
} bursts[] = {
	{100, 0, 1, {110, 100, 100, 100}},
	{100, 1000, 1, {1100, 100, 100, 100}},
	/* The bucket of 3000 leaks while it fills: it is full after 3.22 seconds. */
	{100, 1000, 3, {1100, 1000, 1000, 298}},
	{100, 100, 1, {200, 100, 100, 100}},
};

START_TEST(test_burst)
{
	struct throttle_limit *limit = &limits.limit[THROTTLE_IOPS_TOTAL];
	uint64_t begun[CONNECTIONS], now = 3 * CLOCK_SECOND;
	double total = 0;

	limit->rate = bursts[_i].rate;
	limit->burst = bursts[_i].burst;
	limit->burst_seconds = bursts[_i].length;
	make();
	for (int again = 0; again < 2; again++) {
		uint64_t got = play(1, THROTTLE_READ, 512, now, 4, begun);

		total = 0;
		for (int i = 0; i < 4; i++)
			total += bursts[_i].after[i];
		check_near(got, total);
		now += 3600 * CLOCK_SECOND;
		got = play(1, THROTTLE_READ, 512, now, 1, begun);
		check_near(got, bursts[_i].after[0]);
		now += 3600 * CLOCK_SECOND;
	}
}
END_TEST

/* iops-size: a large request is several. */
START_TEST(test_operation_size)
{
	uint64_t begun[CONNECTIONS];

	limits.limit[THROTTLE_IOPS_TOTAL].rate = 100;
	limits.operation_size = 4096;
	make();
	check_near(play(2, THROTTLE_READ, 40960, 0, 10, begun), 101);
	check_near(play(2, THROTTLE_READ, 100, 100 * CLOCK_SECOND, 10, begun), 1010);
}
END_TEST

/* The clocks of two threads differ a little; a clock that stands still grants no more. */
START_TEST(test_clock)
{
	uint64_t now = 50 * CLOCK_SECOND, late = 0;

	limits.limit[THROTTLE_IOPS_TOTAL].rate = 10;
	make();
	for (int i = 0; i < 100; i++)
		late = throttle_reserve(group, THROTTLE_READ, 1, now - (uint64_t)(i % 3) * 1000);
	ck_assert_uint_ge(late, now + CLOCK_SECOND * 97 / 10);
	ck_assert_uint_le(late, now + CLOCK_SECOND * 10);
}
END_TEST

/* What is charged for years does not run over. */
START_TEST(test_extremes)
{
	uint64_t place = 0;

	limits.limit[THROTTLE_BPS_TOTAL].rate = 1;
	limits.limit[THROTTLE_IOPS_TOTAL] =
		(struct throttle_limit){UINT64_C(1000000000000000), UINT64_C(1000000000000000), 1};
	make();
	for (int i = 0; i < 1000; i++)
		place = throttle_reserve(group, THROTTLE_READ, UINT64_C(64) << 20, 9);
	ck_assert_uint_gt(place, 24 * 3600 * CLOCK_SECOND);
	ck_assert_uint_lt(place, 366 * 24 * 3600 * CLOCK_SECOND);
}
END_TEST

#define OBJECT "throttle-group,id=t,"
#define BAD    "object 't' (throttle-group): "

static const struct {
	const char *text, *said; /* NULL: it is taken */
} objects[] = {
	{OBJECT "x-bps-total=1,x-bps-read=2",
	 BAD "bps/iops/max total values and read/write values cannot be used at the same time"},
	{OBJECT "x-bps-total=1,limits.bps-write=2",
	 BAD "bps/iops/max total values and read/write values cannot be used at the same time"},
	{OBJECT "iops=1,iops-write=2",
	 BAD "bps/iops/max total values and read/write values cannot be used at the same time"},
	{OBJECT "iops=1,iops-max=5,iops-write-max=2",
	 BAD "bps/iops/max total values and read/write values cannot be used at the same time"},
	{OBJECT "x-bps-total-max=5", BAD "bps_max/iops_max require corresponding bps/iops values"},
	{OBJECT "limits.iops-read=10,limits.iops-read-max=5",
	 BAD "bps_max/iops_max cannot be lower than bps/iops"},
	{OBJECT "x-bps-total=1,x-bps-total-max-length=0", BAD "the burst length cannot be 0"},
	{OBJECT "x-bps-total=1,x-bps-total-max-length=5",
	 BAD "burst length set without burst rate"},
	{OBJECT "x-iops-size=4", BAD "iops size requires an iops value to be set"},
	{OBJECT "x-bps-total=1000000000000001",
	 BAD "bps/iops/max values must be within [0, 1000000000000000]"},
	{OBJECT "bps=10,bps-max=1000000000000000,bps-max-length=100",
	 BAD "burst length too high for this burst rate"},
	{OBJECT "limits.bps-totl=1",
	 BAD "Invalid parameter 'limits.bps-totl'; did you mean 'limits.bps-total'?"},
	{OBJECT "x-iops-total=10,x-iops-total-max=20,x-iops-total-max-length=3,x-iops-size=4096",
	 NULL},
	{OBJECT "limits.bps-read=10M,limits.bps-write=5M,limits.iops-total=100", NULL},
	{OBJECT "iops=100,bps=1M,bps-max=2M,bps-max-length=60", NULL},
	{"throttle-group,id=t", NULL},
};

START_TEST(test_object)
{
	static struct object_set set;
	int rc;

	ck_assert_int_eq(object_set_add(&set, objects[_i].text, &err), 0);
	rc = object_set_create(&set, &err);
	if (objects[_i].said) {
		ck_assert_int_eq(rc, -EINVAL);
		ck_assert_str_eq(err.text, objects[_i].said);
	} else {
		ck_assert_msg(rc == 0, "%s", err.text);
		ck_assert_ptr_nonnull(object_throttle_find(&set, "t"));
	}
	ck_assert_ptr_null(object_throttle_find(&set, "x"));
	object_set_clear(&set);
}
END_TEST

#define COUNT(rows) (int)(sizeof(rows) / sizeof((rows)[0]))

int main(void)
{
	Suite *suite = suite_create("throttle");
	TCase *tcase = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, test_no_limits);
	tcase_add_loop_test(tcase, test_rate, 0, COUNT(rates));
	tcase_add_test(tcase, test_directions);
	tcase_add_test(tcase, test_large_request);
	tcase_add_loop_test(tcase, test_burst, 0, COUNT(bursts));
	tcase_add_test(tcase, test_operation_size);
	tcase_add_test(tcase, test_clock);
	tcase_add_test(tcase, test_extremes);
	tcase_add_loop_test(tcase, test_object, 0, COUNT(objects));
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
