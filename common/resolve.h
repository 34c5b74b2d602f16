/* SPDX-License-Identifier: MIT */
/*
 * Names to addresses, up to a deadline: getaddrinfo(3) has none, and a name server that does not
 * answer holds it for as long as the system likes. Any thread.
 */
#ifndef HAWSER_COMMON_RESOLVE_H
#define HAWSER_COMMON_RESOLVE_H

#include <netdb.h>
#include <stdint.h>

/*
 * TCP addresses of host and port (both not NULL) in *addresses, for freeaddrinfo(). deadline as in
 * clock.h. Returns 0; -ETIMEDOUT; else what getaddrinfo() said, an EAI_ number, with its errno in
 * *system_code. A thread does the waiting, unless host is a number; at the deadline it is left to
 * itself, otherwise it has ended.
 */
int resolve_tcp(const char *host, const char *port, uint64_t deadline, struct addrinfo **addresses,
		int *system_code);

#endif
