// SPDX-License-Identifier: MIT
/* common/keyval and server/object: properties as typed, and the objects made of them. */
#include "common/keyval.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/object.h"

static struct keyval list;
static struct error err;

static void setup(void)
{
	memset(&err, 0, sizeof(err));
}

static void teardown(void)
{
	keyval_clear(&list);
}

START_TEST(test_parse)
{
	static const struct {
		const char *text, *key, *value;
	} cases[] = {
		{"a=b", "a", "b"},
		{"a=b,,c,d=e", "a", "b,c"},
		{"a=b,,c,d=e", "d", "e"},
		{"a=,,", "a", ","},
		{"a=", "a", ""},
		{"flag", "file", "flag"},
		{"x.qcow2,ro", "ro", "on"},
		{"a=1,a=2", "a", "2"},
		{"a==b", "a", "=b"},
		{"disk,,1,b=2", "file", "disk,1"},
		{"a=b,", "a", "b"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ck_assert_int_eq(keyval_parse(&list, cases[i].text, "file", &err), 0);
		ck_assert_msg(keyval_peek(&list, cases[i].key), "%s: no key %s", cases[i].text,
			      cases[i].key);
		ck_assert_str_eq(keyval_take(&list, cases[i].key), cases[i].value);
		keyval_clear(&list);
	}
}
END_TEST

START_TEST(test_refused)
{
	ck_assert_int_eq(keyval_parse(&list, "=b", NULL, &err), -EINVAL);
	ck_assert_int_eq(keyval_parse(&list, "a=b,c,,d", NULL, &err), -EINVAL);
	ck_assert_int_eq(keyval_parse(&list, "a=1,,2,,", NULL, &err), 0);
	ck_assert_str_eq(keyval_take(&list, "a"), "1,2,");
}
END_TEST

START_TEST(test_bounded)
{
	char key[16];

	for (int i = 0; i < KEYVAL_ENTRIES_MAX; i++) {
		snprintf(key, sizeof(key), "k%d", i);
		ck_assert_int_eq(keyval_set(&list, key, "v", &err), 0);
	}
	ck_assert_int_eq(keyval_set(&list, "k7", "w", &err), 0);
	ck_assert_int_eq(keyval_set(&list, "one-more", "v", &err), -EINVAL);
}
END_TEST

START_TEST(test_typed)
{
	bool on = false;
	uint64_t size = 7;

	ck_assert_int_eq(keyval_parse(&list, "a=yes,b=off,c=4k,d=maybe,e=9x,f=17", NULL, &err), 0);
	ck_assert_int_eq(keyval_take_bool(&list, "a", &on, &err), 0);
	ck_assert(on);
	ck_assert_int_eq(keyval_take_bool(&list, "missing", &on, &err), 0);
	ck_assert(on);
	ck_assert_int_eq(keyval_take_bool(&list, "b", &on, &err), 0);
	ck_assert(!on);
	ck_assert_int_eq(keyval_take_size(&list, "missing", 9, &size, &err), 0);
	ck_assert_uint_eq(size, 7);
	ck_assert_int_eq(keyval_take_size(&list, "c", UINT64_MAX, &size, &err), 0);
	ck_assert_uint_eq(size, 4096);
	ck_assert_int_eq(keyval_take_bool(&list, "d", &on, &err), -EINVAL);
	ck_assert_str_eq(err.text, "Parameter 'd' expects 'on' or 'off', not 'maybe'");
	ck_assert_int_eq(keyval_take_size(&list, "e", 9, &size, &err), -EINVAL);
	ck_assert_int_eq(keyval_take_size(&list, "f", 16, &size, &err), -EINVAL);
}
END_TEST

START_TEST(test_nearest)
{
	static const char *const known[] = {"driver", "filename", "read-only", "file.locking"};
	static const struct {
		const char *text, *said;
	} cases[] = {
		{"drivr=x", "Invalid parameter 'drivr'; did you mean 'driver'?"},
		{"file.reda-only=x",
		 "Invalid parameter 'file.reda-only'; did you mean 'file.read-only'?"},
		{"header.driver=x", "Invalid parameter 'header.driver': it means nothing here"},
		{"file.locking=x", "Invalid parameter 'file.locking': it means nothing here"},
		{"file.loking=x", "Invalid parameter 'file.loking'; did you mean 'file.locking'?"},
		{"zebra=x",
		 "Invalid parameter 'zebra'; there are driver, filename, read-only, file.locking"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ck_assert_int_eq(keyval_parse(&list, "driver=raw", NULL, &err), 0);
		ck_assert_int_eq(keyval_parse(&list, cases[i].text, NULL, &err), 0);
		ck_assert_str_eq(keyval_take(&list, "driver"), "raw");
		ck_assert_int_eq(keyval_check_taken(&list, known, 4, &err), -EINVAL);
		ck_assert_str_eq(err.text, cases[i].said);
		keyval_clear(&list);
	}
}
END_TEST

START_TEST(test_objects)
{
	static const struct {
		const char *text, *said;
	} cases[] = {
		{"", "Parameter 'qom-type' is missing"},
		{"nothing,id=a", "Invalid parameter 'nothing'; --object help lists the types"},
		{"iothread", "Parameter 'id' is missing"},
		{"iothread,id=9", "Parameter 'id' expects an identifier, not '9'"},
		{"iothread,id=", "Parameter 'id' expects an identifier, not ''"},
		{"iothread,id=io",
		 "attempt to add duplicate property 'io' to object (type 'container')"},
	};
	static struct object_set set;

	ck_assert_int_eq(object_set_add(&set, "iothread,id=io,poll-max-ns=32768", &err), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ck_assert_int_eq(object_set_add(&set, cases[i].text, &err), -EINVAL);
		ck_assert_str_eq(err.text, cases[i].said);
	}
	ck_assert_int_eq(object_set_create(&set, &err), 0);
	ck_assert_ptr_nonnull(object_find(&set, "io"));
	ck_assert_ptr_null(object_find(&set, "oi"));
	ck_assert_int_eq(object_set_add(&set, "iothread,id=x,pol-max-ns=1", &err), 0);
	ck_assert_int_eq(object_set_create(&set, &err), -EINVAL);
	ck_assert_str_eq(err.text, "object 'x' (iothread): Invalid parameter 'pol-max-ns'; did you "
				   "mean 'poll-max-ns'?");
	object_set_clear(&set);
	ck_assert_uint_eq(set.count, 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("keyval");
	TCase *tcase = tcase_create("keyval");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, test_parse);
	tcase_add_test(tcase, test_refused);
	tcase_add_test(tcase, test_bounded);
	tcase_add_test(tcase, test_typed);
	tcase_add_test(tcase, test_nearest);
	tcase_add_test(tcase, test_objects);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
