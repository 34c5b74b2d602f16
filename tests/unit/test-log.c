// SPDX-License-Identifier: MIT
/* common/log: what reaches the system's log. The C library's is replaced here. */
#include "common/log.h"

#include <check.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

static char logged[2000];
static int priority;

static void note(int level, const char *format, va_list args)
{
	priority = level;
	vsnprintf(logged, sizeof(logged), format, args);
	errno = ECONNREFUSED; /* as where there is none */
}

/* In place of syslog(3), by the name that it has in each kind of build. */
void note_plain(int level, const char *format, ...) __asm__("syslog")
	__attribute__((format(printf, 2, 3)));
void note_fortified(int level, int flag, const char *format, ...) __asm__("__syslog_chk")
	__attribute__((format(printf, 3, 4)));

void note_plain(int level, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	note(level, format, args);
	va_end(args);
}

void note_fortified(int level, int flag, const char *format, ...)
{
	va_list args;

	(void)flag;
	va_start(args, format);
	note(level, format, args);
	va_end(args);
}

START_TEST(test_system)
{
	char path[] = "/usr/sbin/hawserd";

	log_init(path);
	log_warning("early");
	ck_assert_str_eq(logged, "");
	log_to_system();
	errno = EAGAIN;
	log_warning("%s is %d%%\033", "disk", 7);
	ck_assert_int_eq(errno, EAGAIN);
	ck_assert_str_eq(logged, "warning: disk is 7%?");
	ck_assert_int_eq(priority, LOG_WARNING);
	log_error("gone");
	ck_assert_str_eq(logged, "gone");
	ck_assert_int_eq(priority, LOG_ERR);
	log_threshold = LOG_LEVEL_DEBUG;
	log_info("who cares");
	ck_assert_str_eq(logged, "gone");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("log");
	TCase *tcase = tcase_create("log");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tcase, test_system);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
