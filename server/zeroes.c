// SPDX-License-Identifier: MIT
/*
 * Zeroes among the bytes of a write. The comparison of a block with itself, shifted by a word, is
 * the C library's fastest loop; the first word sends nearly all other blocks away.
 */
#include "zeroes.h"

#include <string.h>

#include "common/size.h"
#include "image/image.h"

enum {
	BLOCK = 4096, /* what host files are made of */
	RUN_UNMAP = 32 << 10,
	/* An unwritten extent saves no room, only the writing. */
	RUN_KEEP = 64 << 10,
};

void zeroes_rule_init(struct zeroes_rule *rule, enum detect_zeroes mode, uint32_t mapped)
{
	bool unmap = mode == DETECT_ZEROES_UNMAP;

	*rule = (struct zeroes_rule){.unit = BLOCK,
				     .run_min = unmap ? RUN_UNMAP : RUN_KEEP,
				     .whole_min = unmap ? BLOCK : RUN_KEEP,
				     .flags = unmap ? ZERO_MAY_UNMAP : ZERO_MAY_STAY_HOLE};
	if (!mapped)
		return;
	rule->unit = max_of(mapped, (uint32_t)BLOCK);
	rule->run_min = max_of(rule->unit, (uint32_t)RUN_UNMAP);
	rule->whole_min = rule->unit;
}

bool zeroes_all(const uint8_t *bytes, size_t length)
{
	uint64_t first = 0;

	memcpy(&first, bytes, min_of(length, sizeof(first)));
	if (first || length <= sizeof(first))
		return !first;
	return !memcmp(bytes, bytes + sizeof(first), length - sizeof(first));
}

/* The length of the whole units of zeroes at the begin. */
static size_t run_of_zeroes(uint32_t unit, const uint8_t *bytes, size_t length)
{
	size_t run = 0;

	while (length - run >= unit && zeroes_all(bytes + run, unit))
		run += unit;
	return run;
}

size_t zeroes_next(const struct zeroes_rule *rule, const uint8_t *bytes, uint64_t offset,
		   size_t length, bool *zero)
{
	size_t at = (size_t)(round_up(offset, rule->unit) - offset);

	*zero = length >= rule->whole_min && zeroes_all(bytes, length);
	if (*zero)
		return length;
	while (at < length) {
		size_t run = run_of_zeroes(rule->unit, bytes + at, length - at);

		*zero = run >= rule->run_min && at == 0;
		if (run >= rule->run_min)
			return at ? at : run;
		at += run + rule->unit;
	}
	return length;
}
