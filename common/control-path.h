/* SPDX-License-Identifier: MIT */
/*
 * Where control sockets of servers are: PID.control in a folder for the system or for a user.
 * hawserd puts them there, `hawser top` looks for them.
 */
#ifndef HAWSER_COMMON_CONTROL_PATH_H
#define HAWSER_COMMON_CONTROL_PATH_H

#define CONTROL_PATH_SYSTEM "/run/hawser"
#define CONTROL_PATH_SUFFIX ".control"

/* The folder of this user, to be freed: the system's for root, else one in $XDG_RUNTIME_DIR. NULL:
 * there is none. */
char *control_path_folder(void);

/* The process number that a file name in such a folder tells; 0: the file is something else. */
long control_path_pid(const char *name);

/* A connected socket, or -errno. Does not wait: -EAGAIN when the server does not accept. */
int control_path_connect(const char *path);

#endif
