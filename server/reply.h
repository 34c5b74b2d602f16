/* SPDX-License-Identifier: MIT */
/*
 * The replies of one connection on their way out: gathered in the engine thread's send buffer,
 * sent in one call. Headers of both forms are made here, so nobody else knows which one was
 * negotiated. A reply once begun is finished or the connection dies. Engine thread only.
 */
#ifndef HAWSER_SERVER_REPLY_H
#define HAWSER_SERVER_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/nbd-protocol.h"

struct connection;
struct hostfile;

/* How many runs of memory one send gathers. */
enum { SEND_RUNS_MAX = 64 };

/* What an engine thread has gathered: runs of its own buffer and of memory elsewhere, in the order
 * in which they leave. */
struct send_buffer {
	uint8_t *bytes;
	size_t used;  /* of bytes */
	size_t total; /* of all runs */
	size_t piped; /* behind all runs: bytes in the thread's pipe */
	int runs;
	struct iovec run[SEND_RUNS_MAX];
};

/* Room of length bytes in the send buffer (length <= SEND_BUFFER), flushing first when needed;
 * reply_commit() says how many were used. NULL: the connection is dead. */
uint8_t *reply_reserve(struct connection *connection, size_t length);
void reply_commit(struct connection *connection, size_t length);

/* Sends what was gathered. more: the rest follows at once. */
void reply_flush(struct connection *connection, bool more);
/* As connection_kill(), but what was answered still goes out, so that no reply breaks off. */
void reply_kill(struct connection *connection, const char *why);

/* The whole answer of a request without data; error is 0 or a negative errno. */
void reply_status(struct connection *connection, const struct nbd_request *request, int error);

/* The whole answer of a request that failed, naming where (structured: ERROR_OFFSET). */
void reply_error_at(struct connection *connection, const struct nbd_request *request, int error,
		    uint64_t offset);

/* The last chunk, without content. */
void reply_done(struct connection *connection, const struct nbd_request *request);
/* A chunk that says: length zeroes at offset. */
void reply_hole(struct connection *connection, const struct nbd_request *request, uint64_t offset,
		uint64_t length);

/* Bytes before the data of a read's reply of this connection (simple header, or chunk + offset). */
size_t reply_data_head_size(const struct connection *connection);
/* Builds that head at `at`. flags: NBD_REPLY_FLAG_DONE when this is all of it. */
void reply_data_head(struct connection *connection, uint8_t *at, const struct nbd_request *request,
		     uint16_t flags, uint64_t offset, uint64_t length);

/* Adds bytes that live elsewhere and stay there until the next reply_flush(). */
void reply_attach(struct connection *connection, const uint8_t *bytes, size_t length);
/* The same, and flushes: the bytes may go away afterwards. */
void reply_bytes(struct connection *connection, const uint8_t *bytes, size_t length);
/* Sends zeroes. */
void reply_zeroes(struct connection *connection, uint64_t length);

/*
 * Large runs of files, which are not copied by us. Where their bytes are may only be known inside
 * an epoch (image/epoch.h), which must not be held while a peer is slow: reply_make_room() before
 * the epoch makes sure that the head of a reply and what follows does not wait, and reply_wait()
 * after it waits.
 */

/* Afterwards one head and DECRYPT_INLINE_MAX bytes fit without a flush. False: dead. */
bool reply_make_room(struct connection *connection);

/* Can reply_fill() do anything on this connection? */
bool reply_can_splice(const struct connection *connection);
/* The pages will be lent to the socket (image/loan.h): call it before reply_fill() where the place
 * may become that of other bytes. False: too many are lent already. */
bool reply_lend(struct connection *connection, const struct hostfile *file, uint64_t offset,
		uint64_t length);
/* Takes pages of the file, to be sent behind what was gathered, by the next flush. Bytes, fewer
 * than length when the pipe is full (reply_pipe_size()) or the file ends; 0 when it fails. */
size_t reply_fill(struct connection *connection, struct hostfile *file, uint64_t offset,
		  uint64_t length);
size_t reply_pipe_size(const struct connection *connection);

/* Sends what was gathered and these bytes behind it as far as that goes without waiting. Returns
 * how many of these are out; the rest is forgotten. */
size_t reply_push(struct connection *connection, const uint8_t *bytes, size_t length);

/* Sends all that was gathered, or waits until the peer takes bytes again. */
void reply_wait(struct connection *connection);

#endif
