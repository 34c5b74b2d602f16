/* SPDX-License-Identifier: MIT */
/*
 * The engine: threads that serve busy connections, one thread a connection. A thread owns the
 * buffers and lends them to the connection that it serves, so that an idle connection has none.
 */
#ifndef HAWSER_SERVER_ENGINE_H
#define HAWSER_SERVER_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "reply.h"
#include "spin.h"

struct connection;
struct engine;

struct engine_thread {
	struct engine *engine;
	uint8_t *receive; /* RECEIVE_BUFFER bytes */
	struct send_buffer send;
	int pipe[2]; /* for splice; -1 where there is none */
	uint32_t pipe_size;
	int wake_fd;      /* eventfd: jobs came back, or the server drains */
	struct spin spin; /* of the connection that it serves */
	bool lively;      /* as told by engine_set_lively() */
};

/* NULL: out of memory. */
struct engine *engine_new(unsigned int threads_max);
/* All connections must be over. */
void engine_free(struct engine *engine);

/* A connection has something to do: the next free thread serves it, or takes its TLS handshake a
 * step further. Any thread. 0 or -errno when
 * no thread at all could be had. */
int engine_serve(struct engine *engine, struct connection *connection);

/* Does a connection wait for a thread? Then one that is idle should give its own back. */
bool engine_wanted(const struct engine *engine);

/* This thread waits for its peer to read: another may be started for those who wait for one. */
void engine_block_begin(struct engine *engine);
void engine_block_end(struct engine *engine);

/* Does this thread wait for moments only? Then it is not to be held up by one that spins. */
void engine_set_lively(struct engine_thread *thread, bool lively);
/* May this thread spin, that is: is a processor to spare? Balanced by engine_spin_end(). */
bool engine_spin_begin(struct engine_thread *thread);
void engine_spin_end(struct engine *engine);

#endif
