// SPDX-License-Identifier: MIT
#include <check.h>
#include <stdbool.h>
#include <stdlib.h>

#include "server/spin.h"

#define US CLOCK_MICROSECOND

static struct spin spin;

static void setup(void)
{
	spin_reset(&spin);
}

/*
 * A client whose next request comes gap after the reply, on a machine where a wake-up takes wake:
 * what the waits cost in spinning, nanoseconds altogether. hits: how many needed no sleep.
 */
static uint64_t live(uint64_t gap, uint64_t wake, unsigned int waits, unsigned int *hits)
{
	uint64_t burnt = 0;

	*hits = 0;
	for (unsigned int i = 0; i < waits; i++) {
		uint64_t length = spin_length(&spin);

		burnt += length < gap ? length : gap;
		if (length >= gap) {
			(*hits)++;
			spin_note(&spin, SPIN_HIT, gap);
		} else {
			spin_note(&spin, length ? SPIN_MISSED : SPIN_SLEPT, gap + wake);
		}
	}
	return burnt;
}

/* Clients, and whether it pays to spin for them: nearly always or nearly never. */
static const struct {
	uint64_t gap, wake;
	bool spins;
} rows[] = {
	{5 * US, 3 * US, true},      {35 * US, 3 * US, true},
	{60 * US, 50 * US, true},    {90 * US, 60 * US, true},
	{60 * US, 10 * US, false},   {110 * US, 50 * US, false},
	{130 * US, 50 * US, false},  {150 * US, 49 * US, false},
	{1000 * US, 50 * US, false}, {40 * CLOCK_MILLISECOND, 50 * US, false},
};

START_TEST(test_clients)
{
	enum { WAITS = 4000 };
	unsigned int hits;
	uint64_t burnt = live(rows[_i].gap, rows[_i].wake, WAITS, &hits);

	if (rows[_i].spins) {
		ck_assert_uint_ge(hits, WAITS - 10);
	} else {
		ck_assert_uint_le(hits, WAITS / 100);
		/* A hundredth of the time, or of what a spin in each wait would take. */
		ck_assert_uint_le(burnt, WAITS / 100 * SPIN_LONG * 2);
		/* After two long waits it was the last. */
		if (rows[_i].gap > SPIN_REACH)
			ck_assert_uint_le(burnt, 2 * SPIN_SHORT);
	}
}
END_TEST

/* What was learned of one habit does not stand in the way of the next. */
START_TEST(test_change)
{
	unsigned int hits;

	live(1000 * US, 50 * US, 1000, &hits);
	ck_assert_uint_eq(spin_length(&spin), 0);
	live(60 * US, 50 * US, 1000, &hits);
	ck_assert_uint_ge(hits, 700);
	live(5 * US, 3 * US, 1000, &hits);
	ck_assert_uint_ge(hits, 990);
	ck_assert_uint_eq(spin_length(&spin), SPIN_SHORT);
	live(300 * US, 50 * US, 1000, &hits);
	ck_assert_uint_eq(hits, 0);
	/* A wait that a short spin would have caught ends all doubt at once. */
	spin_note(&spin, SPIN_SLEPT, 10 * US);
	ck_assert_uint_eq(spin_length(&spin), SPIN_SHORT);
}
END_TEST

/* However long the waits are, a spin is not. */
START_TEST(test_bounds)
{
	unsigned int hits;

	for (uint64_t gap = 0; gap < 400 * US; gap += 7 * US) {
		live(gap, 190 * US, 100, &hits);
		ck_assert_uint_le(spin_length(&spin), SPIN_LONG);
	}
}
END_TEST

/* Where others want the processor, spinning stops, although it would hit. */
START_TEST(test_stolen)
{
	unsigned int tries = 0;

	for (int i = 0; i < 1000; i++) {
		bool tried = spin_length(&spin) > 0;

		tries += tried;
		spin_note(&spin, tried ? SPIN_STOLEN : SPIN_SLEPT, tried ? 60 * US : 120 * US);
	}
	ck_assert_uint_le(tries, 12);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("spin");
	TCase *tcase = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, setup, NULL);
	tcase_add_loop_test(tcase, test_clients, 0, sizeof(rows) / sizeof(rows[0]));
	tcase_add_test(tcase, test_change);
	tcase_add_test(tcase, test_bounds);
	tcase_add_test(tcase, test_stolen);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
