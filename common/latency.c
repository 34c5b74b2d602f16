// SPDX-License-Identifier: MIT
/* Latency histograms: bounds and quantiles. Pure functions. */
#include "latency.h"

#include "size.h"

uint64_t latency_bound(unsigned int bucket)
{
	if (bucket >= LATENCY_BUCKETS - 1)
		return UINT64_MAX;
	return (uint64_t)(LATENCY_STEPS + bucket % LATENCY_STEPS)
	       << (LATENCY_FIRST_BIT + bucket / LATENCY_STEPS - 2);
}

/* In the middle of a bucket we assume that its values lie evenly. */
static uint64_t inside(unsigned int bucket, uint64_t rank, uint64_t count, uint64_t max)
{
	uint64_t low = bucket ? latency_bound(bucket - 1) : 0;
	uint64_t high = min_of(latency_bound(bucket), max);

	if (high <= low)
		return max;
	if (bucket == LATENCY_BUCKETS - 1)
		return max == UINT64_MAX ? low : max;
	return low + (uint64_t)((double)(high - low) * (double)rank / (double)count);
}

uint64_t latency_quantile(const uint64_t buckets[LATENCY_BUCKETS], unsigned int permille,
			  uint64_t max)
{
	uint64_t total = 0, seen = 0, wanted;

	for (unsigned int i = 0; i < LATENCY_BUCKETS; i++)
		total += buckets[i];
	if (!total)
		return 0;
	wanted = max_of((uint64_t)((double)total * permille / 1000 + 0.5), UINT64_C(1));
	for (unsigned int i = 0; i < LATENCY_BUCKETS; i++) {
		if (buckets[i] && seen + buckets[i] >= wanted)
			return inside(i, wanted - seen, buckets[i], max);
		seen += buckets[i];
	}
	return max;
}
