/* SPDX-License-Identifier: MIT */
/*
 * Sockets that are done with, but not yet closed. One on TCP that is closed while bytes of its peer
 * are unread, or on their way, resets the connection, and replies that the peer has not taken yet
 * are lost. So its sending side is shut, and what comes is thrown away until the peer closes, too,
 * has taken all and is silent, or has had its time. Costs a descriptor each, no thread; main loop
 * only.
 */
#ifndef HAWSER_SERVER_FAREWELL_H
#define HAWSER_SERVER_FAREWELL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/transport.h"

struct farewell;

/* NULL: no memory or descriptors. */
struct farewell *farewell_new(void);
void farewell_free(struct farewell *farewell);

/* Readable when farewell_go_on() has something to do; never closed before farewell_free(). */
int farewell_fd(const struct farewell *farewell);

/* Closes the transport cleanly, now if nothing can be lost by that. */
void farewell_close(struct farewell *farewell, struct transport *transport);

/* Reads, and closes what has ended or whose time is over; does not block. */
void farewell_go_on(struct farewell *farewell);

/* When it is to go on at the latest, CLOCK_NEVER when nothing lingers. */
uint64_t farewell_deadline(const struct farewell *farewell);

/* Closes the oldest, to make a descriptor free; false when there is none. */
bool farewell_drop_oldest(struct farewell *farewell);

#endif
