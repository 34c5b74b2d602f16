// SPDX-License-Identifier: MIT
/* common/error: one sentence, cut where it does not fit, and a number that is never lost. */
#include "common/error.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

START_TEST(test_sentence)
{
	struct error err = ERROR_INIT;

	ck_assert_int_eq(error_set(&err, ENOSPC, "disk %d is full", 3), -ENOSPC);
	ck_assert_int_eq(err.code, ENOSPC);
	ck_assert_str_eq(err.text, "disk 3 is full");
	ck_assert_int_eq(error_wrap(&err, "export '%s'", "data"), -ENOSPC);
	ck_assert_str_eq(err.text, "export 'data': disk 3 is full");
	ck_assert_int_eq(error_hint(&err, "; use %s", "--read-only"), -ENOSPC);
	ck_assert_str_eq(err.text, "export 'data': disk 3 is full; use --read-only");
}
END_TEST

START_TEST(test_system_text)
{
	struct error err = ERROR_INIT;

	ck_assert_int_eq(error_set_errno(&err, ENOENT, "disk.img"), -ENOENT);
	ck_assert_str_eq(err.text, "disk.img: No such file or directory");
	/* A later fault takes the place of an earlier one. */
	ck_assert_int_eq(error_set(&err, EPERM, "no"), -EPERM);
	ck_assert_int_eq(err.code, EPERM);
	ck_assert_str_eq(err.text, "no");
}
END_TEST

START_TEST(test_nobody_listens)
{
	ck_assert_int_eq(error_set(NULL, EIO, "x"), -EIO);
	ck_assert_int_eq(error_set_errno(NULL, EIO, "x"), -EIO);
	error_set(NULL, ENOENT, "x");
	ck_assert_int_eq(error_wrap(NULL, "x"), -ENOENT);
	ck_assert_int_eq(error_hint(NULL, "x"), -ENOENT);
}
END_TEST

/* Names come from peers and from the command line: of any length, and with conversions in them. */
START_TEST(test_too_long)
{
	struct {
		struct error err;
		char guard[16];
	} place = {.err = ERROR_INIT};
	char name[3 * ERROR_TEXT_MAX];

	memset(place.guard, '#', sizeof(place.guard));
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	error_set(&place.err, EINVAL, "%s", name);
	ck_assert_uint_eq(strlen(place.err.text), ERROR_TEXT_MAX - 1);
	ck_assert_int_eq(error_hint(&place.err, "%s", name), -EINVAL);
	ck_assert_int_eq(error_wrap(&place.err, "export"), -EINVAL);
	ck_assert_int_eq(strncmp(place.err.text, "export: nnn", 11), 0);
	ck_assert_int_eq(error_wrap(&place.err, "%s", name), -EINVAL);
	ck_assert_uint_eq(strlen(place.err.text), ERROR_TEXT_MAX - 1);
	for (size_t i = 0; i < sizeof(place.guard); i++)
		ck_assert_int_eq(place.guard[i], '#');
}
END_TEST

START_TEST(test_text_is_no_format)
{
	struct error err = ERROR_INIT;

	error_set(&err, EINVAL, "export '%s'", "%s%n%d");
	error_wrap(&err, "server");
	ck_assert_str_eq(err.text, "server: export '%s%n%d'");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("error");
	TCase *tests = tcase_create("error");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tests, test_sentence);
	tcase_add_test(tests, test_system_text);
	tcase_add_test(tests, test_nobody_listens);
	tcase_add_test(tests, test_too_long);
	tcase_add_test(tests, test_text_is_no_format);
	suite_add_tcase(suite, tests);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
