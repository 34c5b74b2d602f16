/* SPDX-License-Identifier: MIT */
/*
 * What XTS does around AES: each block of a sector is combined with a tweak, before and after, and
 * the tweak of a block is that of the block before it, doubled. Any thread; no state.
 */
#ifndef HAWSER_SERVER_IMAGE_TWEAKS_H
#define HAWSER_SERVER_IMAGE_TWEAKS_H

#include <stddef.h>
#include <stdint.h>

enum {
	TWEAKS_BLOCK = 16,
	TWEAKS_BLOCKS = 32, /* of a sector */
	TWEAKS_SECTOR = TWEAKS_BLOCK * TWEAKS_BLOCKS,
	TWEAKS_ALIGN = 64, /* of what is called tweaks and firsts */
};

/* One way to compute it; all give the same. */
struct tweaks_way {
	const char *name;

	/* Makes the tweaks of some sectors from the first of each, and combines in with them.
	 * out is in, or they do not overlap. */
	void (*begin)(const uint8_t *firsts, size_t sectors, uint8_t *tweaks, const uint8_t *in,
		      uint8_t *out);

	/* Combines bytes, a multiple of a sector, with as many others. */
	void (*apply)(const uint8_t *tweaks, size_t length, uint8_t *bytes);
};

/* The number-th way that this processor can go, the fastest first; NULL: there are no more. */
const struct tweaks_way *tweaks_way(size_t number);

#endif
