/* SPDX-License-Identifier: MIT */
/*
 * What the readers of partition tables have in common; see partition.h. Only for the files of this
 * folder.
 */
#ifndef HAWSER_SERVER_PARTITION_TABLE_H
#define HAWSER_SERVER_PARTITION_TABLE_H

#include <stddef.h>
#include <stdint.h>

#include "common/bytes.h"
#include "partition.h"

enum {
	SECTOR_SMALL = 512,
	SECTOR_LARGE = 4096,
	MBR_SIZE = 512, /* of a boot record, whatever the sector */
};

/* Bytes that belong to somebody. */
struct claim {
	uint64_t offset, length;
	uint32_t number; /* of a partition, or 0 */
	const char *what;
};

/* All that was read of a table. */
struct table {
	const struct partition_disk *disk;
	const struct partition_choice *choice;
	struct claim *claims; /* grows; freed by partition_find() */
	size_t claim_count, claim_room;
	char warning[256];
};

/* Reads a range of the disk; -ENODATA where the disk has already ended. */
int table_read(const struct table *table, void *buffer, uint64_t offset, uint64_t length);

/* Remembers whose bytes these are. 0 or -ENOMEM. An empty range is nobody's. */
int table_claim(struct table *table, uint64_t offset, uint64_t length, uint32_t number,
		const char *what);

/* "Could not find partition X: " and the reason; returns -code. */
int table_refuse(const struct table *table, struct error *err, int code, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* There is no such partition. */
int table_lacks(const struct table *table, struct error *err);

/* Both take the first MBR_SIZE bytes of the disk, find the chosen partition and claim the rest. */
int mbr_find(struct table *table, const uint8_t record[MBR_SIZE], struct partition *found,
	     struct error *err);
int gpt_find(struct table *table, struct partition *found, struct error *err);

/* Does the record say that the rest is in a GPT? */
bool mbr_is_protective(const uint8_t record[MBR_SIZE]);

#endif
