/* SPDX-License-Identifier: MIT */
/*
 * A connected stream socket to a server: TCP (each address in turn) or AF_UNIX. Blocking calls
 * bounded by a deadline; the socket comes back in blocking mode with close-on-exec, keepalive and
 * no delay set, and with nothing read or written.
 */
#ifndef HAWSER_COMMON_DIAL_H
#define HAWSER_COMMON_DIAL_H

#include <stdint.h>

#include "error.h"
#include "uri.h"

/*
 * deadline as in clock.h. 0 with *fd set, or -errno with a sentence that names the address and
 * the way out, and *fd -1. A name that does not resolve is -EHOSTUNREACH, or -ETIMEDOUT; then a
 * thread may go on waiting for the name server until the program ends.
 */
int dial_tcp(const char *host, const char *port, uint64_t deadline, int *fd, struct error *err);
int dial_unix(const char *path, uint64_t deadline, int *fd, struct error *err);
int dial_uri(const struct nbd_uri *uri, uint64_t deadline, int *fd, struct error *err);

#endif
