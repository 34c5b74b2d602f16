// SPDX-License-Identifier: MIT
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/image/image.h"
#include "server/zeroes.h"

enum { KIB = 1024, BYTES = 512 * KIB };

static uint8_t bytes[BYTES];
static struct zeroes_rule rule;

static void setup(void)
{
	memset(bytes, 'x', sizeof(bytes));
}

/* One byte anywhere is enough, whatever length and alignment. */
START_TEST(test_all)
{
	memset(bytes, 0, sizeof(bytes));
	for (size_t start = 0; start < 9; start++)
		for (size_t length = 0; length < 70; length++) {
			ck_assert(zeroes_all(bytes + start, length));
			for (size_t at = 0; at < length; at++) {
				bytes[start + at] = 1;
				ck_assert(!zeroes_all(bytes + start, length));
				bytes[start + at] = 0;
			}
			bytes[start + length] = 1; /* behind the end */
			ck_assert(zeroes_all(bytes + start, length));
			bytes[start + length] = 0;
		}
}
END_TEST

/* Zeroes at [begin, end) of the bytes, which are for offset: stretches as `text`, KiB each. */
static const struct {
	enum detect_zeroes mode;
	uint32_t mapped;
	uint64_t offset;
	size_t length, begin, end;
	const char *text;
} rows[] = {
	{DETECT_ZEROES_ON, 0, 0, 256, 0, 0, "w256"},
	{DETECT_ZEROES_ON, 0, 0, 256, 0, 256, "z256"},
	{DETECT_ZEROES_ON, 0, 0, 256, 64, 128, "w64 z64 w128"},
	{DETECT_ZEROES_ON, 0, 0, 256, 64, 127, "w256"}, /* 60 whole */
	{DETECT_ZEROES_ON, 0, 0, 256, 61, 129, "w64 z64 w128"},
	{DETECT_ZEROES_ON, 0, 0, 256, 192, 256, "w192 z64"},
	{DETECT_ZEROES_ON, 0, 0, 256, 0, 70, "z68 w188"},
	{DETECT_ZEROES_ON, 0, 2, 256, 0, 256, "z256"},
	{DETECT_ZEROES_ON, 0, 2, 256, 0, 80, "w2 z76 w178"},
	{DETECT_ZEROES_ON, 0, 2, 1, 0, 0, "w1"},
	{DETECT_ZEROES_ON, 0, 0, 60, 0, 60, "w60"},
	{DETECT_ZEROES_UNMAP, 0, 0, 60, 0, 60, "z60"},
	{DETECT_ZEROES_UNMAP, 0, 0, 4, 0, 4, "z4"},
	{DETECT_ZEROES_UNMAP, 0, 0, 3, 0, 3, "w3"},
	{DETECT_ZEROES_UNMAP, 0, 0, 256, 16, 44, "w256"},
	{DETECT_ZEROES_UNMAP, 0, 0, 256, 16, 48, "w16 z32 w208"},
	{DETECT_ZEROES_ON, 65536, 0, 256, 64, 128, "w64 z64 w128"},
	{DETECT_ZEROES_ON, 65536, 0, 256, 63, 191, "w64 z64 w128"},
	{DETECT_ZEROES_ON, 65536, 32, 256, 0, 200, "w32 z128 w96"},
	{DETECT_ZEROES_UNMAP, 65536, 0, 32, 0, 32, "w32"},
	{DETECT_ZEROES_ON, 2048, 0, 256, 64, 95, "w256"},
	{DETECT_ZEROES_ON, 2048, 0, 256, 64, 96, "w64 z32 w160"},
	{DETECT_ZEROES_ON, 262144, 0, 512, 0, 300, "z256 w256"},
};

START_TEST(test_next)
{
	size_t length = rows[_i].length * KIB, done = 0;
	char text[200] = "", *end = text;

	memset(bytes + rows[_i].begin * KIB, 0, (rows[_i].end - rows[_i].begin) * KIB);
	zeroes_rule_init(&rule, rows[_i].mode, rows[_i].mapped);
	while (done < length) {
		bool zero;
		size_t step = zeroes_next(&rule, bytes + done, rows[_i].offset * KIB + done,
					  length - done, &zero);

		ck_assert_uint_ge(step, 1);
		ck_assert_uint_le(step, length - done);
		end += sprintf(end, "%s%c%zu", done ? " " : "", zero ? 'z' : 'w', step / KIB);
		done += step;
	}
	ck_assert_str_eq(text, rows[_i].text);
}
END_TEST

/* Whatever is there: stretches cover all, what is to be zeroed is zeroes. */
START_TEST(test_anything)
{
	static const uint32_t mapped[] = {0, 2048, 4096, 65536, 2 << 20};

	srand((unsigned int)_i);
	for (int i = 0; i < 20; i++) {
		size_t begin = (size_t)rand() % BYTES, run = (size_t)rand() % (BYTES - begin);

		memset(bytes + begin, rand() % 3 ? 0 : 1, run);
	}
	zeroes_rule_init(&rule, _i % 2 ? DETECT_ZEROES_ON : DETECT_ZEROES_UNMAP, mapped[_i % 5]);
	for (size_t done = 0; done < BYTES;) {
		size_t left = 1 + (size_t)rand() % (BYTES - done);
		bool zero;
		size_t step = zeroes_next(&rule, bytes + done, done + (size_t)_i, left, &zero);

		ck_assert(step >= 1 && step <= left);
		ck_assert(!zero || zeroes_all(bytes + done, step));
		ck_assert(!zero || step >= rule.run_min || step == left);
		done += step;
	}
}
END_TEST

START_TEST(test_flags)
{
	zeroes_rule_init(&rule, DETECT_ZEROES_ON, 0);
	ck_assert_uint_eq(rule.flags, ZERO_MAY_STAY_HOLE);
	zeroes_rule_init(&rule, DETECT_ZEROES_UNMAP, 65536);
	ck_assert_uint_eq(rule.flags, ZERO_MAY_UNMAP);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("zeroes");
	TCase *tcase = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, setup, NULL);
	tcase_add_test(tcase, test_all);
	tcase_add_loop_test(tcase, test_next, 0, sizeof(rows) / sizeof(rows[0]));
	tcase_add_loop_test(tcase, test_anything, 0, 40);
	tcase_add_test(tcase, test_flags);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
