/* SPDX-License-Identifier: MIT */
/*
 * The shape of a latency histogram: each power of two from 1 us to 137 s has a few buckets, so a
 * value read back is right within an eighth on average. Counters in that shape can be added and
 * subtracted. Pure functions; any thread.
 */
#ifndef HAWSER_COMMON_LATENCY_H
#define HAWSER_COMMON_LATENCY_H

#include <stdint.h>

enum {
	LATENCY_FIRST_BIT = 10, /* below 2^10 ns everything is one bucket */
	LATENCY_LAST_BIT = 37,  /* and so it is from 2^37 ns on */
	LATENCY_STEPS = 4,      /* buckets for each power of two */
	LATENCY_BUCKETS = (LATENCY_LAST_BIT - LATENCY_FIRST_BIT) * LATENCY_STEPS + 2,
};

static inline unsigned int latency_bucket(uint64_t nanoseconds)
{
	unsigned int bit;

	if (!(nanoseconds >> LATENCY_FIRST_BIT))
		return 0;
	if (nanoseconds >> LATENCY_LAST_BIT)
		return LATENCY_BUCKETS - 1;
	bit = 63 - (unsigned int)__builtin_clzll(nanoseconds);
	return 1 + (bit - LATENCY_FIRST_BIT) * LATENCY_STEPS +
	       (unsigned int)(nanoseconds >> (bit - 2)) % LATENCY_STEPS;
}

/* The first value that is too large for the bucket; UINT64_MAX for the last. */
uint64_t latency_bound(unsigned int bucket);

/*
 * The value below which permille of all counted ones are, as near as the buckets tell; never more
 * than max, the largest that was counted (UINT64_MAX: not known). 0 when nothing was counted.
 */
uint64_t latency_quantile(const uint64_t buckets[LATENCY_BUCKETS], unsigned int permille,
			  uint64_t max);

#endif
