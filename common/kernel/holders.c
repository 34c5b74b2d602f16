// SPDX-License-Identifier: MIT
/* See holders.h. Reads only, and never touches the device itself. */
#include "holders.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "sysfs.h"

struct scan {
	const char *root;
	struct sysfs_member members[SYSFS_MEMBERS_MAX];
	size_t member_count;
	pid_t ignored[2];          /* thread group ids */
	unsigned long *namespaces; /* mount namespaces already read */
	size_t namespace_count;
	struct holders *holders;
	int rc;
};

static void add(struct scan *scan, enum holder_kind kind, const char *device, const char *text,
		pid_t pid)
{
	struct holders *holders = scan->holders;
	struct holder *grown, *holder;

	for (size_t i = 0; i < holders->count; i++) {
		holder = &holders->items[i];
		if (holder->kind == kind && !strcmp(holder->device, device) &&
		    !strncmp(holder->text, text, sizeof(holder->text) - 1) &&
		    (kind != HOLDER_PROCESS || holder->pid == pid))
			return;
	}
	grown = reallocarray(holders->items, holders->count + 1, sizeof(*grown));
	if (!grown) {
		scan->rc = -ENOMEM;
		return;
	}
	holders->items = grown;
	holder = &grown[holders->count++];
	memset(holder, 0, sizeof(*holder));
	holder->kind = kind;
	holder->pid = pid;
	snprintf(holder->device, sizeof(holder->device), "%.20s", device);
	snprintf(holder->text, sizeof(holder->text), "%s", text);
}

static const char *member_by_number(const struct scan *scan, unsigned int major_,
				    unsigned int minor_)
{
	for (size_t i = 0; i < scan->member_count; i++)
		if (scan->members[i].major == major_ && scan->members[i].minor == minor_)
			return scan->members[i].name;
	return NULL;
}

static const char *member_by_path(const struct scan *scan, const char *path)
{
	if (strncmp(path, "/dev/", 5))
		return NULL;
	for (size_t i = 0; i < scan->member_count; i++)
		if (!strcmp(scan->members[i].name, path + 5))
			return scan->members[i].name;
	return NULL;
}

/* ---- Mounts ---- */

/* \040 and its kind, in place. */
static void decode_octal(char *text)
{
	char *out = text;

	while (*text) {
		if (text[0] == '\\' && strspn(text + 1, "01234567") >= 3) {
			*out++ = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 |
					(text[3] - '0'));
			text += 4;
		} else {
			*out++ = *text++;
		}
	}
	*out = '\0';
}

bool mount_line_parse(char *line, struct mount_line *out)
{
	char *fields[5], *save, *tail = strstr(line, " - ");

	if (!tail)
		return false;
	*tail = '\0';
	tail += 3;
	for (int i = 0; i < 5; i++) {
		fields[i] = strtok_r(i ? NULL : line, " ", &save);
		if (!fields[i])
			return false;
	}
	if (sscanf(fields[2], "%u:%u", &out->major, &out->minor) != 2 ||
	    !strtok_r(tail, " \n", &save))
		return false;
	out->source = strtok_r(NULL, " \n", &save);
	if (!out->source)
		return false;
	out->point = fields[4];
	decode_octal(out->point);
	decode_octal(out->source);
	return true;
}

static void scan_mountinfo(struct scan *scan, const char *pid, bool foreign)
{
	char path[PATH_MAX];
	AUTO_FILE FILE *file = NULL;
	AUTO_FREE char *line = NULL;
	struct mount_line mount;
	const char *device;
	size_t room = 0;

	snprintf(path, sizeof(path), "%s/proc/%s/mountinfo", scan->root, pid);
	file = fopen(path, "re");
	while (file && getline(&line, &room, file) > 0) {
		if (!mount_line_parse(line, &mount))
			continue;
		device = member_by_number(scan, mount.major, mount.minor);
		if (!device && mount.major == 0) /* btrfs and others have numbers of their own */
			device = member_by_path(scan, mount.source);
		if (device)
			add(scan, HOLDER_MOUNT, device, mount.point, foreign ? atoi(pid) : 0);
	}
}

static unsigned long namespace_of(const struct scan *scan, const char *pid)
{
	char path[PATH_MAX], text[64];
	unsigned long number = 0;
	ssize_t length;

	snprintf(path, sizeof(path), "%s/proc/%s/ns/mnt", scan->root, pid);
	length = readlink(path, text, sizeof(text) - 1);
	if (length <= 0)
		return 0;
	text[length] = '\0';
	return sscanf(text, "mnt:[%lu]", &number) == 1 ? number : 0;
}

/* Marks the namespace as read; false when it was. Unknown ones are always read. */
static bool namespace_first(struct scan *scan, unsigned long number)
{
	unsigned long *grown;

	for (size_t i = 0; number && i < scan->namespace_count; i++)
		if (scan->namespaces[i] == number)
			return false;
	grown = reallocarray(scan->namespaces, scan->namespace_count + 1, sizeof(*grown));
	if (!grown) {
		scan->rc = -ENOMEM;
		return false;
	}
	scan->namespaces = grown;
	scan->namespaces[scan->namespace_count++] = number;
	return true;
}

/* ---- Processes ---- */

static void command_of(const struct scan *scan, const char *pid, char *text, size_t room)
{
	char path[PATH_MAX];
	AUTO_FILE FILE *file = NULL;

	snprintf(path, sizeof(path), "%s/proc/%s/comm", scan->root, pid);
	file = fopen(path, "re");
	if (!file || !fgets(text, (int)room, file))
		snprintf(text, room, "?");
	text[strcspn(text, "\n")] = '\0';
}

/* Which member does the link in /proc/PID/fd mean? By name, and by number for other names. */
static const char *member_by_link(const struct scan *scan, int directory, const char *name)
{
	char target[PATH_MAX];
	ssize_t length = readlinkat(directory, name, target, sizeof(target) - 1);
	const char *device;
	struct statx status;

	if (length <= 0 || target[0] != '/')
		return NULL;
	target[length] = '\0';
	device = member_by_path(scan, target);
	if (device)
		return device;
	/* Never asks a file server: a dead one must not hang us. */
	if (statx(directory, name, AT_STATX_DONT_SYNC, STATX_TYPE, &status) ||
	    !S_ISBLK(status.stx_mode))
		return NULL;
	return member_by_number(scan, status.stx_rdev_major, status.stx_rdev_minor);
}

static void scan_descriptors(struct scan *scan, const char *pid)
{
	char path[PATH_MAX], command[64];
	AUTO_DIR DIR *directory = NULL;
	struct dirent *entry;
	const char *device;

	snprintf(path, sizeof(path), "%s/proc/%s/fd", scan->root, pid);
	directory = opendir(path);
	while (directory && (entry = readdir(directory))) {
		device = member_by_link(scan, dirfd(directory), entry->d_name);
		if (!device)
			continue;
		command_of(scan, pid, command, sizeof(command));
		add(scan, HOLDER_PROCESS, device, command, atoi(pid));
	}
}

static bool is_ignored(const struct scan *scan, pid_t pid)
{
	return pid == scan->ignored[0] || pid == scan->ignored[1];
}

static void scan_processes(struct scan *scan, unsigned int kinds)
{
	char path[PATH_MAX];
	AUTO_DIR DIR *directory = NULL;
	struct dirent *entry;
	unsigned long number;

	if (kinds & 1 << HOLDER_MOUNT) {
		namespace_first(scan, namespace_of(scan, "self"));
		scan_mountinfo(scan, "self", false);
	}
	snprintf(path, sizeof(path), "%s/proc", scan->root);
	directory = opendir(path);
	while (directory && (entry = readdir(directory))) {
		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		if (kinds & 1 << HOLDER_PROCESS && !is_ignored(scan, atoi(entry->d_name)))
			scan_descriptors(scan, entry->d_name);
		if (!(kinds & 1 << HOLDER_MOUNT))
			continue;
		number = namespace_of(scan, entry->d_name);
		if (namespace_first(scan, number))
			scan_mountinfo(scan, entry->d_name, true);
	}
}

/* ---- Swap, holders, loops ---- */

static void scan_swaps(struct scan *scan)
{
	char path[PATH_MAX];
	AUTO_FILE FILE *file = NULL;
	AUTO_FREE char *line = NULL;
	const char *device;
	size_t room = 0;

	snprintf(path, sizeof(path), "%s/proc/swaps", scan->root);
	file = fopen(path, "re");
	while (file && getline(&line, &room, file) > 0) {
		line[strcspn(line, " \t\n")] = '\0';
		decode_octal(line);
		device = member_by_path(scan, line);
		if (device)
			add(scan, HOLDER_SWAP, device, "", 0);
	}
}

static void holder_name(const struct scan *scan, const char *holder, char *text, size_t room)
{
	char path[PATH_MAX], name[128] = "";
	AUTO_FILE FILE *file = NULL;

	snprintf(path, sizeof(path), "%s/sys/block/%s/dm/name", scan->root, holder);
	file = fopen(path, "re");
	if (file && fgets(name, sizeof(name), file))
		name[strcspn(name, "\n")] = '\0';
	snprintf(text, room, *name ? "%.32s (%s)" : "%.32s", holder, name);
}

static void scan_holders_of(struct scan *scan, const char *device)
{
	char path[PATH_MAX], text[200];
	AUTO_DIR DIR *directory = NULL;
	struct dirent *entry;
	const char *disk = scan->members[0].name;
	bool whole = !strcmp(device, disk);

	snprintf(path, sizeof(path), "%s/sys/block/%s/%s%sholders", scan->root, disk,
		 whole ? "" : device, whole ? "" : "/");
	directory = opendir(path);
	while (directory && (entry = readdir(directory))) {
		if (entry->d_name[0] == '.')
			continue;
		holder_name(scan, entry->d_name, text, sizeof(text));
		add(scan, HOLDER_DEVICE, device, text, 0);
	}
}

static void scan_loops(struct scan *scan)
{
	char path[PATH_MAX], backing[PATH_MAX];
	AUTO_DIR DIR *directory = NULL;
	struct dirent *entry;
	const char *device;

	snprintf(path, sizeof(path), "%s/sys/block", scan->root);
	directory = opendir(path);
	while (directory && (entry = readdir(directory))) {
		AUTO_FILE FILE *file = NULL;

		if (strncmp(entry->d_name, "loop", 4))
			continue;
		snprintf(path, sizeof(path), "%s/sys/block/%s/loop/backing_file", scan->root,
			 entry->d_name);
		file = fopen(path, "re");
		if (!file || !fgets(backing, sizeof(backing), file))
			continue;
		backing[strcspn(backing, "\n")] = '\0';
		device = member_by_path(scan, backing);
		if (device)
			add(scan, HOLDER_LOOP, device, entry->d_name, 0);
	}
}

/* The driver tells the thread that attached; its process has the descriptors. */
static pid_t process_of(const char *root, pid_t thread)
{
	char path[PATH_MAX], line[128];
	AUTO_FILE FILE *file = NULL;
	int process;

	snprintf(path, sizeof(path), "%s/proc/%d/status", root, (int)thread);
	file = thread > 0 ? fopen(path, "re") : NULL;
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "Tgid: %d", &process) == 1)
			return process;
	return thread;
}

int holders_find(const char *root, int index, unsigned int kinds,
		 const struct holders_ignored *ignored, struct holders *holders, struct error *err)
{
	struct scan scan = {.root = root, .holders = holders};

	for (size_t i = 0; ignored && i < 2; i++)
		scan.ignored[i] = process_of(root, ignored->pids[i]);
	memset(holders, 0, sizeof(*holders));
	scan.member_count = sysfs_members(root, index, scan.members, SYSFS_MEMBERS_MAX);
	if (!scan.member_count)
		return 0;
	if (kinds & (HOLDERS_OPEN | 1 << HOLDER_MOUNT))
		scan_processes(&scan, kinds);
	if (kinds & 1 << HOLDER_SWAP)
		scan_swaps(&scan);
	for (size_t i = 0; kinds & 1 << HOLDER_DEVICE && i < scan.member_count; i++)
		scan_holders_of(&scan, scan.members[i].name);
	if (kinds & 1 << HOLDER_LOOP)
		scan_loops(&scan);
	free(scan.namespaces);
	if (!scan.rc)
		return 0;
	holders_clear(holders);
	return error_set_errno(err, -scan.rc, "cannot look for users of /dev/nbd%d", index);
}

void holders_clear(struct holders *holders)
{
	free(holders->items);
	memset(holders, 0, sizeof(*holders));
}

static int describe_one(const struct holder *holder, char *text, size_t room)
{
	static const char *const forms[] = {
		[HOLDER_MOUNT] = "/dev/%s is mounted on %s",
		[HOLDER_SWAP] = "/dev/%s is in use as swap%s",
		[HOLDER_DEVICE] = "/dev/%s is held by %s",
		[HOLDER_LOOP] = "/dev/%s is behind %s",
		[HOLDER_PROCESS] = "/dev/%s is open in %s",
	};
	int used;

	/* The forms are constants of this table, each with two strings. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	used = snprintf(text, room, forms[holder->kind], holder->device, holder->text);
#pragma GCC diagnostic pop
	if (holder->pid && used > 0 && (size_t)used < room)
		used += snprintf(text + used, room - (size_t)used,
				 holder->kind == HOLDER_PROCESS ? " (pid %d)"
								: " (in the namespace of pid %d)",
				 (int)holder->pid);
	return used;
}

const char *holders_describe(const struct holders *holders, char *text, size_t room)
{
	size_t used = 0;

	text[0] = '\0';
	for (size_t i = 0; i < holders->count && used < room; i++) {
		if (i)
			used += (size_t)snprintf(text + used, room - used, "; ");
		if (used < room)
			used += (size_t)describe_one(&holders->items[i], text + used, room - used);
	}
	return text;
}
