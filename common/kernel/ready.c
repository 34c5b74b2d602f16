// SPDX-License-Identifier: MIT
/*
 * See ready.h. The driver scans partitions in the first open after an attach, synchronously, so
 * one open and close in a helper is the whole trick; the open is read-only, because udev probes a
 * device anew whenever a writer closes it.
 */
#include "ready.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/size.h"
#include "helper.h"
#include "sysfs.h"

#define POLL_FIRST  (2 * CLOCK_MILLISECOND)
#define POLL_LAST   (100 * CLOCK_MILLISECOND)
#define SETTLE_STEP (5 * CLOCK_MILLISECOND)

enum { SETTLE_SECONDS_MAX = 20 };

struct probe {
	const char *path;
	uint64_t size; /* what BLKGETSIZE64 must say */
	bool reread;   /* partitions are not scanned by the open: ask */
};

/* In the helper. -EAGAIN: not there yet. */
static int probe_work(const void *context)
{
	const struct probe *probe = context;
	int node = open(probe->path, O_RDONLY | O_CLOEXEC);
	uint64_t size = 0;
	char byte;
	int rc = 0;

	if (node < 0)
		return errno == ENOENT || errno == ENXIO || errno == EBUSY ? -EAGAIN : -errno;
	if (ioctl(node, BLKGETSIZE64, &size))
		rc = -errno;
	else if (size != probe->size)
		rc = -EAGAIN;
	else if (size && pread(node, &byte, 1, 0) != 1) /* the scan hides that it cannot read */
		rc = errno ? -errno : -EIO;
	else if (probe->reread)
		ioctl(node, BLKRRPART); /* fails without a table, too */
	close(node);
	return rc;
}

/* One open and close of the node. */
static int probe_once(const struct probe *probe, uint64_t deadline, struct error *err)
{
	struct helper helper CLEANUP(helper_release) = HELPER_INIT;
	int answer = 0, rc;

	rc = helper_start(&helper, probe_work, probe, err);
	if (rc)
		return rc;
	rc = helper_wait(&helper, deadline, &answer);
	return rc ? rc : answer;
}

/* Each partition in sysfs has its node in /dev. */
static bool nodes_present(int index)
{
	struct sysfs_member members[SYSFS_MEMBERS_MAX];
	size_t count = sysfs_members("", index, members, SYSFS_MEMBERS_MAX);
	char path[48];

	for (size_t i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "/dev/%s", members[i].name);
		if (access(path, F_OK))
			return false;
	}
	return count > 0;
}

/* With max_part=0 the kernel never scans by itself. */
static bool scan_disabled(void)
{
	AUTO_FILE FILE *file = fopen("/sys/module/nbd/parameters/max_part", "re");
	int value = 1;

	return file && fscanf(file, "%d", &value) == 1 && value == 0;
}

static int pause_step(uint64_t *step, uint64_t deadline)
{
	uint64_t now = clock_now();

	if (now >= deadline)
		return -ETIMEDOUT;
	if (interruptible_sleep(min_of(*step, deadline - now)))
		return -EINTR;
	*step = min_of(*step * 2, POLL_LAST);
	return 0;
}

static int wait_failed(int rc, const char *path, const char *what, struct error *err)
{
	if (rc == -EINTR)
		return error_set(err, EINTR, "interrupted");
	if (rc == -ETIMEDOUT)
		return error_set(err, ETIMEDOUT, "%s was attached, but %s in time", path, what);
	return error_set_errno(err, -rc, "%s was attached, but cannot be read", path);
}

int ready_wait(int index, uint64_t size, uint64_t deadline, struct error *err)
{
	char path[DEVICE_PATH_SIZE];
	struct probe probe = {
		.path = device_path(index, path), .size = size, .reread = scan_disabled()};
	uint64_t step = POLL_FIRST;
	int rc;

	while ((rc = probe_once(&probe, deadline, err)) == -EAGAIN)
		if ((rc = pause_step(&step, deadline)))
			break;
	if (rc)
		return wait_failed(rc, path,
				   access(path, F_OK)
					   ? "its node did not appear (is /dev a devtmpfs here?)"
					   : "could not be read (does the server answer?)",
				   err);
	udev_settle(deadline);
	while (!rc && !nodes_present(index))
		rc = pause_step(&step, deadline);
	if (rc)
		return wait_failed(rc, path, "its partition nodes did not appear in /dev", err);
	return termination_pending() ? error_set(err, EINTR, "interrupted") : 0;
}

static bool let_go(int index)
{
	struct device_state state;

	return !device_state_read(index, &state, NULL) &&
	       (!state.exists || (!state.attached && !state.size));
}

static bool partitions_gone(int index)
{
	struct device_state state;

	return !device_state_read(index, &state, NULL) && !state.partitions;
}

int gone_wait(int index, uint64_t deadline, struct error *err)
{
	char path[DEVICE_PATH_SIZE];
	struct probe probe = {.path = device_path(index, path)};
	uint64_t step = POLL_FIRST;
	int rc = 0;

	while (!rc && !let_go(index))
		rc = pause_step(&step, deadline);
	if (rc)
		return rc;
	/* The first open after the end throws the partitions away. */
	step = POLL_FIRST;
	while (!rc && !partitions_gone(index)) {
		rc = probe_once(&probe, deadline, err);
		if (rc == -EAGAIN || rc == 0)
			rc = partitions_gone(index) ? 0 : pause_step(&step, deadline);
	}
	return rc;
}

/* udevadm has its time limit; only a termination ends the wait earlier. */
static void await_settle(pid_t pid)
{
	int rc;

	while ((rc = waitpid(pid, NULL, WNOHANG)) == 0 && !interruptible_sleep(SETTLE_STEP))
		;
	if (rc)
		return;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

void udev_settle(uint64_t deadline)
{
	static const char *const paths[] = {"/bin/udevadm", "/usr/bin/udevadm", "/sbin/udevadm"};
	static char *const environment[] = {(char *)"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
	uint64_t now = clock_now();
	uint64_t seconds = now < deadline ? (deadline - now) / CLOCK_SECOND + 1 : 1;
	char option[32];
	char *argv[] = {(char *)"udevadm", (char *)"settle", option, NULL};
	posix_spawn_file_actions_t actions;
	int rc = ENOENT;
	pid_t pid;

	if (access("/run/udev/control", F_OK))
		return;
	snprintf(option, sizeof(option), "--timeout=%u",
		 (unsigned int)min_of(seconds, (uint64_t)SETTLE_SECONDS_MAX));
	posix_spawn_file_actions_init(&actions);
	for (int fd = 0; fd < 3; fd++)
		posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
	for (size_t i = 0; rc == ENOENT && i < sizeof(paths) / sizeof(paths[0]); i++)
		rc = posix_spawn(&pid, paths[i], &actions, NULL, argv, environment);
	posix_spawn_file_actions_destroy(&actions);
	if (!rc)
		await_settle(pid);
}
