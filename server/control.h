/* SPDX-License-Identifier: MIT */
/*
 * The control socket: statistics for whoever owns the server, read-only. A thread of its own
 * serves it and waits for nobody, so a reader that is slow, mute or hostile costs the service
 * nothing. Requests are lines ("hello", "stats json", "stats openmetrics"); an answer is one line
 * of JSON, or OpenMetrics text up to "# EOF".
 *
 * Opened and closed by the main thread.
 */
#ifndef HAWSER_SERVER_CONTROL_H
#define HAWSER_SERVER_CONTROL_H

#include "common/error.h"
#include "listener.h"
#include "server.h"

struct control;

/* An absolute path or "none"; else -EINVAL. Pure. */
int control_check_path(const char *path, struct error *err);

/*
 * Serves the numbers of server at path, only for its owner. NULL: at a place of its own choice in
 * the folder for sockets of this kind; where that cannot be used there is no control socket, and
 * that is no error. "none": there is none. Also removes what servers that were killed left in that
 * folder. listeners is told to those who look for a server, and must stay.
 * 0 with *control set (NULL: there is none), or -errno.
 */
int control_open(struct control **control, const char *path, struct server *server,
		 const struct listener_set *listeners, struct error *err);

/* Removes the socket, too. Before the server is closed. */
void control_close(struct control *control);

#endif
