// SPDX-License-Identifier: MIT
/*
 * A connection from accept to transmission: moves bytes between its socket and the handshake
 * machine without ever waiting, so that mute peers cost a little memory and no thread. Runs in the
 * main loop, but for the steps of a TLS handshake: a signature takes as long as all else together,
 * and an engine thread makes it.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "authz.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "common/printable.h"
#include "common/tls.h"
#include "connection.h"
#include "server-internal.h"
#include "trace.h"

/* A Unix socket's default buffer holds three pieces of 64 KiB: too few to keep both sides busy. */
enum { UNIX_SEND_BUFFER = 2 << 20 };

/* Receives of one connection in one event of the main loop. */
enum { ROUNDS_MAX = 16 };

static void tune_socket(int fd)
{
	int one = 1, size = UNIX_SEND_BUFFER, domain = 0;
	socklen_t length = sizeof(domain);

	/* MSG_DONTWAIT would do, but splice(2) only heeds the descriptor's own flag. */
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length))
		return;
	if (domain != AF_UNIX)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* S4 */
	else if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

struct connection *connection_new(struct server *server, int fd,
				  const struct handshake_world *world)
{
	static atomic_uint last_id;
	struct connection *connection = calloc(1, sizeof(*connection));

	if (!connection)
		return NULL;
	tune_socket(fd);
	transport_init_plain(&connection->transport, fd);
	connection->server = server;
	connection->id = atomic_fetch_add(&last_id, 1) + 1;
	connection->state = CONNECTION_NEGOTIATING;
	pthread_mutex_init(&connection->mail_lock, NULL);
	handshake_start(&connection->handshake, world, &connection->out);
	connection->handshake.client = connection->id;
	trace_connection_accepted(connection->id, fd);
	log_info("client %u: connected", connection->id);
	return connection;
}

void connection_free(struct connection *connection)
{
	trace_connection_closed(connection->id);
	log_info("client %u: gone", connection->id);
	receive_abandon(connection);
	handshake_clear(&connection->handshake);
	free(connection->terms.context_export);
	outbuf_clear(&connection->out);
	outbuf_clear(&connection->held);
	pthread_mutex_destroy(&connection->mail_lock);
	free(connection);
}

/* Sends what it can of the answers; false when the peer is gone. */
static bool send_answers(struct connection *connection)
{
	while (connection->out.used) {
		struct iovec iov = {.iov_base = connection->out.bytes,
				    .iov_len = connection->out.used};
		ssize_t sent = transport_send(&connection->transport, &iov, 1, MSG_DONTWAIT);

		if (sent == -EAGAIN)
			return true;
		if (sent < 0 && sent != -EINTR)
			return false;
		if (sent > 0)
			outbuf_consume(&connection->out, (size_t)sent);
	}
	return true;
}

/* Feeds the machine from what is held, after appending what came; keeps the rest. */
static void feed(struct connection *connection, const uint8_t *bytes, size_t length)
{
	struct outbuf *held = &connection->held;
	size_t used;

	if (!held->used) {
		used = handshake_feed(&connection->handshake, bytes, length);
		outbuf_add(held, bytes + used, length - used);
	} else {
		outbuf_add(held, bytes, length);
		if (held->failed)
			return;
		used = handshake_feed(&connection->handshake, held->bytes, held->used);
		outbuf_consume(held, used);
	}
}

static enum negotiation outcome_of(struct connection *connection)
{
	struct handshake *handshake = &connection->handshake;

	if (connection->held.failed || connection->out.failed)
		return NEGOTIATION_DROP;
	switch (handshake->phase) {
	case HANDSHAKE_FLAGS:
	case HANDSHAKE_OPTIONS:
	case HANDSHAKE_SWALLOW:
	case HANDSHAKE_TLS:
		return NEGOTIATION_GOES_ON;
	case HANDSHAKE_FULL:
		return NEGOTIATION_FULL;
	case HANDSHAKE_OPENING:
		return connection->out.used ? NEGOTIATION_GOES_ON : NEGOTIATION_OPENING;
	case HANDSHAKE_DONE:
		/* Asked again while the last answer leaves: what was agreed is taken once. */
		if (!connection->export_) {
			connection->export_ = handshake->export_;
			connection->terms = handshake->terms;
			connection->read_only = handshake_read_only(handshake, connection->export_);
			handshake->terms.context_export = NULL; /* now the connection's */
		}
		return connection->out.used ? NEGOTIATION_GOES_ON : NEGOTIATION_DONE;
	case HANDSHAKE_CLOSE:
		return connection->out.used ? NEGOTIATION_GOES_ON : NEGOTIATION_CLOSE;
	case HANDSHAKE_DROP:
		break;
	}
	return NEGOTIATION_DROP;
}

/* No more is taken from the socket while an option waits for its answers to leave or for a slot. */
static bool may_receive(const struct connection *connection)
{
	return connection->held.used <= HANDSHAKE_OPTION_MAX + sizeof(struct nbd_option_wire) &&
	       connection->out.used <= HANDSHAKE_OUTPUT_MAX;
}

/* Options in, answers out, as far as it goes. */
static enum negotiation haggle(struct connection *connection, uint8_t *scratch)
{
	enum negotiation outcome;
	unsigned int rounds = 0;
	bool held_back;
	ssize_t got;

	do {
		got = -EAGAIN;
		feed(connection, scratch, 0);
		outcome = outcome_of(connection);
		if (outcome == NEGOTIATION_GOES_ON || outcome == NEGOTIATION_FULL) {
			if (may_receive(connection) && connection->handshake.phase < HANDSHAKE_DONE)
				got = transport_recv(&connection->transport, scratch,
						     NEGOTIATION_SCRATCH, MSG_DONTWAIT);
			if (got > 0)
				feed(connection, scratch, (size_t)got);
		}
		held_back = connection->out.used > HANDSHAKE_OUTPUT_MAX;
		if (!send_answers(connection) || (got <= 0 && got != -EAGAIN && got != -EINTR))
			return NEGOTIATION_DROP;
		outcome = outcome_of(connection);
		/* Options that waited for answers to leave will not be announced by the socket. */
		held_back = held_back && connection->out.used <= HANDSHAKE_OUTPUT_MAX;
		/* The others of the main loop want their turn; what is left makes another event. */
	} while (outcome == NEGOTIATION_GOES_ON &&
		 (held_back || (got > 0 && ++rounds < ROUNDS_MAX)));
	return outcome;
}

/* ---- TLS ---- */

/* Who has no name is nobody that a list could allow. */
static bool is_authorized(struct connection *connection)
{
	const struct server_tls *tls = server_tls(connection->server);
	AUTO_FREE char *name = tls_peer_name(&connection->transport);
	char shown[256] = "";

	if (name)
		printable_copy(shown, sizeof(shown), name, strlen(name));
	log_info("client %u: %s %s%s%s%s", connection->id, tls_version(&connection->transport),
		 tls_cipher(&connection->transport),
		 tls_by_kernel(&connection->transport) ? ", by the kernel" : "", name ? ", " : "",
		 shown);
	if (!tls->authz || (name && authz_allows(tls->authz, name)))
		return true;
	log_info("client %u: dropped: '%s' is not authorized", connection->id, shown);
	return false;
}

/* The answer to STARTTLS is on its way, and nothing but it: what the peer has sent in clear behind
 * its option must not be taken for something that came by TLS (S54). */
static bool begin_tls(struct connection *connection, struct error *err)
{
	const struct server_tls *tls = server_tls(connection->server);

	if (connection->held.used) {
		error_set(err, EPROTO, "sent more in clear behind STARTTLS");
		return false;
	}
	trace_tls_begin(connection->id);
	return tls_start(&connection->transport, tls->creds, NULL, err) == 0;
}

enum connection_outcome connection_secure(struct connection *connection)
{
	struct error err = ERROR_INIT;
	int rc = tls_handshake(&connection->transport, &err);

	if (rc == -EAGAIN)
		return CONNECTION_PARK;
	trace_tls_end(connection->id, rc);
	if (!rc)
		return CONNECTION_SECURED;
	log_info("client %u: dropped: %s", connection->id, err.text);
	return CONNECTION_END;
}

bool connection_admit(struct connection *connection)
{
	if (!is_authorized(connection))
		return false;
	handshake_secured(&connection->handshake);
	return true;
}

enum negotiation connection_negotiate(struct connection *connection, uint8_t *scratch)
{
	const struct handshake *handshake = &connection->handshake;
	struct error err = ERROR_INIT;
	enum negotiation outcome;

	if (handshake->phase == HANDSHAKE_TLS && tls_is_on(&connection->transport))
		return NEGOTIATION_SECURE;
	outcome = haggle(connection, scratch);
	if (outcome != NEGOTIATION_GOES_ON || handshake->phase != HANDSHAKE_TLS ||
	    connection->out.used)
		return outcome;
	if (begin_tls(connection, &err))
		return NEGOTIATION_GOES_ON;
	trace_tls_end(connection->id, -EPROTO);
	log_info("client %u: dropped: %s", connection->id, err.text);
	return NEGOTIATION_DROP;
}

uint32_t connection_negotiation_events(const struct connection *connection)
{
	bool sending =
		connection->out.used && transport_send_event(&connection->transport) == POLLOUT;
	uint32_t events = sending ? EPOLLOUT : EPOLLIN;

	if (connection->handshake.phase == HANDSHAKE_TLS && tls_is_on(&connection->transport))
		return tls_wanted(&connection->transport) == POLLOUT ? EPOLLOUT : EPOLLIN;
	/* No socket tells of what has been decrypted already; a writable one is ready at once. */
	if (transport_pending(&connection->transport) && may_receive(connection))
		events |= EPOLLOUT;
	return events;
}
