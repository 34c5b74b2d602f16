/* SPDX-License-Identifier: MIT */
/*
 * Life in the background: the fork whose parent stays until the server is ready, and the pid file.
 * Readiness is a message of its own over a pipe; what was printed meanwhile has no meaning. Main
 * thread, before there are others (daemon_ready: any one thread).
 */
#ifndef HAWSER_SERVER_DAEMON_H
#define HAWSER_SERVER_DAEMON_H

#include <stdbool.h>
#include <sys/types.h>

#include "common/error.h"

/* Opens /dev/null for standard descriptors that are closed, so that no image becomes stderr. */
int daemon_keep_stdio(struct error *err);

struct daemon {
	int pipe; /* to the waiting parent; -1: nobody waits */
};

#define DAEMON_INIT         \
	{                   \
		.pipe = -1, \
	}

/*
 * Forks. Returns 0 in the child, which leads a session of its own. The parent does not return: it
 * exits with 0 when the child calls daemon_ready(), with 1 when the child ends before.
 */
int daemon_fork(struct daemon *daemon, struct error *err);

/* Leaves folder and standard streams (but stderr on request), and releases the parent. Does
 * nothing where nobody waits. */
int daemon_ready(struct daemon *daemon, bool keep_stderr, struct error *err);

/* The parent's copy closes: to be called on the way to a failed exit, too. */
void daemon_clear(struct daemon *daemon);

/* A file with our number, locked as long as we live. */
struct pid_file {
	int fd; /* -1: none */
	int folder;
	char *name; /* within the folder */
};

#define PID_FILE_INIT                   \
	{                               \
		.fd = -1, .folder = -1, \
	}

/* -EAGAIN when a living server holds the file. Nothing is left behind on failure. */
int pid_file_create(struct pid_file *file, const char *path, struct error *err);

/* Removes it if the path still is our file. Also for an empty one. */
void pid_file_remove(struct pid_file *file);

#endif
