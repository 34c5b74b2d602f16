/* SPDX-License-Identifier: MIT */
/* Monotonic time and deadlines in nanoseconds. Pure but for the clock itself; any thread. */
#ifndef HAWSER_COMMON_CLOCK_H
#define HAWSER_COMMON_CLOCK_H

#include <stdint.h>
#include <time.h>

#define CLOCK_SECOND      UINT64_C(1000000000)
#define CLOCK_MILLISECOND UINT64_C(1000000)
#define CLOCK_MICROSECOND UINT64_C(1000)
/* A deadline that never comes. */
#define CLOCK_NEVER UINT64_MAX

static inline uint64_t clock_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * CLOCK_SECOND + (uint64_t)now.tv_nsec;
}

/* Milliseconds until deadline for poll(2): -1 for CLOCK_NEVER, 0 when it has passed. */
static inline int clock_poll_timeout(uint64_t deadline)
{
	uint64_t now, left;

	if (deadline == CLOCK_NEVER)
		return -1;
	now = clock_now();
	if (now >= deadline)
		return 0;
	left = (deadline - now + CLOCK_MILLISECOND - 1) / CLOCK_MILLISECOND;
	return left > INT32_MAX ? INT32_MAX : (int)left;
}

#endif
