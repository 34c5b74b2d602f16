// SPDX-License-Identifier: MIT
/* See sysfs.h. Never writes but in sysfs_write_number(). */
#include "sysfs.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/nbd-protocol.h"
#include "common/size.h"

static int open_attribute(const char *root, const char *disk, const char *attribute, int flags)
{
	char path[PATH_MAX];
	int fd;

	if (snprintf(path, sizeof(path), "%s/sys/block/%s/%s", root, disk, attribute) >=
	    (int)sizeof(path))
		return -ENAMETOOLONG;
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int read_text(const char *root, const char *disk, const char *attribute, char *text,
		     size_t room)
{
	AUTO_CLOSE int fd = open_attribute(root, disk, attribute, O_RDONLY);
	ssize_t length;

	text[0] = '\0';
	if (fd < 0)
		return fd;
	length = read(fd, text, room - 1);
	if (length < 0)
		return -errno;
	while (length > 0 && text[length - 1] == '\n')
		length--;
	text[length] = '\0';
	return (int)length;
}

static int read_number(const char *root, const char *disk, const char *attribute, uint64_t *value)
{
	char text[32];
	int rc = read_text(root, disk, attribute, text, sizeof(text));

	*value = 0;
	return rc < 0 ? rc : size_parse_number(text, UINT64_MAX, value);
}

static const char *disk_name(int index, char name[DEVICE_NAME_SIZE])
{
	snprintf(name, DEVICE_NAME_SIZE, "nbd%d", index);
	return name;
}

int sysfs_read(const char *root, int index, const char *attribute, char *text, size_t room)
{
	char disk[DEVICE_NAME_SIZE];

	return read_text(root, disk_name(index, disk), attribute, text, room);
}

int sysfs_read_number(const char *root, int index, const char *attribute, uint64_t *value)
{
	char disk[DEVICE_NAME_SIZE];

	return read_number(root, disk_name(index, disk), attribute, value);
}

int sysfs_write_number(const char *root, int index, const char *attribute, uint64_t value)
{
	char disk[DEVICE_NAME_SIZE], text[24];
	AUTO_CLOSE int fd = -1;
	int length;

	fd = open_attribute(root, disk_name(index, disk), attribute, O_WRONLY);
	if (fd < 0)
		return fd;
	length = snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	return write(fd, text, (size_t)length) == length ? 0 : -errno;
}

static DIR *open_below(const char *root, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/sys/block/%s", root, name);
	return opendir(path);
}

static bool member_fill(const char *root, const char *disk, const char *part,
			struct sysfs_member *member)
{
	char attribute[280], text[32];

	snprintf(attribute, sizeof(attribute), "%s%sdev", part, *part ? "/" : "");
	if (read_text(root, disk, attribute, text, sizeof(text)) < 0 ||
	    sscanf(text, "%u:%u", &member->major, &member->minor) != 2)
		return false;
	snprintf(member->name, sizeof(member->name), "%.20s", *part ? part : disk);
	return true;
}

/* Is entry "<disk>p<digits>"? */
static bool names_partition(const char *entry, const char *disk)
{
	size_t length = strlen(disk);

	return !strncmp(entry, disk, length) && entry[length] == 'p' &&
	       isdigit((unsigned char)entry[length + 1]);
}

size_t sysfs_members(const char *root, int index, struct sysfs_member *members, size_t room)
{
	char disk[DEVICE_NAME_SIZE];
	AUTO_DIR DIR *directory = open_below(root, disk_name(index, disk));
	struct dirent *entry;
	size_t count = 0;

	if (!directory || !room || !member_fill(root, disk, "", &members[count]))
		return 0;
	count++;
	while (count < room && (entry = readdir(directory))) {
		if (names_partition(entry->d_name, disk) &&
		    member_fill(root, disk, entry->d_name, &members[count]))
			count++;
	}
	return count;
}

static unsigned int count_entries(const char *root, const char *disk, const char *below)
{
	char path[64];
	struct dirent *entry;
	unsigned int count = 0;

	snprintf(path, sizeof(path), "%s/%s", disk, below);
	AUTO_DIR DIR *directory = open_below(root, path);
	while (directory && (entry = readdir(directory)))
		if (isdigit((unsigned char)entry->d_name[0]))
			count++;
	return count;
}

/* The backend identifier of a device attached by ioctl, from the process that keeps it; only
 * who may look into that process learns it. */
static void read_resident(const char *root, struct device_state *state)
{
	static const char begin[] = "/memfd:", end[] = " (deleted)";
	char path[PATH_MAX], target[sizeof(begin) + sizeof(state->backend) + sizeof(end)];
	AUTO_DIR DIR *directory = NULL;
	struct dirent *entry;
	ssize_t length;

	snprintf(path, sizeof(path), "%s/proc/%d/fd", root, state->pid);
	directory = opendir(path);
	while (directory && (entry = readdir(directory))) {
		length = readlinkat(dirfd(directory), entry->d_name, target, sizeof(target) - 1);
		target[max_of(length, (ssize_t)0)] = '\0';
		if (strncmp(target, begin, strlen(begin)) ||
		    (size_t)length < strlen(begin) + strlen(end))
			continue;
		snprintf(state->backend, sizeof(state->backend), "%.*s",
			 (int)((size_t)length - strlen(begin) - strlen(end)),
			 target + strlen(begin));
		return;
	}
}

static void fill_attached(const char *root, const char *disk, struct device_state *state)
{
	uint64_t number;

	state->attached = true;
	state->pid = read_number(root, disk, "pid", &number) ? 0 : (int)number;
	state->netlink =
		read_text(root, disk, "backend", state->backend, sizeof(state->backend)) >= 0;
	if (!state->netlink)
		read_resident(root, state);
	state->queues = count_entries(root, disk, "mq");
}

int sysfs_state(const char *root, int index, struct device_state *state, struct error *err)
{
	struct sysfs_member members[SYSFS_MEMBERS_MAX];
	char disk[DEVICE_NAME_SIZE];
	uint64_t number;
	char pid[16];
	int rc;

	memset(state, 0, sizeof(*state));
	state->index = index;
	disk_name(index, disk);
	rc = read_number(root, disk, "size", &number);
	if (rc == -ENOENT || rc == -ENODEV || rc == -ENXIO)
		return 0;
	if (rc)
		return error_set_errno(err, -rc, "cannot read the state of /dev/%s from sysfs",
				       disk);
	state->exists = true;
	state->size = number * NBD_SECTOR;
	read_number(root, disk, "ro", &number);
	state->read_only = number != 0;
	read_number(root, disk, "queue/logical_block_size", &number);
	state->block_size = (uint32_t)number;
	state->partitions = (unsigned int)sysfs_members(root, index, members, SYSFS_MEMBERS_MAX);
	if (state->partitions)
		state->partitions--;
	if (read_text(root, disk, "pid", pid, sizeof(pid)) >= 0)
		fill_attached(root, disk, state);
	return 0;
}

static int compare_ints(const void *a, const void *b)
{
	return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

int sysfs_disks(const char *root, int **indexes, size_t *count, struct error *err)
{
	AUTO_DIR DIR *directory = open_below(root, "");
	AUTO_FREE int *found = NULL;
	struct dirent *entry;
	size_t used = 0;
	int index;

	*indexes = NULL;
	*count = 0;
	if (!directory && errno != ENOENT)
		return error_set_errno(err, errno, "cannot read /sys/block");
	while (directory && (entry = readdir(directory))) {
		if (strncmp(entry->d_name, "nbd", 3) || !device_spelling(entry->d_name) ||
		    device_parse(entry->d_name, &index, NULL))
			continue;
		int *grown = reallocarray(found, used + 1, sizeof(*found));

		if (!grown)
			return error_set_errno(err, ENOMEM, "cannot list the nbd devices");
		found = grown;
		found[used++] = index;
	}
	if (used)
		qsort(found, used, sizeof(*found), compare_ints);
	*indexes = take_ptr(found);
	*count = used;
	return 0;
}

int device_state_read(int index, struct device_state *state, struct error *err)
{
	return sysfs_state("", index, state, err);
}

int device_each(int (*visit)(const struct device_state *state, void *context), void *context)
{
	AUTO_FREE int *indexes = NULL;
	struct device_state state;
	size_t count;
	int rc = sysfs_disks("", &indexes, &count, NULL);

	for (size_t i = 0; !rc && i < count; i++) {
		/* One that vanishes meanwhile is none. */
		if (!sysfs_state("", indexes[i], &state, NULL) && state.exists)
			rc = visit(&state, context);
	}
	return rc;
}
