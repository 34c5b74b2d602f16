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
		uint64_t length = min_of(left, (uint64_t)JOB_PIECE);
		struct job *job;

		if (length < left) /* pieces end at sectors (S79) */
			length -= (issue->position + length) % NBD_SECTOR;
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

/* A range that a chunked reply gets from workers. */
static void issue_range(struct connection *connection, struct pending *pending, uint64_t position,
			uint64_t end)
{
	connection->issue = (struct issue){.pending = pending, .position = position, .end = end};
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

/* A small run, copied: false when it is not in memory. */
static bool send_cached(struct connection *connection, const struct nbd_request *request,
			uint16_t flags, uint64_t offset, const struct extent *extent)
{
	size_t head = reply_data_head_size(connection);
	uint8_t *at = reply_reserve(connection, head + extent->length);

	if (!at)
		return true; /* dead: nobody is left to answer */
	if (!may_be_cached(connection, extent) ||
	    hostfile_read_nowait(extent->file, at + head, extent->length, extent->file_offset) !=
		    (ssize_t)extent->length) {
		connection->wary_reads = WARY_READS;
		return false;
	}
	reply_data_head(connection, at, request, flags, offset, extent->length);
	reply_commit(connection, head + extent->length);
	return true;
}

/* Copies a run to the peer through the send buffer; returns how far it came. */
static uint64_t copy_run(struct connection *connection, const struct extent *extent)
{
	uint64_t done = 0;

	while (done < extent->length) {
		size_t step = (size_t)min_of(extent->length - done, (uint64_t)SEND_GATHER);
		uint8_t *at = reply_reserve(connection, step);

		if (!at || hostfile_read(extent->file, at, step, extent->file_offset + done))
			break;
		reply_commit(connection, step);
		done += step;
	}
	return done;
}

/* Moves a run that is in memory by the cheapest way of this transport: pages into a Unix socket,
 * the kernel's copy from a mapping into any other; a copy where the pages might become those of
 * other bytes before the peer has taken them. Returns how far it came. */
static uint64_t send_run_bytes(struct connection *connection, const struct extent *extent)
{
	const uint8_t *view;

	if (extent->stable && reply_can_splice(connection))
		return reply_splice(connection, extent->file, extent->file_offset, extent->length);
	/* A mapping may only be read by the kernel: a file cut short is an error there. */
	view = connection->transport.ops->reads_bytes
		       ? NULL
		       : hostfile_view(extent->file, extent->file_offset, extent->length);
	if (!view)
		return copy_run(connection, extent);
	if (extent->stable)
		reply_attach(connection, view, extent->length);
	else
		reply_bytes(connection, view, extent->length); /* taken while we are in the epoch */
	return extent->length;
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
 * when it failed and the error was told: the reply is complete. */
static bool stream_run(struct connection *connection, const struct nbd_request *request,
		       uint64_t offset, const struct extent *extent)
{
	size_t head = reply_data_head_size(connection);
	uint8_t *at = reply_reserve(connection, head);
	uint64_t sent;

	if (!at)
		return false;
	reply_data_head(connection, at, request, 0, offset, extent->length);
	reply_commit(connection, head);
	sent = send_run_bytes(connection, extent);
	if (sent == extent->length)
		return true;
	fail_run(connection, request, offset + sent, extent->length - sent);
	return false;
}

/* ---- Whole replies: simple ones, and chunked ones that must not be fragmented ---- */

enum { VERIFY_STEP = 1 << 20 };

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

/* A reply that cannot tell of holes sends zeroes. */
static void send_zeroes(struct connection *connection, const struct nbd_request *request)
{
	size_t head = reply_data_head_size(connection);
	uint8_t *at = reply_reserve(connection, head);

	if (!at)
		return;
	reply_data_head(connection, at, request, NBD_REPLY_FLAG_DONE, request->offset,
			request->length);
	reply_commit(connection, head);
	reply_zeroes(connection, request->length);
}

/* The common case: one run, in memory. */
static bool read_at_once(struct connection *connection, const struct nbd_request *request)
{
	struct extent extent;

	if (export_map(connection->export_, request->offset, request->length, MAP_READ, MAP_NOWAIT,
		       &extent) ||
	    extent.length < request->length || extent.kind == EXTENT_OPAQUE)
		return false;
	if (extent.kind == EXTENT_ZERO) {
		if (is_chunked(connection) && !(request->flags & NBD_CMD_FLAG_DF))
			return false;
		send_zeroes(connection, request);
		return true;
	}
	if (is_chunked(connection) && request->length > EXPORT_PAYLOAD_MAX)
		return false; /* no chunk is longer than what was told (S80) */
	if (request->length <= READ_INLINE_MAX)
		return send_cached(connection, request, NBD_REPLY_FLAG_DONE, request->offset,
				   &extent);
	if (hostfile_residency(extent.file, extent.file_offset, extent.length) != HOSTFILE_RESIDENT)
		return false;
	if (stream_run(connection, request, request->offset, &extent) && is_chunked(connection))
		reply_done(connection, request);
	return true;
}

/* One run of a chunked reply; false when workers must fetch it. */
static bool send_run(struct connection *connection, const struct nbd_request *request,
		     uint64_t offset, const struct extent *extent)
{
	switch (extent->kind) {
	case EXTENT_ZERO:
		reply_hole(connection, request, offset, extent->length);
		return true;
	case EXTENT_FILE:
		return extent->length <= READ_INLINE_MAX &&
		       send_cached(connection, request, 0, offset, extent);
	case EXTENT_OPAQUE:
		return false;
	}
	return false;
}

static void read_chunked(struct connection *connection, const struct nbd_request *request)
{
	uint64_t position = request->offset, end = request->offset + request->length;
	struct pending *pending = pending_new(connection, request);

	if (!pending) {
		reply_status(connection, request, -ENOMEM);
		return;
	}
	while (position < end) {
		struct extent extent;

		if (export_map(connection->export_, position, end - position, MAP_READ, MAP_NOWAIT,
			       &extent) ||
		    !send_run(connection, request, position, &extent))
			break;
		position += extent.length;
	}
	if (position == end) {
		finish(connection, pending);
		return;
	}
	statistics_miss(&connection->statistics);
	issue_range(connection, pending, position, end);
}

static void read_whole(struct connection *connection, const struct nbd_request *request)
{
	struct pending *pending = pending_new(connection, request);

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
	EPOCH_SCOPE;

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
