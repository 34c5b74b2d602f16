/* SPDX-License-Identifier: MIT */
/*
 * What the server counts. The engine thread of a connection is the only writer of its numbers, by
 * plain relaxed stores into memory of its own; readers add them up. A connection that ends leaves
 * its numbers to its export's book, so the sums of an export never go back.
 *
 * A request counts when its reply is made, with what the peer is told. Its latency runs from the
 * receive that brought its header to the send of its reply. Clocks are read once a turn of the
 * engine, not once a request: the requests of one receive share their beginning and their end.
 */
#ifndef HAWSER_SERVER_STATISTICS_H
#define HAWSER_SERVER_STATISTICS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "common/error.h"
#include "common/latency.h"

enum statistics_command {
	STATISTICS_READ,
	STATISTICS_WRITE,
	STATISTICS_FLUSH,
	STATISTICS_TRIM,
	STATISTICS_CACHE,
	STATISTICS_ZERO,
	STATISTICS_STATUS,
	STATISTICS_UNKNOWN, /* what is no command; always an error */
	STATISTICS_COMMANDS,
};

/* Latencies are kept by these, not by command: a histogram is large. */
enum statistics_kind {
	STATISTICS_KIND_READ,
	STATISTICS_KIND_WRITE,
	STATISTICS_KIND_FLUSH,
	STATISTICS_KIND_OTHER,
	STATISTICS_KINDS,
};

extern const char *const statistics_command_names[STATISTICS_COMMANDS];
extern const char *const statistics_kind_names[STATISTICS_KINDS];

struct statistics_latency {
	uint64_t sum, max; /* nanoseconds */
	uint64_t buckets[LATENCY_BUCKETS];
};

struct statistics_numbers {
	struct {
		uint64_t requests, bytes, errors; /* bytes: of requests that succeeded */
	} commands[STATISTICS_COMMANDS];
	uint64_t misses;         /* reads that were handed to workers */
	uint64_t throttled;      /* requests that waited for their place in a budget */
	uint64_t throttled_time; /* nanoseconds, not counted as latency */
	uint64_t jobs;           /* with the workers now */
	uint64_t buffers;        /* bytes of their buffers now */
	struct statistics_latency latency[STATISTICS_KINDS];
};

/* Replies that wait for the next flush to know their latency; those that began together are one. */
enum { STATISTICS_WAITING = 16 };

struct statistics_waiting {
	uint64_t began;
	uint32_t counts[STATISTICS_KINDS];
};

/* The statistics of one connection. */
struct statistics {
	struct statistics_numbers numbers; /* written by the owner, read by any thread; atomic */

	/* The connection's owner. */
	uint64_t now;      /* the clock as the engine thread read it last */
	uint64_t received; /* when the bytes at hand came */
	uint64_t began;    /* when the request began that is being answered */
	unsigned int waiting_used;
	struct statistics_waiting waiting[STATISTICS_WAITING];

	/* The book's lock. */
	TAILQ_ENTRY(statistics) link;
	bool listed;
	unsigned int id;
	int fd; /* to ask who the peer is */
};

/* ---- Counting; the connection's engine thread ---- */

/* A reply was made: error is what the peer is told (0: none), type the command on the wire. */
void statistics_count(struct statistics *statistics, uint16_t type, uint64_t length, int error);
/* A read was not in memory. */
void statistics_miss(struct statistics *statistics);
/* A request has waited so many nanoseconds for its place in a budget. */
void statistics_throttled(struct statistics *statistics, uint64_t waited);
/* What is with the workers now. */
void statistics_gauge(struct statistics *statistics, uint64_t jobs, uint64_t buffers);
/* The replies made until now have been sent. Reads the clock. */
void statistics_flushed(struct statistics *statistics);

/* ---- The book of an export ---- */

struct statistics_book {
	pthread_mutex_t lock;
	TAILQ_HEAD(, statistics) live;
	unsigned int live_count;
	uint64_t joined; /* connections since the start */
	struct statistics_numbers ended;
};

void statistics_book_init(struct statistics_book *book);
/* A connection enters transmission. Main loop. */
void statistics_join(struct statistics_book *book, struct statistics *statistics, unsigned int id,
		     int fd);
/* It ends, before its descriptor is closed. Also for one that never joined. Main loop. */
void statistics_leave(struct statistics_book *book, struct statistics *statistics);

/* ---- Reading; any thread ---- */

enum { STATISTICS_PEER_MAX = 80 };

struct statistics_client {
	unsigned int id;
	char peer[STATISTICS_PEER_MAX]; /* address of a TCP client, "" of others */
	int pid;                        /* of a local client, 0: not known */
	struct statistics_numbers numbers;
};

/* One moment of a book. */
struct statistics_view {
	struct statistics_numbers total;
	unsigned int live;
	uint64_t joined;
	struct statistics_client *clients;
	unsigned int client_count; /* not more than were asked for */
};

/* The first max clients are listed; the total has all. 0 or -ENOMEM; clear it afterwards. */
int statistics_view(struct statistics_book *book, unsigned int max, struct statistics_view *view);
void statistics_view_clear(struct statistics_view *view);

#endif
