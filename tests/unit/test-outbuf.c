// SPDX-License-Identifier: MIT
/* The growing buffer: order, growth, taking off the front, and memory that runs out. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "server/outbuf.h"

/* Sanitizers would rather end than say that there is no memory. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "allocator_may_return_null=1";
}

const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
	return "allocator_may_return_null=1";
}

static struct outbuf out;

static void teardown(void)
{
	outbuf_clear(&out);
}

START_TEST(test_numbers)
{
	outbuf_add16(&out, 0x0102);
	outbuf_add32(&out, 0x03040506);
	outbuf_add64(&out, UINT64_C(0x0708090a0b0c0d0e));
	ck_assert_uint_eq(out.used, 14);
	for (uint8_t i = 0; i < 14; i++)
		ck_assert_uint_eq(out.bytes[i], i + 1);
}
END_TEST

START_TEST(test_growth)
{
	uint8_t byte;

	for (size_t i = 0; i < 100000; i++) {
		byte = (uint8_t)(i * 7);
		outbuf_add(&out, &byte, 1);
	}
	ck_assert_uint_eq(out.used, 100000);
	for (size_t i = 0; i < 100000; i++)
		if (out.bytes[i] != (uint8_t)(i * 7))
			ck_abort_msg("byte %zu is %02x", i, out.bytes[i]);
	ck_assert_uint_le(out.room, 400000);
}
END_TEST

START_TEST(test_consume)
{
	outbuf_add(&out, "hawser", 6);
	outbuf_consume(&out, 0);
	outbuf_consume(&out, 3);
	outbuf_add(&out, "!", 1);
	ck_assert_uint_eq(out.used, 4);
	ck_assert_int_eq(memcmp(out.bytes, "ser!", 4), 0);
	outbuf_consume(&out, 4);
	ck_assert_uint_eq(out.used, 0);
}
END_TEST

/* Nothing of nothing, from nowhere. */
START_TEST(test_empty)
{
	outbuf_add(&out, NULL, 0);
	outbuf_consume(&out, 0);
	ck_assert_ptr_null(out.bytes);
	outbuf_clear(&out);
	outbuf_clear(&out);
}
END_TEST

/* More than there can be: it fails, says so, keeps what it has and takes no more. */
START_TEST(test_no_memory)
{
	outbuf_add(&out, "abc", 3);
	ck_assert_ptr_null(outbuf_extend(&out, SIZE_MAX / 4));
	ck_assert(out.failed);
	outbuf_add(&out, "d", 1);
	outbuf_add64(&out, 1);
	ck_assert_ptr_null(outbuf_extend(&out, 1));
	ck_assert_uint_eq(out.used, 3);
	ck_assert_int_eq(memcmp(out.bytes, "abc", 3), 0);
	outbuf_clear(&out);
	ck_assert(!out.failed);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("outbuf");
	TCase *tcase = tcase_create("buffer");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, NULL, teardown);
	tcase_add_test(tcase, test_numbers);
	tcase_add_test(tcase, test_growth);
	tcase_add_test(tcase, test_consume);
	tcase_add_test(tcase, test_empty);
	tcase_add_test(tcase, test_no_memory);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
