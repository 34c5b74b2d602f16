/* SPDX-License-Identifier: MIT */
/*
 * Waiting: until an attached device is usable by the next command, and until a detached one is
 * gone. Any thread; deadlines as in clock.h; -EINTR when a blocked termination signal is pending.
 */
#ifndef HAWSER_COMMON_KERNEL_READY_H
#define HAWSER_COMMON_KERNEL_READY_H

#include <stdint.h>

#include "common/error.h"

/* Size right, partitions scanned, all nodes there, udev settled. */
int ready_wait(int index, uint64_t size, uint64_t deadline, struct error *err);

/* `pid` gone, size 0, stale partitions gone. -ETIMEDOUT without a sentence when
 * the driver does not let go. */
int gone_wait(int index, uint64_t deadline, struct error *err);

/* Lets udev end what it has begun, where it runs; bounded, never fails. */
void udev_settle(uint64_t deadline);

#endif
