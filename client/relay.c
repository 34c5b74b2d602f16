// SPDX-License-Identifier: MIT
/*
 * See relay.h. A relay never waits for one direction while the other could move, and stops reading
 * where the other side takes nothing: that is the back-pressure.
 */
#include "relay.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/kernel/device.h"
#include "common/kernel/resident.h"
#include "common/nbd-protocol.h"
#include "common/reclaim.h"

enum { RELAY_BUFFER = 256 << 10, GREETING_SECONDS = 30 };
/* When the local side has gone, the server has so long to take the last of what it said. */
#define FAREWELL (5 * CLOCK_SECOND)

/* One direction: bytes [begin, end) have been taken and not yet given on. */
struct flow {
	uint8_t *bytes;
	size_t begin, end;
	bool ended; /* nothing more comes */
};

struct relay {
	struct transport *transport;
	int local;
	struct flow up, down; /* to the server, from the server */
	uint64_t deadline; /* by the clock: to give up; CLOCK_NEVER while the local side is there */
};

static ssize_t local_recv(struct relay *relay, void *bytes, size_t length)
{
	ssize_t got = recv(relay->local, bytes, length, MSG_DONTWAIT);

	return got < 0 ? -errno : got;
}

static ssize_t local_send(struct relay *relay, const void *bytes, size_t length)
{
	ssize_t sent = send(relay->local, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);

	return sent < 0 ? -errno : sent;
}

static bool is_wait(ssize_t rc)
{
	return rc == -EAGAIN || rc == -EINTR;
}

/* Takes what came; an empty flow begins at its start. */
static void filled(struct flow *flow, ssize_t got)
{
	if (got > 0)
		flow->end = (size_t)got;
	else if (!is_wait(got))
		flow->ended = true;
}

/* What was given on; false when nobody takes it any more. */
static bool drained(struct flow *flow, ssize_t sent)
{
	if (sent < 0)
		return is_wait(sent);
	flow->begin += (size_t)sent;
	if (flow->begin == flow->end)
		flow->begin = flow->end = 0;
	return true;
}

static bool is_empty(const struct flow *flow)
{
	return flow->begin == flow->end;
}

static bool move_up(struct relay *relay)
{
	struct flow *up = &relay->up;
	struct iovec iov;

	if (is_empty(up) && !up->ended)
		filled(up, local_recv(relay, up->bytes, RELAY_BUFFER));
	if (is_empty(up))
		return true;
	iov = (struct iovec){.iov_base = up->bytes + up->begin, .iov_len = up->end - up->begin};
	return drained(up, transport_send(relay->transport, &iov, 1, MSG_DONTWAIT));
}

static bool move_down(struct relay *relay)
{
	struct flow *down = &relay->down;

	if (is_empty(down) && !down->ended)
		filled(down,
		       transport_recv(relay->transport, down->bytes, RELAY_BUFFER, MSG_DONTWAIT));
	if (is_empty(down))
		return true;
	return drained(down, local_send(relay, down->bytes + down->begin, down->end - down->begin));
}

/* A descriptor that is asked for nothing tells of a hang-up all the same, again and again. */
static void watch(struct pollfd *item, int fd, int events)
{
	*item = (struct pollfd){.fd = events ? fd : -1, .events = (short)events};
}

/* Sleeps until something can move; false when the server takes too long to take the last words. */
static bool wait_for_bytes(struct relay *relay)
{
	struct pollfd items[2];
	bool full = !is_empty(&relay->up);

	if (is_empty(&relay->down) && transport_pending(relay->transport))
		return true;
	watch(&items[0], relay->local,
	      (full ? 0 : POLLIN) | (is_empty(&relay->down) ? 0 : POLLOUT));
	watch(&items[1], relay->transport->fd,
	      (is_empty(&relay->down) ? POLLIN : 0) |
		      (full ? transport_send_event(relay->transport) : 0));
	/* A side that has gone shows only where it is asked. */
	if (full && relay->deadline == CLOCK_NEVER)
		watch(&items[0], relay->local, items[0].events | POLLRDHUP);
	poll(items, 2, clock_poll_timeout(relay->deadline));
	if (full && relay->deadline == CLOCK_NEVER && items[0].revents & (POLLRDHUP | POLLHUP))
		relay->deadline = clock_now() + FAREWELL;
	return clock_now() < relay->deadline;
}

static void pump(struct relay *relay)
{
	while (move_up(relay) && move_down(relay)) {
		if (relay->up.ended && is_empty(&relay->up))
			return;
		if (relay->down.ended && is_empty(&relay->down))
			return;
		if (!wait_for_bytes(relay))
			return;
	}
}

/* Ends when one side does, and what came before that was given on. */
static void relay_run(struct transport *transport, int local)
{
	AUTO_FREE uint8_t *bytes = malloc(2 * RELAY_BUFFER);
	struct relay relay = {.transport = transport, .local = local, .deadline = CLOCK_NEVER};

	if (bytes) {
		relay.up.bytes = bytes;
		relay.down.bytes = bytes + RELAY_BUFFER;
		pump(&relay);
	}
}

/* ---- A process, for the kernel ---- */

/* One connection of the process. */
struct carried {
	struct transport *transport;
	int local;
};

static void *carry(void *argument)
{
	struct carried *carried = argument;

	relay_run(carried->transport, carried->local);
	transport_close(carried->transport, TRANSPORT_CLOSE_CLEAN);
	close(carried->local);
	return NULL;
}

/* All connections of the process. */
struct carriage {
	struct carried carried[DEVICE_SOCKETS_MAX];
	size_t count;
};

/* The '@' tells the service manager to leave us alone at shutdown, when a root file system may be
 * behind the device. */
static void carry_all(void *context)
{
	struct carriage *carriage = context;
	pthread_t threads[DEVICE_SOCKETS_MAX];

	program_invocation_name[0] = '@';
	reclaim_prepare_process();
	for (size_t i = 1; i < carriage->count; i++)
		if (pthread_create(&threads[i], NULL, carry, &carriage->carried[i]))
			_exit(1);
	carry(&carriage->carried[0]);
	for (size_t i = 1; i < carriage->count; i++)
		pthread_join(threads[i], NULL);
}

static int start_carrying(struct transport *const *transports, const int *locals, size_t count)
{
	struct resident resident = {.name = "hawser-tls", .work = carry_all};
	struct carriage carriage = {.count = count};

	for (size_t i = 0; i < count; i++) {
		carriage.carried[i] = (struct carried){transports[i], locals[i]};
		resident.keep[resident.count++] = transports[i]->fd;
		resident.keep[resident.count++] = locals[i];
	}
	return resident_start(&resident, &carriage);
}

/* A pair of sockets above the standard streams, which a resident has no use for. */
static int make_pair(int *one, int *other)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		return -errno;
	*one = fcntl(ends[0], F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	*other = fcntl(ends[1], F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	close(ends[0]);
	close(ends[1]);
	return *one < 0 || *other < 0 ? -EMFILE : 0;
}

int relay_start_process(struct transport *const *transports, size_t count, int *sockets,
			struct error *err)
{
	int locals[DEVICE_SOCKETS_MAX], kernels[DEVICE_SOCKETS_MAX], rc = 0;

	for (size_t i = 0; i < count; i++)
		locals[i] = kernels[i] = -1;
	for (size_t i = 0; !rc && i < count; i++)
		rc = make_pair(&kernels[i], &locals[i]);
	if (!rc)
		rc = start_carrying(transports, locals, count);
	for (size_t i = 0; i < count; i++) {
		cleanup_close(&locals[i]);
		if (rc) {
			cleanup_close(&kernels[i]);
			continue;
		}
		/* Only our copy: the keys are the relay's now. */
		transport_close(transports[i], TRANSPORT_CLOSE_DROP);
		sockets[i] = kernels[i];
	}
	return rc ? error_set_errno(err, -rc, "cannot start the process that encrypts") : 0;
}

/* ---- A thread, for a library ---- */

/* The library begins as if the server had just greeted it; what it answers the server knows. */
static int greet(const struct relay_thread *relay)
{
	uint64_t deadline = clock_now() + GREETING_SECONDS * CLOCK_SECOND;
	uint8_t greeting[sizeof(struct nbd_greeting_wire)], answer[4];
	struct transport plain;
	int rc;

	store_be64(greeting, NBD_MAGIC);
	store_be64(greeting + 8, NBD_OPTION_MAGIC);
	store_be16(greeting + 16, relay->server_flags);
	transport_init_plain(&plain, relay->local);
	rc = transport_write_full(&plain, greeting, sizeof(greeting), deadline);
	return rc ? rc : transport_read_full(&plain, answer, sizeof(answer), deadline);
}

static void *run_thread(void *argument)
{
	struct relay_thread *relay = argument;

	if (!greet(relay))
		relay_run(&relay->transport, relay->local);
	shutdown(relay->local, SHUT_RDWR); /* the library sees the end; we close later */
	return NULL;
}

int relay_start_thread(struct relay_thread *relay, struct client_handshake *handshake, int *fd,
		       struct error *err)
{
	int rc = make_pair(fd, &relay->local);

	if (!rc) {
		relay->server_flags = handshake->client_flags;
		relay->transport = *handshake->transport;
		rc = -pthread_create(&relay->thread, NULL, run_thread, relay);
	}
	if (rc)
		return error_set_errno(err, -rc, "cannot start the thread that encrypts");
	relay->started = true;
	handshake->transport->fd = -1;
	handshake->phase = CLIENT_HANDSHAKE_OVER;
	return 0;
}

void relay_finish_thread(struct relay_thread *relay)
{
	if (!relay->started)
		return;
	transport_interrupt(&relay->transport);
	shutdown(relay->local, SHUT_RDWR);
	pthread_join(relay->thread, NULL);
	transport_close(&relay->transport, TRANSPORT_CLOSE_DROP);
	close(relay->local);
	relay->started = false;
}
