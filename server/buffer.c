// SPDX-License-Identifier: MIT
/*
 * The buffer pool. Size classes are powers of two from a page to the largest piece; each keeps a
 * short stack of idle buffers.
 */
#include "buffer.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "common/size.h"
#include "limits.h"

enum { CLASS_MIN_SHIFT = 12, CLASS_COUNT = 15, KEEP_PER_CLASS = 4, PAGE = 4096 };

static struct {
	pthread_mutex_t lock;
	struct {
		uint8_t *idle[KEEP_PER_CLASS];
		unsigned int count;
	} class[CLASS_COUNT];
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Atomic uint64_t in_use;

static unsigned int class_of(uint64_t length)
{
	unsigned int class = 0;

	while (class < CLASS_COUNT - 1 && UINT64_C(1) << (CLASS_MIN_SHIFT + class) < length)
		class ++;
	return class;
}

static bool charge(uint64_t size, bool forced)
{
	uint64_t before = atomic_fetch_add(&in_use, size);

	if (before + size <= PROCESS_BUFFERS_MAX || forced)
		return true;
	atomic_fetch_sub(&in_use, size);
	return false;
}

uint8_t *buffer_get(uint64_t length, bool forced, uint32_t *size)
{
	unsigned int class = class_of(length);
	uint8_t *buffer = NULL;

	*size = UINT32_C(1) << (CLASS_MIN_SHIFT + class);
	if (!charge(*size, forced))
		return NULL;
	pthread_mutex_lock(&pool.lock);
	if (pool.class[class].count)
		buffer = pool.class[class].idle[--pool.class[class].count];
	pthread_mutex_unlock(&pool.lock);
	if (!buffer)
		buffer = aligned_alloc(PAGE, *size);
	if (!buffer)
		atomic_fetch_sub(&in_use, *size);
	return buffer;
}

void buffer_put(uint8_t *buffer, uint32_t size)
{
	unsigned int class = class_of(size);

	if (!buffer)
		return;
	atomic_fetch_sub(&in_use, size);
	pthread_mutex_lock(&pool.lock);
	if (pool.class[class].count < KEEP_PER_CLASS && size <= JOB_PIECE) {
		pool.class[class].idle[pool.class[class].count++] = buffer;
		buffer = NULL;
	}
	pthread_mutex_unlock(&pool.lock);
	free(buffer);
}

uint64_t buffer_in_use(void)
{
	return atomic_load(&in_use);
}

void buffer_trim(void)
{
	pthread_mutex_lock(&pool.lock);
	for (unsigned int class = 0; class < CLASS_COUNT; class ++)
		while (pool.class[class].count)
			free(pool.class[class].idle[--pool.class[class].count]);
	pthread_mutex_unlock(&pool.lock);
}
