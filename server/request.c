// SPDX-License-Identifier: MIT
/*
 * Requests: one table says which flags a command takes, whether it writes and what a range past
 * the end is called; the handlers follow. Everything that may block becomes a job. Runs on the
 * connection's engine thread, the run_ functions on workers.
 */
#include <errno.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/size.h"
#include "connection.h"
#include "engine.h"
#include "reply.h"
#include "throttle.h"
#include "trace.h"

typedef void request_handler(struct connection *connection, const struct nbd_request *request);

static request_handler begin_write, begin_disconnect, begin_flush, begin_trim, begin_cache,
	begin_zero, begin_status;

/* Flags that a command takes beside FUA, which all take (S68). */
static const struct command {
	uint16_t flags;
	bool ranged;  /* offset and length are checked */
	bool writes;  /* refused on a read-only export (S59) */
	int past_end; /* errno of a range that leaves the export */
	request_handler *begin;
} commands[] = {
	[NBD_CMD_READ] = {NBD_CMD_FLAG_DF, true, false, EINVAL, read_begin},
	[NBD_CMD_WRITE] = {0, true, true, ENOSPC, begin_write},
	[NBD_CMD_DISC] = {0, false, false, 0, begin_disconnect},
	[NBD_CMD_FLUSH] = {0, false, false, 0, begin_flush},
	[NBD_CMD_TRIM] = {0, true, true, EINVAL, begin_trim},
	[NBD_CMD_CACHE] = {0, true, false, EINVAL, begin_cache},
	[NBD_CMD_WRITE_ZEROES] = {NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO, true, true, ENOSPC,
				  begin_zero},
	[NBD_CMD_BLOCK_STATUS] = {NBD_CMD_FLAG_REQ_ONE, true, false, EINVAL, begin_status},
};

enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

/* ---- Checks ---- */

static bool flags_allowed(const struct connection *connection, const struct nbd_request *request)
{
	unsigned int allowed = commands[request->type].flags | NBD_CMD_FLAG_FUA;

	if (connection->terms.extended &&
	    (request->type == NBD_CMD_WRITE || request->type == NBD_CMD_BLOCK_STATUS))
		allowed |= NBD_CMD_FLAG_PAYLOAD_LEN;
	if (!connection->terms.structured && !connection->terms.extended)
		allowed &= ~(unsigned int)NBD_CMD_FLAG_DF;
	return !(request->flags & ~allowed);
}

/* 0, or the negative errno with which the request is refused. */
static int check(const struct connection *connection, const struct nbd_request *request)
{
	const struct command *command;

	if (request->type >= COMMANDS)
		return -EINVAL;
	command = &commands[request->type];
	if (request->type == NBD_CMD_DISC) /* there is no answer that could refuse it */
		return 0;
	if (!flags_allowed(connection, request))
		return -EINVAL;
	if (command->writes && connection->read_only)
		return -EPERM;
	/* With a payload, BLOCK_STATUS names its range there. */
	if (command->ranged &&
	    !(request->type == NBD_CMD_BLOCK_STATUS && request->flags & NBD_CMD_FLAG_PAYLOAD_LEN) &&
	    !export_contains(connection->export_, request->offset, request->length))
		return -command->past_end;
	if (request->type == NBD_CMD_WRITE && connection->terms.extended &&
	    !(request->flags & NBD_CMD_FLAG_PAYLOAD_LEN))
		return -EINVAL; /* S103 */
	return 0;
}

/* Does a payload follow this header? With extended headers the flag says so, for any command. */
static bool has_payload(const struct connection *connection, const struct nbd_request *request)
{
	if (connection->terms.extended && request->flags & NBD_CMD_FLAG_PAYLOAD_LEN)
		return request->length > 0;
	return request->type == NBD_CMD_WRITE && !connection->terms.extended && request->length > 0;
}

/* ---- Payload ---- */

static void expect_payload(struct connection *connection, const struct nbd_request *request,
			   enum payload_mode mode, int error)
{
	struct payload *payload = &connection->payload;

	payload->mode = mode;
	payload->request = *request;
	payload->left = request->length;
	payload->position = request->offset;
	payload->error = error;
	payload->pending = NULL;
	payload->piece = NULL;
	payload->align = 0;
	payload->collected_used = 0;
	payload->began = connection->statistics.began;
}

/* Refuses a request; its payload passes by, so that the stream stays in sync (S67, S84). */
static void refuse(struct connection *connection, const struct nbd_request *request, int error)
{
	if (!has_payload(connection, request))
		reply_status(connection, request, error);
	else if (request->length > EXPORT_REQUEST_MAX)
		reply_kill(connection, "sent a payload above the limit"); /* S35 */
	else
		expect_payload(connection, request, PAYLOAD_DISCARD, error);
}

/* What counts where operations, or bytes, per second are limited. */
static const struct {
	bool operation, bytes;
} costs[COMMANDS] = {
	[NBD_CMD_READ] = {true, true},          [NBD_CMD_WRITE] = {true, true},
	[NBD_CMD_CACHE] = {true, true},         [NBD_CMD_TRIM] = {true, false},
	[NBD_CMD_WRITE_ZEROES] = {true, false},
};

/* A place in the export's budget; requests that are refused, or move nothing, need none. */
static uint64_t reserve(const struct connection *connection, const struct nbd_request *request,
			uint64_t now)
{
	bool writes;

	if (check(connection, request) || !costs[request->type].operation)
		return now;
	writes = commands[request->type].writes;
	return throttle_reserve(connection->export_->throttle,
				writes ? THROTTLE_WRITE : THROTTLE_READ,
				costs[request->type].bytes ? request->length : 0, now);
}

bool request_has_budget(struct connection *connection, const struct nbd_request *request)
{
	uint64_t now = connection->statistics.now;

	if (!connection->resume_at) {
		connection->throttled_at = now;
		connection->resume_at = reserve(connection, request, now);
		if (connection->resume_at > now)
			trace_request_throttled(connection->id, request->cookie,
						connection->resume_at - now);
	}
	/* At the end of the server or the client it is paid for, but does not wait. */
	if (connection->resume_at > now && !connection->last_call && !connection->hasty)
		return false;
	if (connection->hasty && connection->resume_at > now + GONE_DEBT) {
		reply_kill(connection, "left before its requests could begin");
		return false;
	}
	if (connection->resume_at > connection->throttled_at)
		statistics_throttled(&connection->statistics, now - connection->throttled_at);
	connection->resume_at = 0;
	return true;
}

void request_dispatch(struct connection *connection, const struct nbd_request *request)
{
	int error = check(connection, request);

	if (error == 0 && has_payload(connection, request) && request->length > EXPORT_REQUEST_MAX)
		error = -EINVAL;
	if (error) {
		refuse(connection, request, error);
		return;
	}
	commands[request->type].begin(connection, request);
}

static void end_pieces(struct connection *connection, struct payload *payload)
{
	if (payload->error)
		payload->pending->error = payload->error;
	payload->pending->whole = true;
	if (!payload->pending->pieces)
		request_write_done(connection, payload->pending);
}

void request_payload_done(struct connection *connection)
{
	struct payload *payload = &connection->payload;
	const struct nbd_request *request = &payload->request;

	trace_payload_received(connection->id, request->cookie, payload->error);
	connection->statistics.began = payload->began;
	switch (payload->mode) {
	case PAYLOAD_JOBS:
		end_pieces(connection, payload);
		break;
	case PAYLOAD_INLINE:
		if (payload->pending) /* parts of it are zeroes that a worker makes */
			end_pieces(connection, payload);
		else if (!payload->error &&
			 export_wants_stable(connection->export_, request->flags))
			begin_flush(connection, request);
		else
			reply_status(connection, request, payload->error);
		break;
	case PAYLOAD_COLLECT:
		status_payload(connection, request, payload->collected, payload->collected_used);
		break;
	case PAYLOAD_DISCARD:
		reply_status(connection, request, payload->error);
		break;
	case PAYLOAD_NONE:
		break;
	}
}

struct pending *pending_new(const struct connection *connection, const struct nbd_request *request)
{
	struct pending *pending = malloc(sizeof(*pending));

	if (pending)
		*pending = (struct pending){.request = *request,
					    .began = connection->statistics.began};
	return pending;
}

/* ---- Plain jobs: one request, one blocking call, one status ---- */

static void done_status(struct job *job)
{
	reply_status(job->connection, &job->pending->request, job->result);
	free(job->pending);
}

static void submit_plain(struct connection *connection, const struct nbd_request *request,
			 void (*run)(struct job *))
{
	struct pending *pending = pending_new(connection, request);
	struct job *job = pending ? connection_job_new(connection, 0) : NULL;

	if (!job) { /* has_room() was asked before: only memory can be missing */
		free(pending);
		reply_status(connection, request, -ENOMEM);
		return;
	}
	job->pending = pending;
	job->run = run;
	job->done = done_status;
	job->offset = request->offset;
	job->length = request->length;
	job->flags = request->flags;
	connection_job_submit(connection, job);
}

/* FUA on a command that changes data: the reply waits for stable storage (S86). */
static void flush_for_fua(struct job *job)
{
	struct export *export = job->connection->export_;

	if (job->result == 0 && export_wants_stable(export, (uint16_t)job->flags))
		job->result = export_flush(export);
}

static void run_flush(struct job *job)
{
	job->result = export_flush(job->connection->export_);
}

static void run_trim(struct job *job)
{
	job->result = export_discard(job->connection->export_, job->offset, job->length);
	flush_for_fua(job);
}

static void run_cache(struct job *job)
{
	job->result = export_prefetch(job->connection->export_, job->offset, job->length);
}

/* Zeroing can mean writing, for hours: it ends when the client has gone. */
#define ZERO_STEP (UINT64_C(1) << 30)

static void zero_in_steps(struct job *job, unsigned int flags)
{
	uint64_t done = 0;

	while (done < job->length && job->result == 0) {
		uint64_t step = min_of(job->length - done, ZERO_STEP);

		job->result =
			export_zero(job->connection->export_, job->offset + done, step, flags);
		done += step;
		if (done < job->length && job->connection->dead)
			job->result = -ECANCELED;
		flags &= ~(unsigned int)ZERO_FAST; /* the host could; it will not change its mind */
	}
}

static void run_zero(struct job *job)
{
	unsigned int flags = 0;

	if (!(job->flags & NBD_CMD_FLAG_NO_HOLE))
		flags |= ZERO_MAY_UNMAP;
	if (job->flags & NBD_CMD_FLAG_FAST_ZERO)
		flags |= ZERO_FAST;
	zero_in_steps(job, flags);
	flush_for_fua(job);
}

static void begin_flush(struct connection *connection, const struct nbd_request *request)
{
	submit_plain(connection, request, run_flush);
}

/* A range of no bytes is legal and nothing to do. */
static void begin_ranged(struct connection *connection, const struct nbd_request *request,
			 void (*run)(struct job *))
{
	if (request->length)
		submit_plain(connection, request, run);
	else
		reply_status(connection, request, 0);
}

static void begin_trim(struct connection *connection, const struct nbd_request *request)
{
	begin_ranged(connection, request, run_trim);
}

static void begin_cache(struct connection *connection, const struct nbd_request *request)
{
	begin_ranged(connection, request, run_cache);
}

static void begin_zero(struct connection *connection, const struct nbd_request *request)
{
	begin_ranged(connection, request, run_zero);
}

static void begin_disconnect(struct connection *connection, const struct nbd_request *request)
{
	(void)request; /* no reply; what is pending is answered first (S88) */
	connection->disconnecting = true;
}

static void begin_status(struct connection *connection, const struct nbd_request *request)
{
	if (has_payload(connection, request) && request->length <= PAYLOAD_COLLECT_MAX)
		expect_payload(connection, request, PAYLOAD_COLLECT, 0);
	else if (has_payload(connection, request))
		refuse(connection, request, -EINVAL);
	else
		status_begin(connection, request, connection->terms.contexts);
}

/* ---- WRITE ---- */

/*
 * A buffered write of whole pages goes to the page cache at memory speed, so it may run on the
 * connection's thread. One that had to wait (dirty pages are being written back) is a sign to
 * leave the next ones to the workers for a while.
 */
#define WRITE_SLOW    (3 * CLOCK_MILLISECOND)
#define WRITE_BACKOFF (200 * CLOCK_MILLISECOND)

static bool write_may_run_inline(const struct connection *connection,
				 const struct nbd_request *request, struct extent *extent)
{
	const uint64_t page = 4095;

	if (clock_now() < connection->inline_after)
		return false;
	/* Zeroes of large units are found in large pieces only. */
	if (connection->export_->zeroes.unit > ZEROES_PIECE_MAX &&
	    request->length >= connection->export_->zeroes.unit)
		return false;
	if (export_map(connection->export_, request->offset, request->length, MAP_OVERWRITE,
		       MAP_NOWAIT, extent) ||
	    !extent_in_file(extent) || extent->length < request->length)
		return false;
	if (extent->kind == EXTENT_ENCRYPTED && request->length > READ_INLINE_MAX)
		return false; /* much to compute: the workers share it */
	return hostfile_is_cached(extent->file) &&
	       !((extent->file_offset | request->length) & page);
}

/* The same where the driver must find a place first. Zeroes that are looked for need none. */
static bool write_may_allocate(const struct connection *connection,
			       const struct nbd_request *request, uint32_t *piece)
{
	return clock_now() >= connection->inline_after && !connection->export_->zeroes.unit &&
	       export_write_is_quick(connection->export_, request->offset, request->length, piece);
}

static void begin_write(struct connection *connection, const struct nbd_request *request)
{
	struct extent extent;
	uint32_t piece;

	if (!request->length) {
		reply_status(connection, request, 0);
		return;
	}
	if (write_may_run_inline(connection, request, &extent)) {
		expect_payload(connection, request, PAYLOAD_INLINE, 0);
		return;
	}
	if (write_may_allocate(connection, request, &piece)) {
		expect_payload(connection, request, PAYLOAD_INLINE, 0);
		connection->payload.align = piece;
		return;
	}
	expect_payload(connection, request, PAYLOAD_JOBS, 0);
	connection->payload.pending = pending_new(connection, request);
	if (!connection->payload.pending)
		expect_payload(connection, request, PAYLOAD_DISCARD, -ENOMEM);
}

static int write_inline(struct connection *connection, const uint8_t *bytes, uint64_t offset,
			size_t length)
{
	uint64_t began = clock_now(), ended;
	int rc = export_write(connection->export_, bytes, offset, length);

	ended = clock_now();
	if (ended - began > WRITE_SLOW)
		connection->inline_after = ended + WRITE_BACKOFF;
	return rc;
}

static void run_zero_piece(struct job *job)
{
	job->result = export_zero(job->connection->export_, job->offset, job->length, job->flags);
}

/* Zeroing may block. False: no job can be had now. */
static bool submit_zeroes(struct connection *connection, uint64_t offset, size_t length)
{
	struct payload *payload = &connection->payload;
	struct job *job = connection_job_new(connection, 0);

	if (!job)
		return false;
	if (!payload->pending)
		payload->pending = pending_new(connection, &payload->request);
	if (!payload->pending) {
		connection_job_free(connection, job);
		return false;
	}
	payload->pending->began = payload->began;
	payload->pending->pieces++;
	job->pending = payload->pending;
	job->run = run_zero_piece;
	job->done = receive_piece_done;
	job->offset = offset;
	job->length = length;
	job->flags = connection->export_->zeroes.flags;
	connection_job_submit(connection, job);
	return true;
}

int request_write_inline(struct connection *connection, const uint8_t *bytes, size_t length)
{
	uint64_t offset = connection->payload.position;
	int rc = 0;

	while (length && rc == 0) {
		bool zero;
		size_t step = export_next_zeroes(connection->export_, bytes, offset, length, &zero);

		if (!zero || !submit_zeroes(connection, offset, step))
			rc = write_inline(connection, bytes, offset, step);
		bytes += step;
		offset += step;
		length -= step;
	}
	return rc;
}

/* A write of nothing but zeroes came in pieces that are smaller than the units of its image: now it
 * is known that whole ones can go. True when the pending request waits for that. */
static bool zero_large_units(struct connection *connection, struct pending *pending)
{
	const struct export *export = connection->export_;
	const struct nbd_request *request = &pending->request;
	uint64_t unit = export->zeroes.unit, first, end;
	struct job *job;

	if (unit <= ZEROES_UNIT_IN_PIECE || pending->mixed || pending->error)
		return false;
	first = round_up(export->offset + request->offset, unit) - export->offset;
	end = round_down(export->offset + request->offset + request->length, unit);
	if (end < export->offset + first + unit)
		return false;
	job = connection_job_new(connection, 0);
	if (!job)
		return false;  /* the zeroes are there; they only take room */
	pending->mixed = true; /* once is enough */
	pending->pieces = 1;
	job->pending = pending;
	job->run = run_zero_piece;
	job->done = receive_piece_done;
	job->offset = first;
	job->length = end - export->offset - first;
	job->flags = export->zeroes.flags;
	connection_job_submit(connection, job);
	return true;
}

void request_write_done(struct connection *connection, struct pending *pending)
{
	struct nbd_request request = pending->request;
	int error = pending->error;

	if (zero_large_units(connection, pending))
		return;
	free(pending);
	if (!error && export_wants_stable(connection->export_, request.flags))
		submit_plain(connection, &request, run_flush);
	else
		reply_status(connection, &request, error);
}
