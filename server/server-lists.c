// SPDX-License-Identifier: MIT
/*
 * Where the main loop keeps its connections: a list for each state that has one, in the order in
 * which they are wanted, and what epoll watches for. Must never touch one that a thread owns. Main
 * loop.
 */
#include <sys/epoll.h>

#include "server-state.h"

static struct connection_list *list_of(struct server *server, enum connection_state state)
{
	switch (state) {
	case CONNECTION_NEGOTIATING:
		return &server->negotiating;
	case CONNECTION_QUEUED:
		return &server->queued;
	case CONNECTION_WAITING:
		return &server->waiting;
	case CONNECTION_OPENING:
		return &server->opening;
	case CONNECTION_STALLED:
		return &server->stalled;
	case CONNECTION_THROTTLED:
		return &server->throttled;
	case CONNECTION_ENDED:
		return &server->ended;
	case CONNECTION_SECURING:
	case CONNECTION_PARKED:
	case CONNECTION_BUSY:
		break;
	}
	return NULL;
}

static bool is_negotiating(enum connection_state state)
{
	return state == CONNECTION_NEGOTIATING || state == CONNECTION_QUEUED ||
	       state == CONNECTION_SECURING;
}

/* When its time comes. */
static uint64_t due(const struct connection *connection)
{
	return connection->state == CONNECTION_THROTTLED ? connection->resume_at
							 : connection->deadline;
}

/* They come nearly in order, so the way from the end is short. */
static void insert_in_order(struct connection_list *list, struct connection *connection)
{
	struct connection *before = TAILQ_LAST(list, connection_list);

	while (before && due(before) > due(connection))
		before = TAILQ_PREV(before, connection_list, link);
	if (before)
		TAILQ_INSERT_AFTER(list, before, connection, link);
	else
		TAILQ_INSERT_HEAD(list, connection, link);
}

void server_enter(struct server *server, struct connection *connection, enum connection_state state)
{
	struct connection_list *list = list_of(server, state);

	connection->state = state;
	if (state == CONNECTION_THROTTLED || state == CONNECTION_NEGOTIATING)
		insert_in_order(list, connection);
	else if (list)
		TAILQ_INSERT_TAIL(list, connection, link);
	server->negotiating_count += is_negotiating(state);
	server->securing += state == CONNECTION_SECURING;
}

void server_move(struct server *server, struct connection *connection, enum connection_state state)
{
	struct connection_list *list = list_of(server, connection->state);

	if (list)
		TAILQ_REMOVE(list, connection, link);
	server->negotiating_count -= is_negotiating(connection->state);
	server->securing -= connection->state == CONNECTION_SECURING;
	server_enter(server, connection, state);
}

void server_watch(struct server *server, struct connection *connection, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = connection};
	int operation = EPOLL_CTL_MOD;

	if (events == connection->events)
		return;
	if (!events)
		operation = EPOLL_CTL_DEL;
	else if (!connection->events)
		operation = EPOLL_CTL_ADD;
	connection->events = events;
	epoll_ctl(server->epoll_fd, operation, connection->transport.fd, &event);
}
