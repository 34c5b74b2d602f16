// SPDX-License-Identifier: MIT
/*
 * BLOCK_STATUS: a worker asks the export for each context and makes the whole reply, a chunk a
 * context; the connection's thread sends it. Both wire forms are made here. A short answer is
 * legal; a wrong one is not.
 */
#include <errno.h>
#include <stdlib.h>

#include "common/size.h"
#include "connection.h"
#include "engine.h"
#include "reply.h"
#include "trace.h"

/* 32-bit answers cannot say more about one extent; a round number keeps alignment. */
#define EXTENT_LENGTH_MAX UINT64_C(0xfffff000)

/* The walk of one context: extents of the wire form are appended to out, equal neighbours merged.
 */
struct walk {
	struct outbuf *out;
	bool extended;
	unsigned int count; /* extents that are out */
	unsigned int most;  /* that there may be */
	uint64_t length;    /* the extent that is being grown; 0: none */
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
static bool walk_add(void *context, uint64_t length, uint32_t status)
{
	struct walk *walk = context;

	if (walk->length && walk->status == status &&
	    (walk->extended || walk->length + length <= EXTENT_LENGTH_MAX)) {
		walk->length += length;
		return true;
	}
	walk_emit(walk);
	if (walk->count == walk->most)
		return false;
	walk->status = status;
	walk->length = walk->extended ? length : min_of(length, EXTENT_LENGTH_MAX);
	return walk->length == length;
}

/* One chunk with all that is told about one context. */
static int add_context(struct job *job, unsigned int id, bool last)
{
	const struct nbd_request *request = &job->pending->request;
	bool extended = job->connection->terms.extended;
	size_t head = nbd_chunk_size(extended), prefix = extended ? 8 : 4, start = job->answer.used;
	unsigned int contexts = (unsigned int)__builtin_popcountll(job->contexts);
	struct walk walk = {
		.out = &job->answer, .extended = extended, .most = STATUS_EXTENTS_MAX / contexts};
	uint8_t *at;
	int rc;

	if (job->flags & NBD_CMD_FLAG_REQ_ONE)
		walk.most = 1;
	outbuf_extend(&job->answer, head + prefix);
	rc = export_status(job->connection->export_, id, job->offset, job->length, walk_add, &walk);
	if (rc)
		return rc;
	walk_emit(&walk);
	if (job->answer.failed)
		return -ENOMEM;
	at = job->answer.bytes + start; /* only now: the buffer has moved */
	nbd_chunk_build(at, extended, last ? NBD_REPLY_FLAG_DONE : 0,
			extended ? NBD_REPLY_BLOCK_STATUS_EXT : NBD_REPLY_BLOCK_STATUS,
			request->cookie, request->offset, job->answer.used - start - head);
	store_be32(at + head, id);
	if (extended)
		store_be32(at + head + 4, walk.count);
	return 0;
}

static void run_status(struct job *job)
{
	uint64_t left = job->contexts;

	while (left && !job->result) {
		unsigned int id = (unsigned int)__builtin_ctzll(left);

		left &= left - 1;
		job->result = add_context(job, id, !left);
	}
}

static void done_answer(struct job *job)
{
	struct connection *connection = job->connection;
	const struct nbd_request *request = &job->pending->request;

	connection->answers--;
	if (job->result) {
		reply_status(connection, request, job->result);
	} else {
		trace_reply_queued(connection->id, request->cookie, request->type, 0);
		statistics_count(&connection->statistics, request->type, request->length, 0);
		reply_bytes(connection, job->answer.bytes, job->answer.used);
	}
	free(job->pending);
}

void status_begin(struct connection *connection, const struct nbd_request *request,
		  uint64_t contexts)
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
	job->contexts = contexts;
	connection->answers++;
	connection_job_submit(connection, job);
}

/* The payload form: u64 effect length, then the ids of the contexts wanted (S105). */
void status_payload(struct connection *connection, const struct nbd_request *request,
		    const uint8_t *payload, uint32_t length)
{
	struct nbd_request effective = *request;
	uint64_t wanted = 0;

	if (length < 12 || length % 4) {
		reply_status(connection, request, -EINVAL);
		return;
	}
	effective.length = load_be64(payload);
	for (uint32_t at = 8; at < length; at += 4) {
		uint32_t id = load_be32(payload + at);

		if (id >= CONTEXTS_MAX || !(connection->terms.contexts & (UINT64_C(1) << id)) ||
		    wanted & (UINT64_C(1) << id)) {
			reply_status(connection, request, -EINVAL);
			return;
		}
		wanted |= UINT64_C(1) << id;
	}
	if (!export_contains(connection->export_, effective.offset, effective.length))
		reply_status(connection, request, -EINVAL);
	else
		status_begin(connection, &effective, wanted);
}
