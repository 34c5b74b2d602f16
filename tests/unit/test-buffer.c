// SPDX-License-Identifier: MIT
/* The buffer pool: size classes, the process's limit, and threads that share it. */
#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "server/buffer.h"
#include "server/limits.h"

enum { PIECES = PROCESS_BUFFERS_MAX / JOB_PIECE };

static void teardown(void)
{
	ck_assert_uint_eq(buffer_in_use(), 0);
	buffer_trim();
}

/* At least what was asked for, a page at least, all of it usable. */
START_TEST(test_sizes)
{
	static const uint32_t lengths[] = {1,     4095,    4096,      4097,          65536,
					   65537, 1000000, JOB_PIECE, READ_WHOLE_MAX};

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		uint32_t size;
		uint8_t *buffer = buffer_get(lengths[i], false, &size);

		ck_assert_ptr_nonnull(buffer);
		ck_assert_uint_ge(size, lengths[i]);
		ck_assert_uint_lt(size, 2 * (uint64_t)lengths[i] + 4096);
		ck_assert_uint_eq((uintptr_t)buffer % 4096, 0);
		ck_assert_uint_eq(buffer_in_use(), size);
		memset(buffer, 0xa5, size);
		buffer_put(buffer, size);
	}
}
END_TEST

/* A buffer that came back is used again. */
START_TEST(test_reuse)
{
	uint32_t size, again;
	uint8_t *buffer = buffer_get(10000, false, &size), *second;

	buffer_put(buffer, size);
	second = buffer_get(9000, false, &again);
	ck_assert_ptr_eq(second, buffer);
	buffer_put(second, again);
	buffer_put(NULL, 0);
}
END_TEST

/* At the limit there is none but the one that is forced; one that comes back makes room. */
START_TEST(test_limit)
{
	uint8_t *buffers[PIECES], *forced;
	uint32_t size;

	for (int i = 0; i < PIECES; i++) {
		buffers[i] = buffer_get(JOB_PIECE, false, &size);
		ck_assert_ptr_nonnull(buffers[i]);
	}
	ck_assert_uint_eq(buffer_in_use(), PROCESS_BUFFERS_MAX);
	ck_assert_ptr_null(buffer_get(1, false, &size));
	ck_assert_uint_eq(buffer_in_use(), PROCESS_BUFFERS_MAX);
	forced = buffer_get(READ_WHOLE_MAX, true, &size);
	ck_assert_ptr_nonnull(forced);
	ck_assert_uint_eq(buffer_in_use(), PROCESS_BUFFERS_MAX + (uint64_t)size);
	buffer_put(forced, size);
	buffer_put(buffers[0], JOB_PIECE);
	buffers[0] = buffer_get(JOB_PIECE, false, &size);
	ck_assert_ptr_nonnull(buffers[0]);
	for (int i = 0; i < PIECES; i++)
		buffer_put(buffers[i], JOB_PIECE);
}
END_TEST

/* As many as one connection may have are kept, and not those of sizes that nobody wants now. */
START_TEST(test_reserve)
{
	enum { COUNT = BUFFERS_RESERVE_MAX / JOB_PIECE };
	uint8_t *small[COUNT], *large[COUNT], *again;
	uint32_t size;

	for (int i = 0; i < COUNT; i++)
		small[i] = buffer_get(JOB_PIECE / 2, false, &size);
	for (int i = 0; i < COUNT; i++)
		buffer_put(small[i], JOB_PIECE / 2);
	for (int i = 0; i < COUNT; i++) {
		large[i] = buffer_get(JOB_PIECE, false, &size);
		ck_assert_ptr_nonnull(large[i]);
	}
	for (int i = 0; i < COUNT; i++)
		buffer_put(large[i], JOB_PIECE);
	ck_assert_uint_eq(buffer_kept(), BUFFERS_RESERVE_MAX);
	for (int i = COUNT - 1; i >= 0; i--) {
		again = buffer_get(JOB_PIECE, false, &size);
		ck_assert_ptr_eq(again, large[i]);
	}
	for (int i = 0; i < COUNT; i++)
		buffer_put(large[i], JOB_PIECE);
	buffer_trim();
	ck_assert_uint_eq(buffer_kept(), 0);
}
END_TEST

static void *use_buffers(void *argument)
{
	unsigned int state = *(unsigned int *)argument;

	for (int i = 0; i < 2000; i++) {
		uint32_t size;
		uint64_t length = 1 + (uint64_t)rand_r(&state) % (2 * JOB_PIECE);
		uint8_t *buffer = buffer_get(length, false, &size);

		if (!buffer)
			continue;
		buffer[0] = buffer[length - 1] = (uint8_t)i;
		if (buffer[length - 1] != (uint8_t)i)
			return argument;
		buffer_put(buffer, size);
	}
	return NULL;
}

START_TEST(test_threads)
{
	pthread_t threads[4];
	unsigned int seeds[4] = {1, 2, 3, 4};
	void *failed;

	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, use_buffers, &seeds[i]), 0);
	for (int i = 0; i < 4; i++) {
		ck_assert_int_eq(pthread_join(threads[i], &failed), 0);
		ck_assert_ptr_null(failed);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("buffer");
	TCase *tcase = tcase_create("pool");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, NULL, teardown);
	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, test_sizes);
	tcase_add_test(tcase, test_reuse);
	tcase_add_test(tcase, test_limit);
	tcase_add_test(tcase, test_reserve);
	tcase_add_test(tcase, test_threads);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
