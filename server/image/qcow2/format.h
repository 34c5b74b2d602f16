/* SPDX-License-Identifier: MIT */
/*
 * The qcow2 format as bytes: pure functions over buffers, no file and no state. Whatever an image
 * says is checked here once, so that the rest can compute without fear; texts that users know from
 * QEMU are the same.
 */
#ifndef HAWSER_SERVER_IMAGE_QCOW2_FORMAT_H
#define HAWSER_SERVER_IMAGE_QCOW2_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/error.h"

enum {
	QCOW2_MAGIC = 0x514649fb,
	QCOW2_HEADER_V2 = 72,
	QCOW2_HEADER_V3 = 104,
	QCOW2_CLUSTER_BITS_MIN = 9,
	QCOW2_CLUSTER_BITS_MAX = 21,
	QCOW2_SECTOR = 512,
	QCOW2_SUBCLUSTERS = 32, /* of a cluster with extended L2 entries */
	QCOW2_NAME_MAX = 1023,
	QCOW2_FORMAT_NAME_MAX = 31,
	QCOW2_L1_BYTES_MAX = 32 << 20,
	QCOW2_REFTABLE_BYTES_MAX = 8 << 20,
	QCOW2_SNAPSHOTS_MAX = 65536,
	QCOW2_CRYPT_HEADER_MAX = 16 << 20, /* eight key slots of LUKS need 2 MiB */
	QCOW2_SNAPSHOT_TABLE_MAX = 64 << 20,
	QCOW2_SNAPSHOT_EXTRA_MAX = 1024,
	QCOW2_BITMAPS_MAX = 65535,
	QCOW2_BITMAP_DIRECTORY_EACH = 1024,
	QCOW2_BITMAP_BYTES_MAX = 512 << 20,
	QCOW2_GRANULARITY_BITS_MIN = 9,
	QCOW2_GRANULARITY_BITS_MAX = 31,
};

enum {
	QCOW2_INCOMPATIBLE_DIRTY = 1 << 0,
	QCOW2_INCOMPATIBLE_CORRUPT = 1 << 1,
	QCOW2_INCOMPATIBLE_DATA_FILE = 1 << 2,
	QCOW2_INCOMPATIBLE_COMPRESSION = 1 << 3,
	QCOW2_INCOMPATIBLE_EXTENDED_L2 = 1 << 4,
	QCOW2_INCOMPATIBLE_KNOWN = (1 << 5) - 1,
	QCOW2_AUTOCLEAR_BITMAPS = 1 << 0,
	QCOW2_AUTOCLEAR_RAW_DATA = 1 << 1,
	QCOW2_AUTOCLEAR_KNOWN = (1 << 2) - 1,
};

/* Where things are in the header. */
enum {
	QCOW2_AT_REFTABLE = 48,
	QCOW2_AT_INCOMPATIBLE = 72,
	QCOW2_AT_AUTOCLEAR = 88,
};

enum qcow2_compression { QCOW2_DEFLATE = 0, QCOW2_ZSTD = 1 };
enum qcow2_crypt { QCOW2_CRYPT_NONE = 0, QCOW2_CRYPT_AES = 1, QCOW2_CRYPT_LUKS = 2 };

struct qcow2_header {
	uint32_t version;
	uint32_t cluster_bits;
	uint64_t size; /* of the disk, a multiple of 512 */
	uint32_t crypt;
	uint64_t l1_offset;
	uint32_t l1_size; /* entries */
	uint64_t reftable_offset;
	uint32_t reftable_clusters;
	uint64_t snapshots_offset;
	uint32_t snapshots;
	uint64_t incompatible, compatible, autoclear;
	uint32_t refcount_order;
	uint32_t length; /* of the header */
	uint32_t compression;
	uint64_t backing_offset;
	uint32_t backing_length; /* 0: no backing file */
};

/* What the extensions and the name behind them say. Empty strings: absent. */
struct qcow2_extensions {
	char backing[QCOW2_NAME_MAX + 1];
	char backing_format[QCOW2_FORMAT_NAME_MAX + 1];
	char data_file[QCOW2_NAME_MAX + 1];
	const uint8_t *feature_names; /* in the buffer that was parsed */
	uint32_t feature_names_length;
	uint32_t bitmaps; /* 0: none */
	uint64_t bitmap_directory_size, bitmap_directory_offset;
	uint64_t crypt_offset, crypt_length;
};

static inline uint64_t qcow2_cluster_size(const struct qcow2_header *header)
{
	return UINT64_C(1) << header->cluster_bits;
}

static inline bool qcow2_has_subclusters(const struct qcow2_header *header)
{
	return header->incompatible & QCOW2_INCOMPATIBLE_EXTENDED_L2;
}

static inline bool qcow2_has_data_file(const struct qcow2_header *header)
{
	return header->incompatible & QCOW2_INCOMPATIBLE_DATA_FILE;
}

/* Does the data file alone hold the disk? */
static inline bool qcow2_data_file_is_raw(const struct qcow2_header *header)
{
	return qcow2_has_data_file(header) && header->autoclear & QCOW2_AUTOCLEAR_RAW_DATA;
}

/* log2 of the entries of an L2 table. */
static inline unsigned int qcow2_l2_bits(const struct qcow2_header *header)
{
	return header->cluster_bits - (qcow2_has_subclusters(header) ? 4 : 3);
}

/* L1 entries that a disk of this size needs. */
uint64_t qcow2_l1_needed(const struct qcow2_header *header, uint64_t size);

/* Counters of a refcount block. */
static inline uint64_t qcow2_block_refcounts(const struct qcow2_header *header)
{
	return qcow2_cluster_size(header) * 8 >> header->refcount_order;
}

/*
 * The fixed part, from the first length bytes of the file. Unknown incompatible features are left
 * to qcow2_check_features(), which needs the extensions. 0 or -errno with err set.
 */
int qcow2_parse_header(const uint8_t *bytes, size_t length, struct qcow2_header *header,
		       struct error *err);

/* Extensions and backing name, from the first cluster; what lies beyond length reads as zeroes. */
int qcow2_parse_extensions(const uint8_t *bytes, size_t length, const struct qcow2_header *header,
			   struct qcow2_extensions *extensions, struct error *err);

/* -ENOTSUP naming each unknown incompatible feature. */
int qcow2_check_features(const struct qcow2_header *header,
			 const struct qcow2_extensions *extensions, struct error *err);

/* A table of entries at offset: aligned, inside the address space. */
bool qcow2_table_valid(const struct qcow2_header *header, uint64_t offset, uint64_t entries,
		       uint64_t entry_size);

/* ---- Guest cluster mapping ---- */

#define QCOW2_COPIED      (UINT64_C(1) << 63)
#define QCOW2_COMPRESSED  (UINT64_C(1) << 62)
#define QCOW2_ZERO        UINT64_C(1)
#define QCOW2_OFFSET_MASK UINT64_C(0x00fffffffffffe00)

/* An L2 entry in host byte order; bitmap is 0 without extended entries. */
struct qcow2_entry {
	uint64_t descriptor;
	uint64_t bitmap;
};

/*
 * An entry decoded. A plain cluster is one subcluster, an extended one is 32; the bit of a
 * subcluster is set in data (its bytes are at host), in zero (it reads as zeroes), or in neither
 * (it comes from the backing file).
 */
struct qcow2_mapping {
	bool has_host; /* a host cluster belongs to it */
	bool copied;   /* and to nobody else */
	bool compressed;
	uint64_t host; /* offset; of compressed data: its first byte */
	uint32_t compressed_length;
	uint32_t data, zero;
};

/* False when the entry breaks the format. */
bool qcow2_decode(const struct qcow2_header *header, struct qcow2_entry entry,
		  struct qcow2_mapping *mapping);
/* The entry of an uncompressed mapping. */
struct qcow2_entry qcow2_encode(const struct qcow2_header *header,
				const struct qcow2_mapping *mapping);

/* An L1 entry: false when it breaks the format. *table 0: no table. */
bool qcow2_decode_l1(const struct qcow2_header *header, uint64_t entry, uint64_t *table);

/* ---- Snapshots ---- */

struct qcow2_snapshot {
	uint64_t l1_offset;
	uint32_t l1_size;
	uint64_t size;     /* of the disk */
	const uint8_t *id; /* in the buffer that was parsed */
	const uint8_t *name;
	uint16_t id_length, name_length;
};

/* One entry of the table. Bytes used (rounded to 8), or -errno with err set; -ENODATA when the
 * buffer is too short. */
int64_t qcow2_parse_snapshot(const uint8_t *bytes, size_t length, const struct qcow2_header *header,
			     struct qcow2_snapshot *snapshot, struct error *err);

/* ---- Bitmaps ---- */

struct qcow2_bitmap {
	uint64_t table_offset;
	uint32_t table_size;
	bool in_use;    /* was not saved: what is on the disk is not true */
	bool automatic; /* records each write */
	bool strange;   /* says things that the format does not define */
	uint8_t granularity_bits;
	const uint8_t *name; /* in the buffer that was parsed */
	uint16_t name_length;
};

/* One entry of the directory: bytes used, or -EINVAL. */
int64_t qcow2_parse_bitmap(const uint8_t *bytes, size_t length, const struct qcow2_header *header,
			   struct qcow2_bitmap *bitmap);

/* Can a bitmap of a disk of this size be used? 0, or -errno with err set, the bitmap named. */
int qcow2_check_bitmap(const struct qcow2_bitmap *bitmap, const struct qcow2_header *header,
		       struct error *err);

/* A word of a bitmap's table: false when it breaks the format. *data: the offset of a cluster of
 * bits, or 0: all bits of the cluster are equal to *ones. */
bool qcow2_decode_bitmap_word(const struct qcow2_header *header, uint64_t word, uint64_t *data,
			      bool *ones);

/* From bit `at` on, how many of the first `count` bits are equal. The buffer has seven bytes of
 * slack behind it. */
uint64_t qcow2_equal_bits(const uint8_t *bits, uint64_t at, uint64_t count);

/* ---- Refcounts ---- */

uint64_t qcow2_refcount_get(const uint8_t *block, unsigned int order, uint64_t index);
void qcow2_refcount_set(uint8_t *block, unsigned int order, uint64_t index, uint64_t value);
static inline uint64_t qcow2_refcount_max(unsigned int order)
{
	return order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << order)) - 1;
}

#endif
