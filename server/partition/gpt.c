// SPDX-License-Identifier: MIT
/*
 * The GPT: a header in sector 1 and its backup in the last sector, each with a checksum over
 * itself and one over its table of entries. The backup serves where the primary is damaged. The
 * size of a sector is the one at which a header is found whole.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>

#include "common/size.h"
#include "table.h"

enum {
	HEADER_MIN = 92,
	ENTRY_MIN = 128,
	ENTRY_MAX = 4096,
	ENTRIES_BYTES_MAX = 4 << 20, /* what a kernel reads at most; usual are 16 KiB */
	NAME_AT = 56,
	NAME_UNITS = 36,                 /* UTF-16 */
	NAME_BYTES = 3 * NAME_UNITS + 1, /* UTF-8, and its end */
	UUID_TEXT = 37,
};

struct gpt {
	uint32_t sector;
	uint64_t at;                        /* the header's sector */
	uint64_t alternate;                 /* the other header's, as this one says */
	uint64_t first_usable, last_usable; /* sectors */
	uint64_t entries_at;                /* sector */
	uint32_t entry_count, entry_size;
	uint8_t *entries;
};

/* Why one of the headers is of no use. */
struct fault {
	char text[120];
	bool present;   /* its signature was there */
	uint64_t other; /* where it says that the other one is, if that can be believed; else 0 */
};

static int damaged(struct fault *fault, const char *text)
{
	snprintf(fault->text, sizeof(fault->text), "%s", text);
	return -EINVAL;
}

static uint32_t checksum(const uint8_t *bytes, size_t length)
{
	return (uint32_t)crc32(crc32(0, NULL, 0), bytes, (uInt)length);
}

/* ---- A header and its entries ---- */

static int check_header(struct gpt *gpt, uint8_t *header, uint64_t sectors, struct fault *fault)
{
	uint32_t size = load_le32(header + 12), sum = load_le32(header + 16);

	if (memcmp(header, "EFI PART", 8))
		return damaged(fault, "no signature");
	fault->present = true;
	if (size < HEADER_MIN || size > gpt->sector)
		return damaged(fault, "wrong size");
	memset(header + 16, 0, 4);
	if (checksum(header, size) != sum)
		return damaged(fault, "wrong checksum");
	if (load_le64(header + 24) != gpt->at)
		return damaged(fault, "made for another place");
	gpt->alternate = fault->other = load_le64(header + 32);
	gpt->first_usable = load_le64(header + 40);
	gpt->last_usable = load_le64(header + 48);
	gpt->entries_at = load_le64(header + 72);
	gpt->entry_count = load_le32(header + 80);
	gpt->entry_size = load_le32(header + 84);
	if (gpt->first_usable > gpt->last_usable || gpt->last_usable >= sectors)
		return damaged(fault, "partitions are allowed behind the end of the disk");
	if (gpt->at >= gpt->first_usable && gpt->at <= gpt->last_usable)
		return damaged(fault, "stands where partitions are allowed");
	if (gpt->entry_size < ENTRY_MIN || gpt->entry_size > ENTRY_MAX ||
	    !is_power_of_two(gpt->entry_size))
		return damaged(fault, "wrong size of entries");
	if (!gpt->entry_count || gpt->entry_count > ENTRIES_BYTES_MAX / gpt->entry_size)
		return damaged(fault, "number of entries out of bounds");
	return 0;
}

static int read_entries(const struct table *table, struct gpt *gpt, uint32_t sum, uint64_t sectors,
			struct fault *fault)
{
	size_t bytes = (size_t)gpt->entry_count * gpt->entry_size;
	uint64_t needed = (bytes + gpt->sector - 1) / gpt->sector;

	if (!range_inside(gpt->entries_at, needed, sectors) || gpt->entries_at < 2)
		return damaged(fault, "entries outside the disk");
	if (gpt->entries_at <= gpt->last_usable && gpt->entries_at + needed > gpt->first_usable)
		return damaged(fault, "entries where partitions are allowed");
	gpt->entries = malloc(bytes);
	if (!gpt->entries)
		return -ENOMEM;
	if (table_read(table, gpt->entries, gpt->entries_at * gpt->sector, bytes))
		return damaged(fault, "entries cannot be read");
	if (checksum(gpt->entries, bytes) != sum)
		return damaged(fault, "wrong checksum of entries");
	return 0;
}

/* The header in sector at, and its entries: 0, -EINVAL with the fault described, or -ENOMEM. */
static int read_gpt(const struct table *table, uint32_t sector, uint64_t at, struct gpt *gpt,
		    struct fault *fault)
{
	uint64_t sectors = table->disk->size / sector;
	uint8_t header[SECTOR_LARGE];
	int rc;

	*gpt = (struct gpt){.sector = sector, .at = at};
	*fault = (struct fault){.present = false};
	if (at >= sectors || table_read(table, header, at * sector, sector))
		return damaged(fault, "cannot be read");
	rc = check_header(gpt, header, sectors, fault);
	if (rc == 0)
		rc = read_entries(table, gpt, load_le32(header + 88), sectors, fault);
	if (rc) {
		free(gpt->entries);
		gpt->entries = NULL;
	}
	return rc;
}

/* A header that is sound but for its entries knows where the other is; else it is at the end. */
static int read_backup(const struct table *table, uint32_t sector, uint64_t told, struct gpt *gpt,
		       struct fault *fault)
{
	uint64_t sectors = table->disk->size / sector;
	int rc = -EINVAL;

	damaged(fault, "cannot be read");
	if (told > 1)
		rc = read_gpt(table, sector, told, gpt, fault);
	if (rc == -EINVAL && sectors > 2 && sectors - 1 != told)
		rc = read_gpt(table, sector, sectors - 1, gpt, fault);
	return rc;
}

static const uint32_t sector_sizes[] = {SECTOR_SMALL, SECTOR_LARGE};
enum { SECTOR_SIZES = sizeof(sector_sizes) / sizeof(sector_sizes[0]) };

static bool may_be(const struct table *table, uint32_t sector)
{
	return !table->choice->sector || table->choice->sector == sector;
}

/* The fault of a header that is there says more than that of a place where something else is. */
static const struct fault *telling(const struct fault faults[SECTOR_SIZES])
{
	for (int i = 0; i < SECTOR_SIZES; i++)
		if (faults[i].present)
			return &faults[i];
	return faults[0].text[0] ? &faults[0] : &faults[1];
}

static int read_any(struct table *table, struct gpt *gpt, struct error *err)
{
	struct fault primary[SECTOR_SIZES], backup[SECTOR_SIZES];
	int rc = -EINVAL;

	memset(primary, 0, sizeof(primary));
	memset(backup, 0, sizeof(backup));
	for (int i = 0; rc == -EINVAL && i < SECTOR_SIZES; i++)
		if (may_be(table, sector_sizes[i]))
			rc = read_gpt(table, sector_sizes[i], 1, gpt, &primary[i]);
	if (rc != -EINVAL)
		return rc;
	for (int i = 0; rc == -EINVAL && i < SECTOR_SIZES; i++)
		if (may_be(table, sector_sizes[i]))
			rc = read_backup(table, sector_sizes[i], primary[i].other, gpt, &backup[i]);
	if (rc == 0)
		snprintf(table->warning, sizeof(table->warning),
			 "the GPT is damaged (%s); its backup is used", telling(primary)->text);
	else if (rc == -EINVAL)
		return table_refuse(table, err, EINVAL,
				    "the GPT is damaged (primary: %s; backup: %s)",
				    telling(primary)->text, telling(backup)->text);
	return rc;
}

/* ---- Entries ---- */

static bool is_used(const uint8_t *entry)
{
	static const uint8_t none[16];

	return memcmp(entry, none, sizeof(none)) != 0;
}

static void put_utf8(char **to, uint32_t code)
{
	char *at = *to;

	if (code < 0x80) {
		*at++ = (char)code;
	} else if (code < 0x800) {
		*at++ = (char)(0xc0 | code >> 6);
		*at++ = (char)(0x80 | (code & 0x3f));
	} else if (code < 0x10000) {
		*at++ = (char)(0xe0 | code >> 12);
		*at++ = (char)(0x80 | (code >> 6 & 0x3f));
		*at++ = (char)(0x80 | (code & 0x3f));
	} else {
		*at++ = (char)(0xf0 | code >> 18);
		*at++ = (char)(0x80 | (code >> 12 & 0x3f));
		*at++ = (char)(0x80 | (code >> 6 & 0x3f));
		*at++ = (char)(0x80 | (code & 0x3f));
	}
	*to = at;
}

/* At most three bytes for each unit: a pair of them makes four. */
static void get_name(const uint8_t *entry, char name[NAME_BYTES])
{
	char *to = name;

	for (int i = 0; i < NAME_UNITS; i++) {
		const uint8_t *at = entry + NAME_AT + 2 * i;
		uint32_t code = at[0] | (uint32_t)at[1] << 8, low;

		if (!code)
			break;
		low = i + 1 < NAME_UNITS ? at[2] | (uint32_t)at[3] << 8 : 0;
		if (code >= 0xd800 && code < 0xdc00 && low >= 0xdc00 && low < 0xe000) {
			code = 0x10000 + ((code & 0x3ff) << 10 | (low & 0x3ff));
			i++;
		}
		put_utf8(&to, code);
	}
	*to = '\0';
}

/* The first three groups are little-endian numbers. */
static void get_uuid(const uint8_t *entry, char text[UUID_TEXT])
{
	static const uint8_t order[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
	const uint8_t *uuid = entry + 16;
	char *to = text;

	for (int i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*to++ = '-';
		to += sprintf(to, "%02x", uuid[order[i]]);
	}
}

static bool is_chosen(const struct partition_choice *choice, uint32_t number, const uint8_t *entry)
{
	char name[NAME_BYTES], uuid[UUID_TEXT];

	if (choice->label) {
		get_name(entry, name);
		return !strcmp(name, choice->label);
	}
	if (choice->uuid) {
		get_uuid(entry, uuid);
		return !strcasecmp(uuid, choice->uuid);
	}
	return number == choice->number;
}

/* Takes the entry's place, in bytes; a lie when that is none. */
static int take_entry(const struct table *table, const struct gpt *gpt, uint32_t number,
		      const uint8_t *entry, struct partition *found, struct error *err)
{
	uint64_t first = load_le64(entry + 32), last = load_le64(entry + 40), end;

	if (found->number)
		return table_refuse(table, err, EEXIST,
				    "partitions %" PRIu32 " and %" PRIu32
				    " are both called so; say its number",
				    found->number, number);
	if (first > last)
		return table_refuse(table, err, EINVAL, "it ends before it begins");
	if (last == UINT64_MAX || size_mul_overflows(last + 1, gpt->sector, &end))
		return table_refuse(table, err, EINVAL, "it ends behind all disks");
	*found = (struct partition){.number = number,
				    .offset = first * gpt->sector,
				    .length = end - first * gpt->sector};
	/* Behind the disk is said by our caller, in other words. */
	if (first < gpt->first_usable || (last > gpt->last_usable && end <= table->disk->size))
		return table_refuse(table, err, EINVAL,
				    "it lies outside the sectors %" PRIu64 " to %" PRIu64
				    ", where the table allows partitions",
				    gpt->first_usable, gpt->last_usable);
	return 0;
}

/* The claim of another entry; one that is no place on this disk is nobody's neighbour. */
static int claim_entry(struct table *table, const struct gpt *gpt, uint32_t number,
		       const uint8_t *entry)
{
	uint64_t first = load_le64(entry + 32), last = load_le64(entry + 40);
	uint64_t sectors = table->disk->size / gpt->sector;

	if (first > last || first >= sectors)
		return 0;
	return table_claim(table, first * gpt->sector,
			   (min_of(last, sectors - 1) - first + 1) * gpt->sector, number,
			   "partition");
}

static int find_entry(struct table *table, const struct gpt *gpt, struct partition *found,
		      struct error *err)
{
	int rc = 0;

	for (uint32_t i = 0; !rc && i < gpt->entry_count; i++) {
		const uint8_t *entry = gpt->entries + (size_t)i * gpt->entry_size;

		if (!is_used(entry))
			continue;
		if (is_chosen(table->choice, i + 1, entry))
			rc = take_entry(table, gpt, i + 1, entry, found, err);
		if (!rc)
			rc = claim_entry(table, gpt, i + 1, entry);
	}
	return rc;
}

/* Between the first and the last usable sector no part of this copy lies; of the other may. */
static int claim_tables(struct table *table, const struct gpt *gpt)
{
	uint32_t sector = gpt->sector;
	struct fault fault;
	struct gpt other;
	int rc = table_claim(table, 0, sector, 0, "the protective MBR");

	if (!rc)
		rc = read_gpt(table, sector, gpt->alternate, &other, &fault);
	if (rc)
		return rc == -ENOMEM ? rc : 0; /* what is damaged needs no protection */
	free(other.entries);
	rc = table_claim(table, other.at * sector, sector, 0, "a copy of the partition table");
	if (!rc)
		rc = table_claim(table, other.entries_at * sector,
				 (uint64_t)other.entry_count * other.entry_size, 0,
				 "a copy of the partition table");
	return rc;
}

int gpt_find(struct table *table, struct partition *found, struct error *err)
{
	struct gpt gpt;
	int rc = read_any(table, &gpt, err);

	if (!rc) {
		rc = claim_tables(table, &gpt);
		if (!rc)
			rc = find_entry(table, &gpt, found, err);
		free(gpt.entries);
	}
	if (rc == -ENOMEM)
		return table_refuse(table, err, ENOMEM, "out of memory");
	if (!rc && !found->number)
		return table_lacks(table, err);
	return rc;
}
