// SPDX-License-Identifier: MIT
/*
 * Connects. The socket is non-blocking only while connect(2) runs.
 */
#include "dial.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "cleanup.h"
#include "clock.h"
#include "resolve.h"
#include "size.h"

/* One dead address must not eat the time of the next. */
#define ADDRESS_LIMIT (10 * CLOCK_SECOND)

/* A dead peer is noticed on an idle connection after 10 + 3 * 5 seconds. */
enum { KEEPALIVE_IDLE = 10, KEEPALIVE_INTERVAL = 5, KEEPALIVE_PROBES = 3 };

static int wait_connected(int fd, uint64_t deadline)
{
	struct pollfd item = {.fd = fd, .events = POLLOUT};
	socklen_t length = sizeof(int);
	int ready, fault = 0;

	do
		ready = poll(&item, 1, clock_poll_timeout(deadline));
	while (ready < 0 && errno == EINTR);
	if (ready < 0)
		return -errno;
	if (ready == 0)
		return -ETIMEDOUT;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &fault, &length))
		return -errno;
	return -fault;
}

/* AF_UNIX has no EINPROGRESS: a full backlog is EAGAIN, and nothing tells when it has room. */
static int connect_retry(int fd, const struct sockaddr *address, socklen_t length,
			 uint64_t deadline)
{
	for (;;) {
		if (connect(fd, address, length) == 0)
			return 0;
		if (errno == EINPROGRESS)
			return wait_connected(fd, deadline);
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		if (clock_now() >= deadline)
			return -ETIMEDOUT;
		poll(NULL, 0, 20);
	}
}

static int set_blocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) ? -errno : 0;
}

static int connect_address(const struct sockaddr *address, socklen_t length, uint64_t deadline,
			   int *fd)
{
	AUTO_CLOSE int sock = -1;
	int rc;

	sock = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (sock < 0)
		return -errno;
	rc = connect_retry(sock, address, length, deadline);
	if (!rc)
		rc = set_blocking(sock);
	if (rc)
		return rc;
	*fd = take_fd(&sock);
	return 0;
}

/* Speed and the noticing of dead peers are no reason to fail. */
static void tune_tcp(int fd)
{
	static const struct {
		int level, name, value;
	} options[] = {
		{IPPROTO_TCP, TCP_NODELAY, 1},
		{SOL_SOCKET, SO_KEEPALIVE, 1},
		{IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE},
		{IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL},
		{IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES},
	};

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int));
}

static const char *hint_for(int code)
{
	switch (code) {
	case ECONNREFUSED:
		return "; no server listens there";
	case ETIMEDOUT:
		return "; is the address right, and does a firewall let it through?";
	case ENETUNREACH:
	case EHOSTUNREACH:
		return "; is the network up?";
	default:
		return "";
	}
}

static int tcp_fault(const char *host, const char *port, const struct addrinfo *address, int code,
		     struct error *err)
{
	char numeric[NI_MAXHOST] = "?";

	getnameinfo(address->ai_addr, address->ai_addrlen, numeric, sizeof(numeric), NULL, 0,
		    NI_NUMERICHOST);
	error_set_errno(err, code, "cannot connect to %s port %s (%s)", host, port, numeric);
	error_hint(err, "%s", hint_for(code));
	return -code;
}

static int name_fault(const char *host, int code, int system_code, struct error *err)
{
	struct stat status;

	if (code == -ETIMEDOUT) {
		error_set(err, ETIMEDOUT, "cannot find the address of '%s': no answer in time",
			  host);
		error_hint(err, "; do the name servers work?");
		return -ETIMEDOUT;
	}
	error_set(err, EHOSTUNREACH, "cannot find the address of '%s': %s", host,
		  code == EAI_SYSTEM ? strerror(system_code) : gai_strerror(code));
	if (stat(host, &status) == 0 && S_ISSOCK(status.st_mode))
		error_hint(err, "; write ./%s for the socket of that name", host);
	else
		error_hint(err, "; is the name right?");
	return -EHOSTUNREACH;
}

int dial_tcp(const char *host, const char *port, uint64_t deadline, int *fd, struct error *err)
{
	struct addrinfo *addresses;
	int system_code, rc = resolve_tcp(host, port, deadline, &addresses, &system_code);

	*fd = -1;
	if (rc)
		return name_fault(host, rc, system_code, err);
	rc = -EHOSTUNREACH;
	for (const struct addrinfo *at = addresses; at; at = at->ai_next) {
		uint64_t now = clock_now();
		uint64_t limit = at->ai_next ? now + ADDRESS_LIMIT : deadline;

		rc = connect_address(at->ai_addr, at->ai_addrlen, min_of(limit, deadline), fd);
		if (!rc)
			break;
		rc = tcp_fault(host, port, at, -rc, err);
		if (clock_now() >= deadline)
			break;
	}
	freeaddrinfo(addresses);
	if (*fd < 0)
		return rc;
	tune_tcp(*fd);
	return 0;
}

static int unix_fault(const char *path, int code, struct error *err)
{
	static const struct {
		int code;
		const char *hint;
	} hints[] = {
		{ENOENT, "; is the server running, and is the path right?"},
		{ECONNREFUSED, "; the socket is there, but no server listens on it any more"},
		{EACCES, "; the socket's owner or root may"},
		{EPROTOTYPE, "; it is a socket of another type"},
		{ETIMEDOUT, "; the server takes no connections (is it full?)"},
	};

	error_set_errno(err, code, "cannot connect to the socket %s", path);
	for (size_t i = 0; i < sizeof(hints) / sizeof(hints[0]); i++)
		if (hints[i].code == code)
			error_hint(err, "%s", hints[i].hint);
	return -code;
}

int dial_unix(const char *path, uint64_t deadline, int *fd, struct error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t length = strlen(path);
	int rc;

	*fd = -1;
	if (length >= sizeof(address.sun_path))
		return error_set(err, ENAMETOOLONG,
				 "the socket path has %zu bytes, and the system allows %zu; use a "
				 "shorter or a relative path",
				 length, sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, path, length + 1);
	rc = connect_address((struct sockaddr *)&address, sizeof(address), deadline, fd);
	return rc ? unix_fault(path, -rc, err) : 0;
}

int dial_uri(const struct nbd_uri *uri, uint64_t deadline, int *fd, struct error *err)
{
	if (uri->kind == NBD_URI_UNIX)
		return dial_unix(uri->socket, deadline, fd, err);
	return dial_tcp(uri->host, uri->port, deadline, fd, err);
}
