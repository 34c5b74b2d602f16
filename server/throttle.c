// SPDX-License-Identifier: MIT
/*
 * Leaky buckets. A bucket that several requests have filled beyond its brim knows the future: what
 * leaks until a time tells when the next one may begin.
 */
#include "throttle.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/size.h"

#define VALUE_MAX UINT64_C(1000000000000000)

/* A wait beyond that (a month) is no longer told apart. */
#define WAIT_MAX (2592000.0 * (double)CLOCK_SECOND)

struct bucket {
	double level;       /* leaks at the rate */
	double burst_level; /* leaks at the rate of bursts; used when they last for long */
};

struct throttle_group {
	struct throttle_limits limits;
	pthread_mutex_t lock;
	struct bucket buckets[THROTTLE_KINDS];
	uint64_t updated;
};

/* ---- Limits ---- */

void throttle_limits_init(struct throttle_limits *limits)
{
	*limits = (struct throttle_limits){.operation_size = 0};
	for (int kind = 0; kind < THROTTLE_KINDS; kind++)
		limits->limit[kind].burst_seconds = 1;
}

static int check_limit(const struct throttle_limit *limit, struct error *err)
{
	if (limit->rate > VALUE_MAX || limit->burst > VALUE_MAX)
		return error_set(err, EINVAL, "bps/iops/max values must be within [0, %llu]",
				 (unsigned long long)VALUE_MAX);
	if (!limit->burst_seconds)
		return error_set(err, EINVAL, "the burst length cannot be 0");
	if (limit->burst_seconds > 1 && !limit->burst)
		return error_set(err, EINVAL, "burst length set without burst rate");
	if (limit->burst && limit->burst_seconds > VALUE_MAX / limit->burst)
		return error_set(err, EINVAL, "burst length too high for this burst rate");
	if (limit->burst && !limit->rate)
		return error_set(err, EINVAL,
				 "bps_max/iops_max require corresponding bps/iops values");
	if (limit->burst && limit->burst < limit->rate)
		return error_set(err, EINVAL, "bps_max/iops_max cannot be lower than bps/iops");
	return 0;
}

/* A total excludes reads and writes, for rates and for bursts. */
static bool total_and_parts(const struct throttle_limit *total)
{
	return (total[0].rate && (total[1].rate || total[2].rate)) ||
	       (total[0].burst && (total[1].burst || total[2].burst));
}

int throttle_limits_check(const struct throttle_limits *limits, struct error *err)
{
	const struct throttle_limit *limit = limits->limit;
	int rc = 0;

	if (total_and_parts(&limit[THROTTLE_BPS_TOTAL]) ||
	    total_and_parts(&limit[THROTTLE_IOPS_TOTAL]))
		return error_set(err, EINVAL,
				 "bps/iops/max total values and read/write values cannot be used "
				 "at the same time");
	if (limits->operation_size && !limit[THROTTLE_IOPS_TOTAL].rate &&
	    !limit[THROTTLE_IOPS_READ].rate && !limit[THROTTLE_IOPS_WRITE].rate)
		return error_set(err, EINVAL, "iops size requires an iops value to be set");
	for (int kind = 0; kind < THROTTLE_KINDS && rc == 0; kind++)
		rc = check_limit(&limit[kind], err);
	return rc;
}

/* ---- Groups ---- */

struct throttle_group *throttle_group_new(const struct throttle_limits *limits)
{
	struct throttle_group *group = calloc(1, sizeof(*group));

	if (!group)
		return NULL;
	group->limits = *limits;
	pthread_mutex_init(&group->lock, NULL);
	return group;
}

void throttle_group_free(struct throttle_group *group)
{
	if (!group)
		return;
	pthread_mutex_destroy(&group->lock);
	free(group);
}

static double leaked(double level, uint64_t rate, double seconds)
{
	level -= (double)rate * seconds;
	return level > 0 ? level : 0;
}

/* Clocks of two threads may be a little apart: time never goes back. The lock is held. */
static void leak(struct throttle_group *group, uint64_t now)
{
	double seconds;

	if (now <= group->updated)
		return;
	seconds = (double)(now - group->updated) / (double)CLOCK_SECOND;
	group->updated = now;
	for (int kind = 0; kind < THROTTLE_KINDS; kind++) {
		const struct throttle_limit *limit = &group->limits.limit[kind];
		struct bucket *bucket = &group->buckets[kind];

		bucket->level = leaked(bucket->level, limit->rate, seconds);
		bucket->burst_level = leaked(bucket->burst_level, limit->burst, seconds);
	}
}

static double time_to_leak(double above, uint64_t rate)
{
	return above > 0 ? above / (double)rate * (double)CLOCK_SECOND : 0;
}

/* Nanoseconds until this limit lets a request begin. */
static double wait_of(const struct throttle_limit *limit, const struct bucket *bucket)
{
	double brim, wait;

	if (!limit->rate)
		return 0;
	brim = limit->burst ? (double)limit->burst * (double)limit->burst_seconds
			    : (double)limit->rate / 10;
	wait = time_to_leak(bucket->level - brim, limit->rate);
	/* A long burst must not come all at once. */
	if (limit->burst_seconds > 1)
		wait = max_of(wait, time_to_leak(bucket->burst_level - (double)limit->burst / 10,
						 limit->burst));
	return wait;
}

static double operations(const struct throttle_limits *limits, uint64_t bytes)
{
	if (limits->operation_size && bytes > limits->operation_size)
		return (double)bytes / (double)limits->operation_size;
	return 1;
}

/* Waits for, and fills, one bucket; returns the longer wait. */
static double take(struct throttle_group *group, enum throttle_kind kind, double units, double wait)
{
	struct bucket *bucket = &group->buckets[kind];

	wait = max_of(wait, wait_of(&group->limits.limit[kind], bucket));
	bucket->level += units;
	bucket->burst_level += units;
	return wait;
}

uint64_t throttle_reserve(struct throttle_group *group, enum throttle_direction direction,
			  uint64_t bytes, uint64_t now)
{
	bool write = direction == THROTTLE_WRITE;
	double units = operations(&group->limits, bytes), wait = 0;

	pthread_mutex_lock(&group->lock);
	leak(group, now);
	wait = take(group, THROTTLE_BPS_TOTAL, (double)bytes, wait);
	wait = take(group, write ? THROTTLE_BPS_WRITE : THROTTLE_BPS_READ, (double)bytes, wait);
	wait = take(group, THROTTLE_IOPS_TOTAL, units, wait);
	wait = take(group, write ? THROTTLE_IOPS_WRITE : THROTTLE_IOPS_READ, units, wait);
	pthread_mutex_unlock(&group->lock);
	return now + (uint64_t)min_of(wait, WAIT_MAX);
}
