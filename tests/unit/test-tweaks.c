// SPDX-License-Identifier: MIT
/* server/image/tweaks: each way that this processor can go, against doubling bit by bit. */
#include "server/image/tweaks.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { SECTORS = 9, LENGTH = SECTORS * TWEAKS_SECTOR, SLACK = 64 };

struct aligned {
	uint8_t bytes[LENGTH + SLACK];
} __attribute__((aligned(TWEAKS_ALIGN)));

static struct aligned firsts, tweaks, expected;
static uint8_t in[LENGTH + SLACK], out[LENGTH + SLACK];

static void fill(uint8_t *bytes, size_t length, unsigned int seed)
{
	for (size_t i = 0; i < length; i++) {
		seed = seed * 1103515245 + 12345;
		bytes[i] = (uint8_t)(seed >> 16);
	}
}

/* As the standard has it: a number of 128 bits whose lowest byte comes first. */
static void double_slowly(const uint8_t *from, uint8_t *to)
{
	uint8_t carry = 0;

	for (int i = 0; i < TWEAKS_BLOCK; i++) {
		uint8_t top = from[i] >> 7;

		to[i] = (uint8_t)(from[i] << 1 | carry);
		carry = top;
	}
	if (carry)
		to[0] ^= 0x87;
}

static void expect(size_t sectors)
{
	for (size_t i = 0; i < sectors * TWEAKS_BLOCKS; i++) {
		uint8_t *at = expected.bytes + i * TWEAKS_BLOCK;

		if (i % TWEAKS_BLOCKS == 0)
			memcpy(at, firsts.bytes + i / TWEAKS_BLOCKS * TWEAKS_BLOCK, TWEAKS_BLOCK);
		else
			double_slowly(at - TWEAKS_BLOCK, at);
	}
}

/* out is in combined with what is expected; nothing behind it has changed. */
static void check_out(size_t length, size_t shift, const char *name)
{
	for (size_t i = 0; i < length; i++)
		ck_assert_msg(out[shift + i] == (in[shift + i] ^ expected.bytes[i]), "%s: byte %zu",
			      name, i);
	for (size_t i = shift + length; i < sizeof(out); i++)
		ck_assert_msg(out[i] == in[i], "%s: byte %zu behind the end", name, i);
}

static void check_way(const struct tweaks_way *way, size_t sectors, size_t shift)
{
	size_t length = sectors * TWEAKS_SECTOR;

	fill(firsts.bytes, sectors * TWEAKS_BLOCK, (unsigned int)(sectors + shift));
	memset(firsts.bytes, 0xff, TWEAKS_BLOCK); /* all that can be carried */
	fill(in, sizeof(in), 7);
	expect(sectors);
	memcpy(out, in, sizeof(out));
	memset(tweaks.bytes, 0x55, sizeof(tweaks.bytes));
	way->begin(firsts.bytes, sectors, tweaks.bytes, in + shift, out + shift);
	ck_assert_mem_eq(tweaks.bytes, expected.bytes, length);
	for (size_t i = length; i < sizeof(tweaks.bytes); i++)
		ck_assert_int_eq(tweaks.bytes[i], 0x55);
	check_out(length, shift, way->name);
	memcpy(out, in, sizeof(out));
	way->begin(firsts.bytes, sectors, tweaks.bytes, out + shift, out + shift);
	check_out(length, shift, way->name);
	way->apply(tweaks.bytes, length, out + shift);
	ck_assert_mem_eq(out, in, sizeof(out));
}

START_TEST(test_all_ways)
{
	size_t ways = 0;

	for (; tweaks_way(ways); ways++)
		for (size_t sectors = 0; sectors <= SECTORS; sectors++)
			for (size_t shift = 0; shift <= 16; shift += shift ? 15 : 1)
				check_way(tweaks_way(ways), sectors, shift);
	ck_assert_uint_ge(ways, 1);
	ck_assert_str_eq(tweaks_way(ways - 1)->name, "plain");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tweaks");
	TCase *tests = tcase_create("all");
	SRunner *runner;
	int failed;

	tcase_add_test(tests, test_all_ways);
	suite_add_tcase(suite, tests);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
