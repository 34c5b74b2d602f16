/* SPDX-License-Identifier: MIT */
/*
 * The workers: a bounded pool of threads that run blocking jobs (misses, flushes, allocation,
 * zeroing). A job belongs to one connection and comes back to its thread through the connection's
 * mailbox; workers never touch a socket.
 */
#ifndef HAWSER_SERVER_WORKER_H
#define HAWSER_SERVER_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/nbd-protocol.h"
#include "outbuf.h"

struct connection;
struct job;

/*
 * A request that is with the workers, in one job or in several pieces. Only the connection's
 * thread touches it.
 */
struct pending {
	struct nbd_request request;
	unsigned int pieces; /* jobs not yet back */
	bool whole;          /* all pieces have been issued */
	bool mixed;          /* of a write: not all pieces are zeroes */
	uint64_t began;      /* as in struct statistics */
	int error;           /* negative errno of the first failure */
	uint64_t error_offset;
};

struct job {
	struct job *next;
	struct connection *connection;
	struct pending *pending;
	/* Blocking work; sets result. Worker thread. */
	void (*run)(struct job *job);
	/* Answers; connection thread. Frees nothing of the job. */
	void (*done)(struct job *job);
	uint8_t *buffer;      /* from the buffer pool, NULL: none */
	uint32_t buffer_size; /* bytes taken from the budget */
	uint64_t offset, length;
	unsigned int flags;
	bool mixed;           /* a piece of a write: not all of it is zeroes */
	bool answers_only;    /* changes nothing: not worth doing for a client that has gone */
	int result;           /* 0 or negative errno */
	uint64_t contexts;    /* of block status: those to tell, a bit each */
	struct outbuf answer; /* and the whole reply */
};

struct worker_pool;

/* Threads start on demand. NULL: out of memory. */
struct worker_pool *worker_pool_new(unsigned int threads_max);
/* All jobs must be back. */
void worker_pool_free(struct worker_pool *pool);
/* Hands the job over; it comes back by connection_job_done(). Never fails: without any thread the
 * job runs at once on the caller's. */
void worker_submit(struct worker_pool *pool, struct job *job);

#endif
