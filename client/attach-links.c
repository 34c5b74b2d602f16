// SPDX-License-Identifier: MIT
/* See attach-links.h. */
#include "attach-links.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "command.h"
#include "relay.h"

enum {
	/* TCP itself gives a dead peer up before the kernel's request timer does. */
	USER_TIMEOUT_MS = 20000,
};

/* To be set before the hand-over; on AF_UNIX there is nothing of the kind. */
static void prepare_socket(int fd)
{
	unsigned int timeout = USER_TIMEOUT_MS;

	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
}

static int enter(struct session *session, const char *text, struct nbd_export_info *info,
		 struct error *err)
{
	int status, rc;

	nbd_export_info_init(info);
	status = session_open(session, text, SESSION_TIMEOUT_SECONDS, err);
	if (status != COMMAND_OK)
		return status;
	rc = client_handshake_go(&session->handshake, session->uri.export_, info, err);
	if (rc)
		return session_fault(session, rc, err);
	prepare_socket(session->transport.fd);
	return COMMAND_OK;
}

static int plan_fault(int rc, const struct session *session, struct error *err)
{
	error_wrap(err, "%s", session->server);
	return rc == -EROFS || rc == -ENOTSUP ? COMMAND_REFUSED : COMMAND_FAILED;
}

/* The device remembers its server for longer than anybody our working directory. */
static int make_absolute(char **path)
{
	char *whole = *path && **path != '/' ? realpath(*path, NULL) : NULL;

	if (!*path || **path == '/')
		return 0;
	if (!whole)
		return -ENOMEM;
	free(*path);
	*path = whole;
	return 0;
}

static int open_first(struct attach_links *links, const char *uri, const struct attach_wish *wish,
		      struct attach_plan *plan, struct nbd_export_info *first, struct error *err)
{
	struct session *session = &links->sessions[0];
	int status = enter(session, uri, first, err), rc;

	links->count = 1;
	if (status != COMMAND_OK)
		return status;
	rc = attach_plan_make(wish, first, plan, err);
	if (rc)
		return plan_fault(rc, session, err);
	if (!make_absolute(&session->uri.socket))
		links->uri = nbd_uri_format(&session->uri);
	if (links->uri)
		return COMMAND_OK;
	error_set_errno(err, ENOMEM, "cannot keep the URI");
	return COMMAND_FAILED;
}

/* C28: a device with two sizes or two sets of rights would be nonsense. */
static int open_further(struct attach_links *links, const char *uri,
			const struct nbd_export_info *first, struct error *err)
{
	struct nbd_export_info info;
	size_t number = links->count++;
	struct session *session = &links->sessions[number];
	int status = enter(session, uri, &info, err);

	if (status == COMMAND_OK && (info.size != first->size || info.flags != first->flags)) {
		error_set(err, EPROTO,
			  "%s: connection %zu has another size or other flags than the first "
			  "(%llu bytes, 0x%x; %llu bytes, 0x%x)",
			  session->server, number + 1, (unsigned long long)info.size, info.flags,
			  (unsigned long long)first->size, first->flags);
		status = COMMAND_PROTOCOL;
	}
	nbd_export_info_clear(&info);
	return status;
}

/* The kernel cannot encrypt: a process does it, and the kernel gets the other end of a pair. */
static int relay_links(struct attach_links *links, struct error *err)
{
	struct transport *transports[DEVICE_SOCKETS_MAX];

	for (size_t i = 0; i < links->count; i++)
		transports[i] = &links->sessions[i].transport;
	if (relay_start_process(transports, links->count, links->sockets, err))
		return COMMAND_FAILED;
	/* What is to be said to the server now goes through the relay. */
	for (size_t i = 0; i < links->count; i++)
		transport_init_plain(transports[i], links->sockets[i]);
	return COMMAND_OK;
}

static int collect_sockets(struct attach_links *links, struct error *err)
{
	if (links->sessions[0].uri.tls)
		return relay_links(links, err);
	for (size_t i = 0; i < links->count; i++)
		links->sockets[i] = links->sessions[i].transport.fd;
	return COMMAND_OK;
}

int attach_links_open(struct attach_links *links, const char *uri, const struct attach_wish *wish,
		      struct attach_plan *plan, struct error *err)
{
	struct nbd_export_info first;
	int status;

	memset(links, 0, sizeof(*links));
	links->sessions = calloc(wish->connections, sizeof(*links->sessions));
	if (!links->sessions) {
		error_set_errno(err, ENOMEM, "cannot keep the connections");
		return COMMAND_FAILED;
	}
	status = open_first(links, uri, wish, plan, &first, err);
	while (status == COMMAND_OK && links->count < wish->connections)
		status = open_further(links, uri, &first, err);
	nbd_export_info_clear(&first);
	if (status == COMMAND_OK)
		status = collect_sockets(links, err);
	return status;
}

void attach_links_close(struct attach_links *links, bool handed_over)
{
	for (size_t i = 0; i < links->count; i++) {
		/* Our copy only: a shutdown, or a goodbye, would be felt by the kernel's. */
		int fd = handed_over ? transport_release(&links->sessions[i].transport) : -1;

		if (fd >= 0)
			close(fd);
		session_close(&links->sessions[i]);
	}
	free(links->sessions);
	free(links->uri);
	memset(links, 0, sizeof(*links));
}
