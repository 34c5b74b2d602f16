/* SPDX-License-Identifier: MIT */
/*
 * What the service manager hands over and wants to hear: listening sockets (LISTEN_FDS) and
 * readiness (NOTIFY_SOCKET), without a library. The variables are taken out of the environment, so
 * that no child process takes them for its own. Main thread, at start and at the end.
 */
#ifndef HAWSER_COMMON_NOTIFY_H
#define HAWSER_COMMON_NOTIFY_H

#include <stddef.h>

#include "error.h"

enum { NOTIFY_FDS_START = 3, NOTIFY_FDS_MAX = 1024 };

/*
 * Takes the sockets meant for this very process: their number (0: none, or meant for another
 * process), descriptors from NOTIFY_FDS_START on with close-on-exec set, or -errno. Call before a
 * fork: LISTEN_PID names the process that was started.
 */
int notify_take_sockets(struct error *err);

struct notify {
	char *address; /* NULL: nobody listens */
};

/* Takes NOTIFY_SOCKET out of the environment. */
void notify_init(struct notify *notify);

/* Sends lines such as "READY=1\nMAINPID=4711". Without a listener nothing happens; a message that
 * cannot be sent is lost, because the service is worth more than the report. */
void notify_send(const struct notify *notify, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

void notify_clear(struct notify *notify);

#endif
