// SPDX-License-Identifier: MIT
/* A growing byte buffer. */
#include "outbuf.h"

#include <stdlib.h>
#include <string.h>

#include "common/nbd-protocol.h"

void *outbuf_extend(struct outbuf *out, size_t length)
{
	if (out->failed)
		return NULL;
	if (out->used + length > out->room) {
		size_t room = (out->used + length) * 2;
		uint8_t *bytes = realloc(out->bytes, room);

		if (!bytes) {
			out->failed = true;
			return NULL;
		}
		out->bytes = bytes;
		out->room = room;
	}
	out->used += length;
	return out->bytes + out->used - length;
}

void outbuf_add(struct outbuf *out, const void *bytes, size_t length)
{
	void *at = length ? outbuf_extend(out, length) : NULL;

	if (at)
		memcpy(at, bytes, length);
}

void outbuf_add16(struct outbuf *out, uint16_t value)
{
	void *at = outbuf_extend(out, sizeof(value));

	if (at)
		store_be16(at, value);
}

void outbuf_add32(struct outbuf *out, uint32_t value)
{
	void *at = outbuf_extend(out, sizeof(value));

	if (at)
		store_be32(at, value);
}

void outbuf_add64(struct outbuf *out, uint64_t value)
{
	void *at = outbuf_extend(out, sizeof(value));

	if (at)
		store_be64(at, value);
}

void outbuf_consume(struct outbuf *out, size_t length)
{
	out->used -= length;
	if (out->used)
		memmove(out->bytes, out->bytes + length, out->used);
}

void outbuf_clear(struct outbuf *out)
{
	free(out->bytes);
	*out = (struct outbuf){.bytes = NULL};
}
