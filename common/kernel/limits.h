/* SPDX-License-Identifier: MIT */
/*
 * What the queue of a device may do, and what an earlier attach of the same index left there. The
 * driver never takes back WRITE_ZEROES and ROTATIONAL, max_sectors_kb and ro: each is compared
 * with what this server offers, and cured or refused. Any thread.
 */
#ifndef HAWSER_COMMON_KERNEL_LIMITS_H
#define HAWSER_COMMON_KERNEL_LIMITS_H

#include "device.h"

/* Before the connect: makes the idle device anew where it would send requests that the server
 * does not know, and keeps the first reads below the server's limit. */
int limits_prepare(const struct device_interface *interface, const struct device_attach *attach,
		   struct error *err);

/* After it: sets the limits, compares the rest. */
int limits_apply(int index, const struct device_attach *attach, struct error *err);

#endif
