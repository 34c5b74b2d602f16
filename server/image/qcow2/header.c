// SPDX-License-Identifier: MIT
/*
 * The header, its extensions and its features. Pure functions; any thread.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/size.h"
#include "format.h"

#define OFFSET_LIMIT (UINT64_C(1) << 63)

uint64_t qcow2_l1_needed(const struct qcow2_header *header, uint64_t size)
{
	unsigned int shift = header->cluster_bits + qcow2_l2_bits(header);

	return (size >> shift) + ((size & ((UINT64_C(1) << shift) - 1)) != 0);
}

bool qcow2_table_valid(const struct qcow2_header *header, uint64_t offset, uint64_t entries,
		       uint64_t entry_size)
{
	uint64_t length, end;

	return !(offset & (qcow2_cluster_size(header) - 1)) &&
	       !size_mul_overflows(entries, entry_size, &length) &&
	       !size_add_overflows(offset, length, &end) && end < OFFSET_LIMIT;
}

/* ---- Header ---- */

static void read_fields(const uint8_t *bytes, struct qcow2_header *header)
{
	*header = (struct qcow2_header){
		.version = load_be32(bytes + 4),
		.backing_offset = load_be64(bytes + 8),
		.backing_length = load_be32(bytes + 16),
		.cluster_bits = load_be32(bytes + 20),
		.size = round_down(load_be64(bytes + 24), QCOW2_SECTOR),
		.crypt = load_be32(bytes + 32),
		.l1_size = load_be32(bytes + 36),
		.l1_offset = load_be64(bytes + 40),
		.reftable_offset = load_be64(bytes + QCOW2_AT_REFTABLE),
		.reftable_clusters = load_be32(bytes + 56),
		.snapshots = load_be32(bytes + 60),
		.snapshots_offset = load_be64(bytes + 64),
		.refcount_order = 4,
		.length = QCOW2_HEADER_V2,
	};
	if (!header->backing_offset)
		header->backing_length = 0;
}

static void read_fields_v3(const uint8_t *bytes, struct qcow2_header *header)
{
	header->incompatible = load_be64(bytes + QCOW2_AT_INCOMPATIBLE);
	header->compatible = load_be64(bytes + 80);
	header->autoclear = load_be64(bytes + QCOW2_AT_AUTOCLEAR);
	header->refcount_order = load_be32(bytes + 96);
	header->length = load_be32(bytes + 100);
	if (header->length > 104)
		header->compression = bytes[104];
}

static int check_geometry(const struct qcow2_header *header, struct error *err)
{
	if (header->cluster_bits < QCOW2_CLUSTER_BITS_MIN ||
	    header->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
		return error_set(err, EINVAL, "Unsupported cluster size: 2^%u",
				 header->cluster_bits);
	if (header->length < (header->version == 2 ? QCOW2_HEADER_V2 : QCOW2_HEADER_V3))
		return error_set(err, EINVAL, "qcow2 header too short");
	if (header->length > qcow2_cluster_size(header))
		return error_set(err, EINVAL, "qcow2 header exceeds cluster size");
	if (header->refcount_order > 6)
		return error_set(err, EINVAL,
				 "Reference count entry width too large; may not exceed 64 bits");
	if (header->crypt > QCOW2_CRYPT_LUKS)
		return error_set(err, EINVAL, "Unsupported encryption method %u", header->crypt);
	if (qcow2_has_subclusters(header) && header->cluster_bits < 14)
		return error_set(err, EINVAL, "Unsupported cluster size: 2^%u with extended L2",
				 header->cluster_bits);
	return 0;
}

static int check_compression(const struct qcow2_header *header, struct error *err)
{
	bool flagged = header->incompatible & QCOW2_INCOMPATIBLE_COMPRESSION;

	if (header->compression > QCOW2_ZSTD)
		return error_set(err, ENOTSUP, "Unknown compression type: %u", header->compression);
	if (flagged != (header->compression != QCOW2_DEFLATE))
		return error_set(err, EINVAL,
				 "The compression type and its feature bit do not agree");
	return 0;
}

static int check_names(const struct qcow2_header *header, struct error *err)
{
	if (header->backing_offset > qcow2_cluster_size(header))
		return error_set(err, EINVAL, "Invalid backing file offset");
	if (header->backing_length > QCOW2_NAME_MAX ||
	    header->backing_length > qcow2_cluster_size(header) - header->backing_offset)
		return error_set(err, EINVAL, "Backing file name too long");
	return 0;
}

static int check_tables(const struct qcow2_header *header, struct error *err)
{
	if (header->l1_size > QCOW2_L1_BYTES_MAX / 8)
		return error_set(err, EFBIG, "Active L1 table too large");
	if (!qcow2_table_valid(header, header->l1_offset, header->l1_size, 8))
		return error_set(err, EINVAL, "Active L1 table offset invalid");
	if (qcow2_l1_needed(header, header->size) > header->l1_size)
		return error_set(err, EINVAL, "L1 table is too small");
	if (!header->reftable_clusters)
		return error_set(err, EINVAL, "Image does not contain a reference count table");
	if ((uint64_t)header->reftable_clusters << header->cluster_bits > QCOW2_REFTABLE_BYTES_MAX)
		return error_set(err, EINVAL, "Reference count table too large");
	if (!qcow2_table_valid(header, header->reftable_offset, header->reftable_clusters,
			       qcow2_cluster_size(header)))
		return error_set(err, EINVAL, "Reference count table offset invalid");
	if (header->snapshots > QCOW2_SNAPSHOTS_MAX)
		return error_set(err, EINVAL, "Too many snapshots");
	if (!qcow2_table_valid(header, header->snapshots_offset, header->snapshots, 40))
		return error_set(err, EINVAL, "Snapshot table offset invalid");
	return 0;
}

static int check_data_file(const struct qcow2_header *header, struct error *err)
{
	if (!qcow2_has_data_file(header)) /* the bit means nothing then */
		return 0;
	if (qcow2_data_file_is_raw(header) && header->backing_length)
		return error_set(err, EINVAL,
				 "The image has a raw data file and a backing file, which exclude "
				 "each other");
	return 0;
}

int qcow2_parse_header(const uint8_t *bytes, size_t length, struct qcow2_header *header,
		       struct error *err)
{
	int (*const checks[])(const struct qcow2_header *, struct error *) = {
		check_geometry, check_compression, check_names, check_tables, check_data_file};

	if (length < QCOW2_HEADER_V2 || load_be32(bytes) != QCOW2_MAGIC)
		return error_set(err, EINVAL, "Image is not in qcow2 format");
	read_fields(bytes, header);
	if (header->version < 2 || header->version > 3)
		return error_set(err, ENOTSUP, "Unsupported qcow2 version %u", header->version);
	if (header->version == 3) {
		if (length < 112)
			return error_set(err, EINVAL, "qcow2 header too short");
		read_fields_v3(bytes, header);
	}
	for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
		int rc = checks[i](header, err);

		if (rc)
			return rc;
	}
	return 0;
}

/* ---- Extensions ---- */

enum extension_type {
	EXTENSION_END = 0,
	EXTENSION_BACKING_FORMAT = 0xe2792aca,
	EXTENSION_DATA_FILE = 0x44415441,
	EXTENSION_FEATURE_NAMES = 0x6803f857,
	EXTENSION_BITMAPS = 0x23852875,
	EXTENSION_CRYPT = 0x0537be77,
};

/* A string of exactly that length; an embedded NUL would hide a part of it from people. */
static int take_name(const uint8_t *bytes, uint32_t length, char *out, size_t out_size,
		     const char *what, struct error *err)
{
	if (length >= out_size || memchr(bytes, '\0', length))
		return error_set(err, EINVAL, "%s is too long or not a name", what);
	memcpy(out, bytes, length);
	out[length] = '\0';
	return 0;
}

static int take_bitmaps(const uint8_t *bytes, uint32_t length, const struct qcow2_header *header,
			struct qcow2_extensions *to, struct error *err)
{
	if (length != 24)
		return error_set(err, EINVAL, "bitmaps_ext: Invalid extension length");
	if (!(header->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		return 0; /* a program that knows nothing of bitmaps has written: they are void */
	to->bitmaps = load_be32(bytes);
	to->bitmap_directory_size = load_be64(bytes + 8);
	to->bitmap_directory_offset = load_be64(bytes + 16);
	if (load_be32(bytes + 4))
		return error_set(err, EINVAL, "bitmaps_ext: Reserved field is not zero");
	if (!to->bitmaps || to->bitmaps > QCOW2_BITMAPS_MAX)
		return error_set(err, EINVAL, "bitmaps_ext: invalid number of bitmaps");
	if (to->bitmap_directory_size > (uint64_t)to->bitmaps * QCOW2_BITMAP_DIRECTORY_EACH)
		return error_set(err, EINVAL, "bitmaps_ext: the bitmap directory is too large");
	if (!to->bitmap_directory_offset ||
	    !qcow2_table_valid(header, to->bitmap_directory_offset, to->bitmap_directory_size, 1))
		return error_set(err, EINVAL, "bitmaps_ext: invalid bitmap directory offset");
	return 0;
}

static int take_crypt(const uint8_t *bytes, uint32_t length, const struct qcow2_header *header,
		      struct qcow2_extensions *to, struct error *err)
{
	if (length != 16)
		return error_set(err, EINVAL, "encryption header extension of a wrong length");
	to->crypt_offset = load_be64(bytes);
	to->crypt_length = load_be64(bytes + 8);
	if (!to->crypt_offset || to->crypt_length > QCOW2_CRYPT_HEADER_MAX ||
	    !qcow2_table_valid(header, to->crypt_offset, to->crypt_length, 1))
		return error_set(err, EINVAL, "encryption header offset is invalid");
	return 0;
}

static int take_extension(uint32_t type, const uint8_t *bytes, uint32_t length,
			  const struct qcow2_header *header, struct qcow2_extensions *to,
			  struct error *err)
{
	switch (type) {
	case EXTENSION_BACKING_FORMAT:
		return take_name(bytes, length, to->backing_format, sizeof(to->backing_format),
				 "the name of the backing format", err);
	case EXTENSION_DATA_FILE:
		return take_name(bytes, length, to->data_file, sizeof(to->data_file),
				 "the name of the data file", err);
	case EXTENSION_FEATURE_NAMES:
		to->feature_names = bytes;
		to->feature_names_length = length;
		return 0;
	case EXTENSION_BITMAPS:
		return take_bitmaps(bytes, length, header, to, err);
	case EXTENSION_CRYPT:
		return take_crypt(bytes, length, header, to, err);
	default:
		return 0; /* unknown ones are ignored */
	}
}

static int take_backing(const uint8_t *bytes, size_t length, const struct qcow2_header *header,
			struct qcow2_extensions *to, struct error *err)
{
	if (!header->backing_length)
		return 0;
	if (!range_inside(header->backing_offset, header->backing_length, length))
		return error_set(err, EINVAL, "Could not read backing file name");
	return take_name(bytes + header->backing_offset, header->backing_length, to->backing,
			 sizeof(to->backing), "the name of the backing file", err);
}

int qcow2_parse_extensions(const uint8_t *bytes, size_t length, const struct qcow2_header *header,
			   struct qcow2_extensions *extensions, struct error *err)
{
	uint64_t limit =
		header->backing_offset ? header->backing_offset : qcow2_cluster_size(header);
	uint64_t at = header->length, end = min_of(limit, (uint64_t)length);

	memset(extensions, 0, sizeof(*extensions));
	while (range_inside(at, 8, end)) {
		uint32_t type = load_be32(bytes + at), size = load_be32(bytes + at + 4);
		int rc;

		if (type == EXTENSION_END)
			break;
		if (!range_inside(at + 8, size, end))
			return error_set(err, EINVAL, "Header extension too large");
		rc = take_extension(type, bytes + at + 8, size, header, extensions, err);
		if (rc)
			return rc;
		at += 8 + round_up(size, 8);
	}
	return take_backing(bytes, length, header, extensions, err);
}

/* ---- Features ---- */

/* The image's own name for an incompatible feature, or "Unknown incompatible feature: mask". */
static void feature_name(const struct qcow2_extensions *extensions, unsigned int bit, char *out,
			 size_t out_size)
{
	for (uint32_t at = 0; at + 48 <= extensions->feature_names_length; at += 48) {
		const uint8_t *row = extensions->feature_names + at;

		if (row[0] == 0 && row[1] == bit) {
			snprintf(out, out_size, "%.46s", (const char *)row + 2);
			return;
		}
	}
	snprintf(out, out_size, "Unknown incompatible feature: %llx", 1ULL << bit);
}

int qcow2_check_features(const struct qcow2_header *header,
			 const struct qcow2_extensions *extensions, struct error *err)
{
	uint64_t unknown = header->incompatible & ~(uint64_t)QCOW2_INCOMPATIBLE_KNOWN;

	if (!unknown)
		return 0;
	error_set(err, ENOTSUP, "Unsupported qcow2 feature(s): ");
	for (unsigned int bit = 0, shown = 0; bit < 64; bit++) {
		char name[64];

		if (!(unknown & (UINT64_C(1) << bit)))
			continue;
		feature_name(extensions, bit, name, sizeof(name));
		error_hint(err, "%s%s", shown++ ? ", " : "", name);
	}
	return -ENOTSUP;
}
