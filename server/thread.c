// SPDX-License-Identifier: MIT
/* Small helpers over POSIX threads. */
#include "thread.h"

#include <openssl/crypto.h>
#include <sched.h>

#include "common/clock.h"

/* Deep enough for the deepest call chain with its local buffers, small enough for hundreds. */
enum { THREAD_STACK = 256 << 10 };

int thread_start(void *(*main)(void *), void *argument)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int rc;

	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, THREAD_STACK);
	rc = pthread_create(&thread, &attributes, main, argument);
	pthread_attr_destroy(&attributes);
	return rc;
}

void thread_end(void)
{
	OPENSSL_thread_stop();
}

unsigned int thread_processors(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set))
		return 1;
	return (unsigned int)CPU_COUNT(&set);
}

void thread_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attributes;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attributes);
	pthread_condattr_destroy(&attributes);
}

struct timespec thread_wait_until(uint64_t nanoseconds)
{
	uint64_t until = clock_now() + nanoseconds;

	return (struct timespec){.tv_sec = (time_t)(until / CLOCK_SECOND),
				 .tv_nsec = (long)(until % CLOCK_SECOND)};
}
