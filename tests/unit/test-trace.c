// SPDX-License-Identifier: MIT
/* Trace events: patterns, the option's grammar, files of events, lines, and what happens when a
 * line cannot be written. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "server/trace.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static char directory[] = "/tmp/hawser-trace-XXXXXX";
static struct trace_setup setup;
static struct error err;

static void start(void)
{
	ck_assert_ptr_nonnull(mkdtemp(directory));
	ck_assert_int_eq(chdir(directory), 0);
	log_threshold = LOG_LEVEL_ERROR;
}

static void end(void)
{
	trace_setup_clear(&setup);
	ck_assert_int_eq(system("rm -f events lines"), 0);
	ck_assert_int_eq(rmdir(directory), 0);
}

static uint64_t bit(enum trace_event event)
{
	return UINT64_C(1) << event;
}

#define ALL ((UINT64_C(1) << TRACE_EVENTS) - 1)

static void write_file(const char *name, const char *text, size_t length)
{
	FILE *file = fopen(name, "w");

	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fwrite(text, 1, length, file), length);
	fclose(file);
}

START_TEST(test_patterns)
{
	static const struct {
		const char *pattern;
		uint64_t found;
	} rows[] = {
		{"*", ALL},
		{"**", ALL},
		{"flush_begin", UINT64_C(1) << TRACE_flush_begin},
		{"flush_*", UINT64_C(1) << TRACE_flush_begin | UINT64_C(1) << TRACE_flush_end},
		{"flush_e?d", UINT64_C(1) << TRACE_flush_end},
		{"f*h_*n*", UINT64_C(1) << TRACE_flush_begin | UINT64_C(1) << TRACE_flush_end},
		{"*_cached", UINT64_C(1) << TRACE_host_read_cached},
		{"flush_begin*", UINT64_C(1) << TRACE_flush_begin},
		{"flush", 0},
		{"lush_begin", 0},
		{"flush_begin?", 0},
		{"Flush_begin", 0},
		{"", 0},
		{"?", 0},
		{"*x*y*z*", 0},
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		setup.active = 0;
		trace_setup_rule(&setup, rows[i].pattern, strlen(rows[i].pattern));
		ck_assert_msg(setup.active == rows[i].found, "'%s'", rows[i].pattern);
	}
}
END_TEST

START_TEST(test_option)
{
	ck_assert_int_eq(trace_setup_add(&setup, "flush_*,file=a,,b", &err), 0);
	ck_assert_uint_eq(setup.active, bit(TRACE_flush_begin) | bit(TRACE_flush_end));
	ck_assert_str_eq(setup.file, "a,b");
	ck_assert_int_eq(trace_setup_add(&setup, "enable=-flush_end", &err), 0);
	ck_assert_uint_eq(setup.active, bit(TRACE_flush_begin));
	ck_assert_int_eq(trace_setup_add(&setup, "file=c", &err), 0);
	ck_assert_str_eq(setup.file, "c");
	ck_assert_uint_eq(setup.active, bit(TRACE_flush_begin));
	ck_assert_int_eq(trace_setup_add(&setup, "*,fiel=x", &err), -EINVAL);
	ck_assert_msg(strstr(err.text, "'fiel'") && strstr(err.text, "'file'"), "%s", err.text);
	ck_assert_int_eq(trace_setup_add(&setup, "events=none", &err), -ENOENT);
	ck_assert(strstr(err.text, "'none'"));
	ck_assert(trace_asks_help("help") && trace_asks_help("?"));
	ck_assert(!trace_asks_help("helper") && !trace_asks_help(""));
}
END_TEST

START_TEST(test_events_file)
{
	static const char text[] = "# all of them, but\n\n  host_*  \r\n-host_sync_*\n"
				   "\t# no\nflush_begin\n-*\nreplies_sent";
	char *large = malloc(2 << 20);

	write_file("events", text, strlen(text) - strlen("-*\nreplies_sent"));
	ck_assert_int_eq(trace_setup_add(&setup, "qcow2_corrupt,events=events", &err), 0);
	ck_assert_uint_eq(setup.active & bit(TRACE_host_read_begin), bit(TRACE_host_read_begin));
	ck_assert_uint_eq(setup.active & bit(TRACE_host_sync_begin), 0);
	ck_assert_uint_ne(setup.active & bit(TRACE_qcow2_corrupt), 0);
	ck_assert_uint_ne(setup.active & bit(TRACE_flush_begin), 0);
	write_file("events", text, strlen(text)); /* the last line without its end */
	ck_assert_int_eq(trace_setup_add(&setup, "events=events", &err), 0);
	ck_assert_uint_eq(setup.active, bit(TRACE_replies_sent));
	write_file("events", "flush\0end", 9);
	ck_assert_int_eq(trace_setup_add(&setup, "events=events", &err), -EINVAL);
	memset(large, '\n', 2 << 20);
	write_file("events", large, 2 << 20);
	ck_assert_int_eq(trace_setup_add(&setup, "events=events", &err), -EINVAL);
	ck_assert_int_eq(trace_setup_add(&setup, "events=.", &err), -EISDIR);
	free(large);
}
END_TEST

START_TEST(test_help)
{
	char *text = NULL;
	size_t length;
	FILE *out = open_memstream(&text, &length);

	trace_print_events(out);
	fclose(out);
	ck_assert_ptr_nonnull(strstr(text, "request_received\n"));
	for (const char *at = text; *at; at = strchr(at, '\n') + 1) {
		setup.active = 0;
		trace_setup_rule(&setup, at, strcspn(at, "\n"));
		ck_assert_int_eq(__builtin_popcountll(setup.active), 1);
	}
	free(text);
}
END_TEST

static char *read_lines(void)
{
	static char text[4 << 20];
	FILE *file = fopen("lines", "r");
	size_t length = fread(text, 1, sizeof(text) - 1, file);

	fclose(file);
	text[length] = '\0';
	return text;
}

START_TEST(test_lines)
{
	char name[3000];
	char *text;

	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	ck_assert_int_eq(trace_setup_add(&setup, "flush_*,file=lines", &err), 0);
	ck_assert_int_eq(trace_begin(&setup, &err), 0);
	errno = 77;
	trace_flush_begin("evil\n\x1b[1mname");
	ck_assert_int_eq(errno, 77);
	trace_flush_end(name, -5);
	trace_host_sync_begin(3); /* off */
	text = read_lines();
	ck_assert_ptr_nonnull(strstr(text, " flush_begin export=evil??[1mname\n"));
	ck_assert_ptr_nonnull(strstr(text, "nnn\n"));
	ck_assert_ptr_null(strstr(text, "host_sync"));
	ck_assert_uint_lt(strlen(text), 2200);
}
END_TEST

enum { THREADS = 8, EACH = 2000 };

static void *many_lines(void *argument)
{
	for (unsigned int i = 0; i < EACH; i++)
		trace_job_started((unsigned int)(uintptr_t)argument, htobe64(i), UINT64_MAX - i);
	return NULL;
}

/* Whatever the threads do, each line is whole and none is lost. */
START_TEST(test_threads)
{
	pthread_t threads[THREADS];
	unsigned int next[THREADS] = {0}, lines = 0;

	ck_assert_int_eq(trace_setup_add(&setup, "*,file=lines", &err), 0);
	ck_assert_int_eq(trace_begin(&setup, &err), 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, many_lines, (void *)i), 0);
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (char *line = strtok(read_lines(), "\n"); line; line = strtok(NULL, "\n")) {
		unsigned int client, cookie;
		unsigned long long offset;

		ck_assert_int_eq(sscanf(line,
					"%*u.%*6u %*d job_started client=%u cookie=%x "
					"offset=%llu",
					&client, &cookie, &offset),
				 3);
		ck_assert_uint_lt(client, THREADS);
		ck_assert_uint_eq(cookie, next[client]++);
		ck_assert(offset == UINT64_MAX - cookie);
		lines++;
	}
	ck_assert_uint_eq(lines, THREADS * EACH);
}
END_TEST

/* A full disk ends the tracing, and nothing else. */
START_TEST(test_full)
{
	ck_assert_int_eq(trace_setup_add(&setup, "*,file=/dev/full", &err), 0);
	ck_assert_int_eq(trace_begin(&setup, &err), 0);
	ck_assert_uint_eq(atomic_load(&trace_active), ALL);
	errno = 77;
	trace_flush_begin("");
	ck_assert_int_eq(errno, 77);
	ck_assert_uint_eq(atomic_load(&trace_active), 0);
	trace_flush_begin("");
	ck_assert_int_eq(trace_setup_add(&setup, "file=/nonexistent/x", &err), 0);
	ck_assert_int_eq(trace_begin(&setup, &err), -ENOENT);
	ck_assert(strstr(err.text, "/nonexistent/x"));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("trace");
	TCase *tcase = tcase_create("trace");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tcase, 60);
	tcase_add_checked_fixture(tcase, start, end);
	tcase_add_test(tcase, test_patterns);
	tcase_add_test(tcase, test_option);
	tcase_add_test(tcase, test_events_file);
	tcase_add_test(tcase, test_help);
	tcase_add_test(tcase, test_lines);
	tcase_add_test(tcase, test_threads);
	tcase_add_test(tcase, test_full);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
