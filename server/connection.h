/* SPDX-License-Identifier: MIT */
/*
 * One client. It is negotiated and parked by the main loop (server.c), which then owns it, and
 * served by one engine thread while it is busy, which then owns it; so are the steps of its TLS
 * handshake. Ownership changes hands only
 * in server.c under the server's lock.
 *
 * Fields below "any thread" are atomics; all others belong to the owner.
 */
#ifndef HAWSER_SERVER_CONNECTION_H
#define HAWSER_SERVER_CONNECTION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "common/transport.h"
#include "handshake.h"
#include "limits.h"
#include "statistics.h"
#include "worker.h"

struct engine_thread;
struct lender;
struct server;

/* What becomes of the payload that is arriving. */
enum payload_mode {
	PAYLOAD_NONE,
	PAYLOAD_INLINE,  /* pieces are written as they arrive, by the connection's thread */
	PAYLOAD_JOBS,    /* pieces go to workers */
	PAYLOAD_COLLECT, /* a small one, kept until it is whole */
	PAYLOAD_DISCARD, /* the request has failed already: read and forget */
};

/* BLOCK_STATUS that names each context there can be. */
enum { PAYLOAD_COLLECT_MAX = 8 + 4 * CONTEXTS_MAX };

struct payload {
	enum payload_mode mode;
	struct nbd_request request;
	uint64_t left;     /* bytes that have not been taken from the stream */
	uint64_t position; /* offset in the export of the next byte */
	int error;         /* negative errno of the first failure */
	struct pending *pending;
	struct job *piece; /* whose buffer is being filled, or NULL */
	uint32_t piece_used;
	uint32_t align; /* inline pieces end at multiples of it, or 0 */
	uint64_t began; /* as in struct statistics */
	uint8_t collected[PAYLOAD_COLLECT_MAX];
	uint32_t collected_used;
};

/* A read whose pieces could not all be issued yet: limits were reached. */
struct issue {
	struct pending *pending;
	uint64_t position, end; /* what is left of it */
	uint64_t piece;         /* bytes of one job at most */
	uint64_t align;         /* where jobs end, unless the range does */
	bool whole;             /* it must be one piece */
};

/* Who owns the connection. */
enum connection_state {
	CONNECTION_NEGOTIATING, /* main loop */
	CONNECTION_QUEUED,      /* main loop; a step of its TLS handshake waits for a thread */
	CONNECTION_SECURING,    /* an engine thread, for that step */
	CONNECTION_WAITING,     /* main loop; it wants a slot */
	CONNECTION_OPENING,     /* main loop; the image is being opened for it */
	CONNECTION_PARKED,      /* main loop; transmission, but idle */
	CONNECTION_STALLED,     /* main loop; the same in the middle of a request */
	CONNECTION_THROTTLED,   /* main loop; its next request may not begin yet */
	CONNECTION_BUSY,        /* an engine thread */
	CONNECTION_ENDED,       /* main loop; closed, to be freed */
};

/* What to do with a connection that its thread gives back. */
enum connection_outcome {
	CONNECTION_PARK, /* after a step of TLS: more of it follows */
	CONNECTION_END,
	CONNECTION_SECURED, /* TLS is on */
};

struct connection {
	TAILQ_ENTRY(connection) all;  /* all connections of the server; main loop */
	TAILQ_ENTRY(connection) link; /* the list of the state it is in; that state's owner */
	struct server *server;
	struct transport transport;
	unsigned int id; /* for messages */

	/* Negotiation; main loop. */
	struct handshake handshake;
	struct outbuf out;
	struct outbuf held; /* bytes of an incomplete option, or what followed the last one */
	uint64_t deadline;  /* of the handshake, or of waiting for a slot */
	enum connection_state state;
	bool has_slot;
	enum connection_outcome outcome; /* of the last service */
	bool stalled;                    /* parked in the middle of a request, until deadline */
	uint32_t events;                 /* registered with epoll, 0: not registered */

	/* Away from what workers write. */
	struct statistics statistics;

	/* Transmission. */
	struct export *export_;
	struct handshake_terms terms;
	bool read_only; /* as the client was told */
	struct engine_thread *thread;
	struct payload payload;
	struct issue issue;
	unsigned int answers;    /* of them, that make a block status answer in memory */
	unsigned int jobs;       /* with the workers */
	uint64_t buffers;        /* bytes of their buffers */
	unsigned int wary_reads; /* so many reads ask the page cache first: there was a miss */
	uint64_t inline_after;   /* writes go to workers until then: the page cache was slow */
	uint64_t sent;           /* bytes that the socket has taken */
	struct lender *lender;   /* pages that it was lent; NULL: none yet */
	uint64_t throttled_at;   /* when the request at hand asked for a place; see throttle.h */
	uint64_t resume_at;      /* from when on it may begin; 0: no request waits */
	bool hasty;         /* its client has gone: what came from it is not worth waiting for */
	bool disconnecting; /* DISC or end of stream: answer what is pending, then end */
	bool last_call;     /* the server drains: end when nothing more is to be received */
	atomic_bool dead;   /* nothing can be sent any more; workers look, too */

	/* Jobs that no worker has begun; the worker pool's, under its lock. */
	TAILQ_ENTRY(connection) ready;
	struct job *queue, **queue_tail;

	/* Any thread, under mail_lock. */
	pthread_mutex_t mail_lock;
	struct job *mailbox; /* jobs that came back, newest first */
	bool sleeping;       /* the thread waits: wake it through its eventfd */
	bool draining;       /* end when nothing is pending */
};

/* A new connection in negotiation, its greeting in out. Takes fd on success; NULL: no memory. */
struct connection *connection_new(struct server *server, int fd,
				  const struct handshake_world *world);
/* Frees everything; the transport is closed. No job may be out. */
void connection_free(struct connection *connection);

/* What came of a step of negotiation. */
enum negotiation {
	NEGOTIATION_SECURE,  /* a thread is to call connection_secure(): that takes its time */
	NEGOTIATION_GOES_ON, /* wait for the socket (writable too, when out is not empty) */
	NEGOTIATION_FULL,    /* it waits for a slot */
	NEGOTIATION_OPENING, /* it waits for the image */
	NEGOTIATION_DONE,    /* transmission begins; held has what followed */
	NEGOTIATION_CLOSE,   /* over, politely */
	NEGOTIATION_DROP,    /* over, at once */
};
/* Sends, receives and answers as far as it goes without waiting. scratch: NEGOTIATION_SCRATCH
 * bytes. Main loop. */
enum { NEGOTIATION_SCRATCH = 64 << 10 };
enum negotiation connection_negotiate(struct connection *connection, uint8_t *scratch);
/* What to wait for with epoll when it goes on. */
uint32_t connection_negotiation_events(const struct connection *connection);

/* One step of the TLS handshake, without waiting for the peer. Engine thread. */
enum connection_outcome connection_secure(struct connection *connection);
/* After CONNECTION_SECURED: may this peer come in? Then negotiation begins anew. Main loop. */
bool connection_admit(struct connection *connection);

/* Serves a busy connection until it is idle or over. Engine thread. */
enum connection_outcome connection_serve(struct connection *connection,
					 struct engine_thread *thread);

/* A worker gives a job back. Any thread; the connection may be gone when this returns. */
void connection_job_done(struct job *job);

/* Asks a connection that a thread serves to finish what it was asked and end. Any thread. */
void connection_drain(struct connection *connection);

/* ---- For the files of one connection's service (receive, request, read, status) ---- */

/*
 * A job for the request, with a buffer of buffer_length bytes (0: none). NULL when the limits of
 * this connection or of the process are reached: come back when a job has returned.
 */
struct job *connection_job_new(struct connection *connection, uint64_t buffer_length);
void connection_job_submit(struct connection *connection, struct job *job);
/* Gives job and buffer back to their pools. */
void connection_job_free(struct connection *connection, struct job *job);
/* Out of memory in the middle of things, or the peer broke the protocol: no reply can follow. */
void connection_kill(struct connection *connection, const char *why);

/* receive.c: takes requests and payload from bytes; returns how many were used. Stops early when
 * limits are reached. */
size_t receive_bytes(struct connection *connection, const uint8_t *bytes, size_t length);
/* Where the next bytes of a payload may go directly, and how many; 0: nowhere. */
size_t receive_target(struct connection *connection, uint8_t **target);
/* That many bytes were put there. */
void receive_filled(struct connection *connection, size_t length);
/* Is the peer in the middle of a request? Then it must not stall. */
bool receive_in_payload(const struct connection *connection);
/* Does the payload wait for a job to come back before more of it can be taken? */
bool receive_blocked(const struct connection *connection);
/* The peer is silent: the piece goes to a worker as far as it came, so that a parked connection
 * has no buffer. False: wait for that job. */
bool receive_release(struct connection *connection);
/* A piece of a WRITE is back from a worker. */
void receive_piece_done(struct job *job);
/* Frees what a payload that never came whole holds. */
void receive_abandon(struct connection *connection);
/* May another request be taken now? */
bool connection_has_room(const struct connection *connection);

/* request.c */
/* For the request that is being taken; free() it when it has been answered. NULL: no memory. */
struct pending *pending_new(const struct connection *connection, const struct nbd_request *request);
/* May the request begin now? Else its place is connection->resume_at; ask again then. */
bool request_has_budget(struct connection *connection, const struct nbd_request *request);
void request_dispatch(struct connection *connection, const struct nbd_request *request);
/* All of a payload has been taken. */
void request_payload_done(struct connection *connection);
/* Writes a piece of the current payload from the connection's thread, or leaves it to a worker
 * where it is zeroes: 0 or -errno. */
int request_write_inline(struct connection *connection, const uint8_t *bytes, size_t length);
/* All pieces of a WRITE are back: answers and frees pending. */
void request_write_done(struct connection *connection, struct pending *pending);

/* read.c */
void read_begin(struct connection *connection, const struct nbd_request *request);
/* Issues what is left of a read that met a limit. */
void read_continue(struct connection *connection);

/* status.c */
void status_begin(struct connection *connection, const struct nbd_request *request,
		  uint64_t contexts);
void status_payload(struct connection *connection, const struct nbd_request *request,
		    const uint8_t *payload, uint32_t length);

#endif
