/* SPDX-License-Identifier: MIT */
/*
 * Loans: pages of host files that a socket refers to until its peer has taken the bytes. Whoever
 * splices pages of a place that may later become that of other bytes says so here, inside the epoch
 * in which it looked the place up; a driver gives a freed place to others when the epoch has passed
 * and nothing of it is lent. What is lent is bounded by what a socket can hold, so little waits for
 * a peer that never reads.
 */
#ifndef HAWSER_SERVER_IMAGE_LOAN_H
#define HAWSER_SERVER_IMAGE_LOAN_H

#include <stdbool.h>
#include <stdint.h>

struct hostfile;
struct lender;

/* The account of one connected Unix socket, which lender_end() ends. It has a descriptor of its
 * own. NULL: out of memory or descriptors, or there are too many: nothing may be lent. Any thread.
 */
struct lender *lender_new(int socket);
/* The socket is about to be closed. What its peer has still not read stays lent, if need be by
 * keeping the socket in the background, shut down. Any thread. */
void lender_end(struct lender *lender);

/*
 * The range is going to be sent, and ends at byte `end` of all that the socket was given since its
 * account began. False: too much is lent already, so make a copy. The socket's thread.
 */
bool lender_add(struct lender *lender, const struct hostfile *file, uint64_t offset,
		uint64_t length, uint64_t end);
/* The socket has taken so many bytes in all. The socket's thread. */
void lender_sent(struct lender *lender, uint64_t sent);

/* Asks all sockets what they have got rid of; false when nothing at all is lent. Any thread. */
bool loans_settle(void);
/* Is a part of the range lent, as far as the last loans_settle() could tell? Any thread. */
bool loans_cover(const struct hostfile *file, uint64_t offset, uint64_t length);

#endif
