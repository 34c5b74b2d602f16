/* SPDX-License-Identifier: MIT */
/*
 * The driver's state as files below ROOT/sys: "" is the running system, tests give a tree of their
 * own. Reading needs no privilege. Any thread.
 */
#ifndef HAWSER_COMMON_KERNEL_SYSFS_H
#define HAWSER_COMMON_KERNEL_SYSFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device.h"

/* The disk or a partition of it. */
struct sysfs_member {
	char name[24];
	unsigned int major, minor;
};
enum { SYSFS_MEMBERS_MAX = 300 }; /* the disk and 255 partitions at most */

int sysfs_state(const char *root, int index, struct device_state *state, struct error *err);

/* Disk first, then partitions in no order; the count, 0 when the device does not exist. */
size_t sysfs_members(const char *root, int index, struct sysfs_member *members, size_t room);

/* Indexes of all nbd disks, rising; *indexes is allocated. */
int sysfs_disks(const char *root, int **indexes, size_t *count, struct error *err);

/* One attribute of nbdN ("queue/max_sectors_kb") without its newline: the length or -errno. */
int sysfs_read(const char *root, int index, const char *attribute, char *text, size_t room);
int sysfs_read_number(const char *root, int index, const char *attribute, uint64_t *value);
int sysfs_write_number(const char *root, int index, const char *attribute, uint64_t value);

#endif
