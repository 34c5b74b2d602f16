// SPDX-License-Identifier: MIT
/*
 * Loans. A socket gives its bytes away in order, so a loan is over when the socket has nothing left
 * to be read, or has since been given more than it can hold. One lock for all accounts: it is taken
 * once for each large read, and by those who want to reuse freed places.
 */
#include "loan.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/size.h"
#include "hostfile.h"

enum {
	LOANS_MAX = 256,   /* of one socket: what its buffer holds in reads of 32 KiB */
	LENDERS_MAX = 256, /* sockets that lend, and those that are kept because they still do */
	/* A socket takes half as much again as its limit, in one piece, and this for the rest. */
	SOCKET_SLACK = 1 << 20,
};

struct loan {
	uint64_t file; /* its identity */
	uint64_t offset, length;
	uint64_t end; /* of it in the stream */
};

struct lender {
	TAILQ_ENTRY(lender) link;
	int socket;            /* a descriptor of its own: at the end there may be none to be had */
	bool ended;            /* nothing is sent any more */
	uint64_t capacity;     /* bytes that the socket holds at most */
	_Atomic uint64_t sent; /* the socket's thread writes it */
	unsigned int first, count;
	struct loan loans[LOANS_MAX]; /* a ring, oldest first */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static TAILQ_HEAD(, lender) lenders = TAILQ_HEAD_INITIALIZER(lenders);
static unsigned int lender_count;
static atomic_uint lent; /* loans of all */

/* ---- One account; the lock is held ---- */

static void forget_until(struct lender *lender, uint64_t position)
{
	while (lender->count && lender->loans[lender->first].end <= position) {
		lender->first = (lender->first + 1) % LOANS_MAX;
		lender->count--;
		atomic_fetch_sub(&lent, 1);
	}
}

/* What was sent before so many bytes that the socket cannot hold them has been read. */
static void settle_by_capacity(struct lender *lender, uint64_t sent)
{
	if (sent > lender->capacity)
		forget_until(lender, sent - lender->capacity);
}

/* What was given to the socket before it was found empty has been read, too. */
static void settle(struct lender *lender)
{
	uint64_t sent = atomic_load(&lender->sent);
	int queued = 0;

	if (!lender->count)
		return;
	settle_by_capacity(lender, sent);
	if (lender->count && ioctl(lender->socket, SIOCOUTQ, &queued) == 0 && !queued)
		forget_until(lender, sent);
}

static void remove_lender(struct lender *lender)
{
	TAILQ_REMOVE(&lenders, lender, link);
	lender_count--;
	close(lender->socket);
	free(lender);
}

/* ---- Accounts ---- */

static uint64_t capacity_of(int socket)
{
	int size = 0;
	socklen_t length = sizeof(size);

	if (getsockopt(socket, SOL_SOCKET, SO_SNDBUF, &size, &length) || size < 0)
		return UINT64_MAX;
	return (uint64_t)size + (uint64_t)size / 2 + SOCKET_SLACK;
}

struct lender *lender_new(int socket)
{
	struct lender *lender = calloc(1, sizeof(*lender));
	bool kept;

	if (!lender)
		return NULL;
	lender->socket = fcntl(socket, F_DUPFD_CLOEXEC, 0);
	lender->capacity = capacity_of(socket);
	loans_settle(); /* those that were kept may be over */
	pthread_mutex_lock(&lock);
	kept = lender->socket >= 0 && lender_count < LENDERS_MAX;
	if (kept) {
		lender_count++;
		TAILQ_INSERT_TAIL(&lenders, lender, link);
	}
	pthread_mutex_unlock(&lock);
	if (kept)
		return lender;
	if (lender->socket >= 0)
		close(lender->socket);
	free(lender);
	return NULL;
}

/* The peer sees the end, and reads what is there. */
static void keep_socket(struct lender *lender)
{
	shutdown(lender->socket, SHUT_RDWR);
	lender->ended = true;
}

void lender_end(struct lender *lender)
{
	if (!lender)
		return;
	pthread_mutex_lock(&lock);
	atomic_store(&lender->sent, UINT64_MAX - 1); /* nothing is on its way any more */
	lender->capacity = UINT64_MAX;
	settle(lender);
	if (lender->count)
		keep_socket(lender);
	else
		remove_lender(lender);
	pthread_mutex_unlock(&lock);
}

bool lender_add(struct lender *lender, const struct hostfile *file, uint64_t offset,
		uint64_t length, uint64_t end)
{
	bool room;

	pthread_mutex_lock(&lock);
	settle_by_capacity(lender, atomic_load(&lender->sent));
	if (lender->count == LOANS_MAX)
		settle(lender);
	room = lender->count < LOANS_MAX;
	if (room) {
		lender->loans[(lender->first + lender->count++) % LOANS_MAX] = (struct loan){
			.file = file->identity, .offset = offset, .length = length, .end = end};
		atomic_fetch_add(&lent, 1);
	}
	pthread_mutex_unlock(&lock);
	return room;
}

void lender_sent(struct lender *lender, uint64_t sent)
{
	atomic_store(&lender->sent, sent);
}

/* ---- All of them ---- */

bool loans_settle(void)
{
	struct lender *lender, *next;

	if (!atomic_load(&lent))
		return false;
	pthread_mutex_lock(&lock);
	for (lender = TAILQ_FIRST(&lenders); lender; lender = next) {
		next = TAILQ_NEXT(lender, link);
		settle(lender);
		if (lender->ended && !lender->count)
			remove_lender(lender);
	}
	pthread_mutex_unlock(&lock);
	return atomic_load(&lent);
}

static bool lends(const struct lender *lender, const struct hostfile *file, uint64_t offset,
		  uint64_t length)
{
	for (unsigned int i = 0; i < lender->count; i++) {
		const struct loan *loan = &lender->loans[(lender->first + i) % LOANS_MAX];

		if (loan->file == file->identity && loan->offset < offset + length &&
		    offset < loan->offset + loan->length)
			return true;
	}
	return false;
}

bool loans_cover(const struct hostfile *file, uint64_t offset, uint64_t length)
{
	const struct lender *lender;
	bool found = false;

	if (!atomic_load(&lent))
		return false;
	pthread_mutex_lock(&lock);
	TAILQ_FOREACH(lender, &lenders, link)
	found = found || lends(lender, file, offset, length);
	pthread_mutex_unlock(&lock);
	return found;
}
