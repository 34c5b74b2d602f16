// SPDX-License-Identifier: MIT
/*
 * Entries of L1, L2, snapshot and bitmap tables, and packed refcounts. Pure functions; any thread.
 */
#include <errno.h>

#include "common/size.h"
#include "format.h"

#define L1_RESERVED UINT64_C(0x7f000000000001ff)
#define L2_RESERVED UINT64_C(0x3f000000000001fe)
#define OFFSET_MAX  (UINT64_C(1) << 56)

bool qcow2_decode_l1(const struct qcow2_header *header, uint64_t entry, uint64_t *table)
{
	*table = entry & QCOW2_OFFSET_MASK;
	return !(entry & L1_RESERVED) && !(*table & (qcow2_cluster_size(header) - 1));
}

static bool decode_compressed(const struct qcow2_header *header, struct qcow2_entry entry,
			      struct qcow2_mapping *mapping)
{
	unsigned int shift = 70 - header->cluster_bits;
	uint64_t value = entry.descriptor & ~(QCOW2_COPIED | QCOW2_COMPRESSED);
	uint64_t sectors = (value >> shift) + 1;

	mapping->compressed = true;
	mapping->host = value & ((UINT64_C(1) << shift) - 1);
	mapping->compressed_length =
		(uint32_t)(sectors * QCOW2_SECTOR - mapping->host % QCOW2_SECTOR);
	mapping->data = UINT32_MAX;
	return mapping->host < OFFSET_MAX && !qcow2_has_data_file(header) &&
	       !(qcow2_has_subclusters(header) && entry.bitmap);
}

bool qcow2_decode(const struct qcow2_header *header, struct qcow2_entry entry,
		  struct qcow2_mapping *mapping)
{
	uint64_t descriptor = entry.descriptor;

	*mapping = (struct qcow2_mapping){.copied = descriptor & QCOW2_COPIED};
	if (descriptor & QCOW2_COMPRESSED)
		return decode_compressed(header, entry, mapping);
	mapping->host = descriptor & QCOW2_OFFSET_MASK;
	mapping->has_host = mapping->host || (mapping->copied && qcow2_has_data_file(header));
	if (descriptor & L2_RESERVED || mapping->host & (qcow2_cluster_size(header) - 1))
		return false;
	if (qcow2_has_subclusters(header)) {
		mapping->data = (uint32_t)entry.bitmap;
		mapping->zero = (uint32_t)(entry.bitmap >> 32);
		return !(descriptor & QCOW2_ZERO) && !(mapping->data & mapping->zero) &&
		       (mapping->has_host || !mapping->data);
	}
	mapping->zero = descriptor & QCOW2_ZERO ? 1 : 0;
	mapping->data = mapping->has_host && !mapping->zero ? 1 : 0;
	return header->version >= 3 || !mapping->zero;
}

struct qcow2_entry qcow2_encode(const struct qcow2_header *header,
				const struct qcow2_mapping *mapping)
{
	struct qcow2_entry entry = {0, 0};

	if (mapping->has_host)
		entry.descriptor = mapping->host | (mapping->copied ? QCOW2_COPIED : 0);
	if (qcow2_has_subclusters(header))
		entry.bitmap = (uint64_t)mapping->zero << 32 | mapping->data;
	else if (mapping->zero)
		entry.descriptor |= QCOW2_ZERO;
	return entry;
}

/* ---- Snapshots ---- */

enum { SNAPSHOT_FIXED = 40 };

static int check_snapshot(const struct qcow2_header *header, const struct qcow2_snapshot *snapshot,
			  struct error *err)
{
	if (snapshot->l1_size > QCOW2_L1_BYTES_MAX / 8)
		return error_set(err, EFBIG, "Snapshot L1 table too large");
	if (!qcow2_table_valid(header, snapshot->l1_offset, snapshot->l1_size, 8))
		return error_set(err, EINVAL, "Snapshot L1 table offset invalid");
	if (qcow2_l1_needed(header, snapshot->size) > snapshot->l1_size)
		return error_set(err, EINVAL, "L1 table of the snapshot is too small");
	return 0;
}

int64_t qcow2_parse_snapshot(const uint8_t *bytes, size_t length, const struct qcow2_header *header,
			     struct qcow2_snapshot *snapshot, struct error *err)
{
	uint64_t used = SNAPSHOT_FIXED;
	uint32_t extra;
	int rc;

	if (length < SNAPSHOT_FIXED)
		return error_set(err, ENODATA, "the snapshot table ends too early");
	*snapshot = (struct qcow2_snapshot){
		.l1_offset = load_be64(bytes),
		.l1_size = load_be32(bytes + 8),
		.id_length = load_be16(bytes + 12),
		.name_length = load_be16(bytes + 14),
		.size = header->size,
	};
	extra = load_be32(bytes + 36);
	if (extra > QCOW2_SNAPSHOT_EXTRA_MAX)
		return error_set(err, EINVAL, "Too much extra metadata in the snapshot table");
	used += (uint64_t)extra + snapshot->id_length + snapshot->name_length;
	if (used > length)
		return error_set(err, ENODATA, "the snapshot table ends too early");
	if (extra >= 16)
		snapshot->size = round_down(load_be64(bytes + 48), QCOW2_SECTOR);
	else if (header->version >= 3)
		return error_set(err, EINVAL, "the snapshot table lacks the size of a disk");
	snapshot->id = bytes + SNAPSHOT_FIXED + extra;
	snapshot->name = snapshot->id + snapshot->id_length;
	rc = check_snapshot(header, snapshot, err);
	return rc ? rc : (int64_t)round_up(used, 8);
}

/* ---- Bitmaps ---- */

enum {
	BITMAP_FIXED = 24,
	BITMAP_TABLE_MAX = 0x8000000,
	BITMAP_IN_USE = 1 << 0,
	BITMAP_AUTO = 1 << 1,
	BITMAP_EXTRA_COMPATIBLE = 1 << 2, /* what else it says may be ignored */
	BITMAP_FLAGS = (1 << 3) - 1,
	BITMAP_TRACKS_WRITES = 1, /* the only type */
};

/* Bits 1 to 8 and 56 to 63 of a word of a bitmap's table. */
#define BITMAP_WORD_RESERVED UINT64_C(0xff000000000001fe)

int64_t qcow2_parse_bitmap(const uint8_t *bytes, size_t length, const struct qcow2_header *header,
			   struct qcow2_bitmap *bitmap)
{
	uint64_t used = BITMAP_FIXED;
	uint32_t flags, extra;

	if (length < BITMAP_FIXED)
		return -EINVAL;
	flags = load_be32(bytes + 12);
	extra = load_be32(bytes + 20);
	*bitmap = (struct qcow2_bitmap){
		.table_offset = load_be64(bytes),
		.table_size = load_be32(bytes + 8),
		.in_use = flags & BITMAP_IN_USE,
		.automatic = flags & BITMAP_AUTO,
		.strange = flags & ~(uint32_t)BITMAP_FLAGS || bytes[16] != BITMAP_TRACKS_WRITES ||
			   (extra && !(flags & BITMAP_EXTRA_COMPATIBLE)),
		.granularity_bits = bytes[17],
		.name_length = load_be16(bytes + 18),
	};
	used += (uint64_t)bitmap->name_length + extra;
	used = round_up(used, 8);
	if (used > length || bitmap->table_size > BITMAP_TABLE_MAX ||
	    !qcow2_table_valid(header, bitmap->table_offset, bitmap->table_size, 8))
		return -EINVAL;
	bitmap->name = bytes + BITMAP_FIXED + extra;
	return (int64_t)used;
}

/* Words that the table of a bitmap needs. */
static uint64_t words_needed(const struct qcow2_bitmap *bitmap, const struct qcow2_header *header)
{
	uint64_t covered = UINT64_C(8) << (header->cluster_bits + bitmap->granularity_bits);

	return header->size / covered + (header->size % covered != 0);
}

int qcow2_check_bitmap(const struct qcow2_bitmap *bitmap, const struct qcow2_header *header,
		       struct error *err)
{
	int length = bitmap->name_length;
	const char *name = (const char *)bitmap->name;

	if (bitmap->strange)
		return error_set(err, ENOTSUP, "Bitmap '%.*s' has features that are not known here",
				 length, name);
	if (bitmap->in_use)
		return error_set(err, EINVAL,
				 "Bitmap '%.*s' is inconsistent and cannot be used: its writer "
				 "ended without saving it; remove it by `qemu-img bitmap --remove'",
				 length, name);
	if (bitmap->granularity_bits < QCOW2_GRANULARITY_BITS_MIN ||
	    bitmap->granularity_bits > QCOW2_GRANULARITY_BITS_MAX)
		return error_set(err, EINVAL, "Bitmap '%.*s' has an invalid granularity, 2^%u",
				 length, name, bitmap->granularity_bits);
	if ((uint64_t)bitmap->table_size << header->cluster_bits > QCOW2_BITMAP_BYTES_MAX)
		return error_set(err, EFBIG, "Bitmap '%.*s' is too large", length, name);
	if (words_needed(bitmap, header) != bitmap->table_size || !bitmap->table_offset)
		return error_set(err, EINVAL, "Bitmap '%.*s' does not fit the size of the disk",
				 length, name);
	return 0;
}

bool qcow2_decode_bitmap_word(const struct qcow2_header *header, uint64_t word, uint64_t *data,
			      bool *ones)
{
	*data = word & QCOW2_OFFSET_MASK;
	*ones = word & 1;
	return !(word & BITMAP_WORD_RESERVED) && !(*data && *ones) &&
	       !(*data & (qcow2_cluster_size(header) - 1));
}

static uint64_t little_endian(const uint8_t *at)
{
	uint64_t value = 0;

	for (unsigned int i = 8; i--;)
		value = value << 8 | at[i];
	return value;
}

uint64_t qcow2_equal_bits(const uint8_t *bits, uint64_t at, uint64_t count)
{
	uint64_t flip = bits[at / 8] >> at % 8 & 1 ? UINT64_MAX : 0, i = at;

	while (i < count) {
		uint64_t different = (little_endian(bits + i / 8) ^ flip) >> i % 8;

		if (different) {
			i += (unsigned int)__builtin_ctzll(different);
			break;
		}
		i += 64 - i % 8;
	}
	return min_of(i, count) - at;
}

/* ---- Refcounts: of one to eight bytes, or of bits ---- */

static uint64_t load_wide(const uint8_t *at, unsigned int bytes)
{
	uint64_t value = 0;

	for (unsigned int i = 0; i < bytes; i++)
		value = value << 8 | at[i];
	return value;
}

static void store_wide(uint8_t *at, unsigned int bytes, uint64_t value)
{
	for (unsigned int i = bytes; i--; value >>= 8)
		at[i] = (uint8_t)value;
}

uint64_t qcow2_refcount_get(const uint8_t *block, unsigned int order, uint64_t index)
{
	unsigned int width = 1u << order;

	if (width >= 8)
		return load_wide(block + index * (width / 8), width / 8);
	return block[index * width / 8] >> (index * width % 8) & ((1u << width) - 1);
}

void qcow2_refcount_set(uint8_t *block, unsigned int order, uint64_t index, uint64_t value)
{
	unsigned int width = 1u << order;
	unsigned int shift = (unsigned int)(index * width % 8);
	uint8_t mask = (uint8_t)(((1u << (width & 7)) - 1) << shift);
	uint8_t *at = block + index * width / 8;

	if (width >= 8)
		store_wide(block + index * (width / 8), width / 8, value);
	else
		*at = (uint8_t)((*at & ~mask) | (value << shift & mask));
}
