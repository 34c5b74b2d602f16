// SPDX-License-Identifier: MIT
/*
 * The driver by its ioctls, for kernels and namespaces without the netlink family. A process has
 * to sit in NBD_DO_IT while the device is attached (resident.h); it ends with the connection. What
 * netlink would tell the kernel (backend) is kept in the name of a memory file of that process,
 * where sysfs_state() finds it. The resident makes system calls only. Any thread.
 */
#include "interface.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nbd.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "resident.h"
#include "sysfs.h"

enum { START_SECONDS = 10, START_STEP_MS = 10, SET_UP_DONE = -1 };

struct step {
	unsigned long request;
	unsigned long argument;
	const char *name;
};

/* What the resident says: first that it is set up, later why it ended. */
struct report {
	int step; /* of the steps, or SET_UP_DONE */
	int code;
};

enum { STEPS_MAX = DEVICE_SOCKETS_MAX + 4 };

/* SET_SOCK is the lock on the device, so it comes first: the size and flag calls of anybody
 * succeed on a live device and change it. */
static size_t make_steps(const struct device_request *request, struct step steps[STEPS_MAX])
{
	size_t count = 0;

	for (size_t i = 0; i < request->socket_count; i++)
		steps[count++] = (struct step){NBD_SET_SOCK, (unsigned long)request->sockets[i],
					       "NBD_SET_SOCK"};
	steps[count++] = (struct step){NBD_SET_BLKSIZE, request->block_size, "NBD_SET_BLKSIZE"};
	steps[count++] = (struct step){NBD_SET_SIZE_BLOCKS,
				       (unsigned long)(request->size / request->block_size),
				       "NBD_SET_SIZE_BLOCKS"};
	steps[count++] = (struct step){NBD_SET_FLAGS, request->flags, "NBD_SET_FLAGS"};
	steps[count++] = (struct step){NBD_SET_TIMEOUT, request->timeout, "NBD_SET_TIMEOUT"};
	return count;
}

static void say(int fd, int step, int code)
{
	struct report report = {.step = step, .code = code};
	ssize_t written = write(fd, &report, sizeof(report));

	(void)written; /* nobody listens any more once the attach is done */
}

/* What the resident is given. */
struct hold {
	const char *path;
	int report;
	const struct device_request *request;
};

static void __attribute__((noreturn)) give_up(const struct hold *hold, int step)
{
	say(hold->report, step, errno);
	_exit(1);
}

/* The resident: sets the device up and sits in it. */
static void hold_device(void *context)
{
	const struct hold *hold = context;
	const struct device_request *request = hold->request;
	struct step steps[STEPS_MAX];
	size_t count = make_steps(request, steps);
	int node;

	/* The kernel keeps no backend identifier of such a device: the name of a file says it. */
	if (request->backend)
		memfd_create(request->backend, MFD_CLOEXEC);
	node = open(hold->path, O_RDWR | O_CLOEXEC);
	if (node < 0)
		give_up(hold, 0);
	for (size_t done = 0; done < count; done++)
		if (ioctl(node, steps[done].request, steps[done].argument)) {
			int code = errno;

			if (done)
				ioctl(node, NBD_CLEAR_SOCK);
			errno = code;
			give_up(hold, (int)done);
		}
	/* The kernel holds its own references now: the peer must see the end when it drops them. */
	for (size_t i = 0; i < request->socket_count; i++)
		close(request->sockets[i]);
	say(hold->report, SET_UP_DONE, 0);
	if (ioctl(node, NBD_DO_IT))
		say(hold->report, 0, errno);
	ioctl(node, NBD_CLEAR_SOCK);
}

static int start_holding(const char *path, int report, const struct device_request *request)
{
	struct hold hold = {.path = path, .report = report, .request = request};
	struct resident resident = {
		.name = "hawser-resident", .count = request->socket_count, .work = hold_device};

	memcpy(resident.keep, request->sockets, request->socket_count * sizeof(*resident.keep));
	resident.keep[resident.count++] = report;
	return resident_start(&resident, &hold);
}

/* A report that came within milliseconds: 1, or 0; -ECHILD when the resident is gone. */
static int take_report(int fd, int milliseconds, struct report *report)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

	if (poll(&poll_fd, 1, milliseconds) <= 0)
		return 0;
	return read(fd, report, sizeof(*report)) == (ssize_t)sizeof(*report) ? 1 : -ECHILD;
}

static int report_error(int index, const struct device_request *request,
			const struct report *report, struct error *err)
{
	struct step steps[STEPS_MAX];
	char what[80], path[DEVICE_PATH_SIZE];

	make_steps(request, steps);
	snprintf(what, sizeof(what), "cannot attach %s", device_path(index, path));
	return interface_error(err, report->code, what,
			       report->step >= 0 ? steps[report->step].name : "");
}

/* DO_IT has begun when `pid` is in sysfs. */
static int await_start(int index, int fd, const struct device_request *request, struct error *err)
{
	uint64_t deadline = clock_now() + START_SECONDS * CLOCK_SECOND;
	struct device_state state;
	struct report report = {.step = SET_UP_DONE, .code = EIO};
	bool set_up = false;
	int rc;

	while (clock_now() < deadline) {
		rc = take_report(fd, START_STEP_MS, &report);
		if (rc < 0 || (rc > 0 && (set_up || report.step != SET_UP_DONE)))
			return report_error(index, request, &report, err);
		set_up |= rc > 0;
		if (set_up && !device_state_read(index, &state, NULL) && state.attached &&
		    state.size == request->size)
			return 0;
	}
	return error_set(err, ETIMEDOUT, "/dev/nbd%d did not start within %d seconds", index,
			 START_SECONDS);
}

static int attach_one(int index, const struct device_request *request, struct error *err)
{
	char path[DEVICE_PATH_SIZE];
	struct device_state state;
	AUTO_CLOSE int reader = -1;
	AUTO_CLOSE int writer = -1;
	int ends[2], rc;

	rc = device_state_read(index, &state, err);
	if (rc)
		return rc;
	if (!state.exists)
		return error_set(err, ENODEV,
				 "there is no %s; load the module with a larger nbds_max",
				 device_path(index, path));
	if (state.attached)
		return error_set_errno(err, EBUSY, "cannot attach %s", device_path(index, path));
	if (pipe2(ends, O_CLOEXEC))
		return error_set_errno(err, errno, "cannot make a pipe");
	reader = ends[0];
	/* Above the standard streams, which the resident replaces. */
	writer = fcntl(ends[1], F_DUPFD_CLOEXEC, 3);
	close(ends[1]);
	rc = start_holding(device_path(index, path), writer, request);
	if (rc)
		return error_set_errno(err, -rc, "cannot start the process that holds %s", path);
	cleanup_close(&writer);
	return await_start(index, reader, request, err);
}

struct hunt {
	const struct device_request *request;
	int index;
	struct error *err;
};

static int try_free(const struct device_state *state, void *context)
{
	struct hunt *hunt = context;
	int rc;

	if (state->attached)
		return 0;
	rc = attach_one(state->index, hunt->request, hunt->err);
	if (rc == -EBUSY) /* somebody was faster */
		return 0;
	hunt->index = state->index;
	return rc ? rc : 1;
}

static int ioctl_connect(const struct device_request *request, int *index, struct error *err)
{
	struct hunt hunt = {.request = request, .err = err};
	int rc;

	if (request->index >= 0) {
		*index = request->index;
		return attach_one(request->index, request, err);
	}
	rc = device_each(try_free, &hunt);
	if (rc == 0)
		return error_set(err, EBUSY,
				 "no nbd device is free; load the module with a larger nbds_max");
	*index = hunt.index;
	return rc > 0 ? 0 : rc;
}

static int ioctl_disconnect(int index, struct error *err)
{
	char path[DEVICE_PATH_SIZE];
	AUTO_CLOSE int node = open(device_path(index, path), O_RDONLY | O_CLOEXEC);

	if (node < 0)
		return error_set_errno(err, errno, "cannot open %s", path);
	/* DISCONNECT alone leaves a netlink device half dead; on an idle one it is EINVAL. */
	ioctl(node, NBD_DISCONNECT);
	if (ioctl(node, NBD_CLEAR_SOCK)) {
		char what[64];

		snprintf(what, sizeof(what), "cannot detach %s", path);
		return interface_error(err, errno, what, "NBD_CLEAR_SOCK");
	}
	return 0;
}

static int ioctl_reconfigure(const struct device_request *request, struct error *err)
{
	return error_set(err, EOPNOTSUPP,
			 "/dev/nbd%d was attached by ioctl, which cannot change a live device; "
			 "detach it and attach it again",
			 request->index);
}

const struct device_interface device_ioctl = {
	.name = "ioctl",
	.connect = ioctl_connect,
	.disconnect = ioctl_disconnect,
	.reconfigure = ioctl_reconfigure,
};
