/* SPDX-License-Identifier: MIT */
/*
 * The server's limits, each with its reason. hawserd(8) tells them to users.
 */
#ifndef HAWSER_SERVER_LIMITS_H
#define HAWSER_SERVER_LIMITS_H

#include "common/clock.h"

enum {
	/* One receive of a connection thread: hundreds of requests, or a piece of a payload that
	 * still fits the processor's second-level cache. */
	RECEIVE_BUFFER = 256 << 10,
	/* The same where requests may have to wait for a budget: what came with them waits, too.
	 * More than the largest piece that a payload is written in. */
	RECEIVE_THROTTLED = 192 << 10,
	/* Copies of replies are gathered up to here before they are sent: it stays in the cache. */
	SEND_GATHER = 128 << 10,
	/* The same of all, also of what is not copied: the fewer the sends, the less often a client
	 * is woken that has taken all there was. */
	SEND_GATHER_ATTACHED = 512 << 10,
	SEND_BUFFER = 512 << 10,
	/* Reads up to here are copied into the send buffer; larger ones move without a copy. */
	READ_INLINE_MAX = 32 << 10,
	/* Encrypted ones up to here are decrypted there: a job and its buffer would cost as much
	 * again, and what is larger is worth sharing with the workers. */
	DECRYPT_INLINE_MAX = 128 << 10,
	/* After a miss so many reads look into the page cache before they try it. */
	WARY_READS = 1000,
	/* The largest piece of one request in a job's buffer. */
	JOB_PIECE = 1 << 20,
	/* Pieces of a write begin and end at units in which zeroes are looked for, up to this one.
	 */
	ZEROES_UNIT_IN_PIECE = JOB_PIECE / 2,
	/* The same of what must be decoded: several workers share a large request. */
	JOB_PIECE_DECODED = 256 << 10,
	/* A simple reply cannot take back its header, so a read up to here is complete before its
	 * reply begins. */
	READ_WHOLE_MAX = 4 << 20,
	/* Buffers of one connection's jobs, and of all connections: what a small server can spare.
	 * Beyond them a connection without any buffer may still have one, so that it goes on. */
	CONNECTION_BUFFERS_MAX = 16 << 20,
	PROCESS_BUFFERS_MAX = 128 << 20,
	/* Buffers that are kept while workers are there: what one connection can use. */
	BUFFERS_RESERVE_MAX = CONNECTION_BUFFERS_MAX,
	/* Requests of one connection that are with the workers. */
	CONNECTION_JOBS_MAX = 256,
	/* Threads that serve busy connections; more connections take turns. */
	ENGINE_THREADS_MAX = 64,
	/* Threads beyond those, in place of threads that wait for a slow reader. */
	ENGINE_BLOCKED_MAX = 256,
	/* Threads for operations that block. */
	WORKER_THREADS_MAX = 16,
	/* Clients in negotiation; the oldest goes when a new one comes. */
	NEGOTIATING_MAX = 256,
	/* Sockets that wait for their peers to take the last replies; the oldest goes first. */
	LINGERING_MAX = 64,
	/* Block status answers of one connection that are being made: half a MiB each. */
	STATUS_JOBS_MAX = 8,
	/* Extents of one block status answer. */
	STATUS_EXTENTS_MAX = 32768,
};

/* A client that waits for a slot (-e) is refused after this long. */
#define SLOT_WAIT (2 * CLOCK_SECOND)
/* A client whose image is not open for it after this long is dropped: the disk is stuck. */
#define OPEN_WAIT (60 * CLOCK_SECOND)
/* A peer that stops in the middle of a request is dropped. */
#define STALL_LIMIT (30 * CLOCK_SECOND)
/* A peer that takes no replies is dropped; sooner when others wait for its thread, or for the end
 * of the server. */
#define SEND_STALL_LIMIT        (120 * CLOCK_SECOND)
#define SEND_STALL_LIMIT_WANTED (5 * CLOCK_SECOND)
#define SEND_STALL_LIMIT_DRAIN  (3 * CLOCK_SECOND)
/* What a client that has gone asked for before is done at once, as long as those who come after it
 * have to wait no longer than this for it: nobody passes a limit by leaving. */
#define GONE_DEBT (10 * CLOCK_SECOND)
/* A connection without requests gives its thread back. */
#define PARK_AFTER (50 * CLOCK_MILLISECOND)
/* How long a connection may keep its thread when others wait for one. */
#define SLICE (20 * CLOCK_MILLISECOND)
/* A peer has so long to take its last replies, while it still sends. */
#define LINGER_LIMIT (2 * CLOCK_SECOND)
#define LINGER_LOOK  (50 * CLOCK_MILLISECOND)
/* At shutdown, requests that were received are finished for this long. */
#define DRAIN_LIMIT (10 * CLOCK_SECOND)
/* An idle engine or worker thread ends. */
#define THREAD_IDLE_LIMIT (5 * CLOCK_SECOND)

#endif
