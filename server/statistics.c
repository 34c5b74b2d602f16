// SPDX-License-Identifier: MIT
/*
 * Counters and their book. The writer's side must stay free of locks and of read-modify-write
 * instructions: it runs for each request. The book's lock is held by the main loop when a
 * connection comes or goes, and by readers; an engine thread never waits for it.
 */
#include "statistics.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/nbd-protocol.h"

const char *const statistics_command_names[STATISTICS_COMMANDS] = {
	"read", "write", "flush", "trim", "cache", "zero", "status", "unknown",
};

const char *const statistics_kind_names[STATISTICS_KINDS] = {"read", "write", "flush", "other"};

static const struct {
	uint8_t command, kind;
	bool has_length;
} types[] = {
	[NBD_CMD_READ] = {STATISTICS_READ, STATISTICS_KIND_READ, true},
	[NBD_CMD_WRITE] = {STATISTICS_WRITE, STATISTICS_KIND_WRITE, true},
	[NBD_CMD_DISC] = {STATISTICS_UNKNOWN, STATISTICS_KIND_OTHER, false},
	[NBD_CMD_FLUSH] = {STATISTICS_FLUSH, STATISTICS_KIND_FLUSH, false},
	[NBD_CMD_TRIM] = {STATISTICS_TRIM, STATISTICS_KIND_OTHER, true},
	[NBD_CMD_CACHE] = {STATISTICS_CACHE, STATISTICS_KIND_OTHER, true},
	[NBD_CMD_WRITE_ZEROES] = {STATISTICS_ZERO, STATISTICS_KIND_OTHER, true},
	[NBD_CMD_BLOCK_STATUS] = {STATISTICS_STATUS, STATISTICS_KIND_OTHER, true},
	[NBD_CMD_BLOCK_STATUS + 1] = {STATISTICS_UNKNOWN, STATISTICS_KIND_OTHER, false},
};

enum { TYPES = sizeof(types) / sizeof(types[0]) };

/* ---- Counting ---- */

static void store(uint64_t *counter, uint64_t value)
{
	__atomic_store_n(counter, value, __ATOMIC_RELAXED);
}

/* For the only writer of the counter. */
static void add(uint64_t *counter, uint64_t value)
{
	store(counter, *counter + value);
}

static void settle(struct statistics *statistics, const struct statistics_waiting *waiting)
{
	uint64_t now = statistics->now;
	uint64_t took = now > waiting->began ? now - waiting->began : 0;
	unsigned int bucket = latency_bucket(took);

	for (int kind = 0; kind < STATISTICS_KINDS; kind++) {
		struct statistics_latency *latency = &statistics->numbers.latency[kind];
		uint32_t count = waiting->counts[kind];

		if (!count)
			continue;
		add(&latency->buckets[bucket], count);
		add(&latency->sum, took * count);
		if (took > latency->max)
			store(&latency->max, took);
	}
}

void statistics_flushed(struct statistics *statistics)
{
	statistics->now = clock_now();
	for (unsigned int i = 0; i < statistics->waiting_used; i++)
		settle(statistics, &statistics->waiting[i]);
	statistics->waiting_used = 0;
}

static void wait_for_flush(struct statistics *statistics, unsigned int kind)
{
	struct statistics_waiting *last = &statistics->waiting[statistics->waiting_used];

	if (!statistics->waiting_used || last[-1].began != statistics->began) {
		if (statistics->waiting_used == STATISTICS_WAITING) {
			statistics_flushed(statistics); /* nearly: they are about to be sent */
			last = statistics->waiting;
		}
		*last = (struct statistics_waiting){.began = statistics->began};
		statistics->waiting_used++;
		last++;
	}
	last[-1].counts[kind]++;
}

void statistics_count(struct statistics *statistics, uint16_t type, uint64_t length, int error)
{
	unsigned int row = type < TYPES ? type : TYPES - 1;
	__auto_type command = &statistics->numbers.commands[types[row].command];

	add(&command->requests, 1);
	if (error)
		add(&command->errors, 1);
	else if (types[row].has_length)
		add(&command->bytes, length);
	wait_for_flush(statistics, types[row].kind);
}

void statistics_miss(struct statistics *statistics)
{
	add(&statistics->numbers.misses, 1);
}

void statistics_throttled(struct statistics *statistics, uint64_t waited)
{
	add(&statistics->numbers.throttled, 1);
	add(&statistics->numbers.throttled_time, waited);
}

void statistics_gauge(struct statistics *statistics, uint64_t jobs, uint64_t buffers)
{
	store(&statistics->numbers.jobs, jobs);
	store(&statistics->numbers.buffers, buffers);
}

/* ---- The book ---- */

static uint64_t load(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void add_latency(struct statistics_latency *sum, const struct statistics_latency *one)
{
	uint64_t max = load(&one->max);

	sum->sum += load(&one->sum);
	if (max > sum->max)
		sum->max = max;
	for (int i = 0; i < LATENCY_BUCKETS; i++)
		sum->buckets[i] += load(&one->buckets[i]);
}

static void add_numbers(struct statistics_numbers *sum, const struct statistics_numbers *one)
{
	for (int i = 0; i < STATISTICS_COMMANDS; i++) {
		sum->commands[i].requests += load(&one->commands[i].requests);
		sum->commands[i].bytes += load(&one->commands[i].bytes);
		sum->commands[i].errors += load(&one->commands[i].errors);
	}
	sum->misses += load(&one->misses);
	sum->throttled += load(&one->throttled);
	sum->throttled_time += load(&one->throttled_time);
	sum->jobs += load(&one->jobs);
	sum->buffers += load(&one->buffers);
	for (int i = 0; i < STATISTICS_KINDS; i++)
		add_latency(&sum->latency[i], &one->latency[i]);
}

void statistics_book_init(struct statistics_book *book)
{
	memset(book, 0, sizeof(*book));
	pthread_mutex_init(&book->lock, NULL);
	TAILQ_INIT(&book->live);
}

void statistics_join(struct statistics_book *book, struct statistics *statistics, unsigned int id,
		     int fd)
{
	statistics->id = id;
	statistics->fd = fd;
	statistics->listed = true;
	pthread_mutex_lock(&book->lock);
	TAILQ_INSERT_TAIL(&book->live, statistics, link);
	book->live_count++;
	book->joined++;
	pthread_mutex_unlock(&book->lock);
}

void statistics_leave(struct statistics_book *book, struct statistics *statistics)
{
	if (!statistics->listed)
		return;
	statistics->listed = false;
	statistics_gauge(statistics, 0, 0);
	pthread_mutex_lock(&book->lock);
	TAILQ_REMOVE(&book->live, statistics, link);
	book->live_count--;
	add_numbers(&book->ended, &statistics->numbers);
	pthread_mutex_unlock(&book->lock);
}

/* ---- Reading ---- */

static void describe_peer(int fd, struct statistics_client *client)
{
	union {
		struct sockaddr any;
		struct sockaddr_storage storage;
	} address = {.any = {.sa_family = AF_UNSPEC}};
	socklen_t length = sizeof(address);
	char host[64], port[16];
	struct ucred ucred;

	getpeername(fd, &address.any, &length);
	if (address.any.sa_family == AF_UNIX) {
		length = sizeof(ucred);
		if (!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &ucred, &length))
			client->pid = ucred.pid;
	} else if (!getnameinfo(&address.any, length, host, sizeof(host), port, sizeof(port),
				NI_NUMERICHOST | NI_NUMERICSERV)) {
		snprintf(client->peer, sizeof(client->peer),
			 address.any.sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
	}
}

static void take_client(struct statistics_view *view, const struct statistics *statistics)
{
	struct statistics_client *client = &view->clients[view->client_count++];

	client->id = statistics->id;
	describe_peer(statistics->fd, client);
	add_numbers(&client->numbers, &statistics->numbers);
}

int statistics_view(struct statistics_book *book, unsigned int max, struct statistics_view *view)
{
	const struct statistics *statistics;

	*view = (struct statistics_view){0};
	pthread_mutex_lock(&book->lock);
	view->live = book->live_count;
	view->joined = book->joined;
	if (max > view->live)
		max = view->live;
	view->clients = calloc(max ? max : 1, sizeof(*view->clients));
	add_numbers(&view->total, &book->ended);
	TAILQ_FOREACH(statistics, &book->live, link)
	{
		add_numbers(&view->total, &statistics->numbers);
		if (view->clients && view->client_count < max)
			take_client(view, statistics);
	}
	pthread_mutex_unlock(&book->lock);
	return view->clients ? 0 : -ENOMEM;
}

void statistics_view_clear(struct statistics_view *view)
{
	free(view->clients);
	view->clients = NULL;
}
