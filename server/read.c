// SPDX-License-Identifier: MIT
/*
 * READ. What is in the page cache is answered at once: small runs are copied into the send
 * buffer, large ones move without a copy where the transport can. Holes are told, not sent. The
 * rest goes to workers in pieces; a chunked reply takes them in any order, a simple reply begins
 * only when all of its bytes are there. Runs on the connection's engine thread, run_read on
 * workers.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/size.h"
#include "connection.h"
#include "engine.h"
#include "image/epoch.h"
#include "reply.h"
#include "stream.h"
#include "thread.h"

static bool is_chunked(const struct connection *connection)
{
	return connection->terms.structured || connection->terms.extended;
}

/* ---- Pieces from workers ---- */

static void run_read(struct job *job)
{
	job->result = export_read(job->connection->export_, job->buffer, job->offset, job->length);
}

static void finish(struct connection *connection, struct pending *pending)
{
	if (pending->error)
		reply_error_at(connection, &pending->request, pending->error,
			       pending->error_offset);
	else if (is_chunked(connection))
		reply_done(connection, &pending->request);
	free(pending);
}

/* Sends a head and the bytes behind it. */
static void send_data(struct connection *connection, const struct nbd_request *request,
		      uint16_t flags, uint64_t offset, const uint8_t *bytes, uint64_t length)
{
	size_t head = reply_data_head_size(connection);
	uint8_t *at = reply_reserve(connection, head);

	if (!at)
		return;
	reply_data_head(connection, at, request, flags, offset, length);
	reply_commit(connection, head);
	if (length > READ_INLINE_MAX) {
		reply_bytes(connection, bytes, length);
		return;
	}
	at = reply_reserve(connection, length);
	if (!at)
		return;
	memcpy(at, bytes, length);
	reply_commit(connection, length);
}

static void done_piece(struct job *job)
{
	struct pending *pending = job->pending;

	pending->pieces--;
	if (job->result && !pending->error) {
		pending->error = job->result;
		pending->error_offset = job->offset;
	} else if (!job->result) {
		send_data(job->connection, &pending->request, 0, job->offset, job->buffer,
			  job->length);
	}
	if (pending->whole && !pending->pieces)
		finish(job->connection, pending);
}

/* A reply in one piece: simple, or a chunk that is all of it. */
static void done_whole(struct job *job)
{
	const struct nbd_request *request = &job->pending->request;

	if (job->result)
		reply_error_at(job->connection, request, job->result, job->offset);
	else
		send_data(job->connection, request, NBD_REPLY_FLAG_DONE, job->offset, job->buffer,
			  job->length);
	free(job->pending);
}

/* Hands [issue->position, issue->end) to workers as far as the limits allow. */
static void issue_pieces(struct connection *connection)
{
	struct issue *issue = &connection->issue;

	while (issue->position < issue->end) {
		uint64_t left = issue->end - issue->position;
		uint64_t length = min_of(left, issue->piece);
		struct job *job;

		if (length < left) /* pieces end at sectors (S79) */
			length -= (issue->position + length) % issue->align;
		job = connection_job_new(connection, length);
		if (!job)
			return;
		job->run = run_read;
		job->answers_only = true;
		job->done = done_piece;
		job->pending = issue->pending;
		job->offset = issue->position;
		job->length = length;
		issue->pending->pieces++;
		issue->position += length;
		connection_job_submit(connection, job);
	}
	issue->pending->whole = true;
	issue->pending = NULL;
}

/*
 * A request that must be decoded is shared by several workers, unless there is work for all
 * processors anyway. Nothing is decoded for two jobs: they end where one unit does.
 */
static void choose_piece(struct connection *connection, struct issue *issue)
{
	uint64_t length = issue->end - issue->position;
	struct extent extent;

	issue->piece = JOB_PIECE;
	issue->align = NBD_SECTOR;
	if (length <= JOB_PIECE_DECODED || connection->jobs >= thread_processors() ||
	    export_map(connection->export_, issue->position, length, MAP_READ, MAP_NOWAIT,
		       &extent) ||
	    extent.kind != EXTENT_OPAQUE || extent.unit > JOB_PIECE)
		return;
	issue->piece = issue->align = max_of((uint64_t)extent.unit, (uint64_t)JOB_PIECE_DECODED);
}

/* A range that a chunked reply gets from workers. */
static void issue_range(struct connection *connection, struct pending *pending, uint64_t position,
			uint64_t end)
{
	connection->issue = (struct issue){.pending = pending, .position = position, .end = end};
	choose_piece(connection, &connection->issue);
	issue_pieces(connection);
}

/* ---- From the page cache ---- */

/*
 * May a small run be in memory? RWF_NOWAIT starts the I/O of a miss, and starting it can block for
 * long when the disk's queue is full. So for a while after a miss the page cache is asked first.
 */
static bool may_be_cached(struct connection *connection, const struct extent *extent)
{
	if (!connection->wary_reads)
		return true;
	connection->wary_reads--;
	return hostfile_residency(extent->file, extent->file_offset, extent->length) !=
	       HOSTFILE_MISSING;
}

/* Copies a run that is in memory; false when it is not. */
static bool copy_cached(struct connection *connection, uint8_t *to, const struct extent *extent)
{
	if (!may_be_cached(connection, extent) || image_read_run_nowait(extent, to)) {
		connection->wary_reads = WARY_READS;
		return false;
	}
	return true;
}

/* A small run, copied: false when it is not in memory. */
static bool send_cached(struct connection *connection, const struct nbd_request *request,
			uint64_t offset, const struct extent *extent)
{
	size_t head = reply_data_head_size(connection);
	uint8_t *at = reply_reserve(connection, head + extent->length);

	if (!at)
		return true; /* dead: nobody is left to answer */
	if (!copy_cached(connection, at + head, extent))
		return false;
	reply_data_head(connection, at, request, 0, offset, extent->length);
	reply_commit(connection, head + extent->length);
	return true;
}

/* Gathers a small read, which may be of several runs; zeroes only where they cannot be told. */
static bool gather_small(struct connection *connection, const struct nbd_request *request,
			 uint8_t *to)
{
	bool holes = is_chunked(connection) && !(request->flags & NBD_CMD_FLAG_DF);
	uint64_t done = 0;

	while (done < request->length) {
		struct extent extent;

		if (export_map(connection->export_, request->offset + done, request->length - done,
			       MAP_READ, MAP_NOWAIT, &extent) ||
		    extent.kind == EXTENT_OPAQUE || (extent.kind == EXTENT_ZERO && holes))
			return false;
		if (extent.kind == EXTENT_ZERO)
			memset(to + done, 0, extent.length);
		else if (!copy_cached(connection, to + done, &extent))
			return false;
		done += extent.length;
	}
	return true;
}

static bool read_small(struct connection *connection, const struct nbd_request *request)
{
	size_t head = reply_data_head_size(connection);
	uint8_t *at = reply_reserve(connection, head + request->length);
	EPOCH_SCOPE;

	if (!at)
		return true; /* dead: nobody is left to answer */
	if (!gather_small(connection, request, at + head))
		return false;
	reply_data_head(connection, at, request, NBD_REPLY_FLAG_DONE, request->offset,
			request->length);
	reply_commit(connection, head + request->length);
	return true;
}

/* The file ended or failed in the middle of a reply whose header is gone. */
static void fail_run(struct connection *connection, const struct nbd_request *request,
		     uint64_t offset, uint64_t left)
{
	if (connection->dead)
		return;
	if (!is_chunked(connection)) {
		connection_kill(connection, "the image failed in the middle of a reply"); /* S76 */
		return;
	}
	reply_zeroes(connection, left); /* S81 */
	reply_error_at(connection, request, -EIO, offset);
}

/* A large run that is in memory, not copied where the transport can; a chunk without DONE. False
 * when it failed and the error was told: the reply is complete. In an epoch, as stream_run(). */
static bool send_run_chunk(struct connection *connection, const struct nbd_request *request,
			   uint64_t offset, const struct extent *extent)
{
	size_t head = reply_data_head_size(connection);
	uint8_t *at = reply_reserve(connection, head);
	uint64_t sent;

	if (!at)
		return false;
	reply_data_head(connection, at, request, 0, offset, extent->length);
	reply_commit(connection, head);
	sent = stream_run(connection, offset, extent);
	if (sent == extent->length)
		return true;
	fail_run(connection, request, offset + sent, extent->length - sent);
	return false;
}

/* ---- Whole replies: simple ones, and chunked ones that must not be fragmented ---- */

enum {
	VERIFY_STEP = 1 << 20,
	WHOLE_RUNS_MAX = 64, /* more are left to workers */
};

/* Reads all of it once, so that errors are known and the bytes are in memory. */
static void run_verify(struct job *job)
{
	struct export *export = job->connection->export_;
	uint64_t done = 0;

	while (done < job->length && job->result == 0) {
		uint64_t step = min_of(job->length - done, (uint64_t)VERIFY_STEP);

		job->result = export_read(export, job->buffer, job->offset + done, step);
		done += step;
	}
}

/* A simple reply too large for a buffer: verified by a worker, now sent from memory. */
static void done_verify(struct job *job)
{
	struct connection *connection = job->connection;
	const struct nbd_request *request = &job->pending->request;
	uint64_t done = 0;

	if (job->result) {
		reply_status(connection, request, job->result);
		free(job->pending);
		return;
	}
	uint8_t *at = reply_reserve(connection, reply_data_head_size(connection));

	if (at) {
		reply_data_head(connection, at, request, 0, job->offset, job->length);
		reply_commit(connection, reply_data_head_size(connection));
	}
	while (done < job->length && !connection->dead) {
		uint64_t step = min_of(job->length - done, (uint64_t)VERIFY_STEP);

		if (export_read(connection->export_, job->buffer, job->offset + done, step))
			fail_run(connection, request, job->offset + done, job->length - done);
		else
			reply_bytes(connection, job->buffer, step);
		done += step;
	}
	free(job->pending);
}

static void issue_whole(struct connection *connection, struct pending *pending)
{
	const struct nbd_request *request = &pending->request;
	bool fits = request->length <= READ_WHOLE_MAX;
	struct job *job = connection_job_new(connection, fits ? request->length : VERIFY_STEP);

	if (!job) {
		connection->issue = (struct issue){.pending = pending, .whole = true};
		return;
	}
	job->run = fits ? run_read : run_verify;
	job->answers_only = true;
	job->done = fits ? done_whole : done_verify;
	job->pending = pending;
	job->offset = request->offset;
	job->length = request->length;
	connection->issue.pending = NULL;
	connection_job_submit(connection, job);
}

void read_continue(struct connection *connection)
{
	if (connection->issue.whole)
		issue_whole(connection, connection->issue.pending);
	else
		issue_pieces(connection);
}

/* ---- The request ---- */

static bool is_resident(const struct extent *extent)
{
	return hostfile_residency(extent->file, extent->file_offset, extent->length) ==
	       HOSTFILE_RESIDENT;
}

/* What became of a request, or of a run of it. */
enum served {
	SERVED_NOT,  /* workers must fetch it */
	SERVED_PART, /* a chunked reply goes on */
	SERVED_ALL,  /* nothing is left to be said */
};

/* Is it copied into the send buffer, for which reply_make_room() has seen to room? */
static bool is_small(const struct extent *extent)
{
	return extent->length <=
	       (extent->kind == EXTENT_ENCRYPTED ? DECRYPT_INLINE_MAX : READ_INLINE_MAX);
}

/* The common large case: one run, in memory. */
static enum served serve_run(struct connection *connection, const struct nbd_request *request)
{
	struct extent extent;
	EPOCH_SCOPE;

	if (export_map(connection->export_, request->offset, request->length, MAP_READ, MAP_NOWAIT,
		       &extent) ||
	    extent.length < request->length)
		return SERVED_NOT;
	if (extent.kind == EXTENT_ENCRYPTED && is_small(&extent))
		return send_cached(connection, request, request->offset, &extent) ? SERVED_PART
										  : SERVED_NOT;
	if (extent.kind != EXTENT_FILE || !is_resident(&extent))
		return SERVED_NOT;
	return send_run_chunk(connection, request, request->offset, &extent) ? SERVED_PART
									     : SERVED_ALL;
}

static bool read_at_once(struct connection *connection, const struct nbd_request *request)
{
	enum served served;

	if (request->length <= READ_INLINE_MAX)
		return read_small(connection, request);
	if (is_chunked(connection) && request->length > EXPORT_PAYLOAD_MAX)
		return false; /* no chunk is longer than what was told (S80) */
	if (!reply_make_room(connection))
		return true;
	served = serve_run(connection, request);
	if (served == SERVED_PART && is_chunked(connection))
		reply_done(connection, request);
	return served != SERVED_NOT;
}

/* ---- Several runs ---- */

/* What one chunk may hold of a run; where it must be cut, it ends at a sector (S79). */
static uint64_t chunk_length(uint64_t offset, uint64_t length)
{
	if (length <= EXPORT_PAYLOAD_MAX)
		return length;
	return round_down(offset + EXPORT_PAYLOAD_MAX, NBD_SECTOR) - offset;
}

/* The first run of a range as a chunk of its own; *length: of the run. */
static enum served send_run(struct connection *connection, const struct nbd_request *request,
			    uint64_t offset, uint64_t left, uint64_t *length)
{
	struct extent extent;
	EPOCH_SCOPE;

	if (export_map(connection->export_, offset, left, MAP_READ, MAP_NOWAIT, &extent) ||
	    extent.kind == EXTENT_OPAQUE)
		return SERVED_NOT;
	*length = extent.length;
	if (extent.kind == EXTENT_ZERO) {
		reply_hole(connection, request, offset, extent.length);
		return SERVED_PART;
	}
	*length = extent.length = chunk_length(offset, extent.length);
	if (is_small(&extent))
		return send_cached(connection, request, offset, &extent) ? SERVED_PART : SERVED_NOT;
	/* There is much to compute for encrypted bytes: the workers share it. */
	if (extent.kind == EXTENT_ENCRYPTED || !is_resident(&extent))
		return SERVED_NOT;
	return send_run_chunk(connection, request, offset, &extent) ? SERVED_PART : SERVED_ALL;
}

static void read_chunked(struct connection *connection, const struct nbd_request *request)
{
	uint64_t position = request->offset, end = request->offset + request->length, length = 0;
	struct pending *pending = pending_new(connection, request);
	enum served served = SERVED_PART;

	if (!pending) {
		reply_status(connection, request, -ENOMEM);
		return;
	}
	while (position < end && served == SERVED_PART) {
		reply_make_room(connection);
		served = send_run(connection, request, position, end - position, &length);
		position += served == SERVED_PART ? length : 0;
	}
	if (served == SERVED_ALL) {
		free(pending);
	} else if (position == end) {
		finish(connection, pending);
	} else {
		statistics_miss(&connection->statistics);
		issue_range(connection, pending, position, end);
	}
}

/* Is all of the range in memory, in a few runs that we can move? */
static bool is_at_hand(struct connection *connection, uint64_t offset, uint64_t length)
{
	EPOCH_SCOPE;

	for (int runs = 0; length && runs < WHOLE_RUNS_MAX; runs++) {
		struct extent extent;

		if (export_map(connection->export_, offset, length, MAP_READ, MAP_NOWAIT,
			       &extent) ||
		    extent.kind == EXTENT_OPAQUE || extent.kind == EXTENT_ENCRYPTED ||
		    (extent.kind == EXTENT_FILE && !is_resident(&extent)))
			return false;
		offset += extent.length;
		length -= extent.length;
	}
	return !length;
}

/* A reply without chunks, or with one, of several runs. */
static bool read_runs(struct connection *connection, const struct nbd_request *request)
{
	size_t head = reply_data_head_size(connection);
	uint64_t sent;
	uint8_t *at;

	if (request->length <= READ_INLINE_MAX ||
	    !is_at_hand(connection, request->offset, request->length))
		return false;
	at = reply_reserve(connection, head);
	if (!at)
		return true;
	reply_data_head(connection, at, request, 0, request->offset, request->length);
	reply_commit(connection, head);
	sent = stream_range(connection, request->offset, request->length);
	if (sent < request->length)
		fail_run(connection, request, request->offset + sent, request->length - sent);
	else if (is_chunked(connection))
		reply_done(connection, request);
	return true;
}

static void read_whole(struct connection *connection, const struct nbd_request *request)
{
	struct pending *pending;

	if (read_runs(connection, request))
		return;
	pending = pending_new(connection, request);
	if (!pending) {
		reply_status(connection, request, -ENOMEM);
		return;
	}
	statistics_miss(&connection->statistics);
	issue_whole(connection, pending);
}

void read_begin(struct connection *connection, const struct nbd_request *request)
{
	bool fragment = is_chunked(connection) && !(request->flags & NBD_CMD_FLAG_DF);

	if (!request->length)
		reply_status(connection, request, 0);
	else if (request->length > EXPORT_REQUEST_MAX)
		reply_status(connection, request, -EINVAL);
	else if (request->flags & NBD_CMD_FLAG_DF && request->length > READ_WHOLE_MAX)
		reply_status(connection, request, -EOVERFLOW); /* S83 */
	else if (read_at_once(connection, request))
		return;
	else if (fragment)
		read_chunked(connection, request);
	else
		read_whole(connection, request);
}
