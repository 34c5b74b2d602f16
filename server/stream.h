/* SPDX-License-Identifier: MIT */
/*
 * Large runs of guest bytes on their way from the page cache to the peer, behind a head that has
 * been gathered already. Engine thread only.
 */
#ifndef HAWSER_SERVER_STREAM_H
#define HAWSER_SERVER_STREAM_H

#include <stdint.h>

struct connection;
struct extent;

/*
 * Sends the run at offset of the export, which lives where extent says and is in memory, by the
 * cheapest way of this transport: pages into a Unix socket, the kernel's copy from a mapping into
 * any other. The caller stands in one epoch since it asked for the extent, and has called
 * reply_make_room() before; while the peer takes nothing the epoch is left, and the place is looked
 * up anew. Returns the bytes that were sent or gathered: fewer than the extent's only when the file
 * failed (or the connection is dead).
 */
uint64_t stream_run(struct connection *connection, uint64_t offset, const struct extent *extent);

/* Copies a run, from wherever it is; may block on a disk. Not inside an epoch. */
uint64_t stream_copy(struct connection *connection, uint64_t offset, uint64_t length);

/* All of a range that no chunk separates, run by run. Not inside an epoch. */
uint64_t stream_range(struct connection *connection, uint64_t offset, uint64_t length);

#endif
