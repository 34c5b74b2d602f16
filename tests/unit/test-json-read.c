// SPDX-License-Identifier: MIT
/* JSON that others wrote: values, escapes, what is refused, depth. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/json-read.h"
#include "common/size.h"

static struct json_value *read_text(const char *text)
{
	struct json_value *value;
	struct error err = ERROR_INIT;

	ck_assert_msg(json_read(text, strlen(text), &value, &err) == 0, "%s: %s", text, err.text);
	return value;
}

START_TEST(test_members)
{
	struct json_value *value = read_text(
		" { \"a\" : 1 , \"b\":[true,false,null,\"x\"], \"c\":{\"d\":18446744073709551615},"
		"\"e\":{}, \"f\":[] } ");
	const struct json_value *list = json_member(value, "b");

	ck_assert_uint_eq(value->count, 5);
	ck_assert_uint_eq(json_member_number(value, "a"), 1);
	ck_assert_uint_eq(json_member_number(json_member(value, "c"), "d"), UINT64_MAX);
	ck_assert_uint_eq(list->count, 4);
	ck_assert(list->first->kind == JSON_BOOL && list->first->number == 1);
	ck_assert(list->first->next->kind == JSON_BOOL && list->first->next->number == 0);
	ck_assert(list->first->next->next->kind == JSON_NULL);
	ck_assert_str_eq(list->first->next->next->next->text, "x");
	ck_assert_ptr_null(json_member(value, "absent"));
	ck_assert_ptr_null(json_member(list, "a"));
	ck_assert_ptr_null(json_member_text(value, "a"));
	ck_assert_uint_eq(json_member_number(NULL, "a"), 0);
	json_value_free(value);
}
END_TEST

START_TEST(test_numbers)
{
	static const struct {
		const char *text;
		uint64_t number;
	} cases[] = {
		{"0", 0},
		{"-5", 0},
		{"1.9", 1},
		{"1e3", 1000},
		{"2.5E2", 250},
		{"1e-3", 0},
		{"1e300", UINT64_MAX},
		{"99999999999999999999", UINT64_MAX},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct json_value *value = read_text(cases[i].text);

		ck_assert_int_eq(value->kind, JSON_NUMBER);
		ck_assert_msg(value->number == cases[i].number, "%s", cases[i].text);
		json_value_free(value);
	}
}
END_TEST

START_TEST(test_strings)
{
	struct json_value *value = read_text(
		"\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\u20AC\\ud83d\\ude00\\ud800x\\udc00\"");

	ck_assert_str_eq(value->text, "a\"\\/\b\f\n\r\t\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"
				      "\xef\xbf\xbdx\xef\xbf\xbd");
	json_value_free(value);
}
END_TEST

START_TEST(test_refused)
{
	static const char *const cases[] = {
		"",       "{",       "[",       "[1",         "[1,",       "[1,]",
		"{\"a\"", "{\"a\":", "{a:1}",   "{\"a\":1,}", "1 2",       "01",
		"-",      "1.",      "1e",      "tru",        "nul",       "\"",
		"\"\\",   "\"\\\"",  "\"\\x\"", "\"\n\"",     "\"\\u12\"", "\"\\u0000\"",
		"+1",     ".5",      "'a'",     "[1}",        "{\"a\" 1}", "\"\\ud800\\u0000\"",
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct json_value *value;
		struct error err = ERROR_INIT;

		ck_assert_msg(json_read(cases[i], strlen(cases[i]), &value, &err) == -EINVAL, "%s",
			      cases[i]);
		ck_assert_ptr_null(value);
		ck_assert_ptr_nonnull(strstr(err.text, "no JSON"));
	}
}
END_TEST

/* Each beginning of a good text is refused or read, never more than that. */
START_TEST(test_cut_anywhere)
{
	static const char text[] = "{\"a\":[1.5e2,\"\\u20ac\\n\",true,null,{\"b\":\"c\"}]}";

	for (size_t length = 0; length < sizeof(text) - 1; length++) {
		char *copy = malloc(length ? length : 1); /* so that a sanitizer sees the end */
		struct json_value *value;

		memcpy(copy, text, length);
		ck_assert_int_eq(json_read(copy, length, &value, NULL), -EINVAL);
		free(copy);
	}
}
END_TEST

START_TEST(test_depth)
{
	char text[2 * JSON_DEPTH_MAX + 3];
	struct json_value *value;

	memset(text, '[', JSON_DEPTH_MAX);
	memset(text + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
	ck_assert_int_eq(json_read(text, 2 * JSON_DEPTH_MAX, &value, NULL), 0);
	json_value_free(value);
	memset(text, '[', JSON_DEPTH_MAX + 1);
	memset(text + JSON_DEPTH_MAX + 1, ']', JSON_DEPTH_MAX + 1);
	ck_assert_int_eq(json_read(text, 2 * JSON_DEPTH_MAX + 2, &value, NULL), -EINVAL);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("json-read");
	TCase *tests = tcase_create("reader");
	SRunner *runner;
	int failed;

	tcase_add_test(tests, test_members);
	tcase_add_test(tests, test_numbers);
	tcase_add_test(tests, test_strings);
	tcase_add_test(tests, test_refused);
	tcase_add_test(tests, test_cut_anywhere);
	tcase_add_test(tests, test_depth);
	suite_add_tcase(suite, tests);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
