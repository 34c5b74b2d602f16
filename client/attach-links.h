/* SPDX-License-Identifier: MIT */
/*
 * The connections of one device: each dialled, greeted and taken through GO, ready to be handed to
 * the kernel; all alike. The main thread.
 */
#ifndef HAWSER_CLIENT_ATTACH_LINKS_H
#define HAWSER_CLIENT_ATTACH_LINKS_H

#include <stddef.h>

#include "attach-plan.h"
#include "common/error.h"
#include "common/kernel/device.h"
#include "session.h"

struct attach_links {
	size_t count;
	struct session *sessions;
	int sockets[DEVICE_SOCKETS_MAX];
	char *uri; /* canonical, without secrets */
};

/*
 * Opens the first connection, makes the plan from what the server says, then opens the others.
 * COMMAND_OK, or another command_status with err set. close in either case.
 */
int attach_links_open(struct attach_links *links, const char *uri, const struct attach_wish *wish,
		      struct attach_plan *plan, struct error *err);

/* Before the kernel has them: says goodbye to the server. After: closes our copies. */
void attach_links_close(struct attach_links *links, bool handed_over);

#endif
