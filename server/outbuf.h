/* SPDX-License-Identifier: MIT */
/*
 * A growing byte buffer for replies that are made whole before they are sent: handshake answers,
 * block status. When memory is short it remembers the failure and takes no more, so callers check
 * once at the end. One thread at a time.
 */
#ifndef HAWSER_SERVER_OUTBUF_H
#define HAWSER_SERVER_OUTBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct outbuf {
	uint8_t *bytes;
	size_t used, room;
	bool failed; /* memory was short: the content is not complete */
};

/* Reserves length bytes at the end and returns where they are; NULL when memory is short. */
void *outbuf_extend(struct outbuf *out, size_t length);
void outbuf_add(struct outbuf *out, const void *bytes, size_t length);
void outbuf_add16(struct outbuf *out, uint16_t value);
void outbuf_add32(struct outbuf *out, uint32_t value);
void outbuf_add64(struct outbuf *out, uint64_t value);
/* Removes length bytes at the front: they were sent. */
void outbuf_consume(struct outbuf *out, size_t length);
void outbuf_clear(struct outbuf *out);

#endif
