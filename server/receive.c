// SPDX-License-Identifier: MIT
/*
 * From bytes to requests. The payload of a WRITE is never gathered whole: it is written piece by
 * piece as it arrives, inline into the page cache or through workers, so memory does not depend on
 * the length that a peer announces. Runs on the connection's engine thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/size.h"
#include "connection.h"
#include "engine.h"
#include "reply.h"
#include "trace.h"

/* Pieces end at pages, so that no page is written in two halves. */
enum { PIECE_ALIGN = 4096 };

/* Where pieces end: also at the units in which zeroes are looked for, within limit. */
static uint32_t piece_align(const struct connection *connection, uint32_t limit)
{
	const struct zeroes_rule *rule = &connection->export_->zeroes;

	if (!rule->unit)
		return PIECE_ALIGN;
	return min_of(max_of(rule->unit, rule->run_min), limit);
}

bool receive_in_payload(const struct connection *connection)
{
	return connection->payload.mode != PAYLOAD_NONE;
}

/* ---- Pieces of a WRITE for the workers ---- */

/* Whole units of zeroes that are larger than pieces are only known when all pieces are. */
static void run_write(struct job *job)
{
	if (job->connection->export_->zeroes.unit > ZEROES_UNIT_IN_PIECE)
		job->mixed = !zeroes_all(job->buffer, job->length);
	job->result = export_write_or_zero(job->connection->export_, job->buffer, job->offset,
					   job->length);
}

void receive_piece_done(struct job *job)
{
	struct pending *pending = job->pending;

	pending->pieces--;
	if (job->result && !pending->error)
		pending->error = job->result;
	pending->mixed |= job->mixed;
	if (pending->whole && !pending->pieces)
		request_write_done(job->connection, pending);
}

/* Begins the next piece; false when the limits do not allow it now. */
static bool begin_piece(struct connection *connection)
{
	struct payload *payload = &connection->payload;
	uint64_t length = min_of(payload->left, (uint64_t)JOB_PIECE);
	uint64_t end = payload->position + length;
	struct job *job;

	if (length < payload->left)
		length -= end % piece_align(connection, ZEROES_UNIT_IN_PIECE);
	job = connection_job_new(connection, length);
	if (!job)
		return false;
	job->run = run_write;
	job->done = receive_piece_done;
	job->pending = payload->pending;
	job->offset = payload->position;
	job->length = length;
	payload->piece = job;
	payload->piece_used = 0;
	return true;
}

static void submit_piece(struct connection *connection)
{
	struct payload *payload = &connection->payload;
	struct job *job = payload->piece;

	payload->piece = NULL;
	payload->pending->pieces++;
	connection_job_submit(connection, job);
}

bool receive_blocked(const struct connection *connection)
{
	return connection->payload.mode == PAYLOAD_JOBS && !connection->payload.piece &&
	       connection->payload.left;
}

/* ---- Taking payload ---- */

static void payload_end(struct connection *connection)
{
	request_payload_done(connection);
	connection->statistics.began = connection->statistics.received;
	connection->payload.mode = PAYLOAD_NONE;
	connection->payload.pending = NULL;
}

static void payload_advance(struct connection *connection, uint64_t length)
{
	connection->payload.position += length;
	connection->payload.left -= length;
}

static size_t take_inline(struct connection *connection, const uint8_t *bytes, size_t length)
{
	struct payload *payload = &connection->payload;
	uint32_t align = max_of(piece_align(connection, ZEROES_PIECE_MAX), payload->align);

	if (length >= payload->left)
		length = (size_t)payload->left;
	else if (length > align)
		length -= (payload->position + length) % align;
	else
		return 0; /* wait for a page's worth */
	if (!payload->error)
		payload->error = request_write_inline(connection, bytes, length);
	payload_advance(connection, length);
	return length;
}

void receive_filled(struct connection *connection, size_t length)
{
	struct payload *payload = &connection->payload;

	payload->piece_used += (uint32_t)length;
	payload_advance(connection, length);
	if (payload->piece_used < payload->piece->length)
		return;
	submit_piece(connection);
	if (!payload->left)
		payload_end(connection);
}

static size_t take_piece(struct connection *connection, const uint8_t *bytes, size_t length)
{
	struct payload *payload = &connection->payload;

	if (!payload->piece && !begin_piece(connection))
		return 0;
	length = min_of(length, (size_t)(payload->piece->length - payload->piece_used));
	memcpy(payload->piece->buffer + payload->piece_used, bytes, length);
	receive_filled(connection, length);
	return length;
}

static size_t take_collect(struct connection *connection, const uint8_t *bytes, size_t length)
{
	struct payload *payload = &connection->payload;

	length = (size_t)min_of((uint64_t)length, payload->left);
	memcpy(payload->collected + payload->collected_used, bytes, length);
	payload->collected_used += (uint32_t)length;
	payload->left -= length;
	return length;
}

static size_t take_payload(struct connection *connection, const uint8_t *bytes, size_t length)
{
	struct payload *payload = &connection->payload;
	size_t used = 0;

	switch (payload->mode) {
	case PAYLOAD_NONE:
		return 0;
	case PAYLOAD_INLINE:
		used = take_inline(connection, bytes, length);
		break;
	case PAYLOAD_JOBS: /* ends by itself, with its last piece */
		return take_piece(connection, bytes, length);
	case PAYLOAD_COLLECT:
		used = take_collect(connection, bytes, length);
		break;
	case PAYLOAD_DISCARD:
		used = (size_t)min_of((uint64_t)length, payload->left);
		payload->left -= used;
		break;
	}
	if (!payload->left)
		payload_end(connection);
	return used;
}

size_t receive_target(struct connection *connection, uint8_t **target)
{
	struct payload *payload = &connection->payload;

	if (payload->mode != PAYLOAD_JOBS || !payload->piece)
		return 0;
	*target = payload->piece->buffer + payload->piece_used;
	return payload->piece->length - payload->piece_used;
}

bool receive_release(struct connection *connection)
{
	struct payload *payload = &connection->payload;

	if (payload->piece && payload->piece_used) {
		payload->piece->length = payload->piece_used;
		submit_piece(connection);
		return false;
	}
	if (payload->piece)
		connection_job_free(connection, payload->piece);
	payload->piece = NULL;
	return true;
}

void receive_abandon(struct connection *connection)
{
	struct payload *payload = &connection->payload;

	if (payload->piece)
		connection_job_free(connection, payload->piece);
	payload->piece = NULL;
	free(payload->pending);
	payload->pending = NULL;
	payload->mode = PAYLOAD_NONE;
	free(connection->issue.pending);
	connection->issue.pending = NULL;
}

/* ---- Requests ---- */

static size_t take_request(struct connection *connection, const uint8_t *bytes, size_t length)
{
	bool extended = connection->terms.extended;
	size_t size = nbd_request_size(extended);
	struct nbd_request request;

	if (length < size || !connection_has_room(connection))
		return 0;
	if (!nbd_request_parse(bytes, extended, &request)) {
		reply_kill(connection, "sent a request with a wrong magic number"); /* S72 */
		return 0;
	}
	if (connection->export_->throttle && !request_has_budget(connection, &request))
		return 0;
	trace_request_received(connection->id, request.cookie, request.type, request.flags,
			       request.offset, request.length);
	request_dispatch(connection, &request);
	return size;
}

size_t receive_bytes(struct connection *connection, const uint8_t *bytes, size_t length)
{
	size_t used = 0, step;

	do {
		if (receive_in_payload(connection))
			step = take_payload(connection, bytes + used, length - used);
		else
			step = take_request(connection, bytes + used, length - used);
		used += step;
	} while (step && !connection->dead && !connection->disconnecting);
	return used;
}
