/* SPDX-License-Identifier: MIT */
/*
 * Epochs: how a driver knows that nobody uses an old mapping any more. Whoever maps and then moves
 * bytes stands inside an epoch; a driver that withdraws a mapping takes a stamp and gives the place
 * to somebody else only when all who entered up to the stamp have left. Entering costs a store to
 * a line that belongs to the thread; nobody ever waits.
 */
#ifndef HAWSER_SERVER_IMAGE_EPOCH_H
#define HAWSER_SERVER_IMAGE_EPOCH_H

#include <stdbool.h>
#include <stdint.h>

/* Any thread; may be nested. */
void epoch_enter(void);
void epoch_leave(void);

/* A stamp for what has just been withdrawn. */
uint64_t epoch_stamp(void);
/* Have all left that may have seen what was withdrawn before the stamp? */
bool epoch_passed(uint64_t stamp);

static inline void epoch_leave_scope(const int *scope)
{
	(void)scope;
	epoch_leave();
}

/* Inside an epoch up to the end of the block. */
#define EPOCH_SCOPE                                                                  \
	__attribute__((cleanup(epoch_leave_scope), unused)) const int epoch_scope_ = \
		(epoch_enter(), 0)

#endif
