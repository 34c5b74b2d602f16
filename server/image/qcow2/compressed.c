// SPDX-License-Identifier: MIT
/*
 * Compressed clusters: raw deflate or zstd. A few decoded clusters are kept, because clients read
 * them in small pieces; compressed data at one place never changes, so they never become wrong.
 * Decoding runs outside the lock, so that workers share the load; who wants a part of a cluster
 * that another one is decoding waits for it. Workers only.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "qcow2.h"

enum {
	KEPT_MAX = 16,
	KEPT_BYTES = 4 << 20, /* of all kept clusters; one is always kept */
	DEFLATE_WINDOW = 15,  /* writers use 12 bits, readers need not insist */
};

struct kept {
	uint64_t host;  /* of the compressed data */
	uint64_t used;  /* when, for eviction */
	uint8_t *bytes; /* NULL: empty */
};

/* A cluster that somebody decodes just now, to keep it. */
struct decoding {
	uint64_t host;
	struct decoding *next;
};

struct qcow2_decoder {
	pthread_mutex_t lock;
	pthread_cond_t decoded;
	struct decoding *decoding;
	uint64_t clock;
	unsigned int count;
	struct kept kept[KEPT_MAX];
};

struct qcow2_decoder *qcow2_decoder_new(const struct qcow2_header *header)
{
	struct qcow2_decoder *decoder = calloc(1, sizeof(*decoder));

	if (!decoder)
		return NULL;
	pthread_mutex_init(&decoder->lock, NULL);
	pthread_cond_init(&decoder->decoded, NULL);
	decoder->count = (unsigned int)min_of(
		max_of(KEPT_BYTES / qcow2_cluster_size(header), UINT64_C(1)), (uint64_t)KEPT_MAX);
	return decoder;
}

void qcow2_decoder_free(struct qcow2_decoder *decoder)
{
	if (!decoder)
		return;
	for (unsigned int i = 0; i < KEPT_MAX; i++)
		free(decoder->kept[i].bytes);
	pthread_cond_destroy(&decoder->decoded);
	pthread_mutex_destroy(&decoder->lock);
	free(decoder);
}

/* ---- Decoding ---- */

static int inflate_cluster(const uint8_t *in, size_t in_length, uint8_t *out, size_t out_length)
{
	z_stream stream = {.next_in = (uint8_t *)(uintptr_t)in,
			   .avail_in = (uInt)in_length,
			   .next_out = out,
			   .avail_out = (uInt)out_length};
	int rc;

	if (inflateInit2(&stream, -DEFLATE_WINDOW) != Z_OK)
		return -ENOMEM;
	rc = inflate(&stream, Z_FINISH);
	inflateEnd(&stream);
	/* Z_BUF_ERROR with a full cluster: bytes of the next one follow in the sector. */
	return (rc == Z_STREAM_END || rc == Z_BUF_ERROR) && !stream.avail_out ? 0 : -EIO;
}

/* One or more frames, until the cluster is full. */
static int decode_zstd(const uint8_t *in, size_t in_length, uint8_t *out, size_t out_length)
{
	ZSTD_DCtx *context = ZSTD_createDCtx();
	ZSTD_inBuffer from = {in, in_length, 0};
	ZSTD_outBuffer to = {out, out_length, 0};

	if (!context)
		return -ENOMEM;
	while (to.pos < to.size) {
		size_t before = from.pos, made = to.pos;
		size_t rc = ZSTD_decompressStream(context, &to, &from);

		if (ZSTD_isError(rc) || (from.pos == before && to.pos == made))
			break;
	}
	ZSTD_freeDCtx(context);
	return to.pos == to.size ? 0 : -EIO;
}

static int decode(struct qcow2 *q, const struct qcow2_mapping *mapping, uint8_t *out)
{
	AUTO_FREE uint8_t *in = malloc(mapping->compressed_length);
	int rc;

	if (!in)
		return -ENOMEM;
	rc = hostfile_read(q->file, in, mapping->compressed_length, mapping->host);
	if (rc && rc != -ENODATA) /* the last sector may lie beyond the end of the file */
		return rc;
	return q->header.compression == QCOW2_ZSTD
		       ? decode_zstd(in, mapping->compressed_length, out, q->cluster_size)
		       : inflate_cluster(in, mapping->compressed_length, out, q->cluster_size);
}

/* ---- Kept clusters ---- */

/* The lock is held. */
static bool copy_kept(struct qcow2_decoder *decoder, uint64_t host, void *buffer,
		      uint64_t in_cluster, uint64_t length)
{
	for (unsigned int i = 0; i < decoder->count; i++) {
		struct kept *kept = &decoder->kept[i];

		if (!kept->bytes || kept->host != host)
			continue;
		memcpy(buffer, kept->bytes + in_cluster, length);
		kept->used = ++decoder->clock;
		return true;
	}
	return false;
}

/* The lock is held. Takes bytes; returns what is to be freed in their place. */
static uint8_t *keep(struct qcow2_decoder *decoder, uint64_t host, uint8_t *bytes)
{
	struct kept *oldest = &decoder->kept[0];
	uint8_t *out;

	for (unsigned int i = 1; i < decoder->count; i++)
		if (decoder->kept[i].used < oldest->used)
			oldest = &decoder->kept[i];
	out = oldest->bytes;
	*oldest = (struct kept){.host = host, .used = ++decoder->clock, .bytes = bytes};
	return out;
}

/* The lock is held. */
static bool is_being_decoded(const struct qcow2_decoder *decoder, uint64_t host)
{
	for (const struct decoding *one = decoder->decoding; one; one = one->next)
		if (one->host == host)
			return true;
	return false;
}

/* Copies a part of a kept cluster; false: there is none, and the caller is the one who decodes it,
 * until end_decoding(). */
static bool copy_or_begin(struct qcow2_decoder *decoder, struct decoding *own, void *buffer,
			  uint64_t in_cluster, uint64_t length)
{
	bool found;

	pthread_mutex_lock(&decoder->lock);
	while (!(found = copy_kept(decoder, own->host, buffer, in_cluster, length)) &&
	       is_being_decoded(decoder, own->host))
		pthread_cond_wait(&decoder->decoded, &decoder->lock);
	if (!found) {
		own->next = decoder->decoding;
		decoder->decoding = own;
	}
	pthread_mutex_unlock(&decoder->lock);
	return found;
}

/* Takes bytes, NULL where decoding failed; returns what is to be freed in their place. */
static uint8_t *end_decoding(struct qcow2_decoder *decoder, const struct decoding *own,
			     uint8_t *bytes)
{
	struct decoding **link = &decoder->decoding;

	pthread_mutex_lock(&decoder->lock);
	if (bytes)
		bytes = keep(decoder, own->host, bytes);
	while (*link != own)
		link = &(*link)->next;
	*link = own->next;
	pthread_cond_broadcast(&decoder->decoded);
	pthread_mutex_unlock(&decoder->lock);
	return bytes;
}

static int decode_cluster(struct qcow2 *q, const struct qcow2_mapping *mapping, void *buffer,
			  uint64_t in_cluster, uint64_t length)
{
	struct decoding own = {.host = mapping->host};
	AUTO_FREE uint8_t *bytes = NULL;
	int rc;

	if (length == q->cluster_size)
		return decode(q, mapping, buffer);
	if (copy_or_begin(q->decoder, &own, buffer, in_cluster, length))
		return 0;
	bytes = malloc(q->cluster_size);
	rc = bytes ? decode(q, mapping, bytes) : -ENOMEM;
	if (rc) {
		end_decoding(q->decoder, &own, NULL);
		return rc;
	}
	memcpy(buffer, bytes + in_cluster, length);
	bytes = end_decoding(q->decoder, &own, bytes);
	return 0;
}

int qcow2_read(struct image *image, void *buffer, uint64_t offset, uint64_t length)
{
	struct qcow2 *q = image->state;
	uint8_t *at = buffer;

	while (length) {
		uint64_t in_cluster = qcow2_in_cluster(q, offset);
		uint64_t step = min_of(length, q->cluster_size - in_cluster);
		struct qcow2_mapping mapping;
		int rc = qcow2_mapping_of(q, offset, &mapping);

		if (rc == 0 && !mapping.compressed)
			return -EAGAIN;
		if (rc == 0)
			rc = decode_cluster(q, &mapping, at, in_cluster, step);
		if (rc)
			return rc;
		at += step;
		offset += step;
		length -= step;
	}
	return 0;
}
