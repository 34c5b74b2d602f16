/* SPDX-License-Identifier: MIT */
/*
 * Zeroes among the bytes of a write (--detect-zeroes): which stretches are worth zeroing instead
 * of writing. Short stretches are not: a hole or an unwritten extent for each would leave a file
 * in splinters. Pure functions, any thread; for bytes that are no zeroes they look at one word in
 * each block.
 */
#ifndef HAWSER_SERVER_ZEROES_H
#define HAWSER_SERVER_ZEROES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server.h"

/* The most that is gathered before it is looked at, so that a stretch is seen as one, bytes. */
enum { ZEROES_PIECE_MAX = 64 << 10 };

struct zeroes_rule {
	uint32_t unit;      /* stretches begin and end at its multiples; 0: do not look */
	uint32_t run_min;   /* the shortest among other bytes */
	uint32_t whole_min; /* the shortest that is a whole write */
	unsigned int flags; /* for image_zero() */
};

/*
 * The rule for an image whose zeroes are a matter of its mapping, in units of mapped bytes (0: they
 * are the host's). mode is not off.
 */
void zeroes_rule_init(struct zeroes_rule *rule, enum detect_zeroes mode, uint32_t mapped);

bool zeroes_all(const uint8_t *bytes, size_t length);

/*
 * The first part of the bytes, which are to be at offset of the image: *zero says whether it should
 * be zeroed or written. Returns its length, at least 1 when length is.
 */
size_t zeroes_next(const struct zeroes_rule *rule, const uint8_t *bytes, uint64_t offset,
		   size_t length, bool *zero);

#endif
