/* SPDX-License-Identifier: MIT */
/*
 * The sockets that a server listens on: TCP, a Unix socket, or one that the service manager hands
 * over. Binding never takes anything away from a living server, and closing removes a socket's
 * path only while it is still ours. All sockets are non-blocking. Main thread, before the server
 * runs and after.
 */
#ifndef HAWSER_SERVER_LISTENER_H
#define HAWSER_SERVER_LISTENER_H

#include <stddef.h>
#include <sys/types.h>

#include "common/error.h"

struct listener {
	int fd;
	char *path; /* of a Unix socket that we bound: removed when closed; else NULL */
	dev_t device;
	ino_t inode;
};

/* One name may have an address for each family and interface; more of them are refused. */
enum { LISTENER_MAX = 8 };

struct listener_set {
	size_t count;
	struct listener items[LISTENER_MAX];
};

/* Absolute, and short enough for a socket address; else -EINVAL. Pure. */
int listener_check_path(const char *path, struct error *err);

/* Listens on every address that host and port stand for; all or nothing. */
int listener_open_tcp(struct listener_set *set, const char *host, const char *port,
		      struct error *err);

/*
 * Listens on path, with the rights that the umask leaves. A socket there that nobody listens on any
 * more is replaced. -EADDRINUSE when a server answers, -EEXIST when path is something else.
 */
int listener_open_unix(struct listener_set *set, const char *path, struct error *err);

/* Takes a listening stream socket over; its path is not ours to remove. */
int listener_adopt(struct listener_set *set, int fd, struct error *err);

enum { LISTENER_TEXT_MAX = 160 };
/* "0.0.0.0:10809", "[::1]:10809" or the path, for messages. Returns text. */
const char *listener_describe(const struct listener *listener, char text[LISTENER_TEXT_MAX]);

/* Also for a set that is empty; leaves it empty. */
void listener_close_all(struct listener_set *set);

#endif
