/* SPDX-License-Identifier: MIT */
/* Small helpers over POSIX threads, shared by the worker pool and the engine. */
#ifndef HAWSER_SERVER_THREAD_H
#define HAWSER_SERVER_THREAD_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

/* Starts a detached thread with a small stack; 0 or a positive errno. */
int thread_start(void *(*main)(void *), void *argument);
/* Before a thread tells that it ends: gives back what libraries keep for it, which would otherwise
 * happen when nobody waits for it any more. */
void thread_end(void);
/* How many threads can run at once. */
unsigned int thread_processors(void);
/* A condition variable on the monotonic clock. */
void thread_cond_init(pthread_cond_t *cond);
/* The absolute time nanoseconds from now, for pthread_cond_timedwait(). */
struct timespec thread_wait_until(uint64_t nanoseconds);

#endif
