/* SPDX-License-Identifier: MIT */
/*
 * How long a thread should look at its socket before it sleeps. A wake-up costs the peer's next
 * request some microseconds, or fifty in a virtual machine, and whoever looks again and again
 * saves them, for processor time. This learns from the waits of one connection whether that pays.
 * Pure: it reads no clock and waits for nothing. One thread at a time uses a struct spin.
 */
#ifndef HAWSER_SERVER_SPIN_H
#define HAWSER_SERVER_SPIN_H

#include <stdint.h>

#include "common/clock.h"

/* So long a spin is always worth its try: a wake-up costs about as much. */
#define SPIN_SHORT (40 * CLOCK_MICROSECOND)
/* The longest spin. It needs proof that the sleep took longer by half of what it burns. */
#define SPIN_LONG (120 * CLOCK_MICROSECOND)
/* A sleep that ended within this, wake-up included, might have been a spin of at most SPIN_LONG. */
#define SPIN_REACH (200 * CLOCK_MICROSECOND)
/* When a look at the socket takes so long, somebody else has had the processor. */
#define SPIN_CROWDED (20 * CLOCK_MICROSECOND)

enum {
	/* After so many misses in a row, one of 256 waits is still tried. */
	SPIN_DOUBT_MAX = 9,
};

/* How a wait came to its end. */
enum spin_end {
	SPIN_HIT,    /* bytes came while it spun */
	SPIN_SLEPT,  /* it slept, and had not spun before */
	SPIN_MISSED, /* it spun in vain, then slept */
	SPIN_STOLEN, /* others wanted the processor that it spun on */
};

/* Nanoseconds. */
struct spin {
	uint64_t limit; /* of the next spin */
	uint64_t gap;   /* what waits take that end in a spin, smoothed; 0: unknown */
	uint64_t sleep; /* what waits take that end in a sleep, smoothed, short ones; 0: unknown */
	unsigned int doubt; /* misses that no hits have made good */
	unsigned int pause; /* short waits that pass before the next try */
};

/* A connection begins to be served. */
void spin_reset(struct spin *spin);
/* How long to spin in the wait that begins now; 0: not at all. */
uint64_t spin_length(const struct spin *spin);
/* A wait has ended with bytes, or too late for that to matter. waited: from its begin. */
void spin_note(struct spin *spin, enum spin_end end, uint64_t waited);

#endif
