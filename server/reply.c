// SPDX-License-Identifier: MIT
/*
 * Replies. Sending blocks the connection's thread while the peer does not read: that is the
 * back-pressure, nothing grows meanwhile. After a failure the connection is dead and all further
 * replies vanish.
 */
#include "reply.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "connection.h"
#include "engine.h"
#include "image/hostfile.h"
#include "image/loan.h"
#include "limits.h"
#include "trace.h"

static bool is_structured(const struct connection *connection)
{
	return connection->terms.structured || connection->terms.extended;
}

/* A peer that takes bytes again within this is not slow enough to be told of. */
enum { BLOCK_PATIENCE = 5 }; /* milliseconds */

static bool poll_writable(const struct connection *connection, int milliseconds)
{
	struct pollfd item = {.fd = connection->transport.fd,
			      .events = transport_send_event(&connection->transport)};

	return poll(&item, 1, milliseconds) > 0;
}

/* For how long a peer may take nothing. */
static uint64_t patience(struct connection *connection)
{
	bool draining;

	pthread_mutex_lock(&connection->mail_lock);
	draining = connection->draining;
	pthread_mutex_unlock(&connection->mail_lock);
	if (draining)
		return SEND_STALL_LIMIT_DRAIN;
	return engine_wanted(connection->thread->engine) ? SEND_STALL_LIMIT_WANTED
							 : SEND_STALL_LIMIT;
}

/* Waits until the peer takes bytes again; false when it does not, for too long. */
static bool wait_writable(struct connection *connection)
{
	struct engine *engine = connection->thread->engine;
	uint64_t began = clock_now(), waited = 0;
	bool ready = poll_writable(connection, BLOCK_PATIENCE);

	if (ready)
		return true;
	engine_block_begin(engine);
	while (!ready && waited < patience(connection)) {
		ready = poll_writable(connection, (int)(CLOCK_SECOND / CLOCK_MILLISECOND));
		waited = clock_now() - began;
	}
	engine_block_end(engine);
	if (!ready)
		connection_kill(connection, "the client takes no replies");
	return ready;
}

/* Takes sent bytes off the front of the runs. */
static void runs_consume(struct iovec **run, int *runs, size_t sent)
{
	while (*runs && sent >= (*run)->iov_len) {
		sent -= (*run)->iov_len;
		(*run)++;
		(*runs)--;
	}
	if (*runs) {
		(*run)->iov_base = (uint8_t *)(*run)->iov_base + sent;
		(*run)->iov_len -= sent;
	}
}

/* So many bytes are out. */
static void note_sent(struct connection *connection, size_t length)
{
	trace_replies_sent(connection->id, length);
	connection->sent += length;
	if (connection->lender)
		lender_sent(connection->lender, connection->sent);
}

/* Sends until all is out, or nobody is there any more; false when it would have to wait. */
static bool send_now(struct connection *connection, struct iovec **run, int *runs, int flags)
{
	while (*runs && !connection->dead) {
		ssize_t sent =
			transport_send(&connection->transport, *run, *runs, flags | MSG_DONTWAIT);

		if (sent == -EAGAIN)
			return false;
		if (sent >= 0) {
			note_sent(connection, (size_t)sent);
			runs_consume(run, runs, (size_t)sent);
		} else if (sent != -EINTR) {
			connection_kill(connection, NULL);
		}
	}
	return true;
}

static void send_runs(struct connection *connection, struct iovec *run, int runs, int flags)
{
	while (!send_now(connection, &run, &runs, flags))
		wait_writable(connection);
}

/* Empties the pipe into the transport. */
static void drain_pipe(struct connection *connection, size_t length, bool more)
{
	struct engine_thread *thread = connection->thread;
	unsigned int flags = SPLICE_F_NONBLOCK | SPLICE_F_MOVE | (more ? SPLICE_F_MORE : 0);

	while (length && !connection->dead) {
		ssize_t moved = connection->transport.ops->splice(&connection->transport,
								  thread->pipe[0], length, flags);

		if (moved == -EAGAIN) {
			wait_writable(connection);
		} else if (moved > 0) {
			note_sent(connection, (size_t)moved);
			length -= (size_t)moved;
		} else if (moved != -EINTR) {
			connection_kill(connection, NULL);
		}
	}
}

/* A dead connection leaves bytes in the pipe: the next one must not find them. */
static void renew_pipe(struct engine_thread *thread)
{
	close(thread->pipe[0]);
	close(thread->pipe[1]);
	if (pipe2(thread->pipe, O_CLOEXEC)) {
		thread->pipe[0] = thread->pipe[1] = -1;
		return;
	}
	fcntl(thread->pipe[1], F_SETPIPE_SZ, thread->pipe_size);
}

static void clear(struct send_buffer *send)
{
	send->used = 0;
	send->total = 0;
	send->runs = 0;
}

void reply_flush(struct connection *connection, bool more)
{
	struct send_buffer *send = &connection->thread->send;

	if (send->runs)
		send_runs(connection, send->run, send->runs, more || send->piped ? MSG_MORE : 0);
	clear(send);
	if (!send->piped)
		return;
	drain_pipe(connection, send->piped, more);
	send->piped = 0;
	if (connection->dead)
		renew_pipe(connection->thread);
}

void reply_kill(struct connection *connection, const char *why)
{
	reply_flush(connection, false);
	connection_kill(connection, why);
}

/* Does anything have to leave before so many bytes can be gathered, in so many runs? */
static bool is_full(const struct send_buffer *send, size_t length, int runs)
{
	return send->piped || send->used >= SEND_GATHER || send->total >= SEND_GATHER_ATTACHED ||
	       send->used + length > SEND_BUFFER || send->runs + runs > SEND_RUNS_MAX;
}

uint8_t *reply_reserve(struct connection *connection, size_t length)
{
	struct send_buffer *send = &connection->thread->send;

	if (is_full(send, length, 1))
		reply_flush(connection, false);
	return connection->dead ? NULL : send->bytes + send->used;
}

static void add_run(struct send_buffer *send, const uint8_t *bytes, size_t length)
{
	struct iovec *last = send->runs ? &send->run[send->runs - 1] : NULL;

	send->total += length;
	if (last && (const uint8_t *)last->iov_base + last->iov_len == bytes)
		last->iov_len += length;
	else
		send->run[send->runs++] =
			(struct iovec){.iov_base = (void *)bytes, .iov_len = length};
}

void reply_commit(struct connection *connection, size_t length)
{
	struct send_buffer *send = &connection->thread->send;

	add_run(send, send->bytes + send->used, length);
	send->used += length;
}

void reply_attach(struct connection *connection, const uint8_t *bytes, size_t length)
{
	struct send_buffer *send = &connection->thread->send;

	if (connection->dead || !length)
		return;
	if (send->piped || send->runs == SEND_RUNS_MAX)
		reply_flush(connection, true);
	add_run(send, bytes, length);
}

void reply_bytes(struct connection *connection, const uint8_t *bytes, size_t length)
{
	reply_attach(connection, bytes, length);
	reply_flush(connection, false);
}

/* A chunk's header and room for its content; the content's address, or NULL. */
static uint8_t *add_chunk(struct connection *connection, const struct nbd_request *request,
			  uint16_t flags, uint16_t type, uint32_t content)
{
	bool extended = connection->terms.extended;
	size_t head = nbd_chunk_size(extended);
	uint8_t *at = reply_reserve(connection, head + content);

	if (!at)
		return NULL;
	nbd_chunk_build(at, extended, flags, type, request->cookie, request->offset, content);
	reply_commit(connection, head + content);
	return at + head;
}

static void add_error_chunk(struct connection *connection, const struct nbd_request *request,
			    int error, const uint64_t *offset)
{
	const char *text = strerror(-error);
	uint32_t length = (uint32_t)strlen(text);
	uint8_t *at = add_chunk(connection, request, NBD_REPLY_FLAG_DONE,
				offset ? NBD_REPLY_ERROR_OFFSET : NBD_REPLY_ERROR,
				6 + length + (offset ? 8 : 0));

	if (!at)
		return;
	store_be32(at, nbd_errno_from_host(-error));
	store_be16(at + 4, (uint16_t)length);
	memcpy(at + 6, text, length);
	if (offset)
		store_be64(at + 6 + length, *offset);
}

static inline void count(struct connection *connection, const struct nbd_request *request,
			 int error)
{
	trace_reply_queued(connection->id, request->cookie, request->type, error);
	statistics_count(&connection->statistics, request->type, request->length, error);
}

/* Only READ and BLOCK_STATUS must be answered in chunks; for the others a simple reply is legal
 * and shorter, unless headers are extended. */
void reply_status(struct connection *connection, const struct nbd_request *request, int error)
{
	bool simple_allowed = request->type != NBD_CMD_READ &&
			      request->type != NBD_CMD_BLOCK_STATUS && error == 0;

	if (!error &&
	    (connection->terms.extended || (is_structured(connection) && !simple_allowed))) {
		reply_done(connection, request);
		return;
	}
	count(connection, request, error);
	if (is_structured(connection) && !simple_allowed) {
		add_error_chunk(connection, request, error, NULL);
		return;
	}
	uint8_t *at = reply_reserve(connection, sizeof(struct nbd_simple_reply_wire));

	if (at)
		reply_commit(connection, nbd_simple_reply_build(at, request->cookie,
								nbd_errno_from_host(-error)));
}

void reply_error_at(struct connection *connection, const struct nbd_request *request, int error,
		    uint64_t offset)
{
	if (!is_structured(connection)) {
		reply_status(connection, request, error);
		return;
	}
	count(connection, request, error);
	add_error_chunk(connection, request, error, &offset);
}

void reply_done(struct connection *connection, const struct nbd_request *request)
{
	count(connection, request, 0);
	add_chunk(connection, request, NBD_REPLY_FLAG_DONE, NBD_REPLY_NONE, 0);
}

void reply_hole(struct connection *connection, const struct nbd_request *request, uint64_t offset,
		uint64_t length)
{
	uint8_t *at = add_chunk(connection, request, 0, NBD_REPLY_OFFSET_HOLE, 12);

	if (!at)
		return;
	store_be64(at, offset);
	store_be32(at + 8, (uint32_t)length);
}

size_t reply_data_head_size(const struct connection *connection)
{
	if (!is_structured(connection))
		return sizeof(struct nbd_simple_reply_wire);
	return nbd_chunk_size(connection->terms.extended) + 8;
}

void reply_data_head(struct connection *connection, uint8_t *at, const struct nbd_request *request,
		     uint16_t flags, uint64_t offset, uint64_t length)
{
	if (!is_structured(connection) || flags & NBD_REPLY_FLAG_DONE)
		count(connection, request, 0);
	if (!is_structured(connection)) {
		nbd_simple_reply_build(at, request->cookie, 0);
		return;
	}
	at += nbd_chunk_build(at, connection->terms.extended, flags, NBD_REPLY_OFFSET_DATA,
			      request->cookie, request->offset, length + 8);
	store_be64(at, offset);
}

void reply_zeroes(struct connection *connection, uint64_t length)
{
	static const uint8_t zeroes[64 << 10];

	while (length && !connection->dead) {
		size_t step = (size_t)min_of(length, (uint64_t)sizeof(zeroes));

		reply_attach(connection, zeroes, step);
		length -= step;
	}
}

/* ---- Large runs ---- */

enum { HEAD_ROOM = 64, HEAD_RUNS = 4 };

bool reply_make_room(struct connection *connection)
{
	if (is_full(&connection->thread->send, DECRYPT_INLINE_MAX + HEAD_ROOM, HEAD_RUNS))
		reply_flush(connection, false);
	return !connection->dead;
}

bool reply_can_splice(const struct connection *connection)
{
	return connection->transport.ops->splice && connection->transport.is_unix &&
	       connection->thread->pipe[0] >= 0;
}

size_t reply_pipe_size(const struct connection *connection)
{
	return connection->thread->pipe_size;
}

bool reply_lend(struct connection *connection, const struct hostfile *file, uint64_t offset,
		uint64_t length)
{
	const struct send_buffer *send = &connection->thread->send;

	if (!connection->lender) {
		connection->lender = lender_new(connection->transport.fd);
		if (!connection->lender)
			return false;
		lender_sent(connection->lender, connection->sent);
	}
	return lender_add(connection->lender, file, offset, length,
			  connection->sent + send->total + length);
}

size_t reply_fill(struct connection *connection, struct hostfile *file, uint64_t offset,
		  uint64_t length)
{
	struct engine_thread *thread = connection->thread;
	size_t step = (size_t)min_of(length, (uint64_t)thread->pipe_size);
	ssize_t got;

	do
		got = hostfile_splice(file, offset, thread->pipe[1], step);
	while (got == -EINTR);
	thread->send.piped = got > 0 ? (size_t)got : 0;
	return thread->send.piped;
}

size_t reply_push(struct connection *connection, const uint8_t *bytes, size_t length)
{
	struct send_buffer *send = &connection->thread->send;
	struct iovec *run = send->run;
	int runs;
	size_t left;

	add_run(send, bytes, length);
	runs = send->runs;
	if (send_now(connection, &run, &runs, 0)) {
		clear(send);
		return length;
	}
	/* The last run is what is left of the bytes; what is left before them stays gathered. */
	left = min_of(run[runs - 1].iov_len, length);
	send->total = 0;
	send->runs = 0;
	for (int i = 0; i < runs - 1; i++) {
		send->total += run[i].iov_len;
		send->run[send->runs++] = run[i];
	}
	return length - left;
}

void reply_wait(struct connection *connection)
{
	const struct send_buffer *send = &connection->thread->send;

	if (send->runs || send->piped)
		reply_flush(connection, true);
	else if (!connection->dead)
		wait_writable(connection);
}
