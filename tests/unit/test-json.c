// SPDX-License-Identifier: MIT
/* JSON text: commas, nesting, escapes; and text of peers made harmless (C11). */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/json.h"
#include "common/printable.h"

static char *text;
static size_t length;
static struct json json;

static void begin(void)
{
	free(text);
	text = NULL;
	json_init(&json, open_memstream(&text, &length));
}

static void assert_text(const char *expected)
{
	ck_assert_int_eq(json_finish(&json), 0);
	fclose(json.out);
	ck_assert_str_eq(text, expected);
}

START_TEST(test_nesting)
{
	begin();
	json_object_begin(&json, NULL);
	json_number(&json, "n", UINT64_MAX);
	json_array_begin(&json, "empty");
	json_array_end(&json);
	json_array_begin(&json, "rows");
	json_object_begin_line(&json, NULL);
	json_bool(&json, "a", true);
	json_array_begin(&json, "b");
	json_string(&json, NULL, "x");
	json_array_end(&json);
	json_object_end(&json);
	json_object_begin(&json, NULL);
	json_null(&json, "c");
	json_object_end(&json);
	json_array_end(&json);
	json_bool(&json, "z", false);
	json_object_end(&json);
	assert_text("{\n"
		    "  \"n\": 18446744073709551615,\n"
		    "  \"empty\": [],\n"
		    "  \"rows\": [\n"
		    "    { \"a\": true, \"b\": [ \"x\" ] },\n"
		    "    {\n"
		    "      \"c\": null\n"
		    "    }\n"
		    "  ],\n"
		    "  \"z\": false\n"
		    "}\n");
}
END_TEST

START_TEST(test_escapes)
{
	begin();
	json_string(&json, NULL, "a\"b\\c\n\x1b[0m\x7f \xc2\x9b \xc3\xa4 \xff\xc3");
	assert_text("\"a\\\"b\\\\c\\u000a\\u001b[0m\\u007f \\u009b \xc3\xa4 \\ufffd\\ufffd\"\n");
}
END_TEST

START_TEST(test_full_stream)
{
	AUTO_FILE FILE *full = fopen("/dev/full", "w");

	ck_assert_ptr_nonnull(full);
	json_init(&json, full);
	json_number(&json, NULL, 1);
	ck_assert_int_eq(json_finish(&json), -EIO);
}
END_TEST

static const struct {
	const char *in, *out;
} harmless[] = {
	{"", ""},
	{"plain \xc3\xa4\xe2\x82\xac\xf0\x9f\x9a\xa2",
	 "plain \xc3\xa4\xe2\x82\xac\xf0\x9f\x9a\xa2"},
	{"\x1b[2J\x07\r\n\t", "\\x1b[2J\\x07\\x0d\\x0a\\x09"},
	{"\x7f", "\\x7f"},
	{"\xc2\x9b"
	 "31m",
	 "\\xc2\\x9b31m"}, /* C1: CSI in one character */
	{"a\xe2\x80\xae"
	 "b",
	 "a\\xe2\\x80\\xaeb"}, /* right-to-left override */
	{"\xff\xfe", "\\xff\\xfe"},
	{"\xc0\xaf", "\\xc0\\xaf"},                   /* overlong */
	{"\xed\xa0\x80", "\\xed\\xa0\\x80"},          /* surrogate */
	{"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"}, /* above Unicode */
	{"x\xe2\x82", "x\\xe2\\x82"},                 /* cut short */
};

START_TEST(test_printable)
{
	AUTO_FREE char *out = printable_dup(harmless[_i].in);

	ck_assert_str_eq(out, harmless[_i].out);
}
END_TEST

START_TEST(test_printable_cut)
{
	static const char in[] = "ab\xc3\xa4\x1b"
				 "cdef";
	char out[32];

	/* The whole takes 12 bytes; every smaller buffer is cut between characters. */
	ck_assert_str_eq(printable_copy(out, 13, in, strlen(in)), "ab\xc3\xa4\\x1bcdef");
	ck_assert_str_eq(printable_copy(out, 12, in, strlen(in)), "ab\xc3\xa4\\x1b...");
	ck_assert_str_eq(printable_copy(out, 10, in, strlen(in)), "ab\xc3\xa4...");
	ck_assert_str_eq(printable_copy(out, 7, in, strlen(in)), "ab...");
	ck_assert_str_eq(printable_copy(out, 1, in, strlen(in)), "");
	for (size_t size = 1; size < sizeof(out); size++) {
		memset(out, 'X', sizeof(out));
		printable_copy(out, size, in, strlen(in));
		ck_assert_uint_lt(strlen(out), size);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("json");
	TCase *tcase = tcase_create("text");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tcase, test_nesting);
	tcase_add_test(tcase, test_escapes);
	tcase_add_test(tcase, test_full_stream);
	tcase_add_loop_test(tcase, test_printable, 0, sizeof(harmless) / sizeof(harmless[0]));
	tcase_add_test(tcase, test_printable_cut);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	free(text);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
