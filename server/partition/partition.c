// SPDX-License-Identifier: MIT
/* The choice of a partition, and the rules that hold for every table. */
#include "partition.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/size.h"
#include "table.h"

/* ---- The choice ---- */

static bool skip_word(const char **text, const char *word)
{
	size_t length = strlen(word);

	if (strncmp(*text, word, length))
		return false;
	*text += length;
	return true;
}

static int parse_sector(const char **text, struct partition_choice *choice, struct error *err)
{
	if (!skip_word(text, "sector="))
		return 0;
	if (skip_word(text, "512,"))
		choice->sector = SECTOR_SMALL;
	else if (skip_word(text, "4096,"))
		choice->sector = SECTOR_LARGE;
	else
		return error_set(err, EINVAL,
				 "Invalid partition `%s': sector= is 512 or 4096, and a partition "
				 "follows it",
				 choice->text);
	return 0;
}

int partition_parse(const char *text, struct partition_choice *choice, struct error *err)
{
	uint64_t number;
	int rc;

	*choice = (struct partition_choice){.text = text};
	rc = parse_sector(&text, choice, err);
	if (rc)
		return rc;
	if (skip_word(&text, "label="))
		choice->label = text;
	else if (skip_word(&text, "uuid="))
		choice->uuid = text;
	else if (size_parse_number(text, UINT32_MAX, &number) < 0)
		return error_set(err, EINVAL, "Invalid partition `%s'", choice->text);
	else if (!number)
		return error_set(err, EINVAL, "Invalid partition %s", choice->text);
	else
		choice->number = (uint32_t)number;
	if ((choice->label || choice->uuid) && !*text)
		return error_set(err, EINVAL, "Invalid partition `%s'", choice->text);
	return 0;
}

/* ---- For the readers of tables ---- */

int table_read(const struct table *table, void *buffer, uint64_t offset, uint64_t length)
{
	const struct partition_disk *disk = table->disk;

	if (!range_inside(offset, length, disk->size))
		return -ENODATA;
	return disk->read(disk->context, buffer, offset, length);
}

int table_claim(struct table *table, uint64_t offset, uint64_t length, uint32_t number,
		const char *what)
{
	if (!length)
		return 0;
	if (table->claim_count == table->claim_room) {
		size_t room = table->claim_room ? 2 * table->claim_room : 16;
		struct claim *claims = reallocarray(table->claims, room, sizeof(*claims));

		if (!claims)
			return -ENOMEM;
		table->claims = claims;
		table->claim_room = room;
	}
	table->claims[table->claim_count++] =
		(struct claim){.offset = offset, .length = length, .number = number, .what = what};
	return 0;
}

int table_refuse(const struct table *table, struct error *err, int code, const char *format, ...)
{
	char reason[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reason, sizeof(reason), format, arguments);
	va_end(arguments);
	return error_set(err, code, "Could not find partition %.300s: %s", table->choice->text,
			 reason);
}

int table_lacks(const struct table *table, struct error *err)
{
	return table_refuse(table, err, ENOENT, "%s", strerror(ENOENT));
}

/* ---- What holds for every table ---- */

static bool share_bytes(const struct claim *claim, const struct partition *found)
{
	/* A claim may be a lie of the table and reach up to the last number that there is. */
	return claim->offset < found->offset ? found->offset - claim->offset < claim->length
					     : claim->offset - found->offset < found->length;
}

static int check_inside(const struct table *table, const struct partition *found, struct error *err)
{
	if (!found->length)
		return table_refuse(table, err, EINVAL, "it is empty");
	if (range_inside(found->offset, found->length, table->disk->size))
		return 0;
	return error_set(err, EINVAL,
			 "Discovered partition %" PRIu32 " at offset %" PRIu64 " size %" PRIu64
			 ", but size exceeds file length %" PRIu64,
			 found->number, found->offset, found->length, table->disk->size);
}

/* Reading bytes that are somebody else's, too, harms nobody: hybrid CD images are made so. */
static int check_alone(const struct table *table, const struct partition *found, struct error *err)
{
	if (!table->disk->writable)
		return 0;
	for (size_t i = 0; i < table->claim_count; i++) {
		const struct claim *claim = &table->claims[i];
		char whose[64];

		if ((claim->number && claim->number == found->number) || !share_bytes(claim, found))
			continue;
		if (claim->number)
			snprintf(whose, sizeof(whose), "partition %" PRIu32, claim->number);
		else
			snprintf(whose, sizeof(whose), "%s", claim->what);
		return table_refuse(table, err, EINVAL,
				    "it shares bytes with %s; use --read-only to look at it",
				    whose);
	}
	return 0;
}

static int find(struct table *table, struct partition *found, struct error *err)
{
	uint8_t record[MBR_SIZE];
	int rc = table_read(table, record, 0, sizeof(record));

	if (rc && rc != -ENODATA)
		return table_refuse(table, err, -rc, "the first sector: %s", strerror(-rc));
	if (rc || record[510] != 0x55 || record[511] != 0xaa)
		return table_refuse(table, err, EINVAL, "there is no partition table");
	if (mbr_is_protective(record))
		rc = gpt_find(table, found, err);
	else
		rc = mbr_find(table, record, found, err);
	if (rc == 0)
		rc = check_inside(table, found, err);
	if (rc == 0)
		rc = check_alone(table, found, err);
	return rc;
}

int partition_find(const struct partition_disk *disk, const struct partition_choice *choice,
		   struct partition *found, struct error *err)
{
	struct table table = {.disk = disk, .choice = choice};
	int rc;

	*found = (struct partition){.number = 0};
	rc = find(&table, found, err);
	memcpy(found->warning, table.warning, sizeof(found->warning));
	free(table.claims);
	return rc;
}
