/* SPDX-License-Identifier: MIT */
/*
 * The load generator: how its parts meet. load.c reads the options, runs the threads and prints;
 * load-dial.c connects and shakes hands; load-flow.c keeps requests in flight on connections.
 */
#ifndef HAWSER_TESTS_BENCH_LOAD_H
#define HAWSER_TESTS_BENCH_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/tls.h"
#include "common/transport.h"

enum load_operation {
	LOAD_READ,
	LOAD_WRITE,
	LOAD_MIXED,
	LOAD_CONNECT, /* connect, GO, disconnect */
	LOAD_STARTUP, /* start the command after "--", wait for its greeting */
	LOAD_IMAGE,   /* write the verification pattern to a file */
};

struct load_options {
	enum load_operation operation;
	const char *unix_path;
	const char *host;
	const char *port;
	const char *export_name;
	const char *certificates; /* folder: with TLS */
	const char *keys;         /* file of pre-shared keys, user "bench": with TLS */
	struct tls_creds *creds;  /* made of these */
	const char *image;        /* LOAD_IMAGE: the file */
	uint64_t image_size;      /* LOAD_IMAGE */
	uint64_t count;           /* requests or connections in all; 0 = until the time is up */
	uint64_t hot_bytes; /* so many first bytes of the export take hot_percent of the requests */
	uint64_t seed;
	double seconds;
	uint32_t block_size;
	unsigned int depth;
	unsigned int connections;
	unsigned int threads;
	unsigned int hot_percent;
	unsigned int read_percent; /* LOAD_MIXED */
	unsigned int think;        /* microseconds that a thread rests after each round */
	bool sequential;
	bool simple; /* do not ask for structured replies */
	bool verify;
	bool zeroes; /* what is written */
};

struct load_session {
	struct transport transport;
	uint64_t size;
	bool structured;
};

/* Loads the keys that the options name. 0 or -errno; a line on stderr tells why. */
int load_keys(struct load_options *options);
/* Connects and enters transmission. 0 or -errno; a line on stderr tells why. */
int load_dial(const struct load_options *options, struct load_session *session);
/* Connects and reads the greeting only: has the server begun to accept? */
int load_dial_greeting(const struct load_options *options);
/* Sends DISC and closes. */
void load_hang_up(struct load_session *session);

enum { LOAD_LATENCY_STEPS = 32, LOAD_LATENCY_BUCKETS = 64 * LOAD_LATENCY_STEPS };

/* What one thread counts; added up at the end. */
struct load_result {
	uint64_t operations;
	uint64_t bytes;      /* asked for and answered */
	uint64_t wire_bytes; /* payload that came as data; holes do not */
	uint64_t errors;     /* failed requests and wrong bytes */
	uint64_t latency_max;
	uint64_t finished; /* clock_now() at the last reply */
	uint32_t latency[LOAD_LATENCY_BUCKETS];
	int failure; /* -errno that ended the thread early, or 0 */
};

struct load_share {
	const struct load_options *options;
	struct load_session *sessions; /* this thread's own */
	unsigned int count;
	unsigned int first;   /* number of sessions[0] among all */
	const uint8_t *block; /* what writes send; all threads share it */
	uint64_t began;
	uint64_t deadline;
	uint64_t limit; /* requests for this thread; UINT64_MAX = no limit */
	struct load_result result;
};

/* Keeps options->depth requests in flight on each session until the end; drains. */
void load_flow_run(struct load_share *share);

void load_latency_add(struct load_result *result, uint64_t nanoseconds);
uint64_t load_latency_percentile(const struct load_result *result, double percent);

/* The bytes that a patterned image holds at offset. */
void load_pattern_fill(void *buffer, uint64_t offset, size_t length);

#endif
