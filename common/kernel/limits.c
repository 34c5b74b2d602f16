// SPDX-License-Identifier: MIT
/* See limits.h. */
#include "limits.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/nbd-protocol.h"
#include "common/size.h"
#include "helper.h"
#include "interface.h"
#include "sysfs.h"

enum {
	/* 128 KiB, the default of older kernels, costs 40 % at large requests. */
	MAX_SECTORS_KB = 1024,
	READ_AHEAD_KB = 1024,
	MIN_SECTORS_KB = 4, /* the kernel takes no less than a page */
	RENEW_SECONDS = 5,
	GOING_SECONDS = 2,
};
/* A TRIM that takes longer than T costs the link, so it goes out in pieces. */
#define DISCARD_MAX_BYTES (UINT64_C(1) << 30)

static uint64_t wanted_sectors_kb(const struct device_attach *attach)
{
	uint64_t payload = attach->max_payload ? attach->max_payload : NBD_DEFAULT_PAYLOAD_MAX;

	return min_of(payload / 1024, (uint64_t)MAX_SECTORS_KB);
}

/* ---- Before ---- */

/* Does an earlier server's WRITE_ZEROES wait on this index? (It is harmless where nobody can
 * write.) */
static bool leaks_zeroes(int index, const struct device_request *request)
{
	uint64_t bytes = 0;

	return !(request->flags & (NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_READ_ONLY)) &&
	       !sysfs_read_number("", index, "queue/write_zeroes_max_bytes", &bytes) && bytes;
}

static int await_removal(int index, struct error *err)
{
	uint64_t deadline = clock_now() + RENEW_SECONDS * CLOCK_SECOND;
	struct device_state state;

	do {
		int rc = device_state_read(index, &state, err);

		if (rc)
			return rc;
		if (!state.exists)
			return 0;
		if (interruptible_sleep(5 * CLOCK_MILLISECOND))
			return error_set(err, EINTR, "interrupted");
	} while (clock_now() < deadline);
	return error_set(err, EBUSY, "/dev/nbd%d cannot be made anew: somebody has it open", index);
}

/* Connects an idle device to nothing for a moment. */
static int touch(int index, uint32_t client_flags, struct error *err)
{
	uint64_t deadline = clock_now() + GOING_SECONDS * CLOCK_SECOND;
	int ends[2], taken, rc;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		return error_set_errno(err, errno, "cannot make a socket pair");
	struct device_request request = {
		.index = index,
		.sockets = ends,
		.socket_count = 1,
		.block_size = NBD_SECTOR,
		.timeout = 1,
		.client_flags = client_flags,
	};
	/* One that is still going down says EINVAL. */
	while ((rc = device_netlink.connect(&request, &taken, err)) == -EINVAL &&
	       clock_now() < deadline && !interruptible_sleep(5 * CLOCK_MILLISECOND))
		;
	if (!rc)
		rc = device_netlink.disconnect(index, err);
	close(ends[0]);
	close(ends[1]);
	return rc;
}

/*
 * Destroys an idle device, so that the next CONNECT with its index creates it with a clean queue.
 * Only a connected device can be told to go. The ioctls do not create devices: for them it is
 * made anew at once.
 */
static int renew(const struct device_interface *interface, int index, struct error *err)
{
	int rc = touch(index, DEVICE_CLIENT_DESTROY, err);

	if (!rc)
		rc = await_removal(index, err);
	if (!rc && interface != &device_netlink)
		rc = touch(index, 0, err);
	return rc;
}

static int first_idle(const struct device_state *state, void *context)
{
	int *index = context;

	if (state->attached)
		return 0;
	*index = state->index;
	return 1;
}

int limits_prepare(const struct device_interface *interface, const struct device_attach *attach,
		   struct error *err)
{
	const struct device_request *request = &attach->request;
	struct device_state state;
	int index = request->index, rc;

	if (wanted_sectors_kb(attach) < MIN_SECTORS_KB)
		return error_set(err, ENOTSUP,
				 "the server takes at most %u bytes per request, the kernel needs "
				 "%u",
				 attach->max_payload, MIN_SECTORS_KB * 1024);
	/* Without an index the kernel takes the first idle device, so that is the one to look at;
	 * what happens in between is found after the connect. */
	if (index < 0)
		device_each(first_idle, &index);
	if (index < 0)
		return 0;
	rc = device_state_read(index, &state, err);
	if (rc || !state.exists || state.attached)
		return rc;
	sysfs_write_number("", index, "queue/max_sectors_kb", wanted_sectors_kb(attach));
	/* Kernels that keep WRITE_ZEROES show the netlink family everywhere. */
	if (!leaks_zeroes(index, request) || netlink_available(NULL))
		return 0;
	/* Busy now may be idle at the connect; limits_apply() has the last word. */
	rc = renew(interface, index, err);
	return rc == -EBUSY ? 0 : rc;
}

/* ---- After ---- */

static int set_sectors(int index, const struct device_attach *attach, struct error *err)
{
	uint64_t now = 0, most = MAX_SECTORS_KB;
	uint64_t limit = attach->max_payload ? attach->max_payload : NBD_DEFAULT_PAYLOAD_MAX;
	int rc;

	sysfs_read_number("", index, "queue/max_hw_sectors_kb", &most);
	rc = sysfs_write_number("", index, "queue/max_sectors_kb",
				min_of(wanted_sectors_kb(attach), most));
	if (!rc ||
	    (!sysfs_read_number("", index, "queue/max_sectors_kb", &now) && now * 1024 <= limit))
		return 0;
	return error_set_errno(err, -rc,
			       "cannot set max_sectors_kb of /dev/nbd%d, and the server takes at "
			       "most %llu bytes per request",
			       index, (unsigned long long)limit);
}

static int set_read_only(int index, bool read_only, struct error *err)
{
	char path[DEVICE_PATH_SIZE];
	AUTO_CLOSE int node = -1;
	struct device_state state;
	int value = read_only, rc;

	rc = device_state_read(index, &state, err);
	if (rc || state.read_only == read_only)
		return rc;
	node = open(device_path(index, path), O_RDONLY | O_CLOEXEC);
	if (node >= 0 && !ioctl(node, BLKROSET, &value))
		return 0;
	return error_set_errno(err, errno, "cannot make %s %s", path,
			       read_only ? "read-only" : "writable");
}

static int compare(int index, const struct device_request *request, struct error *err)
{
	struct device_state state;
	int rc = device_state_read(index, &state, err);

	if (rc)
		return rc;
	if (state.block_size != request->block_size)
		return error_set(err, EINVAL,
				 "/dev/nbd%d has blocks of %u bytes instead of %u; detach it and "
				 "try another device",
				 index, state.block_size, request->block_size);
	if (leaks_zeroes(index, request))
		return error_set(
			err, EBUSY,
			"/dev/nbd%d still sends WRITE_ZEROES from an earlier attach, which "
			"this server does not know; try again, or another device",
			index);
	return 0;
}

int limits_apply(int index, const struct device_attach *attach, struct error *err)
{
	const struct device_request *request = &attach->request;
	bool rotational = request->flags & NBD_FLAG_ROTATIONAL;
	uint64_t value;
	int rc = compare(index, request, err);

	if (!rc)
		rc = set_sectors(index, attach, err);
	if (!rc)
		rc = set_read_only(index, request->flags & NBD_FLAG_READ_ONLY, err);
	if (rc)
		return rc;
	/* The rest is for speed: where sysfs is read-only it stays as it is. */
	sysfs_write_number("", index, "queue/read_ahead_kb", READ_AHEAD_KB);
	if (request->flags & NBD_FLAG_SEND_TRIM)
		sysfs_write_number("", index, "queue/discard_max_bytes", DISCARD_MAX_BYTES);
	if (!sysfs_read_number("", index, "queue/rotational", &value) && value && !rotational)
		sysfs_write_number("", index, "queue/rotational", 0);
	return 0;
}
