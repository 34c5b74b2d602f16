/* SPDX-License-Identifier: MIT */
/*
 * The parts of `hawser top`: top-server.c finds the control socket and asks, top-sample.c reads
 * the answer, top-view.c draws, top-screen.c has the terminal. The main thread.
 */
#ifndef HAWSER_CLIENT_TOP_H
#define HAWSER_CLIENT_TOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"
#include "common/json-read.h"
#include "common/latency.h"

/* ---- The server ---- */

struct top_server {
	int fd; /* its control socket */
	long pid;
	char *path;               /* of the control socket */
	struct json_value *hello; /* what it said of itself */
};

#define TOP_SERVER_INIT   \
	{                 \
		.fd = -1, \
	}

/* operand: a URI, host:port, a socket (of the server, or its control socket), a process number;
 * NULL: the only server. A command_status. */
int top_server_find(const char *operand, struct top_server *server, struct error *err);
/* The answer to a request, allocated. A command_status. */
int top_server_ask(const struct top_server *server, const char *request, char **answer,
		   size_t *length, struct error *err);
/* Also for an empty one. */
void top_server_clear(struct top_server *server);

/* ---- A sample ---- */

enum top_kind { TOP_READ, TOP_WRITE, TOP_FLUSH, TOP_OTHER, TOP_KINDS };

struct top_count {
	uint64_t requests, bytes, errors;
};

struct top_numbers {
	struct top_count counts[TOP_KINDS];
	uint64_t misses;
	uint64_t throttled, throttled_time; /* requests, nanoseconds */
	uint64_t jobs, buffers;             /* now */
	struct {
		uint64_t sum, max;
		uint64_t buckets[LATENCY_BUCKETS];
	} latency[TOP_KINDS];
};

struct top_client {
	uint64_t id;
	char name[64]; /* printable */
	struct top_numbers numbers;
};

struct top_export {
	const char *name, *file, *format; /* in the sample's tree; never NULL */
	uint64_t size;
	bool read_only;
	uint64_t connections, connections_total;
	struct top_numbers numbers;
	struct top_client *clients;
	size_t client_count;
};

struct top_sample {
	struct json_value *tree;
	uint64_t clock, uptime; /* nanoseconds */
	uint64_t pid;
	const struct json_value *listening; /* texts */
	struct top_export *exports;
	size_t export_count;
};

/* 0; -EPROTO, -ENOMEM with err set. */
int top_sample_read(const char *text, size_t length, struct top_sample *sample, struct error *err);
/* Also for an empty one. */
void top_sample_clear(struct top_sample *sample);

/* What happened from one sample to a later one: counters are subtracted, gauges are those of now.
 * before NULL: since the start. */
void top_numbers_since(const struct top_numbers *now, const struct top_numbers *before,
		       struct top_numbers *change);
/* NULL when there is none of this name (number). */
const struct top_export *top_sample_export(const struct top_sample *sample, const char *name);
const struct top_client *top_export_client(const struct top_export *export, uint64_t id);

/* ---- The view ---- */

enum { TOP_HISTORY = 256 };

/* What is remembered between views. */
struct top_history {
	uint64_t peak[TOP_KINDS];       /* the highest rate, bytes (or requests) a second */
	uint64_t rates[2][TOP_HISTORY]; /* bytes read and written a second, a ring */
	size_t count;                   /* of rates, ever */
};

struct top_look {
	unsigned int columns;
	unsigned int rows; /* 0: any number */
	bool colour;
	bool utf8;
	bool live; /* a screen that refreshes */
};

/* Draws what happened between the samples (before NULL: since the server's start). Lines end with
 * '\n' and are not wider than the look. */
void top_view_draw(FILE *out, const struct top_look *look, const struct top_sample *now,
		   const struct top_sample *before, struct top_history *history);

/* ---- The screen ---- */

/* Refreshes until q, a signal, or the server's end. A command_status. */
int top_screen_run(const struct top_server *server, uint64_t interval, struct error *err);
/* The look of standard output, as it is now. */
struct top_look top_screen_look(void);

#endif
