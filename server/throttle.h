/* SPDX-License-Identifier: MIT */
/*
 * Limits on operations and bytes per second, with bursts: QEMU's rules and names. A group is one
 * budget for all exports and connections that refer to it. Who has a request asks for a place: the
 * time from which on it may begin. It is charged at once, so places are given in the order in
 * which they were asked for, nobody has to be woken for another, and connections that ask for one
 * place at a time take turns.
 *
 * Each limit is a bucket that leaks at the rate; a request may begin while the bucket is not above
 * its brim, and may then fill it far above: so a request of any size can pass, and those behind it
 * wait for what it took.
 */
#ifndef HAWSER_SERVER_THROTTLE_H
#define HAWSER_SERVER_THROTTLE_H

#include <stdint.h>

#include "common/error.h"

enum throttle_kind {
	THROTTLE_BPS_TOTAL,
	THROTTLE_BPS_READ,
	THROTTLE_BPS_WRITE,
	THROTTLE_IOPS_TOTAL,
	THROTTLE_IOPS_READ,
	THROTTLE_IOPS_WRITE,
	THROTTLE_KINDS,
};

/* In bytes or operations. */
struct throttle_limit {
	uint64_t rate;          /* a second; 0: no limit */
	uint64_t burst;         /* a second, for a while; 0: a tenth of a second of the rate */
	uint64_t burst_seconds; /* how long a burst may last, at least 1 */
};

struct throttle_limits {
	struct throttle_limit limit[THROTTLE_KINDS];
	uint64_t operation_size; /* so many bytes count as an operation; 0: each request is one */
};

enum throttle_direction { THROTTLE_READ, THROTTLE_WRITE };

struct throttle_group;

/* No limits: all zero but burst_seconds. */
void throttle_limits_init(struct throttle_limits *limits);
/* 0, or -EINVAL with err set in QEMU's words. */
int throttle_limits_check(const struct throttle_limits *limits, struct error *err);

/* limits have been checked. NULL: out of memory. */
struct throttle_group *throttle_group_new(const struct throttle_limits *limits);
void throttle_group_free(struct throttle_group *group);

/*
 * A place for one request: the time from which on it may begin, now when that is at once. Times
 * are those of clock_now(). Any thread; does not block.
 */
uint64_t throttle_reserve(struct throttle_group *group, enum throttle_direction direction,
			  uint64_t bytes, uint64_t now);

#endif
