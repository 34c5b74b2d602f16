/* SPDX-License-Identifier: MIT */
/*
 * Statistics as text for other programs: JSON on one line, and OpenMetrics. The forms are part of
 * the interface and told in hawserd(8); "format" changes when a key changes its meaning.
 */
#ifndef HAWSER_SERVER_STATISTICS_TEXT_H
#define HAWSER_SERVER_STATISTICS_TEXT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "export.h"
#include "listener.h"

enum {
	STATISTICS_FORMAT = 1,
	/* Clients that an answer lists, so that it stays below a few MiB. */
	STATISTICS_CLIENTS_MAX = 1024,
};

/* What is told beside the numbers. All of it outlives the reader. */
struct statistics_world {
	struct export *exports;
	size_t export_count;
	const struct listener_set *listeners;
	uint64_t started; /* clock_now() */
};

/* Who this is and where it listens. 0 or -ENOMEM. */
int statistics_print_hello(FILE *out, const struct statistics_world *world);
int statistics_print_json(FILE *out, const struct statistics_world *world);
/* Without single clients: their numbers come and go, and a collector would keep them for ever. */
int statistics_print_openmetrics(FILE *out, const struct statistics_world *world);

#endif
