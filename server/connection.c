// SPDX-License-Identifier: MIT
/*
 * The service of one busy connection: receive a batch, take the requests in it, gather the
 * replies, send them, and only then wait. Nothing here blocks on a disk but what is documented to
 * run inline; jobs come back through the mailbox. Runs on an engine thread.
 */
#include "connection.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "buffer.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/size.h"
#include "engine.h"
#include "reply.h"
#include "server-internal.h"
#include "trace.h"

/* Less than this is received at once, whatever layer does it. */
enum { RECEIVE_SMALL = 4096 };
/* So long a thread that spins leaves the socket to the segments of a payload. */
#define PAYLOAD_PAUSE (7 * CLOCK_MICROSECOND)
/* A thread whose waits are shorter is lively. */
#define LIVELY CLOCK_MILLISECOND

/* ---- Jobs ---- */

struct job *connection_job_new(struct connection *connection, uint64_t buffer_length)
{
	struct job *job;

	if (connection->jobs >= CONNECTION_JOBS_MAX)
		return NULL;
	job = calloc(1, sizeof(*job));
	if (!job)
		return NULL;
	job->connection = connection;
	if (!buffer_length)
		return job;
	if (connection->buffers == 0 ||
	    connection->buffers + buffer_length <= CONNECTION_BUFFERS_MAX)
		job->buffer =
			buffer_get(buffer_length, connection->buffers == 0, &job->buffer_size);
	if (!job->buffer) {
		free(job);
		return NULL;
	}
	connection->buffers += job->buffer_size;
	return job;
}

void connection_job_submit(struct connection *connection, struct job *job)
{
	connection->jobs++;
	trace_job_queued(connection->id, job->pending->request.cookie, job->offset, job->length,
			 connection->jobs);
	worker_submit(server_workers(connection->server), job);
}

void connection_job_free(struct connection *connection, struct job *job)
{
	if (job->buffer) {
		connection->buffers -= job->buffer_size;
		buffer_put(job->buffer, job->buffer_size);
	}
	outbuf_clear(&job->answer);
	free(job);
}

/* The lock makes sure that the worker is done with the connection when its thread sees the job. */
void connection_job_done(struct job *job)
{
	struct connection *connection = job->connection;

	pthread_mutex_lock(&connection->mail_lock);
	job->next = connection->mailbox;
	connection->mailbox = job;
	if (connection->sleeping)
		eventfd_write(connection->thread->wake_fd, 1);
	connection->sleeping = false;
	pthread_mutex_unlock(&connection->mail_lock);
}

void connection_drain(struct connection *connection)
{
	pthread_mutex_lock(&connection->mail_lock);
	connection->draining = true;
	if (connection->sleeping)
		eventfd_write(connection->thread->wake_fd, 1);
	connection->sleeping = false;
	pthread_mutex_unlock(&connection->mail_lock);
}

/* Takes what came back, oldest first, and answers. */
static void collect_jobs(struct connection *connection)
{
	struct job *job, *next, *oldest = NULL;

	pthread_mutex_lock(&connection->mail_lock);
	job = connection->mailbox;
	connection->mailbox = NULL;
	connection->last_call = connection->draining;
	pthread_mutex_unlock(&connection->mail_lock);
	for (; job; job = next) {
		next = job->next;
		job->next = oldest;
		oldest = job;
	}
	for (job = oldest; job; job = next) {
		next = job->next;
		connection->jobs--;
		connection->statistics.began = job->pending->began;
		job->done(job);
		connection_job_free(connection, job);
	}
}

void connection_kill(struct connection *connection, const char *why)
{
	if (!connection->dead) {
		trace_connection_ended(connection->id, why ? why : "the client has gone");
		if (why)
			log_info("client %u: %s", connection->id, why);
	}
	connection->dead = true;
}

bool connection_has_room(const struct connection *connection)
{
	return connection->jobs < CONNECTION_JOBS_MAX && connection->answers < STATUS_JOBS_MAX &&
	       connection->buffers < CONNECTION_BUFFERS_MAX && !connection->issue.pending;
}

/* ---- Waiting ---- */

/* The bytes between begin and end have been received and not yet taken. */
struct input {
	uint8_t *bytes;
	size_t begin, end;
	uint64_t began;  /* of this service */
	uint64_t silent; /* since when there has been nothing to receive */
	bool spun;       /* in vain, since then */
	bool within;     /* the peer is silent in the middle of a request */
	bool blocked;    /* limits were reached: what is buffered must wait */
	bool yielding;   /* others wait for a thread: take nothing new, end when jobs are back */
};

/* One receive that does not wait: bytes, -EAGAIN, 0 at the end of the stream, -errno. */
static ssize_t receive_once(struct connection *connection, struct input *input)
{
	uint8_t *target;
	size_t direct = input->begin == input->end ? receive_target(connection, &target) : 0;
	size_t room = connection->export_->throttle ? RECEIVE_THROTTLED : RECEIVE_BUFFER;
	ssize_t got;

	if (direct) {
		got = transport_recv(&connection->transport, target, direct, MSG_DONTWAIT);
		if (got > 0) {
			trace_socket_received(connection->id, got);
			receive_filled(connection, (size_t)got);
		}
		return got;
	}
	if (input->begin) {
		memmove(input->bytes, input->bytes + input->begin, input->end - input->begin);
		input->end -= input->begin;
		input->begin = 0;
	}
	got = transport_recv(&connection->transport, input->bytes + input->end, room - input->end,
			     MSG_DONTWAIT);
	if (got > 0) {
		trace_socket_received(connection->id, got);
		input->end += (size_t)got;
	}
	return got;
}

/* A look at a TCP socket takes its lock. Within a payload the peer is sending, and its segments
 * would find the lock taken each time: give them time to come. */
static void let_arrive(const struct connection *connection, uint64_t looked)
{
	if (connection->transport.is_unix || !receive_in_payload(connection))
		return;
	while (clock_now() - looked < PAYLOAD_PAUSE)
		;
}

/* A wake-up costs more than a short spin: try for a while, as long as that has paid lately, and
 * nobody else wants the processor. */
static ssize_t spin(struct connection *connection, struct input *input)
{
	struct engine_thread *thread = connection->thread;
	uint64_t length = spin_length(&thread->spin), now = input->silent, last;
	bool stolen = false;
	ssize_t got = -EAGAIN;

	if (!length || connection->jobs || !engine_spin_begin(thread))
		return -EAGAIN;
	do {
		let_arrive(connection, now);
		got = receive_once(connection, input);
		last = now;
		now = clock_now();
		/* What is received may take long; that there is nothing does not. */
		stolen |= now - last > SPIN_CROWDED && got < RECEIVE_SMALL;
	} while (got == -EAGAIN && !stolen && now - input->silent < length);
	engine_spin_end(thread->engine);
	connection->statistics.now = now;
	input->spun = got == -EAGAIN;
	if (got > 0)
		spin_note(&thread->spin, stolen ? SPIN_STOLEN : SPIN_HIT, now - input->silent);
	return got;
}

/* False when a job came back in the meantime: then there is no reason to sleep. */
static bool fall_asleep(struct connection *connection)
{
	bool asleep;

	pthread_mutex_lock(&connection->mail_lock);
	asleep = !connection->mailbox && connection->last_call == connection->draining;
	connection->sleeping = asleep;
	pthread_mutex_unlock(&connection->mail_lock);
	return asleep;
}

/* Who wrote to the eventfd has said so. */
static void wake_up(struct connection *connection)
{
	bool woken;
	eventfd_t count;

	pthread_mutex_lock(&connection->mail_lock);
	woken = !connection->sleeping;
	connection->sleeping = false;
	pthread_mutex_unlock(&connection->mail_lock);
	if (woken)
		eventfd_read(connection->thread->wake_fd, &count);
}

/* Is more input wanted now? */
static bool is_listening(const struct connection *connection, const struct input *input)
{
	return !input->blocked && !input->yielding && !connection->resume_at &&
	       !connection->disconnecting && !connection->dead;
}

/* Bytes came, or a deadline passed: what does that tell of the client's habits? */
static void note_wait(const struct connection *connection, const struct input *input)
{
	struct engine_thread *thread = connection->thread;
	uint64_t waited = connection->statistics.now - input->silent;

	spin_note(&thread->spin, input->spun ? SPIN_MISSED : SPIN_SLEPT, waited);
	engine_set_lively(thread, waited < LIVELY);
}

/* Sleeps until bytes or jobs arrive; false when the deadline passed. */
static bool sleep_for_work(struct connection *connection, const struct input *input)
{
	struct pollfd items[2] = {
		{.fd = connection->thread->wake_fd, .events = POLLIN},
		{.fd = connection->transport.fd, .events = POLLIN},
	};
	bool listen = is_listening(connection, input);
	uint64_t began, deadline;
	int ready;

	if (!fall_asleep(connection))
		return true;
	began = clock_now();
	deadline = connection->jobs ? CLOCK_NEVER : began + PARK_AFTER;
	if (connection->resume_at)
		deadline = min_of(deadline, connection->resume_at);
	ready = poll(items, listen ? 2 : 1, clock_poll_timeout(deadline));
	wake_up(connection);
	connection->statistics.now = clock_now();
	if (listen && !connection->jobs)
		note_wait(connection, input);
	return ready != 0;
}

/* ---- Service ---- */

/* Takes all requests that are buffered and for which there is room. */
static void take_input(struct connection *connection, struct input *input)
{
	size_t used = 0;

	connection->statistics.began = connection->statistics.received;
	if (connection->issue.pending)
		read_continue(connection);
	if (!connection->dead && !connection->disconnecting)
		used = receive_bytes(connection, input->bytes + input->begin,
				     input->end - input->begin);
	input->begin += used;
	if (input->begin == input->end)
		input->begin = input->end = 0;
	input->blocked = connection->issue.pending || receive_blocked(connection) ||
			 !connection_has_room(connection);
	/* Limits go away when jobs come back; without any it is memory that is missing. */
	if (input->blocked && !connection->jobs)
		reply_kill(connection, "out of memory");
}

static void note_received(struct connection *connection, struct input *input, ssize_t got)
{
	const char *reason;

	if (got == 0 || (got < 0 && got != -EAGAIN && got != -EINTR)) {
		connection->disconnecting = true; /* the peer left; what it asked for is done */
		reason = got < 0 ? transport_reason(&connection->transport) : NULL;
		if (reason)
			log_info("client %u: dropped: %s", connection->id, reason);
	}
	if (got <= 0)
		return;
	input->within = false;
	connection->statistics.received = connection->statistics.now;
}

/* Nothing is left to do for a connection that is ending. */
static bool is_over(const struct connection *connection)
{
	return (connection->dead || connection->disconnecting) && !connection->jobs &&
	       (connection->dead || !connection->issue.pending);
}

/* Can the connection do without a thread? What was received of a request is kept for it. */
static bool can_park(const struct connection *connection, const struct input *input)
{
	return !connection->jobs && !input->blocked && !connection->disconnecting &&
	       !connection->dead;
}

/* One receive, or a spin for one; false when there was nothing. */
static bool receive_more(struct connection *connection, struct input *input)
{
	ssize_t got = receive_once(connection, input);

	if (got == -EAGAIN) {
		input->silent = clock_now();
		input->spun = false;
		if (!engine_wanted(connection->thread->engine))
			got = spin(connection, input);
	}
	note_received(connection, input, got);
	if (got != -EAGAIN)
		return true;
	input->within = input->begin != input->end || receive_in_payload(connection);
	return false;
}

/* One turn of the loop: true when the connection should be given back. */
static bool serve_turn(struct connection *connection, struct input *input)
{
	bool wanted = engine_wanted(connection->thread->engine);

	if (wanted && clock_now() - input->began > SLICE)
		input->yielding = true;
	collect_jobs(connection);
	take_input(connection, input);
	reply_flush(connection, false);
	statistics_flushed(&connection->statistics);
	statistics_gauge(&connection->statistics, connection->jobs, connection->buffers);
	if (is_over(connection))
		return true;
	if (is_listening(connection, input)) {
		if (receive_more(connection, input))
			return false;
		/* At a drain, what the peer had sent by now is answered (S71), and no more. */
		if (connection->last_call && !input->within) {
			connection->disconnecting = true;
			return false;
		}
	}
	/* No thread is held while a request waits for its place. */
	wanted |= connection->resume_at != 0;
	if (!(wanted && can_park(connection, input)) && sleep_for_work(connection, input))
		return false;
	return can_park(connection, input) && receive_release(connection);
}

/* What was received of a request waits in held for the rest. */
static bool keep_rest(struct connection *connection, const struct input *input)
{
	connection->stalled = !connection->resume_at &&
			      (input->begin != input->end || receive_in_payload(connection));
	outbuf_add(&connection->held, input->bytes + input->begin, input->end - input->begin);
	return !connection->held.failed;
}

enum connection_outcome connection_serve(struct connection *connection,
					 struct engine_thread *thread)
{
	struct input input = {.bytes = thread->receive, .began = clock_now()};

	trace_connection_served(connection->id);
	connection->thread = thread;
	thread->send.used = 0;
	thread->send.total = 0;
	thread->send.piped = 0;
	thread->send.runs = 0;
	spin_reset(&thread->spin);
	connection->statistics.now = connection->statistics.received = clock_now();
	/* What arrived together with the last option of the handshake, or before it was parked. */
	if (connection->held.used)
		memcpy(input.bytes, connection->held.bytes, connection->held.used);
	input.end = connection->held.used;
	outbuf_clear(&connection->held);
	while (!serve_turn(connection, &input))
		;
	engine_set_lively(thread, false);
	if (!connection->dead && !connection->disconnecting && keep_rest(connection, &input))
		return CONNECTION_PARK;
	return CONNECTION_END;
}
