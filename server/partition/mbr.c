// SPDX-License-Identifier: MIT
/*
 * The MBR: four entries in the first sector, and in extended partitions a chain of records, each
 * with one logical partition and the place of the next record. Numbers are the kernel's: 1 to 4
 * by place, logical ones from 5 on in the order of the chain.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/size.h"
#include "table.h"

enum {
	ENTRIES_AT = 446,
	ENTRY_SIZE = 16,
	ENTRIES = 4,
	LOGICAL_FIRST = 5,
	/* More than a kernel shows (256 with all minors); each is a read at start. */
	CHAIN_MAX = 1024,
};

struct entry {
	uint8_t boot, type;
	uint64_t start, count; /* sectors */
};

static struct entry entry_get(const uint8_t record[MBR_SIZE], int index)
{
	const uint8_t *at = record + ENTRIES_AT + index * ENTRY_SIZE;

	return (struct entry){.boot = at[0],
			      .type = at[4],
			      .start = load_le32(at + 8),
			      .count = load_le32(at + 12)};
}

static bool is_extended(const struct entry *entry)
{
	return entry->count && (entry->type == 0x05 || entry->type == 0x0f || entry->type == 0x85);
}

static bool has_signature(const uint8_t record[MBR_SIZE])
{
	return record[510] == 0x55 && record[511] == 0xaa;
}

bool mbr_is_protective(const uint8_t record[MBR_SIZE])
{
	for (int i = 0; i < ENTRIES; i++)
		if (entry_get(record, i).type == 0xee)
			return true;
	return false;
}

/* ---- The size of a sector, which the table does not tell ---- */

/* How file systems and their kin begin. */
static const struct {
	uint32_t offset, length;
	const char *bytes;
} beginnings[] = {
	{510, 2, "\x55\xaa"},   {0, 4, "XFSB"},           {0, 6, "LUKS\xba\xbe"},
	{1080, 2, "\x53\xef"},  {4086, 10, "SWAPSPACE2"}, {512, 8, "LABELONE"},
	{65600, 8, "_BHRfS_M"},
};

static bool begins(const struct table *table, uint64_t offset)
{
	for (size_t i = 0; i < sizeof(beginnings) / sizeof(beginnings[0]); i++) {
		char bytes[16];

		if (table_read(table, bytes, offset + beginnings[i].offset, beginnings[i].length))
			continue;
		if (!memcmp(bytes, beginnings[i].bytes, beginnings[i].length))
			return true;
	}
	return false;
}

/* With sectors of this size, do all partitions fit, and how many begin as something known? */
static unsigned int count_known(const struct table *table, const uint8_t record[MBR_SIZE],
				uint32_t sector)
{
	unsigned int known = 0;

	for (int i = 0; i < ENTRIES; i++) {
		struct entry entry = entry_get(record, i);

		if (!entry.count)
			continue;
		if (!range_inside(entry.start * sector, entry.count * sector, table->disk->size))
			return 0;
		if (entry.start && begins(table, entry.start * sector))
			known++;
	}
	return known;
}

/*
 * 512 unless the disk or the user says otherwise, or all that can be recognized stands where
 * sectors of 4096 put it and nothing where those of 512 do.
 */
static uint32_t choose_sector(struct table *table, const uint8_t record[MBR_SIZE])
{
	if (table->choice->sector)
		return table->choice->sector;
	if (table->disk->sector == SECTOR_SMALL || table->disk->sector == SECTOR_LARGE)
		return table->disk->sector;
	if (count_known(table, record, SECTOR_SMALL) || !count_known(table, record, SECTOR_LARGE))
		return SECTOR_SMALL;
	snprintf(table->warning, sizeof(table->warning),
		 "the partition table seems to count in sectors of 4096 bytes; say "
		 "-P sector=512,%.100s if it does not",
		 table->choice->text);
	return SECTOR_LARGE;
}

/* ---- Logical partitions ---- */

/* A walk along the chain inside one extended partition; all in bytes. */
struct chain {
	struct table *table;
	uint32_t sector;
	uint64_t begin, length; /* of the extended partition */
	uint64_t *records;      /* the places of those that were read */
	size_t count;
	uint32_t next; /* the number of the next logical partition */
	uint32_t wanted;
	struct partition *found;
};

/* Where entry i of a record says that a partition is. An error's text is for a lie of the table. */
static int take_logical(struct chain *chain, uint64_t record_at, const struct entry *entry,
			struct error *err)
{
	uint64_t offset = record_at + entry->start * chain->sector;
	uint64_t length = entry->count * chain->sector;
	uint32_t number = chain->next++;

	if (number == chain->wanted) {
		if (!range_inside(offset - chain->begin, length, chain->length))
			return table_refuse(chain->table, err, EINVAL,
					    "it reaches out of its extended partition");
		*chain->found =
			(struct partition){.number = number, .offset = offset, .length = length};
	}
	return table_claim(chain->table, offset, length, number, "partition");
}

/* Entries 3 and 4 are not used by most, and some leave garbage in them: the kernel's rule. */
static bool is_garbage(const struct chain *chain, uint64_t record_at, int index,
		       const struct entry *entry)
{
	uint64_t offset = record_at + entry->start * chain->sector;

	return index >= 2 &&
	       !range_inside(offset - chain->begin, entry->count * chain->sector, chain->length);
}

static bool was_read(const struct chain *chain, uint64_t record_at)
{
	for (size_t i = 0; i < chain->count; i++)
		if (chain->records[i] == record_at)
			return true;
	return false;
}

/* One record: its partitions, and the place of the next; 0: this was the last. */
static int walk_record(struct chain *chain, uint64_t record_at, uint64_t *next, struct error *err)
{
	uint8_t record[MBR_SIZE];
	int rc = table_read(chain->table, record, record_at, sizeof(record));

	*next = 0;
	if (rc)
		return table_refuse(chain->table, err, -rc,
				    "the record of logical partitions at byte %" PRIu64 ": %s",
				    record_at,
				    rc == -ENODATA ? "behind the end of the disk" : strerror(-rc));
	if (!has_signature(record))
		return 0;
	rc = table_claim(chain->table, record_at, MBR_SIZE, 0,
			 "the table of the logical partitions");
	for (int i = 0; !rc && i < ENTRIES; i++) {
		struct entry entry = entry_get(record, i);

		if (is_extended(&entry)) {
			if (!*next)
				*next = chain->begin + entry.start * chain->sector;
		} else if (entry.count && !is_garbage(chain, record_at, i, &entry)) {
			rc = take_logical(chain, record_at, &entry, err);
		}
	}
	return rc;
}

static int check_link(const struct chain *chain, uint64_t record_at, struct error *err)
{
	if (!range_inside(record_at - chain->begin, chain->sector, chain->length))
		return table_refuse(chain->table, err, EINVAL,
				    "the chain of logical partitions leaves its extended "
				    "partition, to byte %" PRIu64,
				    record_at);
	if (was_read(chain, record_at))
		return table_refuse(chain->table, err, ELOOP,
				    "the chain of logical partitions runs in a circle, at byte "
				    "%" PRIu64,
				    record_at);
	if (chain->count == CHAIN_MAX)
		return table_refuse(chain->table, err, E2BIG,
				    "the chain of logical partitions has more than %d links",
				    CHAIN_MAX);
	return 0;
}

static int walk_chain(struct chain *chain, struct error *err)
{
	uint64_t record_at = chain->begin;
	int rc = 0;

	chain->count = 0;
	while (!rc && record_at) {
		rc = check_link(chain, record_at, err);
		if (rc)
			break;
		chain->records[chain->count++] = record_at;
		rc = walk_record(chain, record_at, &record_at, err);
	}
	return rc;
}

static int find_logical(struct table *table, const uint8_t record[MBR_SIZE], uint32_t sector,
			uint32_t wanted, struct partition *found, struct error *err)
{
	struct chain chain = {.table = table,
			      .sector = sector,
			      .next = LOGICAL_FIRST,
			      .wanted = wanted,
			      .found = found};
	int rc = 0;

	chain.records = calloc(CHAIN_MAX, sizeof(*chain.records));
	if (!chain.records)
		return -ENOMEM;
	for (int i = 0; !rc && i < ENTRIES; i++) {
		struct entry entry = entry_get(record, i);

		if (!is_extended(&entry))
			continue;
		chain.begin = entry.start * sector;
		chain.length = entry.count * sector;
		rc = walk_chain(&chain, err);
	}
	free(chain.records);
	return rc;
}

/* ---- All ---- */

/* The number that "SIGNATURE-NUMBER", both hexadecimal as the kernel's PARTUUID, means here. */
static uint32_t number_of_uuid(const char *uuid, const uint8_t record[MBR_SIZE])
{
	char signature[16];

	snprintf(signature, sizeof(signature), "%08" PRIx32 "-", load_le32(record + 440));
	if (strncasecmp(uuid, signature, strlen(signature)))
		return 0;
	uuid += strlen(signature);
	if (strspn(uuid, "0123456789abcdefABCDEF") != strlen(uuid) || !*uuid || strlen(uuid) > 4)
		return 0;
	return (uint32_t)strtoul(uuid, NULL, 16);
}

/* A file system's boot sector has the same signature, and its code where entries would be. */
static int check_boot_marks(const struct table *table, const uint8_t record[MBR_SIZE],
			    struct error *err)
{
	for (int i = 0; i < ENTRIES; i++)
		if (entry_get(record, i).boot & 0x7f)
			return table_refuse(table, err, EINVAL, "there is no partition table");
	return 0;
}

static int find_number(struct table *table, const uint8_t record[MBR_SIZE], uint32_t sector,
		       uint32_t wanted, struct partition *found, struct error *err)
{
	int rc = 0;

	for (uint32_t i = 0; !rc && i < ENTRIES; i++) {
		struct entry entry = entry_get(record, (int)i);
		struct partition here = {.number = i + 1,
					 .offset = entry.start * sector,
					 .length = entry.count * sector};

		if (here.number == wanted && is_extended(&entry))
			return table_refuse(table, err, EINVAL,
					    "it is an extended partition, which only holds others");
		if (here.number == wanted && entry.count)
			*found = here;
		/* A logical partition shares all of its bytes with the one that holds it. */
		if (wanted <= ENTRIES || !is_extended(&entry))
			rc = table_claim(table, here.offset, here.length, here.number, "partition");
	}
	if (!rc && wanted > ENTRIES)
		rc = find_logical(table, record, sector, wanted, found, err);
	return rc;
}

int mbr_find(struct table *table, const uint8_t record[MBR_SIZE], struct partition *found,
	     struct error *err)
{
	const struct partition_choice *choice = table->choice;
	uint32_t wanted = choice->number, sector;
	int rc = check_boot_marks(table, record, err);

	if (rc)
		return rc;
	if (choice->label)
		return table_refuse(table, err, ENOENT,
				    "partitions have labels in a GPT only, and this is an MBR");
	if (choice->uuid)
		wanted = number_of_uuid(choice->uuid, record);
	if (!wanted)
		return table_lacks(table, err);
	sector = choose_sector(table, record);
	rc = table_claim(table, 0, sector, 0, "the partition table");
	if (!rc)
		rc = find_number(table, record, sector, wanted, found, err);
	if (rc == -ENOMEM)
		return table_refuse(table, err, ENOMEM, "out of memory");
	if (!rc && !found->number)
		return table_lacks(table, err);
	return rc;
}
