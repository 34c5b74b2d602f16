// SPDX-License-Identifier: MIT
/* The qcow2 format: entries decoded and encoded, refcounts packed, snapshot and bitmap entries. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/image/qcow2/format.h"

static const struct qcow2_header v3 = {.version = 3, .cluster_bits = 16};
static const struct qcow2_header v2 = {.version = 2, .cluster_bits = 16};
static const struct qcow2_header extended = {
	.version = 3, .cluster_bits = 16, .incompatible = QCOW2_INCOMPATIBLE_EXTENDED_L2};
static const struct qcow2_header with_data_file = {
	.version = 3, .cluster_bits = 16, .incompatible = QCOW2_INCOMPATIBLE_DATA_FILE};

static bool decode(const struct qcow2_header *header, uint64_t descriptor, uint64_t bitmap,
		   struct qcow2_mapping *mapping)
{
	return qcow2_decode(header, (struct qcow2_entry){descriptor, bitmap}, mapping);
}

START_TEST(test_plain_entries)
{
	struct qcow2_mapping m;

	ck_assert(decode(&v3, 0, 0, &m));
	ck_assert(!m.has_host && !m.data && !m.zero && !m.compressed && !m.copied);
	ck_assert(decode(&v3, QCOW2_COPIED | 0x50000, 0, &m));
	ck_assert(m.has_host && m.copied && m.data == 1 && m.host == 0x50000);
	ck_assert(decode(&v3, 1, 0, &m));
	ck_assert(!m.has_host && m.zero == 1 && !m.data);
	ck_assert(decode(&v3, QCOW2_COPIED | 0x50001, 0, &m));
	ck_assert(m.has_host && m.zero == 1 && !m.data && m.host == 0x50000);
}
END_TEST

START_TEST(test_broken_entries)
{
	struct qcow2_mapping m;

	ck_assert(!decode(&v2, 1, 0, &m)); /* version 2 has no zero clusters */
	ck_assert(!decode(&v3, 0x50200, 0, &m));
	for (int bit = 1; bit <= 8; bit++)
		ck_assert(!decode(&v3, 0x50000 | UINT64_C(1) << bit, 0, &m));
	for (int bit = 56; bit <= 61; bit++)
		ck_assert(!decode(&v3, 0x50000 | UINT64_C(1) << bit, 0, &m));
	ck_assert(!decode(&extended, 0x50001, 0, &m));
	ck_assert(!decode(&extended, 0x50000, UINT64_C(0x100000001), &m)); /* data and zero */
	ck_assert(!decode(&extended, 0, 1, &m));                           /* data nowhere */
	ck_assert(decode(&extended, 0, UINT64_C(1) << 32, &m));
	ck_assert(!decode(&extended, QCOW2_COMPRESSED | 0x50000, 1, &m));
	ck_assert(!decode(&with_data_file, QCOW2_COMPRESSED | 0x50000, 0, &m));
}
END_TEST

START_TEST(test_data_file_at_zero)
{
	struct qcow2_mapping m;

	ck_assert(decode(&with_data_file, QCOW2_COPIED, 0, &m));
	ck_assert(m.has_host && m.data == 1 && m.host == 0);
	ck_assert(decode(&with_data_file, 0, 0, &m));
	ck_assert(!m.has_host);
}
END_TEST

/* cluster_bits, descriptor, offset, bytes to read */
static const struct {
	unsigned int bits;
	uint64_t descriptor, host;
	uint32_t length;
} compressed[] = {
	{16, 0x12345, 0x12345, 512 - 0x145},
	{16, UINT64_C(3) << 54 | 0x12200, 0x12200, 4 * 512},
	{9, UINT64_C(1) << 61 | 0x1ff, 0x1ff, 512 + 1},
	{21, UINT64_C(0x1fff) << 49 | 0x200, 0x200, 0x2000 * 512},
};

START_TEST(test_compressed)
{
	struct qcow2_header header = {.version = 3, .cluster_bits = compressed[_i].bits};
	struct qcow2_mapping m;

	ck_assert(decode(&header, QCOW2_COMPRESSED | compressed[_i].descriptor, 0, &m));
	ck_assert(m.compressed && !m.has_host && !m.copied);
	ck_assert_uint_eq(m.host, compressed[_i].host);
	ck_assert_uint_eq(m.compressed_length, compressed[_i].length);
}
END_TEST

START_TEST(test_encode_is_the_inverse)
{
	static const struct qcow2_entry entries[] = {{0, 0},
						     {1, 0},
						     {QCOW2_COPIED | 0x70000, 0},
						     {QCOW2_COPIED | 0x70001, 0},
						     {0x70000, 0}};
	static const struct qcow2_entry wide[] = {
		{0, 0},
		{QCOW2_COPIED | 0x70000, 0xff},
		{0, UINT64_C(0xffffffff) << 32},
		{QCOW2_COPIED | 0x70000, UINT64_C(0xf0) << 32 | 0xf}};
	struct qcow2_mapping m;

	for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
		ck_assert(qcow2_decode(&v3, entries[i], &m));
		ck_assert_uint_eq(qcow2_encode(&v3, &m).descriptor, entries[i].descriptor);
	}
	for (size_t i = 0; i < sizeof(wide) / sizeof(wide[0]); i++) {
		ck_assert(qcow2_decode(&extended, wide[i], &m));
		ck_assert_uint_eq(qcow2_encode(&extended, &m).descriptor, wide[i].descriptor);
		ck_assert_uint_eq(qcow2_encode(&extended, &m).bitmap, wide[i].bitmap);
	}
}
END_TEST

START_TEST(test_l1_entries)
{
	uint64_t table;

	ck_assert(qcow2_decode_l1(&v3, QCOW2_COPIED | 0x40000, &table));
	ck_assert_uint_eq(table, 0x40000);
	ck_assert(!qcow2_decode_l1(&v3, 0x40200, &table));
	ck_assert(!qcow2_decode_l1(&v3, QCOW2_COMPRESSED | 0x40000, &table));
	ck_assert(!qcow2_decode_l1(&v3, 0x40001, &table));
}
END_TEST

/* Each width: values at neighbouring places do not disturb each other. */
START_TEST(test_refcounts)
{
	unsigned int order = (unsigned int)_i;
	uint64_t max = qcow2_refcount_max(order);
	uint8_t block[512] = {0};

	for (uint64_t i = 0; i < 32; i++)
		qcow2_refcount_set(block, order, i, i % 3 ? max : 0);
	for (uint64_t i = 0; i < 32; i++)
		ck_assert_uint_eq(qcow2_refcount_get(block, order, i), i % 3 ? max : 0);
	qcow2_refcount_set(block, order, 4, 1);
	ck_assert_uint_eq(qcow2_refcount_get(block, order, 3), 0);
	ck_assert_uint_eq(qcow2_refcount_get(block, order, 4), 1);
	ck_assert_uint_eq(qcow2_refcount_get(block, order, 5), max);
}
END_TEST

START_TEST(test_narrow_refcounts_begin_low)
{
	uint8_t block[2] = {0};

	qcow2_refcount_set(block, 1, 1, 3);
	ck_assert_uint_eq(block[0], 0x0c);
	qcow2_refcount_set(block, 0, 9, 1);
	ck_assert_uint_eq(block[1], 0x02);
}
END_TEST

START_TEST(test_snapshot)
{
	uint8_t bytes[80] = {0};
	struct qcow2_header header = v3;
	struct qcow2_snapshot snapshot;

	header.size = 1 << 20;
	store_be64(bytes, 0x30000);
	store_be32(bytes + 8, 1);
	store_be16(bytes + 12, 1);
	store_be16(bytes + 14, 4);
	store_be32(bytes + 36, 16);
	store_be64(bytes + 48, 2 << 20);
	memcpy(bytes + 56, "7name", 5);
	ck_assert_int_eq(qcow2_parse_snapshot(bytes, 80, &header, &snapshot, NULL), 64);
	ck_assert_uint_eq(snapshot.size, 2 << 20);
	ck_assert_int_eq(memcmp(snapshot.id, "7", 1), 0);
	ck_assert_int_eq(memcmp(snapshot.name, "name", 4), 0);
	ck_assert_int_eq(qcow2_parse_snapshot(bytes, 60, &header, &snapshot, NULL), -ENODATA);
	store_be32(bytes + 36, QCOW2_SNAPSHOT_EXTRA_MAX + 1);
	ck_assert_int_eq(qcow2_parse_snapshot(bytes, 80, &header, &snapshot, NULL), -EINVAL);
	store_be32(bytes + 36, 8); /* version 3 must tell the size */
	ck_assert_int_eq(qcow2_parse_snapshot(bytes, 80, &header, &snapshot, NULL), -EINVAL);
	header.version = 2;
	ck_assert_int_eq(qcow2_parse_snapshot(bytes, 80, &header, &snapshot, NULL), 56);
	ck_assert_uint_eq(snapshot.size, 1 << 20);
	store_be32(bytes + 8, 0);
	ck_assert_int_eq(qcow2_parse_snapshot(bytes, 80, &header, &snapshot, NULL), -EINVAL);
}
END_TEST

START_TEST(test_bitmap)
{
	uint8_t bytes[64] = {0};
	struct qcow2_bitmap bitmap;

	store_be64(bytes, 0x30000);
	store_be32(bytes + 8, 3);
	store_be32(bytes + 12, 2);
	store_be16(bytes + 18, 5);
	ck_assert_int_eq(qcow2_parse_bitmap(bytes, 64, &v3, &bitmap), 32);
	ck_assert(bitmap.automatic && !bitmap.in_use && bitmap.table_size == 3);
	ck_assert_int_eq(qcow2_parse_bitmap(bytes, 31, &v3, &bitmap), -EINVAL);
	store_be32(bytes + 20, UINT32_MAX);
	ck_assert_int_eq(qcow2_parse_bitmap(bytes, 64, &v3, &bitmap), -EINVAL);
}
END_TEST

/* Can a bitmap of a disk of 3 GiB with 64 KiB clusters be used? One word covers 2^19 bits. */
static const struct {
	unsigned int flags, type, bits, words, extra;
	int result;
} usable[] = {
	{0, 1, 16, 1, 0, 0},        {2, 1, 16, 1, 0, 0},        {4, 1, 16, 1, 8, 0},
	{0, 1, 9, 12, 0, 0},        {0, 1, 12, 2, 0, 0},        {0, 1, 31, 1, 0, 0},
	{1, 1, 16, 1, 0, -EINVAL},  {8, 1, 16, 1, 0, -ENOTSUP}, {0, 2, 16, 1, 0, -ENOTSUP},
	{0, 1, 16, 1, 8, -ENOTSUP}, {0, 1, 8, 24, 0, -EINVAL},  {0, 1, 32, 1, 0, -EINVAL},
	{0, 1, 9, 11, 0, -EINVAL},  {0, 1, 9, 13, 0, -EINVAL},  {0, 1, 16, 0, 0, -EINVAL},
	{0, 1, 9, 8193, 0, -EFBIG},
};

START_TEST(test_bitmap_check)
{
	const struct qcow2_header header = {
		.version = 3, .cluster_bits = 16, .size = UINT64_C(3) << 30};
	struct error err = ERROR_INIT;
	uint8_t bytes[64] = {0};
	struct qcow2_bitmap bitmap;

	store_be64(bytes, 0x30000);
	store_be32(bytes + 8, usable[_i].words);
	store_be32(bytes + 12, usable[_i].flags);
	bytes[16] = (uint8_t)usable[_i].type;
	bytes[17] = (uint8_t)usable[_i].bits;
	store_be16(bytes + 18, 4);
	store_be32(bytes + 20, usable[_i].extra);
	memcpy(bytes + 24 + usable[_i].extra, "name", 4);
	ck_assert_int_gt(qcow2_parse_bitmap(bytes, 64, &header, &bitmap), 0);
	ck_assert_int_eq(qcow2_check_bitmap(&bitmap, &header, &err), usable[_i].result);
	ck_assert(!usable[_i].result || strstr(err.text, "Bitmap 'name'"));
}
END_TEST

START_TEST(test_bitmap_words)
{
	static const struct {
		uint64_t word, data;
		bool good, ones;
	} rows[] = {
		{0, 0, true, false},
		{1, 0, true, true},
		{0x30000, 0x30000, true, false},
		{0x30001, 0x30000, false, true},
		{2, 0, false, false},
		{0x30200, 0x30200, false, false},
		{UINT64_C(1) << 56, 0, false, false},
		{UINT64_C(1) << 63, 0, false, false},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t data;
		bool ones;

		ck_assert_int_eq(qcow2_decode_bitmap_word(&v3, rows[i].word, &data, &ones),
				 rows[i].good);
		ck_assert_uint_eq(data, rows[i].data);
		ck_assert_int_eq(ones, rows[i].ones);
	}
}
END_TEST

/* Against the slow way, from each bit on. */
START_TEST(test_equal_bits)
{
	enum { BYTES = 40 };
	uint8_t bits[BYTES + 7];

	for (size_t i = 0; i < sizeof(bits); i++) /* runs of many lengths, the slack noisy */
		bits[i] = i % 13 < 4 ? 0 : i % 13 < 9 ? 0xff : (uint8_t)(i * 37);
	for (unsigned int at = 0; at < BYTES * 8; at++) {
		unsigned int end = at;

		while (end < BYTES * 8 - 3 &&
		       (bits[end / 8] >> end % 8 & 1) == (bits[at / 8] >> at % 8 & 1))
			end++;
		if (at < BYTES * 8 - 3)
			ck_assert_uint_eq(qcow2_equal_bits(bits, at, BYTES * 8 - 3), end - at);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("qcow2 format");
	TCase *tests = tcase_create("entries");
	SRunner *runner;
	int failed;

	tcase_add_test(tests, test_plain_entries);
	tcase_add_test(tests, test_broken_entries);
	tcase_add_test(tests, test_data_file_at_zero);
	tcase_add_loop_test(tests, test_compressed, 0, sizeof(compressed) / sizeof(compressed[0]));
	tcase_add_test(tests, test_encode_is_the_inverse);
	tcase_add_test(tests, test_l1_entries);
	tcase_add_loop_test(tests, test_refcounts, 0, 7);
	tcase_add_test(tests, test_narrow_refcounts_begin_low);
	tcase_add_test(tests, test_snapshot);
	tcase_add_test(tests, test_bitmap);
	tcase_add_loop_test(tests, test_bitmap_check, 0, sizeof(usable) / sizeof(usable[0]));
	tcase_add_test(tests, test_bitmap_words);
	tcase_add_test(tests, test_equal_bits);
	suite_add_tcase(suite, tests);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
