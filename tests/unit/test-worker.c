// SPDX-License-Identifier: MIT
/*
 * The worker pool: many jobs, few threads, none lost, and an end that waits for everybody. Jobs
 * come back through the mailbox of a connection that nobody serves.
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/clock.h"
#include "server/buffer.h"
#include "server/connection.h"

enum { JOBS = 1000, THREADS = 4 };

static struct connection connection;
static struct job jobs[JOBS];
static struct worker_pool *pool;
static atomic_uint running, most, ran;

static void setup(void)
{
	connection = (struct connection){.mailbox = NULL};
	pthread_mutex_init(&connection.mail_lock, NULL);
	running = most = ran = 0;
	pool = worker_pool_new(THREADS);
	ck_assert_ptr_nonnull(pool);
}

static void teardown(void)
{
	worker_pool_free(pool);
	pthread_mutex_destroy(&connection.mail_lock);
}

static void note_most(unsigned int now)
{
	unsigned int before = atomic_load(&most);

	while (now > before && !atomic_compare_exchange_weak(&most, &before, now))
		;
}

static void run_quick(struct job *job)
{
	note_most(atomic_fetch_add(&running, 1) + 1);
	job->result = -(int)job->offset;
	atomic_fetch_add(&ran, 1);
	atomic_fetch_sub(&running, 1);
}

static void run_slow(struct job *job)
{
	note_most(atomic_fetch_add(&running, 1) + 1);
	usleep(2000);
	job->result = -(int)job->offset;
	atomic_fetch_add(&ran, 1);
	atomic_fetch_sub(&running, 1);
}

static void submit(int from, int to, void (*run)(struct job *))
{
	for (int i = from; i < to; i++) {
		jobs[i] = (struct job){
			.connection = &connection, .run = run, .offset = (uint64_t)i, .result = 1};
		worker_submit(pool, &jobs[i]);
	}
}

static unsigned int mail_count(void)
{
	unsigned int count = 0;

	pthread_mutex_lock(&connection.mail_lock);
	for (struct job *job = connection.mailbox; job; job = job->next)
		count++;
	pthread_mutex_unlock(&connection.mail_lock);
	return count;
}

static void wait_for_mail(unsigned int count)
{
	uint64_t deadline = clock_now() + 20 * CLOCK_SECOND;

	while (mail_count() < count && clock_now() < deadline)
		usleep(200);
	ck_assert_uint_eq(mail_count(), count);
}

/* Each job ran once, on its own data. */
static void assert_all_done(int count)
{
	static bool seen[JOBS];

	for (int i = 0; i < JOBS; i++)
		seen[i] = false;
	ck_assert_uint_eq(atomic_load(&ran), count);
	for (struct job *job = connection.mailbox; job; job = job->next) {
		ck_assert_int_eq(job->result, -(int)job->offset);
		ck_assert(!seen[job->offset]);
		seen[job->offset] = true;
	}
}

START_TEST(test_thousand_jobs)
{
	submit(0, JOBS, run_quick);
	wait_for_mail(JOBS);
	assert_all_done(JOBS);
	ck_assert_uint_le(atomic_load(&most), THREADS);
}
END_TEST

/* Jobs that block keep all threads busy, and not one more. */
START_TEST(test_all_threads_work)
{
	submit(0, 100, run_slow);
	wait_for_mail(100);
	assert_all_done(100);
	ck_assert_uint_eq(atomic_load(&most), THREADS);
}
END_TEST

/* One after the other: an idle thread takes the next. */
START_TEST(test_one_at_a_time)
{
	for (int i = 0; i < 200; i++) {
		submit(i, i + 1, run_quick);
		wait_for_mail((unsigned int)i + 1);
	}
	assert_all_done(200);
}
END_TEST

static void *submit_quarter(void *argument)
{
	int from = *(int *)argument;

	submit(from, from + JOBS / 4, run_quick);
	return NULL;
}

START_TEST(test_many_submitters)
{
	pthread_t threads[4];
	int from[4];

	for (int i = 0; i < 4; i++) {
		from[i] = i * JOBS / 4;
		ck_assert_int_eq(pthread_create(&threads[i], NULL, submit_quarter, &from[i]), 0);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	wait_for_mail(JOBS);
	assert_all_done(JOBS);
}
END_TEST

/* The end waits for what was submitted. */
START_TEST(test_shutdown_with_jobs)
{
	submit(0, 200, run_slow);
	worker_pool_free(pool);
	pool = NULL;
	ck_assert_uint_eq(mail_count(), 200);
	assert_all_done(200);
}
END_TEST

static void run_with_buffer(struct job *job)
{
	uint32_t size;
	uint8_t *buffer = buffer_get(JOB_PIECE, false, &size);

	buffer_put(buffer, size);
	run_quick(job);
}

/* The last thread gives back the memory that was kept for the next job. */
START_TEST(test_last_thread_trims)
{
	submit(0, 20, run_with_buffer);
	wait_for_mail(20);
	ck_assert_uint_ge(buffer_kept(), JOB_PIECE);
	worker_pool_free(pool);
	pool = NULL;
	ck_assert_uint_eq(buffer_kept(), 0);
}
END_TEST

/* A pool that never had work ends, too. */
START_TEST(test_shutdown_idle)
{
	worker_pool_free(pool);
	pool = worker_pool_new(1);
	submit(0, 1, run_quick);
	wait_for_mail(1);
	worker_pool_free(pool);
	pool = NULL;
	worker_pool_free(NULL);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("worker");
	TCase *tcase = tcase_create("pool");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, test_thousand_jobs);
	tcase_add_test(tcase, test_all_threads_work);
	tcase_add_test(tcase, test_one_at_a_time);
	tcase_add_test(tcase, test_many_submitters);
	tcase_add_test(tcase, test_shutdown_with_jobs);
	tcase_add_test(tcase, test_last_thread_trims);
	tcase_add_test(tcase, test_shutdown_idle);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
