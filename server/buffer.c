// SPDX-License-Identifier: MIT
/*
 * The buffer pool. Size classes are powers of two from a page to the largest piece; each keeps a
 * stack of idle buffers, all of them together a reserve of so many bytes: fresh memory would cost
 * a page fault for every page, as much as decrypting what comes into it.
 */
#include "buffer.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "common/size.h"
#include "limits.h"

enum { CLASS_MIN_SHIFT = 12, CLASS_COUNT = 15, PAGE = 4096 };

/* Lies in the buffer itself. */
struct idle {
	struct idle *next;
};

static struct {
	pthread_mutex_t lock;
	struct idle *class[CLASS_COUNT];
	uint64_t reserve; /* bytes of them all */
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

static uint32_t size_of(unsigned int class)
{
	return UINT32_C(1) << (CLASS_MIN_SHIFT + class);
}

/* The newest idle buffer of the class, or NULL. The lock is held. */
static void *take_idle(unsigned int class)
{
	struct idle *idle = pool.class[class];

	if (idle) {
		pool.class[class] = idle->next;
		pool.reserve -= size_of(class);
	}
	return idle;
}

/* Makes room in the reserve for a buffer of the class: what is in use is worth more than sizes that
 * were. The lock is held. */
static bool make_room(unsigned int class)
{
	unsigned int other = 0;

	while (pool.reserve + size_of(class) > BUFFERS_RESERVE_MAX && other < CLASS_COUNT) {
		if (other == class || !pool.class[other])
			other++;
		else
			free(take_idle(other));
	}
	return other < CLASS_COUNT;
}

uint8_t *buffer_get(uint64_t length, bool forced, uint32_t *size)
{
	unsigned int class = class_of(length);
	uint8_t *buffer;

	*size = size_of(class);
	if (!charge(*size, forced))
		return NULL;
	pthread_mutex_lock(&pool.lock);
	buffer = take_idle(class);
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
	struct idle *idle = (struct idle *)buffer;

	if (!buffer)
		return;
	atomic_fetch_sub(&in_use, size);
	pthread_mutex_lock(&pool.lock);
	if (size <= JOB_PIECE && make_room(class)) {
		idle->next = pool.class[class];
		pool.class[class] = idle;
		pool.reserve += size;
		idle = NULL;
	}
	pthread_mutex_unlock(&pool.lock);
	free(idle);
}

uint64_t buffer_in_use(void)
{
	return atomic_load(&in_use);
}

uint64_t buffer_kept(void)
{
	uint64_t kept;

	pthread_mutex_lock(&pool.lock);
	kept = pool.reserve;
	pthread_mutex_unlock(&pool.lock);
	return kept;
}

void buffer_trim(void)
{
	void *idle;

	pthread_mutex_lock(&pool.lock);
	for (unsigned int class = 0; class < CLASS_COUNT; class ++)
		while ((idle = take_idle(class)))
			free(idle);
	pthread_mutex_unlock(&pool.lock);
}
