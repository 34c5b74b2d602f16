/* SPDX-License-Identifier: MIT */
/*
 * Partitions: where is partition N of a disk? MBR with its chain of logical partitions and GPT
 * with its backup, numbered as the kernel numbers them. Pure functions over a callback that reads;
 * they write nothing, and a table that contradicts itself is refused, because a window in the
 * wrong place would let a client write over its neighbours. One thread, before service begins.
 */
#ifndef HAWSER_SERVER_PARTITION_PARTITION_H
#define HAWSER_SERVER_PARTITION_PARTITION_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

/* Which one. Strings belong to the caller. */
struct partition_choice {
	const char *text;  /* as the user said it, for messages */
	uint32_t number;   /* from 1 on; 0: by one of the others */
	const char *label; /* of a GPT */
	const char *uuid;  /* of the partition; of an MBR: disk signature, '-', number */
	uint32_t sector;   /* 512 or 4096; 0: find out */
};

/*
 * "[sector=SIZE,]N", "[sector=SIZE,]label=NAME" or "[sector=SIZE,]uuid=UUID". The choice points
 * into text. 0 or -EINVAL with err set.
 */
int partition_parse(const char *text, struct partition_choice *choice, struct error *err);

struct partition_disk {
	/* Fills buffer with length bytes from offset on, which are inside the disk. 0 or -errno. */
	int (*read)(void *context, void *buffer, uint64_t offset, uint64_t length);
	void *context;
	uint64_t size;   /* bytes */
	uint32_t sector; /* what the disk says of its sectors, bytes; 0: nothing */
	bool writable;   /* the partition will be written: it must share no byte */
};

struct partition {
	uint32_t number;
	uint64_t offset, length; /* bytes, inside the disk */
	char warning[256];       /* something that people should know, or "" */
};

/* 0; -ENOENT: there is no such partition; another -errno. err is set. */
int partition_find(const struct partition_disk *disk, const struct partition_choice *choice,
		   struct partition *found, struct error *err);

#endif
