// SPDX-License-Identifier: MIT
/* common/size: checked ranges, numbers as typed and as shown. */
#include "common/size.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>

static const struct {
	const char *text;
	uint64_t limit;
	int rc;
	uint64_t value;
} typed[] = {
	{"0", UINT64_MAX, 0, 0},
	{"512", UINT64_MAX, 0, 512},
	{"0x200", UINT64_MAX, 0, 512},
	{"010", UINT64_MAX, 0, 8},
	{"1k", UINT64_MAX, 0, 1024},
	{"1K", UINT64_MAX, 0, 1024},
	{"3MiB", UINT64_MAX, 0, UINT64_C(3) << 20},
	{"3MB", UINT64_MAX, 0, UINT64_C(3) << 20},
	{"7B", UINT64_MAX, 0, 7},
	{"15E", UINT64_MAX, 0, UINT64_C(15) << 60},
	{"18446744073709551615", UINT64_MAX, 0, UINT64_MAX},
	{"100", 100, 0, 100},
	/* too much */
	{"101", 100, -ERANGE, 0},
	{"1k", 1023, -ERANGE, 0},
	{"16E", UINT64_MAX, -ERANGE, 0},
	{"18446744073709551616", UINT64_MAX, -ERANGE, 0},
	{"99999999999999999999999999", UINT64_MAX, -ERANGE, 0},
	/* not a number */
	{"", UINT64_MAX, -EINVAL, 0},
	{" 1", UINT64_MAX, -EINVAL, 0},
	{"1 ", UINT64_MAX, -EINVAL, 0},
	{"-1", UINT64_MAX, -EINVAL, 0},
	{"+1", UINT64_MAX, -EINVAL, 0},
	{"k", UINT64_MAX, -EINVAL, 0},
	{"0x", UINT64_MAX, -EINVAL, 0},
	{"08", UINT64_MAX, -EINVAL, 0},
	{"1.5M", UINT64_MAX, -EINVAL, 0},
	{"1Mi", UINT64_MAX, -EINVAL, 0},
	{"1iB", UINT64_MAX, -EINVAL, 0},
	{"1KiBB", UINT64_MAX, -EINVAL, 0},
	{"1KK", UINT64_MAX, -EINVAL, 0},
	{"1M\n", UINT64_MAX, -EINVAL, 0},
};

START_TEST(test_typed)
{
	uint64_t value = 0;

	ck_assert_msg(size_parse(typed[_i].text, typed[_i].limit, &value) == typed[_i].rc,
		      "'%s' has another result", typed[_i].text);
	if (typed[_i].rc == 0)
		ck_assert_uint_eq(value, typed[_i].value);
}
END_TEST

START_TEST(test_plain_number)
{
	uint64_t value = 0;

	ck_assert_int_eq(size_parse_number("65535", 65535, &value), 0);
	ck_assert_uint_eq(value, 65535);
	ck_assert_int_eq(size_parse_number("65536", 65535, &value), -ERANGE);
	ck_assert_int_eq(size_parse_number("1k", 65535, &value), -EINVAL);
	ck_assert_int_eq(size_parse_number("", 65535, &value), -EINVAL);
	ck_assert_int_eq(size_parse_number("-0", 65535, &value), -EINVAL);
}
END_TEST

static const struct {
	uint64_t value;
	const char *text;
} shown[] = {
	{0, "0 B"},
	{1, "1 B"},
	{1023, "1023 B"},
	{1024, "1 KiB"},
	{1536, "1.5 KiB"},
	{(1 << 20) - 1, "1.0 MiB"},
	{(1 << 20) - 1024, "1023 KiB"},
	{UINT64_C(64) << 20, "64 MiB"},
	{(UINT64_C(64) << 20) + (UINT64_C(1) << 19), "64.5 MiB"},
	{UINT64_C(1) << 60, "1 EiB"},
	{UINT64_MAX, "16.0 EiB"},
};

START_TEST(test_shown)
{
	char text[SIZE_TEXT_MAX];

	ck_assert_str_eq(size_format(shown[_i].value, text), shown[_i].text);
}
END_TEST

START_TEST(test_ranges)
{
	ck_assert(range_inside(0, 0, 0));
	ck_assert(range_inside(0, 10, 10));
	ck_assert(range_inside(10, 0, 10));
	ck_assert(!range_inside(11, 0, 10));
	ck_assert(!range_inside(0, 11, 10));
	ck_assert(!range_inside(5, 6, 10));
	/* Sums that wrap round. */
	ck_assert(!range_inside(UINT64_MAX, 2, 10));
	ck_assert(!range_inside(2, UINT64_MAX, 10));
	ck_assert(!range_inside(UINT64_MAX, UINT64_MAX, UINT64_MAX));
	ck_assert(range_inside(UINT64_MAX, 0, UINT64_MAX));
}
END_TEST

START_TEST(test_rounding)
{
	ck_assert_uint_eq(round_down(4095, 4096), 0);
	ck_assert_uint_eq(round_down(4096, 4096), 4096);
	ck_assert_uint_eq(round_up(1, 4096), 4096);
	ck_assert_uint_eq(round_up(4096, 4096), 4096);
	ck_assert_uint_eq(round_up(UINT64_MAX - 511, 512), UINT64_MAX - 511);
	ck_assert(!is_power_of_two(0));
	ck_assert(is_power_of_two(1));
	ck_assert(is_power_of_two(UINT64_C(1) << 63));
	ck_assert(!is_power_of_two(UINT64_MAX));
}
END_TEST

#define COUNT(table) ((int)(sizeof(table) / sizeof((table)[0])))

int main(void)
{
	Suite *suite = suite_create("size");
	TCase *tests = tcase_create("size");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_loop_test(tests, test_typed, 0, COUNT(typed));
	tcase_add_test(tests, test_plain_number);
	tcase_add_loop_test(tests, test_shown, 0, COUNT(shown));
	tcase_add_test(tests, test_ranges);
	tcase_add_test(tests, test_rounding);
	suite_add_tcase(suite, tests);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
