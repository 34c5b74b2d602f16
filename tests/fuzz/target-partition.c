// SPDX-License-Identifier: MIT
/*
 * Partition tables. The input: what is looked for (flags, number), the size of the disk, and then
 * pieces of it (a sector from the begin or the end, a length, bytes); the rest reads as zeroes.
 * Checksums are made right on the way when the flags say so, else no mutation gets beyond them.
 */
#include <errno.h>
#include <zlib.h>

#include "common/bytes.h"
#include "common/size.h"
#include "fuzz.h"
#include "server/partition/partition.h"

enum {
	FLAG_SIGN = 1,     /* headers get the checksums that they need */
	FLAG_WRITABLE = 2, /* the partition will be written */
	FLAG_LARGE = 4,    /* the disk says 4096 */
	FLAG_SAY = 8,      /* the user says 512 */
	FLAG_FAIL = 16,    /* the second sector cannot be read */
	PREFIX = 10,
	PIECE = 6,
	SIGN_MAX = 1 << 16, /* bytes of entries that are signed */
};

struct disk {
	const uint8_t *pieces;
	size_t length;
	uint64_t size;
	uint8_t flags;
	unsigned int reads;
};

static void read_plain(const struct disk *disk, uint8_t *buffer, uint64_t offset, uint64_t length)
{
	const uint8_t *at = disk->pieces, *end = at + disk->length;

	memset(buffer, 0, length);
	while (end - at > PIECE) {
		uint32_t where = load_be32(at);
		size_t bytes = load_be16(at + 4);
		uint64_t place = where & UINT32_C(1) << 31
					 ? disk->size - (uint64_t)(where & 0x7fffffff) * 512
					 : (uint64_t)where * 512;

		at += PIECE;
		bytes = min_of(bytes, (size_t)(end - at));
		for (size_t i = 0; i < bytes; i++)
			if (place + i - offset < length)
				buffer[place + i - offset] = at[i];
		at += bytes;
	}
}

static void sign(const struct disk *disk, uint8_t *header, uint64_t sector)
{
	uint64_t entries =
		(load_le32(header + 72) | (uint64_t)load_le32(header + 76) << 32) * sector;
	uint64_t bytes = (uint64_t)load_le32(header + 80) * load_le32(header + 84);
	uint32_t size = load_le32(header + 12);

	if (bytes <= SIGN_MAX) {
		uint8_t *copy = malloc(bytes + 1);

		FUZZ_CHECK(copy);
		read_plain(disk, copy, entries, bytes);
		store_le32(header + 88, (uint32_t)crc32(0, copy, (uInt)bytes));
		free(copy);
	}
	store_le32(header + 16, 0);
	if (size <= sector)
		store_le32(header + 16, (uint32_t)crc32(0, header, size));
}

static int read_disk(void *context, void *buffer, uint64_t offset, uint64_t length)
{
	struct disk *disk = context;

	FUZZ_CHECK(offset <= disk->size && length <= disk->size - offset);
	FUZZ_CHECK(++disk->reads < 5000); /* no table keeps us busy */
	if (disk->flags & FLAG_FAIL && offset == 512)
		return -EIO;
	read_plain(disk, buffer, offset, length);
	if (disk->flags & FLAG_SIGN && (length == 512 || length == 4096) &&
	    !memcmp(buffer, "EFI PART", 8))
		sign(disk, buffer, length);
	return 0;
}

static void check_found(const struct disk *disk, const struct partition_choice *choice,
			const struct partition *found)
{
	FUZZ_CHECK(found->number && found->number == choice->number);
	FUZZ_CHECK(found->length && range_inside(found->offset, found->length, disk->size));
	FUZZ_CHECK(found->offset % 512 == 0 && found->length % 512 == 0);
	FUZZ_CHECK(memchr(found->warning, 0, sizeof(found->warning)));
	if (disk->flags & FLAG_WRITABLE)
		FUZZ_CHECK(found->offset >= 512);
}

/* No two partitions that may be written share a byte. */
static void check_apart(const struct partition_disk *disk, const struct partition *found)
{
	for (uint32_t number = 1; number < 8; number++) {
		struct partition_choice other = {.text = "other", .number = number};
		struct partition beside;

		((struct disk *)disk->context)->reads = 0;
		if (number == found->number || partition_find(disk, &other, &beside, NULL))
			continue;
		FUZZ_CHECK(beside.offset >= found->offset + found->length ||
			   found->offset >= beside.offset + beside.length);
	}
}

static void check_words(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size);
	struct partition_choice choice;

	if (partition_parse(text, &choice, NULL) == 0) {
		FUZZ_CHECK(choice.text == text);
		FUZZ_CHECK(!!choice.number + !!choice.label + !!choice.uuid == 1);
		FUZZ_CHECK(!choice.sector || choice.sector == 512 || choice.sector == 4096);
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct partition_choice choice = {.text = "it"};
	struct partition found;
	struct error err = ERROR_INIT;
	struct disk disk;

	check_words(data, size);
	if (size < PREFIX)
		return 0;
	disk = (struct disk){.pieces = data + PREFIX,
			     .length = size - PREFIX,
			     .size = load_be64(data + 2) >> 1,
			     .flags = data[0]};
	choice.number = data[1] + 1u;
	choice.sector = disk.flags & FLAG_SAY ? 512 : 0;

	struct partition_disk described = {.read = read_disk,
					   .context = &disk,
					   .size = disk.size,
					   .sector = disk.flags & FLAG_LARGE ? 4096 : 0,
					   .writable = disk.flags & FLAG_WRITABLE};

	if (partition_find(&described, &choice, &found, &err)) {
		FUZZ_CHECK(err.code && err.text[0]);
	} else {
		check_found(&disk, &choice, &found);
		if (disk.flags & FLAG_WRITABLE && !choice.sector)
			check_apart(&described, &found);
	}
	disk.reads = 0;
	choice = (struct partition_choice){.text = "it", .label = "data"};
	partition_find(&described, &choice, &found, NULL);
	disk.reads = 0;
	choice = (struct partition_choice){.text = "it", .uuid = "12345678-01"};
	partition_find(&described, &choice, &found, NULL);
	return 0;
}
