// SPDX-License-Identifier: MIT
/*
 * BLOCK_STATUS: a worker walks the image's map, the connection's thread sends one chunk a context.
 * Both wire forms are made here. A short answer is legal; a wrong one is not.
 */
#include <errno.h>
#include <stdlib.h>

#include "common/size.h"
#include "connection.h"
#include "engine.h"
#include "reply.h"

/* 32-bit answers cannot say more about one extent; a round number keeps alignment. */
#define EXTENT_LENGTH_MAX UINT64_C(0xfffff000)

/* The walk of one answer: extents of the wire form are appended to out, equal neighbours merged. */
struct walk {
	struct outbuf *out;
	bool extended;
	unsigned int count;
	uint64_t length; /* the extent that is being grown; 0: none */
	uint32_t status;
};

static void walk_emit(struct walk *walk)
{
	if (!walk->length)
		return;
	if (walk->extended) {
		outbuf_add64(walk->out, walk->length);
		outbuf_add64(walk->out, walk->status);
	} else {
		outbuf_add32(walk->out, (uint32_t)walk->length);
		outbuf_add32(walk->out, walk->status);
	}
	walk->count++;
	walk->length = 0;
}

/* False when the answer is full. */
static bool walk_add(struct walk *walk, uint64_t length, uint32_t status)
{
	if (walk->length && walk->status == status &&
	    (walk->extended || walk->length + length <= EXTENT_LENGTH_MAX)) {
		walk->length += length;
		return true;
	}
	walk_emit(walk);
	if (walk->count == STATUS_EXTENTS_MAX)
		return false;
	walk->status = status;
	walk->length = walk->extended ? length : min_of(length, EXTENT_LENGTH_MAX);
	return walk->length == length;
}

static uint32_t allocation_status(const struct extent *extent)
{
	return (extent->hole ? NBD_STATE_HOLE : 0) |
	       (extent->kind == EXTENT_ZERO ? NBD_STATE_ZERO : 0);
}

static void run_status(struct job *job)
{
	struct walk walk = {.out = &job->answer, .extended = job->connection->terms.extended};
	uint64_t position = job->offset, end = job->offset + job->length;
	bool one = job->flags & NBD_CMD_FLAG_REQ_ONE;

	while (position < end) {
		struct extent extent;

		job->result = export_map(job->connection->export_, position, end - position,
					 MAP_STATUS, 0, &extent);
		if (job->result)
			return;
		if (one && walk.length && walk.status != allocation_status(&extent))
			break;
		if (!walk_add(&walk, extent.length, allocation_status(&extent)))
			break;
		position += extent.length;
	}
	walk_emit(&walk);
	if (job->answer.failed)
		job->result = -ENOMEM;
}

static void add_answer(struct connection *connection, const struct nbd_request *request,
		       unsigned int context, const struct outbuf *answer)
{
	bool extended = connection->terms.extended;
	size_t head = nbd_chunk_size(extended), prefix = extended ? 8 : 4;
	uint8_t *at = reply_reserve(connection, head + prefix);

	if (!at)
		return;
	statistics_count(&connection->statistics, request->type, request->length, 0);
	nbd_chunk_build(at, extended, NBD_REPLY_FLAG_DONE,
			extended ? NBD_REPLY_BLOCK_STATUS_EXT : NBD_REPLY_BLOCK_STATUS,
			request->cookie, request->offset, prefix + answer->used);
	nbd_put32(at + head, context);
	if (extended)
		nbd_put32(at + head + 4, (uint32_t)(answer->used / 16));
	reply_commit(connection, head + prefix);
	reply_bytes(connection, answer->bytes, answer->used);
}

static void done_answer(struct job *job)
{
	const struct nbd_request *request = &job->pending->request;

	job->connection->answers--;
	if (job->result)
		reply_status(job->connection, request, job->result);
	else
		add_answer(job->connection, request, CONTEXT_BASE_ALLOCATION, &job->answer);
	free(job->pending);
}

void status_begin(struct connection *connection, const struct nbd_request *request,
		  unsigned int contexts)
{
	struct pending *pending;
	struct job *job;

	if (!contexts || !request->length) { /* S95; nothing can be said about nothing */
		reply_status(connection, request, -EINVAL);
		return;
	}
	pending = pending_new(connection, request);
	job = pending ? connection_job_new(connection, 0) : NULL;
	if (!job) {
		free(pending);
		reply_status(connection, request, -ENOMEM);
		return;
	}
	job->pending = pending;
	job->run = run_status;
	job->answers_only = true;
	job->done = done_answer;
	job->offset = request->offset;
	job->length = request->length;
	job->flags = request->flags;
	connection->answers++;
	connection_job_submit(connection, job);
}

/* The payload form: u64 effect length, then the ids of the contexts wanted (S105). */
void status_payload(struct connection *connection, const struct nbd_request *request,
		    const uint8_t *payload, uint32_t length)
{
	struct nbd_request effective = *request;
	unsigned int wanted = 0;

	if (length < 12 || length % 4) {
		reply_status(connection, request, -EINVAL);
		return;
	}
	effective.length = nbd_get64(payload);
	for (uint32_t at = 8; at < length; at += 4) {
		uint32_t id = nbd_get32(payload + at);

		if (id >= CONTEXT_COUNT || !(connection->terms.contexts & (1u << id)) ||
		    wanted & (1u << id)) {
			reply_status(connection, request, -EINVAL);
			return;
		}
		wanted |= 1u << id;
	}
	if (!export_contains(connection->export_, effective.offset, effective.length))
		reply_status(connection, request, -EINVAL);
	else
		status_begin(connection, &effective, wanted);
}
