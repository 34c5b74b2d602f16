// SPDX-License-Identifier: MIT
/*
 * Finding a server's control socket: each socket in the run directories is asked who serves there
 * and where it listens. Sockets there may be dead, mute or somebody else's: each gets a short time
 * and nobody's word is trusted beyond what is shown.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <ifaddrs.h>
#include <limits.h>
#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "command.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/control-path.h"
#include "common/printable.h"
#include "common/size.h"
#include "common/uri.h"
#include "top.h"

#define ANSWER_LIMIT (5 * CLOCK_SECOND)
/* For those who may not be meant at all. */
#define HELLO_LIMIT CLOCK_SECOND
/* Far more than a server of ours says. */
enum { ANSWER_MAX = 64 << 20 };

/* ---- Asking ---- */

static bool wait_for(int fd, short events, uint64_t deadline)
{
	struct pollfd item = {.fd = fd, .events = events};
	int ready;

	do
		ready = poll(&item, 1, clock_poll_timeout(deadline));
	while (ready < 0 && errno == EINTR);
	return ready > 0;
}

/* OpenMetrics ends with its own line, everything else is one line. */
static bool is_whole(const char *text, size_t length)
{
	static const char end[] = "# EOF\n";
	size_t size = sizeof(end) - 1;

	if (!length || text[length - 1] != '\n')
		return false;
	return text[0] != '#' || (length >= size && !memcmp(text + length - size, end, size));
}

static int send_request(int fd, const char *request, uint64_t deadline)
{
	char line[64];
	int length = snprintf(line, sizeof(line), "%s\n", request);

	if (!wait_for(fd, POLLOUT, deadline))
		return -ETIMEDOUT;
	return send(fd, line, (size_t)length, MSG_NOSIGNAL) == length ? 0 : -EPIPE;
}

static int receive_answer(int fd, uint64_t deadline, char **answer, size_t *length)
{
	AUTO_FREE char *text = NULL;
	size_t used = 0, room = 0;

	while (!is_whole(text, used)) {
		ssize_t got;

		if (room - used < 4096) {
			char *grown;

			if (room > ANSWER_MAX)
				return -EMSGSIZE;
			grown = realloc(text, 2 * room + 16384);
			if (!grown)
				return -ENOMEM;
			text = grown;
			room = 2 * room + 16384;
		}
		if (!wait_for(fd, POLLIN, deadline))
			return -ETIMEDOUT;
		got = recv(fd, text + used, room - used - 1, 0);
		if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
			return -ECONNRESET;
		used += got > 0 ? (size_t)got : 0;
	}
	text[used] = '\0';
	*length = used;
	*answer = take_ptr(text);
	return 0;
}

static int ask(int fd, const char *request, uint64_t limit, char **answer, size_t *length)
{
	uint64_t deadline = clock_now() + limit;
	int rc = send_request(fd, request, deadline);

	return rc ? rc : receive_answer(fd, deadline, answer, length);
}

int top_server_ask(const struct top_server *server, const char *request, char **answer,
		   size_t *length, struct error *err)
{
	int rc = ask(server->fd, request, ANSWER_LIMIT, answer, length);

	if (!rc)
		return COMMAND_OK;
	if (rc == -ECONNRESET || rc == -EPIPE)
		error_set(err, -rc, "the server has ended (process %ld)", server->pid);
	else
		error_set_errno(err, -rc, "the server does not tell its numbers (process %ld)",
				server->pid);
	return COMMAND_UNREACHABLE;
}

void top_server_clear(struct top_server *server)
{
	cleanup_close(&server->fd);
	free(take_ptr(server->path));
	json_value_free(take_ptr(server->hello));
}

/* Connects and asks who is there: 0 or -errno. */
static int meet(const char *path, struct top_server *server)
{
	AUTO_FREE char *answer = NULL;
	size_t length;
	int rc;

	*server = (struct top_server)TOP_SERVER_INIT;
	server->fd = control_path_connect(path);
	if (server->fd < 0)
		return server->fd;
	rc = ask(server->fd, "hello", HELLO_LIMIT, &answer, &length);
	if (!rc && json_read(answer, length, &server->hello, NULL))
		rc = -EPROTO;
	server->pid = (long)min_of(json_member_number(server->hello, "pid"), (uint64_t)INT32_MAX);
	if (!rc && (!server->pid || !json_member(server->hello, "listening")))
		rc = -EPROTO;
	if (!rc && !(server->path = strdup(path)))
		rc = -ENOMEM;
	if (rc)
		top_server_clear(server);
	return rc;
}

/* ---- All servers ---- */

struct crowd {
	struct top_server *servers;
	size_t count;
	bool denied; /* somebody else's are here, too */
};

static void crowd_clear(struct crowd *crowd)
{
	for (size_t i = 0; i < crowd->count; i++)
		top_server_clear(&crowd->servers[i]);
	free(crowd->servers);
}

static void crowd_add(struct crowd *crowd, const char *path)
{
	struct top_server server, *grown;
	int rc = meet(path, &server);

	if (rc) {
		crowd->denied |= rc == -EACCES;
		return;
	}
	grown = reallocarray(crowd->servers, crowd->count + 1, sizeof(*grown));
	if (!grown) {
		top_server_clear(&server);
		return;
	}
	crowd->servers = grown;
	crowd->servers[crowd->count++] = server;
}

static void crowd_add_folder(struct crowd *crowd, const char *folder)
{
	AUTO_DIR DIR *entries = opendir(folder);
	const struct dirent *entry;

	while (entries && (entry = readdir(entries))) {
		AUTO_FREE char *path = NULL;

		if (!control_path_pid(entry->d_name))
			continue;
		if (asprintf(&path, "%s/%s", folder, entry->d_name) < 0)
			path = NULL;
		if (path)
			crowd_add(crowd, path);
	}
}

/* The servers of other users: root can open their sockets. */
static void crowd_add_users(struct crowd *crowd)
{
	AUTO_DIR DIR *entries = opendir("/run/user");
	const struct dirent *entry;

	while (entries && (entry = readdir(entries))) {
		AUTO_FREE char *folder = NULL;

		if (entry->d_name[0] == '.')
			continue;
		if (asprintf(&folder, "/run/user/%s/hawser", entry->d_name) < 0)
			folder = NULL;
		if (folder)
			crowd_add_folder(crowd, folder);
	}
}

static void crowd_gather(struct crowd *crowd)
{
	AUTO_FREE char *own = control_path_folder();

	crowd_add_folder(crowd, CONTROL_PATH_SYSTEM);
	if (own && strcmp(own, CONTROL_PATH_SYSTEM))
		crowd_add_folder(crowd, own);
	if (geteuid() == 0)
		crowd_add_users(crowd);
}

/* ---- Which one ---- */

typedef bool matcher(const struct top_server *server, const void *wanted);

static bool has_pid(const struct top_server *server, const void *wanted)
{
	return server->pid == *(const long *)wanted;
}

static bool same_file(const char *one, const char *other)
{
	struct stat a, b;

	if (!strcmp(one, other))
		return true;
	return stat(one, &a) == 0 && stat(other, &b) == 0 && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
}

static bool has_socket(const struct top_server *server, const void *wanted)
{
	const struct json_value *place = json_member(server->hello, "listening")->first;

	for (; place; place = place->next)
		if (place->text && same_file(place->text, wanted))
			return true;
	return false;
}

/* Numeric "address:port" texts of a name. */
struct addresses {
	size_t count;
	char text[16][INET6_ADDRSTRLEN + 32];
};

static bool has_address(const struct top_server *server, const void *wanted)
{
	const struct json_value *place = json_member(server->hello, "listening")->first;
	const struct addresses *addresses = wanted;

	for (; place; place = place->next)
		for (size_t i = 0; place->text && i < addresses->count; i++)
			if (!strcmp(place->text, addresses->text[i]))
				return true;
	return false;
}

/* Takes the first that matches out of the crowd. */
static bool take(struct crowd *crowd, matcher *match, const void *wanted, struct top_server *server)
{
	for (size_t i = 0; i < crowd->count; i++) {
		if (!match(&crowd->servers[i], wanted))
			continue;
		*server = crowd->servers[i];
		crowd->servers[i] = (struct top_server)TOP_SERVER_INIT;
		return true;
	}
	return false;
}

static int not_found(const struct crowd *crowd, struct error *err, const char *what)
{
	error_set(err, ENOENT, "no server that tells statistics %s", what);
	if (crowd->denied) {
		error_hint(err, "; some here belong to others: try as root");
		return COMMAND_NOT_POSSIBLE;
	}
	error_hint(err, "; is it hawserd, and was it not started with --control=none?");
	return COMMAND_UNREACHABLE;
}

static int find_by_pid(struct crowd *crowd, const char *text, struct top_server *server,
		       struct error *err)
{
	uint64_t number;
	long pid;
	char what[64];

	if (size_parse_number(text, INT32_MAX, &number) || !number)
		return command_usage(err, "top: '%s' is no process number", text);
	pid = (long)number;
	if (take(crowd, has_pid, &pid, server))
		return COMMAND_OK;
	snprintf(what, sizeof(what), "is process %ld", pid);
	return not_found(crowd, err, what);
}

/* The path may also be that of a control socket, wherever it is. */
static int find_by_socket(struct crowd *crowd, const char *path, struct top_server *server,
			  struct error *err)
{
	AUTO_FREE char *what = NULL;
	int rc;

	if (take(crowd, has_socket, path, server))
		return COMMAND_OK;
	rc = meet(path, server);
	if (!rc)
		return COMMAND_OK;
	if (rc != -EPROTO && rc != -ETIMEDOUT && rc != -ECONNRESET && rc != -EPIPE) {
		error_set_errno(err, -rc, "cannot connect to '%s'", path);
		return rc == -EACCES ? COMMAND_NOT_POSSIBLE : COMMAND_UNREACHABLE;
	}
	if (asprintf(&what, "listens on '%s'", path) < 0)
		what = NULL;
	return not_found(crowd, err, what ? what : "listens there");
}

static bool is_local(const struct ifaddrs *interfaces, const struct sockaddr *address)
{
	for (; interfaces; interfaces = interfaces->ifa_next) {
		const struct sockaddr *own = interfaces->ifa_addr;

		if (!own || own->sa_family != address->sa_family)
			continue;
		if (own->sa_family == AF_INET &&
		    ((const struct sockaddr_in *)own)->sin_addr.s_addr ==
			    ((const struct sockaddr_in *)address)->sin_addr.s_addr)
			return true;
		if (own->sa_family == AF_INET6 &&
		    IN6_ARE_ADDR_EQUAL(&((const struct sockaddr_in6 *)own)->sin6_addr,
				       &((const struct sockaddr_in6 *)address)->sin6_addr))
			return true;
	}
	/* All of 127.0.0.0/8 and the wildcards are here. */
	if (address->sa_family == AF_INET) {
		uint32_t number = ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr);

		return number >> 24 == 127 || number == 0;
	}
	return address->sa_family == AF_INET6 &&
	       IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

static void add_address(struct addresses *addresses, const char *host, const char *port)
{
	const char *open = strchr(host, ':') ? "[" : "", *close = *open ? "]" : "";

	if (addresses->count < sizeof(addresses->text) / sizeof(addresses->text[0]))
		snprintf(addresses->text[addresses->count++], sizeof(addresses->text[0]),
			 "%s%s%s:%s", open, host, close, port);
}

/* The texts under which a server that is reached at this address may listen. */
static void add_addresses(struct addresses *addresses, const struct addrinfo *address)
{
	char host[INET6_ADDRSTRLEN + 16], port[8];

	if (getnameinfo(address->ai_addr, address->ai_addrlen, host, sizeof(host), port,
			sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV))
		return;
	add_address(addresses, host, port);
	if (address->ai_family == AF_INET)
		add_address(addresses, "0.0.0.0", port);
	add_address(addresses, "::", port);
}

static int find_by_address(struct crowd *crowd, const struct nbd_uri *uri,
			   struct top_server *server, struct error *err)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addresses addresses = {0};
	struct addrinfo *list = NULL;
	struct ifaddrs *interfaces = NULL;
	AUTO_FREE char *name = nbd_uri_server(uri), *what = NULL;
	int fault = getaddrinfo(uri->host, uri->port, &hints, &list);

	if (fault) {
		error_set(err, EHOSTUNREACH, "cannot find %s: %s", uri->host, gai_strerror(fault));
		return COMMAND_UNREACHABLE;
	}
	if (getifaddrs(&interfaces))
		interfaces = NULL;
	for (const struct addrinfo *address = list; address; address = address->ai_next)
		if (is_local(interfaces, address->ai_addr))
			add_addresses(&addresses, address);
	freeifaddrs(interfaces);
	freeaddrinfo(list);
	if (!addresses.count) {
		error_set(err, EREMOTE,
			  "%s is not this machine, and statistics are told only locally; run "
			  "'hawser top' there",
			  uri->host);
		return COMMAND_UNREACHABLE;
	}
	if (take(crowd, has_address, &addresses, server))
		return COMMAND_OK;
	if (!name || asprintf(&what, "listens on %s", name) < 0)
		what = NULL;
	return not_found(crowd, err, what ? what : "listens there");
}

static int find_by_uri(struct crowd *crowd, const char *text, struct top_server *server,
		       struct error *err)
{
	struct nbd_uri uri = NBD_URI_INIT;
	struct stat file;
	int status;

	/* A name without a slash would be that of a host. */
	if (stat(text, &file) == 0 && S_ISSOCK(file.st_mode))
		return find_by_socket(crowd, text, server, err);
	if (nbd_uri_parse(text, &uri, err))
		return COMMAND_USAGE;
	status = uri.kind == NBD_URI_UNIX ? find_by_socket(crowd, uri.socket, server, err)
					  : find_by_address(crowd, &uri, server, err);
	nbd_uri_clear(&uri);
	return status;
}

/* "23 (/run/a.sock)" for each, as far as the sentence goes. */
static void list_crowd(const struct crowd *crowd, struct error *err)
{
	for (size_t i = 0; i < crowd->count; i++) {
		const struct json_value *place =
			json_member(crowd->servers[i].hello, "listening")->first;
		char text[128] = "nowhere";

		if (place && place->text)
			printable_copy(text, sizeof(text), place->text, strlen(place->text));
		error_hint(err, "%s %ld (%s)", i ? "," : "", crowd->servers[i].pid, text);
	}
}

static int find_only(struct crowd *crowd, struct top_server *server, struct error *err)
{
	if (!crowd->count)
		return not_found(crowd, err, "runs here");
	if (crowd->count > 1) {
		command_usage(err, "top: which server?");
		list_crowd(crowd, err);
		return COMMAND_USAGE;
	}
	*server = crowd->servers[0];
	crowd->count = 0;
	return COMMAND_OK;
}

int top_server_find(const char *operand, struct top_server *server, struct error *err)
{
	struct crowd crowd CLEANUP(crowd_clear) = {0};

	*server = (struct top_server)TOP_SERVER_INIT;
	crowd_gather(&crowd);
	if (!operand)
		return find_only(&crowd, server, err);
	if (operand[0] && strspn(operand, "0123456789") == strlen(operand))
		return find_by_pid(&crowd, operand, server, err);
	return find_by_uri(&crowd, operand, server, err);
}
