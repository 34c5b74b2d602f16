// SPDX-License-Identifier: MIT
/*
 * Dirty bitmaps that are stored in an image: found by name and read piece by piece. Nothing of them
 * is kept in memory, however large the disk is: the bits of 256 GiB of it take no more than half a
 * MiB of the file, and the page cache keeps that. All of it comes from an image that nobody
 * vouches for.
 *
 * Only bitmaps that do not change are read here: those of an image that is not written, and those
 * that do not record. Opening: the thread that opens; walking: workers, without a lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "qcow2.h"

enum {
	WORDS_AT_ONCE = 512,  /* of a table */
	BITS_AT_ONCE = 16384, /* bytes of a cluster of bits */
	BITS_SLACK = 7,       /* for qcow2_equal_bits() */
};

struct bitmap_state {
	struct qcow2 *q;
	uint64_t table_offset;
	uint32_t table_size; /* words */
	unsigned int granularity_bits;
};

/* ---- The directory ---- */

int qcow2_bitmaps_each(struct qcow2 *q,
		       bool (*visit)(void *context, const struct qcow2_bitmap *bitmap),
		       void *context, struct error *err)
{
	uint64_t length = q->extensions.bitmap_directory_size, at = 0;
	AUTO_FREE uint8_t *directory = NULL;
	int rc;

	if (!q->extensions.bitmaps)
		return 0;
	directory = malloc(length + 1);
	if (!directory)
		return error_set(err, ENOMEM, "out of memory");
	rc = hostfile_read(q->file, directory, length, q->extensions.bitmap_directory_offset);
	if (rc)
		return error_set_errno(err, -rc, "Could not read the bitmap directory");
	for (uint32_t i = 0; i < q->extensions.bitmaps; i++) {
		struct qcow2_bitmap bitmap;
		int64_t used = qcow2_parse_bitmap(directory + at, length - at, &q->header, &bitmap);

		if (used < 0)
			return error_set(err, EROFS, "the bitmap directory is broken");
		at += (uint64_t)used;
		if (!visit(context, &bitmap))
			break;
	}
	return 0;
}

/* ---- Tables ---- */

/* A place in the table and the words around it. */
struct table_view {
	uint64_t first; /* index of the first word in bytes */
	uint32_t count; /* words in bytes; 0: none yet */
	uint8_t bytes[WORDS_AT_ONCE * 8];
};

static int table_word(const struct bitmap_state *state, struct table_view *view, uint64_t index,
		      uint64_t *data, bool *ones)
{
	if (index < view->first || index >= view->first + view->count) {
		uint32_t count =
			(uint32_t)min_of(state->table_size - index, (uint64_t)WORDS_AT_ONCE);
		int rc = hostfile_read(state->q->file, view->bytes, (size_t)count * 8,
				       state->table_offset + index * 8);

		view->count = 0;
		if (rc)
			return rc == -ENODATA ? -EIO : rc;
		view->first = index;
		view->count = count;
	}
	return qcow2_decode_bitmap_word(&state->q->header,
					load_be64(view->bytes + (index - view->first) * 8), data,
					ones)
		       ? 0
		       : -EIO;
}

/* All of the table is looked at before anybody relies on it: bits that the file does not hold
 * would read as clean, and a backup would miss what they stood for. */
static int check_table(const struct bitmap_state *state, const char *name, struct error *err)
{
	struct table_view view = {.count = 0};
	uint64_t size;
	int rc = hostfile_size(state->q->file, &size);

	for (uint64_t i = 0; i < state->table_size && !rc; i++) {
		uint64_t data;
		bool ones;

		rc = table_word(state, &view, i, &data, &ones);
		if (rc == 0 && data >= size)
			rc = -EIO;
	}
	if (rc == -EIO)
		return error_set(err, EIO, "Bitmap '%s' is broken: its table does not lead to bits",
				 name);
	return rc ? error_set_errno(err, -rc, "Could not read bitmap '%s'", name) : 0;
}

/* ---- Opening ---- */

struct search {
	const struct qcow2 *q;
	const char *name;
	struct bitmap_state *found; /* made for it, or NULL */
	int rc;
	struct error *err;
};

static bool is_wanted(void *context, const struct qcow2_bitmap *bitmap)
{
	struct search *search = context;
	struct bitmap_state *state = search->found;

	if (bitmap->name_length != strlen(search->name) ||
	    memcmp(bitmap->name, search->name, bitmap->name_length) != 0)
		return true;
	search->rc = qcow2_check_bitmap(bitmap, &search->q->header, search->err);
	if (search->rc == 0 && bitmap->automatic && !search->q->image->read_only)
		search->rc = error_set(search->err, EINVAL,
				       "Bitmap '%s' records writes, which becomes void when the "
				       "image is written; serve it with --read-only",
				       search->name);
	state->table_offset = bitmap->table_offset;
	state->table_size = bitmap->table_size;
	state->granularity_bits = bitmap->granularity_bits;
	return false;
}

/* The bitmap of this image alone; -ENOENT: it has none of that name. */
static int find_here(struct qcow2 *q, const char *name, struct bitmap_state **out,
		     struct error *err)
{
	AUTO_FREE struct bitmap_state *state = calloc(1, sizeof(*state));
	struct search search = {q, name, state, -ENOENT, err};
	int rc;

	if (!state)
		return error_set(err, ENOMEM, "out of memory");
	state->q = q;
	rc = qcow2_bitmaps_each(q, is_wanted, &search, err);
	if (rc == 0)
		rc = search.rc;
	if (rc == 0)
		rc = check_table(state, name, err);
	if (rc == 0)
		*out = take_ptr(state);
	return rc;
}

int qcow2_bitmap_open(struct image *image, const char *name, struct image_bitmap **out,
		      struct error *err)
{
	struct qcow2 *q = image->state;
	struct bitmap_state *state = NULL;
	struct image_bitmap *bitmap;
	int rc = find_here(q, name, &state, err);

	if (rc == -ENOENT && q->backing)
		return image_bitmap_open(q->backing, name, out, err);
	if (rc == -ENOENT)
		return error_set(err, ENOENT, "Bitmap '%s' is not found", name);
	if (rc)
		return rc;
	bitmap = malloc(sizeof(*bitmap));
	if (!bitmap) {
		free(state);
		return error_set(err, ENOMEM, "out of memory");
	}
	*bitmap = (struct image_bitmap){.owner = image, .state = state};
	*out = bitmap;
	return 0;
}

void qcow2_bitmap_close(struct image_bitmap *bitmap)
{
	free(bitmap->state);
	free(bitmap);
}

/* ---- Walking ---- */

struct bit_walk {
	const struct bitmap_state *state;
	uint64_t position, end; /* bytes of the disk */
	image_bitmap_visit *visit;
	void *context;
	bool enough;
	struct table_view view;
	uint8_t bits[BITS_AT_ONCE + BITS_SLACK];
};

/* The disk up to `until` has equal bits. */
static void tell(struct bit_walk *walk, uint64_t until, bool dirty)
{
	until = min_of(until, walk->end);
	walk->enough = !walk->visit(walk->context, until - walk->position, dirty);
	walk->position = until;
}

/* Tells a piece of a cluster of bits: count bits from bit number `bit` of the bitmap on. */
static void tell_bits(struct bit_walk *walk, uint64_t bit, uint64_t count)
{
	uint64_t base = round_down(bit, 8), at = bit - base, end = at + count;

	while (at < end && !walk->enough) {
		bool dirty = walk->bits[at / 8] >> at % 8 & 1;

		at += qcow2_equal_bits(walk->bits, at, end);
		tell(walk, (base + at) << walk->state->granularity_bits, dirty);
	}
}

/* One step: the rest of a cluster without data, or a piece of one with data. */
static int walk_on(struct bit_walk *walk)
{
	const struct bitmap_state *state = walk->state;
	unsigned int shift = state->q->cluster_bits + 3; /* bits of a cluster */
	uint64_t bit = walk->position >> state->granularity_bits, index = bit >> shift;
	uint64_t last = (walk->end - 1) >> state->granularity_bits;
	uint64_t cluster_end = (index + 1) << shift, data, in_cluster, length;
	bool ones;
	int rc = table_word(state, &walk->view, index, &data, &ones);

	if (rc)
		return rc;
	if (!data) {
		tell(walk, cluster_end << state->granularity_bits, ones);
		return 0;
	}
	in_cluster = bit / 8 & (state->q->cluster_size - 1);
	length = min_of(state->q->cluster_size - in_cluster, (uint64_t)BITS_AT_ONCE);
	length = min_of(length, last / 8 - bit / 8 + 1);
	/* The last cluster of a file may be cut short: zeroes follow. */
	rc = hostfile_read(state->q->file, walk->bits, length, data + in_cluster);
	if (rc && rc != -ENODATA)
		return rc;
	tell_bits(walk, bit, min_of(length * 8 - bit % 8, last - bit + 1));
	return 0;
}

int qcow2_bitmap_walk(struct image_bitmap *bitmap, uint64_t offset, uint64_t length,
		      image_bitmap_visit *visit, void *context)
{
	const struct bitmap_state *state = bitmap->state;
	uint64_t size = state->q->header.size, end = offset + length;
	struct bit_walk walk = {.state = state,
				.position = offset,
				.end = min_of(end, size),
				.visit = visit,
				.context = context};
	int rc = 0;

	while (walk.position < walk.end && !walk.enough && !rc)
		rc = walk_on(&walk);
	if (rc == 0 && !walk.enough && end > max_of(offset, size))
		visit(context, end - max_of(offset, size), false);
	return rc;
}
