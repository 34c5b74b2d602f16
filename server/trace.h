/* SPDX-License-Identifier: MIT */
/*
 * Trace points: what happens to each request, with the time, for people who look for a fault or a
 * delay. The table in trace-events.h makes a function of each event, called like
 * trace_connection_parked(id, stalled). While an event is off, it costs one load and one branch
 * that is predicted. Where the header is installed at build time, each is a static probe, too
 * (provider "hawserd"), for perf and bpftrace.
 *
 * A line is made and written by the thread that the event happens on, in one write(2), so lines are
 * whole and no thread waits for a lock of ours. Any thread; errno is kept.
 */
#ifndef HAWSER_SERVER_TRACE_H
#define HAWSER_SERVER_TRACE_H

#include <endian.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/nbd-protocol.h"

#ifdef HAVE_SYS_SDT_H
#include <sys/sdt.h>
#define TRACE_PROBE(name, ...) STAP_PROBEV(hawserd, name, __VA_ARGS__)
#else
#define TRACE_PROBE(name, ...) ((void)0)
#endif

enum trace_event {
#define TRACE_EVENT(name, format, parameters, values)              TRACE_##name,
#define TRACE_EVENT_SHOWN(name, format, parameters, values, shown) TRACE_##name,
#include "trace-events.h"
	TRACE_EVENTS
};
_Static_assert(TRACE_EVENTS <= 64, "a set of events is a word of bits");

/* The events that are on, a bit each. Set at start; cleared when no line can be written. */
extern _Atomic uint64_t trace_active;

#define TRACE_UNPACK(...) __VA_ARGS__
#define TRACE_EVENT(name, format, parameters, values) \
	TRACE_EVENT_SHOWN(name, format, parameters, values, values)

/* The line is made far from the caller, which keeps nothing ready for it. */
#define TRACE_EVENT_SHOWN(name, format, parameters, values, shown) \
	void trace_show_##name parameters __attribute__((cold));
#include "trace-events.h"

#define TRACE_EVENT(name, format, parameters, values) \
	TRACE_EVENT_SHOWN(name, format, parameters, values, values)
#define TRACE_EVENT_SHOWN(name, format, parameters, values, shown)                               \
	static inline void trace_##name parameters                                               \
	{                                                                                        \
		TRACE_PROBE(name, TRACE_UNPACK values);                                          \
		if (__builtin_expect(atomic_load_explicit(&trace_active, memory_order_relaxed) & \
					     UINT64_C(1) << TRACE_##name,                        \
				     0))                                                         \
			trace_show_##name(TRACE_UNPACK values);                                  \
	}
#include "trace-events.h"

/* ---- The option: [[enable=]PATTERN][,events=FILE][,file=FILE] ---- */

/* What the options have asked for. All zero: nothing. */
struct trace_setup {
	uint64_t active;
	char *file; /* where the lines go, NULL: standard error */
};

/*
 * Adds one option. A pattern has '*' and '?', and one that begins with '-' turns events off; FILE
 * of events has one on a line, '#' begins a comment. Names that no event has get a warning. Reads
 * that file, changes nothing else. 0 or -errno with err set. trace_setup_clear() frees.
 */
int trace_setup_add(struct trace_setup *setup, const char *text, struct error *err);
/* One line of such a file, or a pattern; not terminated. */
void trace_setup_rule(struct trace_setup *setup, const char *rule, size_t length);
void trace_setup_clear(struct trace_setup *setup);

/* Is it the question for the names of events? */
bool trace_asks_help(const char *text);
void trace_print_events(FILE *out);

/* Tracing begins: before there are threads, and before a fork. 0 or -errno with err set. */
int trace_begin(const struct trace_setup *setup, struct error *err);

#endif
