/* SPDX-License-Identifier: MIT */
/*
 * The state of a server, shared by its opening (server-open.c) and its main loop (server.c,
 * server-lists.c), and known to nobody else. The loop owns all of it but what is under the lock.
 */
#ifndef HAWSER_SERVER_SERVER_STATE_H
#define HAWSER_SERVER_SERVER_STATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "connection.h"
#include "export.h"
#include "handshake.h"
#include "server.h"

TAILQ_HEAD(connection_list, connection);

enum { LISTENERS_MAX = 8 };

struct server {
	struct export export_;
	struct handshake_world world;
	struct server_config config;
	struct engine *engine;
	struct worker_pool *workers;
	int epoll_fd, signal_fd, wake_fd;
	int listeners[LISTENERS_MAX];
	unsigned int listener_count;
	bool listening;
	uint64_t accept_after; /* 0: accepting */
	struct access *access; /* NULL: the image stays as it was opened */
	struct connection_list all, negotiating, queued, waiting, opening, stalled, throttled,
		ended;
	unsigned int negotiating_count;    /* queued and with threads, too */
	unsigned int securing;             /* of them, with threads */
	unsigned int securing_max;         /* more would only take turns */
	unsigned int connections, clients; /* clients hold a slot */
	bool had_client;
	struct farewell *farewell; /* sockets that are done with */
	uint64_t drain_deadline;   /* 0: not draining */
	bool interrupted;          /* busy connections were cut off */
	uint8_t *scratch;

	pthread_mutex_t lock;
	struct connection_list back; /* given back by engine threads; under lock */

	bool stop_asked; /* any thread, atomic */
};

/* server-lists.c: a new connection comes into a state; one that has a state goes to another. Its
 * deadline is set before: those in negotiation are kept in that order. */
void server_enter(struct server *server, struct connection *connection,
		  enum connection_state state);
void server_move(struct server *server, struct connection *connection, enum connection_state state);
/* What epoll tells of it from now on; 0: nothing. */
void server_watch(struct server *server, struct connection *connection, uint32_t events);

/* May another client enter transmission? */
static inline bool server_slot_free(const struct server *server)
{
	return !server->config.max_clients || server->clients < server->config.max_clients;
}

#endif
