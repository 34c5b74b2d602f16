// SPDX-License-Identifier: MIT
/*
 * The attach as a whole: prepare, connect, limits, ready; and the way back when one of them fails.
 * Any thread; see device.h.
 */
#include "device.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/nbd-protocol.h"
#include "common/size.h"
#include "helper.h"
#include "holders.h"
#include "interface.h"
#include "limits.h"
#include "ready.h"

enum {
	READY_SECONDS = 30,
	BUSY_SECONDS = 5,  /* udev's probing of a fresh module takes a second or two */
	GOING_SECONDS = 2, /* a device that is going down (EINVAL) */
	UNDO_SECONDS = 10,
};
#define RETRY_FIRST (10 * CLOCK_MILLISECOND)
#define RETRY_LAST  (300 * CLOCK_MILLISECOND)

/* After some failures the kernel has shut the sockets down; before others they are untouched. */
static bool socket_alive(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLRDHUP};

	return poll(&poll_fd, 1, 0) <= 0 || !(poll_fd.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

static int busy_attached(const struct device_state *state, struct error *err)
{
	struct device_backend backend;
	char path[DEVICE_PATH_SIZE];

	device_path(state->index, path);
	device_backend_parse(state->backend, &backend);
	if (*backend.uri)
		return error_set(err, EBUSY, "%s is already attached, to %s%s%s%s", path,
				 backend.uri, *backend.label ? " (" : "", backend.label,
				 *backend.label ? ")" : "");
	return error_set(err, EBUSY, "%s is already attached%s (by pid %d)", path,
			 *state->backend ? " by another program" : "", state->pid);
}

/* EBUSY says nothing: find out who it is. */
static int busy_explain(int index, struct error *err)
{
	struct holders holders;
	struct device_state state;
	char text[700];
	int rc;

	if (!device_state_read(index, &state, NULL) && state.attached)
		return busy_attached(&state, err);
	rc = holders_find("", index, HOLDERS_USE | HOLDERS_OPEN, NULL, &holders, err);
	if (rc)
		return rc;
	error_set(err, EBUSY, "/dev/nbd%d is busy: %s", index,
		  holders.count ? holders_describe(&holders, text, sizeof(text))
				: "a process that cannot be seen has it open");
	holders_clear(&holders);
	return -EBUSY;
}

static bool worth_a_retry(int rc, const struct device_request *request, uint64_t begun)
{
	uint64_t passed = clock_now() - begun;
	struct device_state state;

	if (rc == -EBUSY && request->index >= 0 &&
	    !device_state_read(request->index, &state, NULL) && state.attached)
		return false;
	if (rc == -EBUSY)
		return passed < BUSY_SECONDS * CLOCK_SECOND;
	return rc == -EINVAL && passed < GOING_SECONDS * CLOCK_SECOND &&
	       socket_alive(request->sockets[0]);
}

static int connect_patiently(const struct device_interface *interface,
			     const struct device_request *request, int *index, struct error *err)
{
	uint64_t begun = clock_now(), step = RETRY_FIRST;
	int rc;

	while ((rc = interface->connect(request, index, err))) {
		if (!worth_a_retry(rc, request, begun))
			break;
		if (interruptible_sleep(step))
			return error_set(err, EINTR, "interrupted");
		step = min_of(step * 2, RETRY_LAST);
	}
	return rc == -EBUSY && request->index >= 0 ? busy_explain(request->index, err) : rc;
}

/* Gives the device back; the first error is the one to tell. The signal that perhaps brought us
 * here must not cut short the wait for the partitions' nodes to go; a second one may. */
static void undo(const struct device_interface *interface, int index)
{
	int signal = termination_take();

	if (!interface->disconnect(index, NULL))
		gone_wait(index, clock_now() + UNDO_SECONDS * CLOCK_SECOND, NULL);
	termination_return(signal);
}

static int make_usable(const struct device_attach *attach, int index, struct error *err)
{
	uint32_t seconds = attach->ready_seconds ? attach->ready_seconds : READY_SECONDS;
	int rc = limits_apply(index, attach, err);

	if (rc || attach->no_wait)
		return rc;
	return ready_wait(index, attach->request.size, clock_now() + seconds * CLOCK_SECOND, err);
}

static int check_request(const struct device_request *request, struct error *err)
{
	if (!request->socket_count || request->socket_count > DEVICE_SOCKETS_MAX)
		return error_set(err, EINVAL, "a device takes 1 to %d connections, not %zu",
				 DEVICE_SOCKETS_MAX, request->socket_count);
	if (request->block_size < NBD_SECTOR || !is_power_of_two(request->block_size) ||
	    request->size % request->block_size)
		return error_set(err, EINVAL, "%llu bytes in blocks of %u are no block device",
				 (unsigned long long)request->size, request->block_size);
	if (!request->size)
		return error_set(err, EINVAL, "the export is empty; there is nothing to attach");
	return 0;
}

int device_attach(const struct device_interface *interface, const struct device_attach *attach,
		  int *index, struct error *err)
{
	struct device_state state;
	int rc = check_request(&attach->request, err);

	if (!rc && attach->request.index >= 0) {
		rc = device_state_read(attach->request.index, &state, err);
		if (!rc && state.attached)
			rc = busy_attached(&state, err);
	}
	if (!rc)
		rc = limits_prepare(interface, attach, err);
	if (!rc)
		rc = connect_patiently(interface, &attach->request, index, err);
	if (rc)
		return rc;
	rc = make_usable(attach, *index, err);
	if (rc)
		undo(interface, *index);
	return rc;
}

int device_attach_socket(const struct device_socket *socket, int *index, struct error *err)
{
	const struct device_interface *interface;
	char backend[DEVICE_BACKEND_MAX + 1];
	uint32_t block = max_of(socket->minimum_block, (uint32_t)NBD_SECTOR);
	struct device_attach attach = {
		.request = {.index = *index,
			    .sockets = &socket->fd,
			    .socket_count = 1,
			    .size = round_down(socket->size, block),
			    .block_size = block,
			    .flags = socket->flags,
			    .timeout = DEVICE_TIMEOUT_DEFAULT,
			    .dead_timeout = DEVICE_DEAD_TIMEOUT_DEFAULT,
			    .backend = backend},
		.max_payload = socket->max_payload,
	};
	int rc = device_interface_choose(DEVICE_CHOICE_AUTO, &interface, NULL, err);

	if (rc)
		return rc;
	device_backend_build(backend, socket->label, socket->uri, 1);
	return device_attach(interface, &attach, index, err);
}
