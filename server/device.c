// SPDX-License-Identifier: MIT
/* See device.h. All that concerns /dev/nbdN itself is in common/kernel. */
#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/client-handshake.h"
#include "common/clock.h"
#include "common/kernel/device.h"
#include "common/log.h"

/* Both ends are in this process. */
#define HANDSHAKE_LIMIT (30 * CLOCK_SECOND)
/* For a disconnect by somebody else to be complete. */
#define RELEASE_LIMIT (2 * CLOCK_SECOND)

int device_choose(const char *text, int *index, struct error *err)
{
	if (strcmp(text, "auto"))
		return device_parse(text, index, err);
	*index = DEVICE_INDEX_ANY;
	return 0;
}

/* ---- The link's thread ---- */

/* Enters the export as the kernel wants it: simple replies, not a byte left on the socket. */
static int enter(struct device_link *link, struct nbd_export_info *info, struct error *err)
{
	struct client_handshake handshake;
	struct transport transport;
	int rc;

	transport_init_plain(&transport, take_fd(&link->fd));
	rc = client_handshake_start(&handshake, &transport, clock_now() + HANDSHAKE_LIMIT, err);
	if (!rc)
		rc = client_handshake_go(&handshake, link->name, info, err);
	if (!rc) {
		link->fd = transport_release(&transport);
		if (link->fd < 0)
			rc = error_set_errno(err, -link->fd, "Cannot hand the socket over");
	}
	transport_close(&transport, TRANSPORT_CLOSE_DROP);
	return rc;
}

static char *file_uri(const char *file)
{
	AUTO_FREE char *path = realpath(file, NULL);
	char *uri = NULL;

	return asprintf(&uri, "file://%s", path ? path : file) < 0 ? NULL : uri;
}

static int attach(struct device_link *link, struct error *err)
{
	struct nbd_export_info info;
	AUTO_FREE char *uri = file_uri(link->file);
	int wanted = link->index, rc;

	nbd_export_info_init(&info);
	rc = enter(link, &info, err);
	if (!rc) {
		struct device_socket socket = {
			.fd = link->fd,
			.size = info.size,
			.flags = info.flags,
			.minimum_block = info.has_block_sizes ? info.minimum : 0,
			.max_payload = info.has_block_sizes ? info.maximum : 0,
			.uri = uri,
		};

		rc = device_attach_socket(&socket, &link->index, err);
		if (rc)
			link->index = wanted;
	}
	cleanup_close(&link->fd); /* the kernel has a reference of its own */
	nbd_export_info_clear(&info);
	return rc;
}

/* Not another program's attach that came after ours was gone? */
static bool still_ours(const struct device_link *link)
{
	struct device_state state;

	return link->attached && device_state_read(link->index, &state, NULL) == 0 &&
	       state.attached && state.pid == link->attached_by;
}

static int detach_how(int index, bool force, struct error *err)
{
	const struct device_detach how = {.force = force};
	const struct device_interface *interface;
	int rc = device_interface_choose(DEVICE_CHOICE_AUTO, &interface, NULL, err);

	if (!rc)
		rc = device_detach(interface, index, &how, err);
	return rc == -ENOTCONN ? 0 : rc;
}

/* Flushes first; what is in use is taken away all the same, because we were told to end. */
static void detach(const struct device_link *link)
{
	struct error err = ERROR_INIT;

	if (!still_ours(link) || detach_how(link->index, false, &err) == 0)
		return;
	log_warning("%s", err.text);
	if (still_ours(link) && detach_how(link->index, true, &err) < 0)
		log_warning("%s", err.text);
}

static void wait_for_signal(void)
{
	sigset_t ends;
	int got;

	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGHUP);
	while (sigwait(&ends, &got))
		continue;
}

/* A node that is not there gets the words that qemu-nbd has for it, and then ours. */
static int explain(struct device_link *link, int rc)
{
	char path[DEVICE_PATH_SIZE];

	if (link->index < 0 || access(device_path(link->index, path), F_OK) == 0)
		return rc;
	error_wrap(&link->error, "Failed to open %s: No such file or directory", path);
	return rc;
}

static int attach_and_tell(struct device_link *link)
{
	struct device_state state;
	char path[DEVICE_PATH_SIZE];
	int rc = attach(link, &link->error);

	if (rc)
		return explain(link, rc);
	rc = device_state_read(link->index, &state, &link->error);
	link->attached_by = state.pid;
	link->attached = true;
	if (!rc)
		rc = link->ready(link->context, device_path(link->index, path), &link->error);
	return rc;
}

static void *run_link(void *argument)
{
	struct device_link *link = argument;

	link->status = attach_and_tell(link);
	if (!link->status)
		wait_for_signal();
	if (!atomic_load(&link->over))
		detach(link);
	server_stop(link->server);
	return NULL;
}

static int add_kernel_end(struct device_link *link, struct error *err)
{
	int ends[2], rc;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return error_set_errno(err, errno, "Cannot make a pair of sockets");
	rc = server_add_client(link->server, ends[0], err);
	if (rc) {
		close(ends[0]);
		close(ends[1]);
		return rc;
	}
	link->fd = ends[1];
	return 0;
}

int device_link_start(struct device_link *link, struct server *server,
		      const struct options *options, struct error *err)
{
	int rc;

	link->fd = -1;
	link->server = server;
	link->name = options->server.export_.name;
	link->file = options->server.export_.file;
	rc = device_choose(options->device, &link->index, err);
	if (!rc)
		rc = add_kernel_end(link, err);
	if (rc)
		return rc;
	rc = pthread_create(&link->thread, NULL, run_link, link);
	if (rc) {
		cleanup_close(&link->fd);
		return error_set_errno(err, rc, "Cannot start a thread");
	}
	link->started = true;
	return 0;
}

/* The end of our socket tells the kernel, which takes a moment. A device that hangs on to a dead
 * link is given back, or its users would wait for nothing. */
static void give_back(const struct device_link *link)
{
	uint64_t deadline = clock_now() + RELEASE_LIMIT;
	struct error err = ERROR_INIT;

	while (still_ours(link)) {
		if (clock_now() < deadline) {
			poll(NULL, 0, 20);
			continue;
		}
		if (detach_how(link->index, true, &err) < 0)
			log_warning("%s", err.text);
		return;
	}
}

int device_link_finish(struct device_link *link, struct error *err)
{
	if (!link->started)
		return 0;
	link->started = false;
	atomic_store(&link->over, true);
	pthread_kill(link->thread, SIGTERM); /* ends sigwait, or an attach that goes on */
	pthread_join(link->thread, NULL);
	give_back(link);
	if (link->status && err)
		*err = link->error;
	return link->status;
}

/* ---- -d ---- */

int device_disconnect(const char *text, struct error *err)
{
	char path[DEVICE_PATH_SIZE];
	struct stat status;
	int index, rc = device_parse(text, &index, err);
	/* qemu-nbd's words for what is not there; device_parse has better ones for the rest. */
	const char *node = rc ? text : device_path(index, path);

	if (stat(node, &status) < 0)
		return error_set_errno(err, errno, "Cannot open %s", text);
	if (!rc)
		rc = detach_how(index, false, err);
	if (rc == -EBUSY || rc == -ETIMEDOUT)
		error_hint(err, " (with 'hawser detach --force')");
	return rc;
}
