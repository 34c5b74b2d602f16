// SPDX-License-Identifier: MIT
/*
 * Partition tables on a disk in memory: what the words of -P mean, the edges of numbers that no
 * real disk has, and reads that fail. Tables of real tools are in tests/e2e/partitions.py.
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "common/bytes.h"
#include "server/partition/partition.h"

/* A few blocks that hold bytes, on a disk of any size. */
static struct {
	uint64_t offset;
	uint8_t bytes[512];
} blocks[256];
static size_t block_count;
static uint64_t fail_at; /* a read of this byte fails */
static uint64_t size;
static uint32_t sector;
static bool writable;
static struct partition found;
static struct error err;

static void setup(void)
{
	block_count = 0;
	fail_at = UINT64_MAX;
	size = 1 << 20;
	sector = 0;
	writable = true;
	err = (struct error)ERROR_INIT;
}

static uint8_t *block_at(uint64_t offset)
{
	ck_assert_uint_eq(offset % 512, 0);
	for (size_t i = 0; i < block_count; i++)
		if (blocks[i].offset == offset)
			return blocks[i].bytes;
	ck_assert_uint_lt(block_count, sizeof(blocks) / sizeof(blocks[0]));
	blocks[block_count].offset = offset;
	memset(blocks[block_count].bytes, 0, 512);
	return blocks[block_count++].bytes;
}

static int read_blocks(void *context, void *buffer, uint64_t offset, uint64_t length)
{
	ck_assert_ptr_eq(context, blocks);
	ck_assert(offset <= size && length <= size - offset);
	if (fail_at >= offset && fail_at - offset < length)
		return -EIO;
	memset(buffer, 0, length);
	for (size_t i = 0; i < block_count; i++)
		for (size_t n = 0; n < 512; n++)
			if (blocks[i].offset + n >= offset &&
			    blocks[i].offset + n - offset < length)
				((uint8_t *)buffer)[blocks[i].offset + n - offset] =
					blocks[i].bytes[n];
	return 0;
}

static int find(const char *text)
{
	struct partition_disk disk = {.read = read_blocks,
				      .context = blocks,
				      .size = size,
				      .sector = sector,
				      .writable = writable};
	struct partition_choice choice;

	ck_assert_int_eq(partition_parse(text, &choice, &err), 0);
	return partition_find(&disk, &choice, &found, &err);
}

static void assert_found(const char *text, uint32_t number, uint64_t offset, uint64_t length)
{
	int rc = find(text);

	ck_assert_msg(rc == 0, "%s: %s", text, err.text);
	ck_assert_uint_eq(found.number, number);
	ck_assert_uint_eq(found.offset, offset);
	ck_assert_uint_eq(found.length, length);
}

static void assert_refused(const char *text, int rc, const char *words)
{
	ck_assert_int_eq(find(text), rc);
	ck_assert_msg(strstr(err.text, words), "%s", err.text);
}

static void put64(uint8_t *at, uint64_t value)
{
	store_le32(at, (uint32_t)value);
	store_le32(at + 4, (uint32_t)(value >> 32));
}

/* ---- MBR ---- */

static void put_entry(uint64_t record, int index, uint8_t type, uint32_t start, uint32_t count)
{
	uint8_t *block = block_at(record), *at = block + 446 + 16 * index;

	block[510] = 0x55;
	block[511] = 0xaa;
	at[4] = type;
	store_le32(at + 8, start);
	store_le32(at + 12, count);
}

START_TEST(test_mbr)
{
	put_entry(0, 0, 0x83, 8, 8);
	put_entry(0, 3, 0x07, 16, 2032);
	assert_found("1", 1, 8 * 512, 8 * 512);
	assert_found("4", 4, 16 * 512, 2032 * 512);
	assert_refused("2", -ENOENT, "Could not find partition 2: No such file or directory");
	assert_refused("5", -ENOENT, "Could not find partition 5: No such file or directory");
	assert_refused("4294967295", -ENOENT, "No such file or directory");
	put_entry(0, 3, 0x07, 16, 2033);
	assert_refused("4", -EINVAL,
		       "Discovered partition 4 at offset 8192 size 1040896, but size exceeds file "
		       "length 1048576");
}
END_TEST

START_TEST(test_mbr_largest)
{
	uint64_t start = UINT64_C(0xffffffff) * 4096;

	put_entry(0, 0, 0x83, UINT32_MAX, UINT32_MAX);
	size = 2 * start;
	assert_found("sector=4096,1", 1, start, start);
	sector = 4096;
	assert_found("1", 1, start, start);
	assert_found("sector=512,1", 1, start / 8, start / 8);
	sector = 0;
	assert_found("1", 1, start / 8, start / 8);
	size--;
	assert_refused("sector=4096,1", -EINVAL, "exceeds file length");
	size = INT64_MAX;
	put_entry(0, 1, 0x0f, UINT32_MAX, UINT32_MAX);
	put_entry(start, 0, 0x83, 1, 1);
	put_entry(start, 1, 0x05, UINT32_MAX - 1, 1);
	put_entry(start + start - 4096, 0, 0x83, UINT32_MAX, UINT32_MAX);
	assert_refused("sector=4096,6", -EINVAL, "reaches out of its extended partition");
	put_entry(0, 0, 0x83, 1, 1);
	assert_found("sector=4096,5", 5, start + 4096, 4096);
}
END_TEST

/* What a kernel's own sectors are is never overruled by what the disk looks like. */
START_TEST(test_mbr_sector_of_disk)
{
	put_entry(0, 0, 0x83, 8, 8);
	memcpy(block_at(8 * 4096), "XFSB", 4);
	assert_found("1", 1, 8 * 4096, 8 * 4096);
	ck_assert(strstr(found.warning, "4096"));
	sector = 512;
	assert_found("1", 1, 8 * 512, 8 * 512);
	ck_assert_str_eq(found.warning, "");
	sector = 520; /* no table counts so */
	assert_found("1", 1, 8 * 4096, 8 * 4096);
}
END_TEST

START_TEST(test_mbr_shared)
{
	put_entry(0, 0, 0x83, 8, 8);
	put_entry(0, 1, 0x83, 15, 1);
	put_entry(0, 2, 0x83, 16, 1);
	assert_refused("1", -EINVAL, "it shares bytes with partition 2; use --read-only");
	assert_refused("2", -EINVAL, "it shares bytes with partition 1");
	assert_found("3", 3, 16 * 512, 512);
	writable = false;
	assert_found("1", 1, 8 * 512, 8 * 512);
}
END_TEST

/* The kernel numbers the data partitions of all extended ones through, wherever they stand. */
START_TEST(test_mbr_chain)
{
	put_entry(0, 1, 0x05, 100, 100);
	put_entry(0, 2, 0x85, 300, 100);
	put_entry(100 * 512, 0, 0x05, 20, 10); /* as DR-DOS: the link first */
	put_entry(100 * 512, 1, 0x83, 1, 5);
	put_entry(100 * 512, 3, 0x83, 5000, 5); /* garbage */
	put_entry(120 * 512, 2, 0x83, 3, 2);
	put_entry(300 * 512, 0, 0x83, 1, 1);
	assert_found("5", 5, 101 * 512, 5 * 512);
	assert_found("6", 6, 123 * 512, 2 * 512);
	assert_found("7", 7, 301 * 512, 512);
	assert_refused("8", -ENOENT, "No such file");
	assert_refused("2", -EINVAL, "extended partition");
	fail_at = 120 * 512;
	assert_refused("5", -EIO, "the record of logical partitions at byte 61440: Input/output");
}
END_TEST

START_TEST(test_mbr_read_error)
{
	put_entry(0, 0, 0x83, 8, 8);
	fail_at = 511;
	assert_refused("1", -EIO, "the first sector: Input/output error");
	fail_at = 8 * 512 + 1080; /* looking for a file system: not needed */
	assert_found("1", 1, 8 * 512, 8 * 512);
}
END_TEST

/* ---- GPT ---- */

enum { ENTRIES = 4 };

static void put_gpt(uint64_t at, uint64_t alternate, uint64_t entries_at, uint64_t first,
		    uint64_t last)
{
	uint8_t *header = block_at(at * 512), *entries = block_at(entries_at * 512);

	memcpy(header, "EFI PART", 8);
	store_le32(header + 8, 0x10000);
	store_le32(header + 12, 92);
	put64(header + 24, at);
	put64(header + 32, alternate);
	put64(header + 40, first);
	put64(header + 48, last);
	put64(header + 72, entries_at);
	store_le32(header + 80, ENTRIES);
	store_le32(header + 84, 128);
	store_le32(header + 88, (uint32_t)crc32(0, entries, ENTRIES * 128));
	store_le32(header + 16, 0);
	store_le32(header + 16, (uint32_t)crc32(0, header, 92));
}

static void put_gpt_entry(uint64_t entries_at, int index, uint64_t first, uint64_t last)
{
	uint8_t *entry = block_at(entries_at * 512) + 128 * index;

	entry[0] = 1;
	entry[16] = (uint8_t)index;
	put64(entry + 32, first);
	put64(entry + 40, last);
}

static void put_both(uint64_t last_sector)
{
	put_entry(0, 0, 0xee, 1, UINT32_MAX);
	put_gpt(1, last_sector, 2, 8, last_sector - 2);
	memcpy(block_at((last_sector - 1) * 512), block_at(1024), 512);
	put_gpt(last_sector, 1, last_sector - 1, 8, last_sector - 2);
}

START_TEST(test_gpt)
{
	put_gpt_entry(2, 0, 8, 8);
	put_gpt_entry(2, 3, 9, 2045);
	put_both(2047);
	assert_found("1", 1, 8 * 512, 512);
	assert_found("4", 4, 9 * 512, 2037 * 512);
	assert_found("uuid=00000003-0000-0000-0000-000000000000", 4, 9 * 512, 2037 * 512);
	assert_refused("3", -ENOENT, "Could not find partition 3: No such file or directory");
	ck_assert_str_eq(found.warning, "");
	fail_at = 600;
	assert_found("1", 1, 8 * 512, 512);
	ck_assert_str_eq(found.warning, "the GPT is damaged (cannot be read); its backup is used");
	fail_at = 1100;
	assert_found("1", 1, 8 * 512, 512);
	ck_assert(strstr(found.warning, "entries cannot be read"));
}
END_TEST

/* The largest disk that there can be, and numbers beyond it. */
START_TEST(test_gpt_largest)
{
	uint64_t last = (UINT64_C(1) << 54) - 1;

	size = INT64_MAX; /* one byte short of the last sector */
	put_gpt_entry(2, 0, 8, last - 3);
	put_both(last - 1);
	assert_found("1", 1, 8 * 512, (last - 3 - 8 + 1) * 512);
	put_gpt_entry(2, 0, 8, UINT64_MAX);
	put_both(last - 1);
	assert_refused("1", -EINVAL, "it ends behind all disks");
	put_gpt_entry(2, 0, UINT64_MAX, UINT64_MAX);
	put_both(last - 1);
	assert_refused("1", -EINVAL, "it ends behind all disks");
	put_gpt_entry(2, 0, 8, UINT64_MAX / 512 - 1);
	put_both(last - 1);
	assert_refused("1", -EINVAL, "exceeds file length");
	put_gpt_entry(2, 0, 8, 9);
	put_gpt_entry(2, 1, 0, UINT64_MAX); /* claims everything */
	put_both(last - 1);
	assert_refused("1", -EINVAL, "it shares bytes with partition 2");
	put_gpt_entry(2, 1, UINT64_MAX, 0); /* and nothing */
	put_both(last - 1);
	assert_found("1", 1, 8 * 512, 1024);
}
END_TEST

/* Labels are UTF-16 without an end when they are full. */
START_TEST(test_gpt_labels)
{
	static const uint16_t units[] = {'a', 0xe4, 0x20ac, 0xd83d, 0xde42, 0xd83d, 0xdc00};
	uint8_t *name = block_at(1024) + 56;

	put_gpt_entry(2, 0, 8, 8);
	for (int i = 0; i < 36; i++) {
		uint16_t unit = i < 7 ? units[i] : 'z';

		name[2 * i] = (uint8_t)unit;
		name[2 * i + 1] = (uint8_t)(unit >> 8);
	}
	put_both(2047);
	assert_found("label=a\u00e4\u20ac\U0001f642\U0001f400zzzzzzzzzzzzzzzzzzzzzzzzzzzzz", 1,
		     8 * 512, 512);
	assert_refused("label=a", -ENOENT, "Could not find partition label=a: No such file");
}
END_TEST

START_TEST(test_gpt_tiny_disks)
{
	put_both(2047);
	for (size = 0; size < 4096; size += size < 1026 ? 1 : 511)
		ck_assert_int_eq(find("1"), -EINVAL);
}
END_TEST

/* ---- Words ---- */

START_TEST(test_parse)
{
	struct partition_choice choice;

	ck_assert_int_eq(partition_parse("12", &choice, &err), 0);
	ck_assert_uint_eq(choice.number, 12);
	ck_assert_uint_eq(choice.sector, 0);
	ck_assert_ptr_null(choice.label);
	ck_assert_int_eq(partition_parse("sector=4096,label=a,b=c", &choice, &err), 0);
	ck_assert_str_eq(choice.label, "a,b=c");
	ck_assert_uint_eq(choice.sector, 4096);
	ck_assert_uint_eq(choice.number, 0);
	ck_assert_int_eq(partition_parse("uuid=x", &choice, &err), 0);
	ck_assert_str_eq(choice.uuid, "x");
	ck_assert_int_eq(partition_parse("x", &choice, &err), -EINVAL);
	ck_assert_str_eq(err.text, "Invalid partition `x'");
	ck_assert_int_eq(partition_parse("0", &choice, &err), -EINVAL);
	ck_assert_str_eq(err.text, "Invalid partition 0");
	ck_assert_int_eq(partition_parse("4294967296", &choice, &err), -EINVAL);
	ck_assert_int_eq(partition_parse("sector=1024,1", &choice, &err), -EINVAL);
	ck_assert_int_eq(partition_parse("label=", &choice, &err), -EINVAL);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("partition");
	TCase *all = tcase_create("all");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(all, setup, NULL);
	tcase_add_test(all, test_mbr);
	tcase_add_test(all, test_mbr_largest);
	tcase_add_test(all, test_mbr_sector_of_disk);
	tcase_add_test(all, test_mbr_shared);
	tcase_add_test(all, test_mbr_chain);
	tcase_add_test(all, test_mbr_read_error);
	tcase_add_test(all, test_gpt);
	tcase_add_test(all, test_gpt_largest);
	tcase_add_test(all, test_gpt_labels);
	tcase_add_test(all, test_gpt_tiny_disks);
	tcase_add_test(all, test_parse);
	suite_add_tcase(suite, all);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
