// SPDX-License-Identifier: MIT
/*
 * Learning whether to spin. Misses cost processor time, so after the second in a row a wait passes
 * without a try, and twice as many after each that follows; long waits do not count among them, so
 * a client that thinks between its requests is soon left alone, and so is one on a machine that has
 * something else to do.
 */
#include "spin.h"

#include <stdbool.h>

#include "common/size.h"

void spin_reset(struct spin *spin)
{
	*spin = (struct spin){.limit = SPIN_SHORT};
}

uint64_t spin_length(const struct spin *spin)
{
	return spin->pause ? 0 : spin->limit;
}

static uint64_t smooth(uint64_t average, uint64_t value)
{
	return average ? average - average / 8 + value / 8 : value;
}

static void lose_faith(struct spin *spin)
{
	if (spin->doubt < SPIN_DOUBT_MAX)
		spin->doubt++;
	spin->pause = (1U << (spin->doubt - 1)) - 1; /* a single miss is forgiven */
}

/* Is the sleep that a long spin saves long enough? */
static bool pays(const struct spin *spin)
{
	return spin->gap <= SPIN_SHORT || spin->sleep >= spin->gap + spin->gap / 2;
}

static void note_hit(struct spin *spin, uint64_t waited)
{
	spin->gap = smooth(spin->gap, waited);
	if (!pays(spin)) {
		spin->doubt = SPIN_DOUBT_MAX;
		lose_faith(spin);
		spin->gap = 0; /* it is to be learned anew */
		return;
	}
	spin->doubt /= 2;
	spin->limit = min_of(max_of(spin->gap * 2, SPIN_SHORT), SPIN_LONG);
}

static void note_sleep(struct spin *spin, bool missed, uint64_t waited)
{
	if (missed)
		lose_faith(spin);
	if (waited > SPIN_REACH)
		return;
	spin->sleep = smooth(spin->sleep, waited);
	if (waited <= SPIN_SHORT)
		spin->pause = 0; /* sure to be a hit */
	else if (spin->pause)
		spin->pause--;
	spin->limit = waited <= SPIN_SHORT ? SPIN_SHORT : SPIN_LONG;
}

void spin_note(struct spin *spin, enum spin_end end, uint64_t waited)
{
	switch (end) {
	case SPIN_HIT:
		note_hit(spin, waited);
		break;
	case SPIN_SLEPT:
	case SPIN_MISSED:
		note_sleep(spin, end == SPIN_MISSED, waited);
		break;
	case SPIN_STOLEN:
		lose_faith(spin);
		break;
	}
}
