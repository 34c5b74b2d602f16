// SPDX-License-Identifier: MIT
/*
 * Binding and listening. Between looking whether a server answers on a path, removing what is
 * stale and binding anew, another server may do the same: a lock on the folder keeps servers of
 * this program apart, and is let go as soon as the socket listens.
 */
#include "listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "common/cleanup.h"
#include "common/clock.h"

/* Others lock folders, too (the cleaning of /tmp): after this we go on without the lock. */
#define FOLDER_LOCK_LIMIT (2 * CLOCK_SECOND)
/* A path that changes under us this often is not worth another try. */
enum { BIND_ATTEMPTS = 16 };

static int add(struct listener_set *set, const struct listener *listener, struct error *err)
{
	if (set->count == LISTENER_MAX)
		return error_set(err, E2BIG, "more than %d addresses to listen on", LISTENER_MAX);
	set->items[set->count++] = *listener;
	return 0;
}

/* ---- TCP ---- */

static int listen_address(const struct addrinfo *address, bool v6only, int *fd)
{
	AUTO_CLOSE int sock = -1;
	int on = 1, only = v6only;

	sock = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (sock < 0)
		return -errno;
	setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (address->ai_family == AF_INET6 &&
	    setsockopt(sock, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof(only)) < 0)
		return -errno;
	if (bind(sock, address->ai_addr, address->ai_addrlen) < 0 || listen(sock, SOMAXCONN) < 0)
		return -errno;
	*fd = take_fd(&sock);
	return 0;
}

static bool has_family(const struct addrinfo *list, int family)
{
	for (; list; list = list->ai_next)
		if (list->ai_family == family)
			return true;
	return false;
}

/* A name that stands twice in /etc/hosts comes twice. */
static bool came_before(const struct addrinfo *list, const struct addrinfo *address)
{
	for (; list != address; list = list->ai_next)
		if (list->ai_addrlen == address->ai_addrlen &&
		    !memcmp(list->ai_addr, address->ai_addr, address->ai_addrlen))
			return true;
	return false;
}

static int bind_error(struct error *err, int code, const char *host, const char *port)
{
	if (code == EADDRINUSE)
		return error_set(err, code,
				 "Failed to find an available port: Address already in use");
	error_set_errno(err, code, "Failed to bind socket");
	return error_hint(err, " (%s port %s)", host, port);
}

/* This machine may lack a family that a name has: another address of it will do. */
static bool absent(int code)
{
	return code == -EAFNOSUPPORT || code == -EADDRNOTAVAIL;
}

static int listen_all(struct listener_set *set, const struct addrinfo *list, const char *host,
		      const char *port, struct error *err)
{
	size_t before = set->count;
	bool both = has_family(list, AF_INET);
	int rc, last = 0;

	for (const struct addrinfo *address = list; address; address = address->ai_next) {
		struct listener listener = {.fd = -1};

		if (came_before(list, address))
			continue;
		rc = listen_address(address, both, &listener.fd);
		if (absent(rc)) {
			last = rc;
			continue;
		}
		if (rc < 0)
			return bind_error(err, -rc, host, port);
		rc = add(set, &listener, err);
		if (rc < 0) {
			close(listener.fd);
			return rc;
		}
	}
	return set->count > before ? 0 : bind_error(err, -last, host, port);
}

int listener_open_tcp(struct listener_set *set, const char *host, const char *port,
		      struct error *err)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
	struct addrinfo *list = NULL;
	int fault = getaddrinfo(*host ? host : NULL, port, &hints, &list), rc;

	if (fault)
		return error_set(err, EADDRNOTAVAIL, "address resolution failed for %s:%s: %s",
				 host, port, gai_strerror(fault));
	rc = listen_all(set, list, host, port, err);
	freeaddrinfo(list);
	return rc;
}

/* ---- Unix ---- */

int listener_check_path(const char *path, struct error *err)
{
	if (path[0] != '/')
		return error_set(err, EINVAL, "socket path must be absolute");
	if (strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return error_set(err, EINVAL,
				 "UNIX socket path '%s' is too long\n"
				 "Path must be less than 108 bytes",
				 path);
	return 0;
}

/* The folder of path, locked; -1 where that cannot be had. Closing it unlocks. */
static int folder_lock(const char *path)
{
	AUTO_FREE char *folder = strdup(path);
	AUTO_CLOSE int fd = -1;
	uint64_t deadline = clock_now() + FOLDER_LOCK_LIMIT;

	if (!folder)
		return -1;
	*(strrchr(folder, '/') + 1) = '\0';
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	while (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (clock_now() >= deadline)
			return -1;
		poll(NULL, 0, 10);
	}
	return take_fd(&fd);
}

static void fill_address(struct sockaddr_un *address, const char *path)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(address->sun_path, path, strlen(path) + 1);
}

/* Is the socket at the address dead? 0: yes (or gone), else what speaks against removing it. */
static int check_stale(const struct sockaddr_un *address, struct error *err)
{
	AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	const char *path = address->sun_path;
	struct stat status;
	int code = 0;

	if (fd < 0)
		return error_set_errno(err, errno, "Failed to create a socket");
	if (lstat(path, &status) < 0)
		return errno == ENOENT ? 0
				       : error_set_errno(err, errno, "Cannot look at '%s'", path);
	if (!S_ISSOCK(status.st_mode))
		return error_set(err, EEXIST,
				 "'%s' exists and is not a socket; remove it or choose another "
				 "socket path",
				 path);
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
		code = errno;
	if (code == ECONNREFUSED || code == ENOENT)
		return 0;
	/* EAGAIN: its backlog is full. EPROTOTYPE: it is no stream socket, but somebody's. */
	if (!code || code == EAGAIN || code == EINPROGRESS || code == EPROTOTYPE)
		return error_set(err, EADDRINUSE,
				 "a server already answers on the socket '%s'; stop it or choose "
				 "another socket path",
				 path);
	return error_set_errno(err, code, "Cannot tell whether a server answers on '%s'", path);
}

static int bind_path(int fd, const struct sockaddr_un *address, struct error *err)
{
	const char *path = address->sun_path;

	for (int attempt = 0; attempt < BIND_ATTEMPTS; attempt++) {
		int rc;

		if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) == 0)
			return 0;
		if (errno != EADDRINUSE)
			return error_set_errno(err, errno, "Failed to bind socket to %s", path);
		rc = check_stale(address, err);
		if (rc < 0)
			return rc;
		if (unlink(path) < 0 && errno != ENOENT)
			return error_set_errno(err, errno, "Cannot remove the stale socket '%s'",
					       path);
	}
	return error_set_errno(err, EADDRINUSE, "Failed to bind socket to %s", path);
}

int listener_open_unix(struct listener_set *set, const char *path, struct error *err)
{
	AUTO_CLOSE int lock = -1;
	struct listener listener = {.fd = -1};
	struct sockaddr_un address;
	struct stat status;
	int rc = listener_check_path(path, err);

	if (rc < 0)
		return rc;
	fill_address(&address, path);
	listener.path = strdup(path);
	listener.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (!listener.path || listener.fd < 0) {
		rc = error_set_errno(err, errno, "Failed to create a socket");
		goto give_up;
	}
	lock = folder_lock(path);
	rc = bind_path(listener.fd, &address, err);
	if (rc < 0)
		goto give_up;
	if (listen(listener.fd, SOMAXCONN) < 0 || lstat(path, &status) < 0) {
		rc = error_set_errno(err, errno, "Failed to listen on socket %s", path);
		unlink(path);
		goto give_up;
	}
	listener.device = status.st_dev;
	listener.inode = status.st_ino;
	rc = add(set, &listener, err);
	if (!rc)
		return 0;
	unlink(path);
give_up:
	if (listener.fd >= 0)
		close(listener.fd);
	free(listener.path);
	return rc;
}

/*
 * Before the socket is closed: as long as it is open it holds its inode, so the number cannot
 * have gone to another file.
 */
static void remove_path(const struct listener *listener)
{
	AUTO_CLOSE int lock = folder_lock(listener->path);
	struct stat status;

	(void)lock;
	if (lstat(listener->path, &status) == 0 && status.st_dev == listener->device &&
	    status.st_ino == listener->inode)
		unlink(listener->path);
}

/* ---- Any ---- */

int listener_adopt(struct listener_set *set, int fd, struct error *err)
{
	struct listener listener = {.fd = fd};
	int type = 0, listening = 0;
	socklen_t length = sizeof(int);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0)
		return error_set_errno(err, errno, "Failed to use socket activation: descriptor %d",
				       fd);
	length = sizeof(int);
	if (type != SOCK_STREAM ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) < 0 || !listening)
		return error_set(err, EINVAL,
				 "Failed to use socket activation: descriptor %d is not a "
				 "listening stream socket",
				 fd);
	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
		return error_set_errno(err, errno, "Failed to set up descriptor %d", fd);
	return add(set, &listener, err);
}

const char *listener_describe(const struct listener *listener, char text[LISTENER_TEXT_MAX])
{
	union {
		struct sockaddr any;
		struct sockaddr_un un;
		struct sockaddr_storage storage;
	} address = {.any = {.sa_family = AF_UNSPEC}};
	socklen_t length = sizeof(address) - 1; /* keeps a terminator behind a Unix path */
	char host[64], port[16];

	getsockname(listener->fd, &address.any, &length);
	if (address.any.sa_family == AF_UNIX)
		snprintf(text, LISTENER_TEXT_MAX, "%s%s", address.un.sun_path[0] ? "" : "@",
			 address.un.sun_path + !address.un.sun_path[0]);
	else if (!getnameinfo(&address.any, length, host, sizeof(host), port, sizeof(port),
			      NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(text, LISTENER_TEXT_MAX,
			 address.any.sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
	else
		snprintf(text, LISTENER_TEXT_MAX, "an unknown address");
	return text;
}

void listener_close_all(struct listener_set *set)
{
	while (set->count) {
		struct listener *listener = &set->items[--set->count];

		if (listener->path)
			remove_path(listener);
		close(listener->fd);
		free(listener->path);
	}
}
