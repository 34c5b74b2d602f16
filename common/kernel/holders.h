/* SPDX-License-Identifier: MIT */
/*
 * Who uses a device: mounts in every namespace that can be seen, swap, dm/md and the like above
 * it, loop devices, processes that have it open. All of it advice from /proc and /sys below ROOT
 * ("" is the running system): what we may not see is missing. Any thread.
 */
#ifndef HAWSER_COMMON_KERNEL_HOLDERS_H
#define HAWSER_COMMON_KERNEL_HOLDERS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/error.h"

enum holder_kind {
	HOLDER_MOUNT,
	HOLDER_SWAP,
	HOLDER_DEVICE, /* device mapper, md, bcache */
	HOLDER_LOOP,
	HOLDER_PROCESS,
};
enum {
	HOLDERS_USE = 1 << HOLDER_MOUNT | 1 << HOLDER_SWAP | 1 << HOLDER_DEVICE | 1 << HOLDER_LOOP,
	HOLDERS_OPEN = 1 << HOLDER_PROCESS,
};

struct holder {
	enum holder_kind kind;
	char device[24]; /* "nbd0p1" */
	char text[200];  /* mount point, name of the holder, command */
	pid_t pid;       /* of a process, or of one in a foreign mount namespace; else 0 */
};

struct holders {
	struct holder *items;
	size_t count;
};

/* Processes that do not count: their pids, or threads of theirs; 0: none. */
struct holders_ignored {
	pid_t pids[2];
};
/* Looks for the kinds in the set; ignored may be NULL. */
int holders_find(const char *root, int index, unsigned int kinds,
		 const struct holders_ignored *ignored, struct holders *holders, struct error *err);
void holders_clear(struct holders *holders);
/* "/dev/nbd0p1 is mounted on /mnt; /dev/nbd0p2 is used as swap; ..." Returns text. */
const char *holders_describe(const struct holders *holders, char *text, size_t room);

/* One line of mountinfo; strings are decoded in place. False when it is not one. */
struct mount_line {
	unsigned int major, minor;
	char *point;
	char *source;
};
bool mount_line_parse(char *line, struct mount_line *out);

#endif
