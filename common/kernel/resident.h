/* SPDX-License-Identifier: MIT */
/*
 * A process that stays behind a device when the command has ended: init's child, a session of its
 * own, deaf to polite signals, because killing it would tear the device from under a mounted file
 * system. It is forked from a perhaps multi-threaded program: where that is so, its work makes
 * system calls only.
 */
#ifndef HAWSER_COMMON_KERNEL_RESIDENT_H
#define HAWSER_COMMON_KERNEL_RESIDENT_H

#include <stddef.h>

#include "device.h"

enum { RESIDENT_KEEP_MAX = 2 * DEVICE_SOCKETS_MAX };

struct resident {
	const char *name; /* as ps shows it, up to 15 characters */
	/* Descriptors that it keeps, each above the standard streams, which become /dev/null. All
	 * others are closed. */
	int keep[RESIDENT_KEEP_MAX];
	size_t count;
	void (*work)(void *context); /* its folder is / */
};

/* Starts it: 0 or -errno. The process ends when the work returns. */
int resident_start(const struct resident *resident, void *context);

#endif
