// SPDX-License-Identifier: MIT
/*
 * Streaming. Pages that are spliced stay in the socket for as long as the peer likes: where the
 * place may become that of other bytes they are lent (image/loan.h), and the epoch ends before we
 * wait. Engine thread only.
 */
#include "stream.h"

#include "common/size.h"
#include "connection.h"
#include "engine.h"
#include "image/epoch.h"
#include "image/loan.h"
#include "reply.h"

/* What became of a step. */
enum step {
	STEP_MOVED, /* as far as it went without waiting */
	STEP_COPY,  /* these bytes must be copied */
};

static enum step splice_some(struct connection *connection, const struct extent *extent,
			     uint64_t length, uint64_t *moved)
{
	*moved = reply_fill(connection, extent->file, extent->file_offset, length);
	return *moved ? STEP_MOVED : STEP_COPY;
}

static enum step move_some(struct connection *connection, const struct extent *extent,
			   uint64_t *moved)
{
	uint64_t step = min_of(extent->length, (uint64_t)reply_pipe_size(connection));
	const uint8_t *view;

	*moved = 0;
	if (reply_can_splice(connection) &&
	    (extent->stable || reply_lend(connection, extent->file, extent->file_offset, step)))
		return splice_some(connection, extent, step, moved);
	/* A mapping may only be read by the kernel: a file cut short is an error there. */
	view = connection->transport.ops->reads_bytes
		       ? NULL
		       : hostfile_view(extent->file, extent->file_offset, extent->length);
	if (!view)
		return STEP_COPY;
	*moved = extent->length;
	if (extent->stable)
		reply_attach(connection, view, extent->length);
	else
		*moved = reply_push(connection, view, extent->length);
	return STEP_MOVED;
}

/* Is what is left of a run still where it was? */
static bool still_there(struct connection *connection, uint64_t offset, const struct extent *rest)
{
	struct extent now;

	if (rest->stable)
		return true;
	return !export_map(connection->export_, offset, rest->length, MAP_READ, MAP_NOWAIT, &now) &&
	       now.kind == EXTENT_FILE && now.file == rest->file &&
	       now.file_offset == rest->file_offset && now.length == rest->length;
}

uint64_t stream_run(struct connection *connection, uint64_t offset, const struct extent *extent)
{
	struct extent rest = *extent;
	enum step step;

	for (;;) {
		uint64_t moved;

		step = move_some(connection, &rest, &moved);
		offset += moved;
		rest.file_offset += moved;
		rest.length -= moved;
		if (!rest.length || connection->dead || step == STEP_COPY)
			break;
		epoch_leave();
		reply_wait(connection);
		epoch_enter();
		if (!still_there(connection, offset, &rest))
			break;
	}
	if (rest.length && !connection->dead) {
		epoch_leave();
		rest.length -= stream_copy(connection, offset, rest.length);
		epoch_enter();
	}
	return extent->length - rest.length;
}

uint64_t stream_copy(struct connection *connection, uint64_t offset, uint64_t length)
{
	uint64_t done = 0;

	while (done < length) {
		size_t step = (size_t)min_of(length - done, (uint64_t)SEND_GATHER);
		uint8_t *at = reply_reserve(connection, step);

		if (!at || export_read(connection->export_, at, offset + done, step))
			break;
		reply_commit(connection, step);
		done += step;
	}
	return done;
}

/* The first run of a range; bytes sent. *expected: so many they should be. */
static uint64_t send_part(struct connection *connection, uint64_t offset, uint64_t length,
			  uint64_t *expected)
{
	struct extent extent;
	uint64_t sent = 0;
	bool known, large;

	if (!reply_make_room(connection))
		return 0;
	epoch_enter();
	known = !export_map(connection->export_, offset, length, MAP_READ, MAP_NOWAIT, &extent);
	*expected = known ? extent.length : min_of(length, (uint64_t)READ_INLINE_MAX);
	large = known && extent.kind == EXTENT_FILE && extent.length > READ_INLINE_MAX;
	if (large)
		sent = stream_run(connection, offset, &extent);
	epoch_leave();
	if (large)
		return sent;
	if (!known || extent.kind != EXTENT_ZERO)
		return stream_copy(connection, offset, *expected);
	reply_zeroes(connection, extent.length);
	return extent.length;
}

uint64_t stream_range(struct connection *connection, uint64_t offset, uint64_t length)
{
	uint64_t done = 0, expected = 0, sent = 0;

	while (done < length && sent == expected && !connection->dead) {
		sent = send_part(connection, offset + done, length - done, &expected);
		done += sent;
	}
	return done;
}
