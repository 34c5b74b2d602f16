// SPDX-License-Identifier: MIT
/*
 * The control socket's thread: a poll loop over a few clients. It must never wait for one of them,
 * nor hold a lock while it writes text.
 */
#include "control.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/control-path.h"
#include "common/log.h"
#include "server-internal.h"
#include "statistics-text.h"

enum {
	CLIENTS_MAX = 8, /* a further one takes the place of the one that was silent longest */
	LINE_MAX_ = 64,  /* no request is longer */
};

struct control_client {
	int fd;               /* -1: none */
	uint64_t heard;       /* when it last said something */
	char line[LINE_MAX_]; /* what came of its next request */
	size_t line_used;
	char *answer; /* on its way; no request is read meanwhile */
	size_t length, sent;
};

struct control {
	struct listener_set listeners; /* one */
	struct statistics_world world;
	struct control_client clients[CLIENTS_MAX];
	int stop_fd;
	pthread_t thread;
};

/* ---- Requests ---- */

static int print_unknown(FILE *out, const struct statistics_world *world)
{
	(void)world;
	fputs("{ \"error\": \"unknown request\" }\n", out);
	return 0;
}

static const struct {
	const char *name;
	int (*print)(FILE *out, const struct statistics_world *world);
} requests[] = {
	{"hello", statistics_print_hello},
	{"stats json", statistics_print_json},
	{"stats openmetrics", statistics_print_openmetrics},
};

static int print_answer(FILE *out, const char *request, const struct statistics_world *world)
{
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++)
		if (!strcmp(request, requests[i].name))
			return requests[i].print(out, world);
	return print_unknown(out, world);
}

/* False when there is no memory for an answer. */
static bool answer(struct control_client *client, const char *request,
		   const struct statistics_world *world)
{
	FILE *out = open_memstream(&client->answer, &client->length);
	int rc;

	client->sent = 0;
	if (!out)
		return false;
	rc = print_answer(out, request, world);
	return fclose(out) == 0 && rc == 0;
}

/* ---- Clients ---- */

static void client_drop(struct control_client *client)
{
	cleanup_close(&client->fd);
	free(client->answer);
	*client = (struct control_client){.fd = -1};
}

/* Answers the first whole line, when nothing is on its way; false: drop the client. */
static bool client_take_line(struct control_client *client, const struct statistics_world *world)
{
	char *end = memchr(client->line, '\n', client->line_used);
	size_t used;

	if (client->answer)
		return true;
	if (!end)
		return client->line_used < sizeof(client->line);
	*end = '\0';
	if (end > client->line && end[-1] == '\r')
		end[-1] = '\0';
	if (!answer(client, client->line, world))
		return false;
	used = (size_t)(end + 1 - client->line);
	client->line_used -= used;
	memmove(client->line, end + 1, client->line_used);
	return true;
}

static bool client_receive(struct control_client *client)
{
	ssize_t got = recv(client->fd, client->line + client->line_used,
			   sizeof(client->line) - client->line_used, MSG_DONTWAIT);

	if (got <= 0)
		return got < 0 && (errno == EAGAIN || errno == EINTR);
	client->line_used += (size_t)got;
	client->heard = clock_now();
	return true;
}

static bool client_send(struct control_client *client)
{
	ssize_t sent = send(client->fd, client->answer + client->sent,
			    client->length - client->sent, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (sent < 0)
		return errno == EAGAIN || errno == EINTR;
	client->sent += (size_t)sent;
	if (client->sent < client->length)
		return true;
	free(client->answer);
	client->answer = NULL;
	return true;
}

static void client_ready(struct control_client *client, const struct statistics_world *world)
{
	bool good = client->answer ? client_send(client) : client_receive(client);

	if (!good || !client_take_line(client, world))
		client_drop(client);
}

static struct control_client *place_for_client(struct control *control)
{
	struct control_client *oldest = &control->clients[0];

	for (int i = 0; i < CLIENTS_MAX; i++) {
		struct control_client *client = &control->clients[i];

		if (client->fd < 0)
			return client;
		if (client->heard < oldest->heard)
			oldest = client;
	}
	client_drop(oldest);
	return oldest;
}

/* Without descriptors the listening socket stays readable: rest, instead of spinning. */
static void accept_client(struct control *control)
{
	int fd = accept4(control->listeners.items[0].fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct control_client *client;

	if (fd < 0) {
		if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
			poll(NULL, 0, 100);
		return;
	}
	client = place_for_client(control);
	client->fd = fd;
	client->heard = clock_now();
}

static void *control_main(void *argument)
{
	struct control *control = argument;
	struct pollfd items[2 + CLIENTS_MAX];

	while (true) {
		items[0] = (struct pollfd){.fd = control->stop_fd, .events = POLLIN};
		items[1] = (struct pollfd){.fd = control->listeners.items[0].fd, .events = POLLIN};
		for (int i = 0; i < CLIENTS_MAX; i++)
			items[2 + i] = (struct pollfd){
				.fd = control->clients[i].fd,
				.events = control->clients[i].answer ? POLLOUT : POLLIN};
		if (poll(items, 2 + CLIENTS_MAX, -1) < 0)
			continue;
		if (items[0].revents)
			return NULL;
		for (int i = 0; i < CLIENTS_MAX; i++)
			if (items[2 + i].revents)
				client_ready(&control->clients[i], &control->world);
		if (items[1].revents)
			accept_client(control);
	}
}

/* ---- The place ---- */

/*
 * A server that was killed leaves its socket. Binding holds a lock on the folder until the socket
 * listens, so under this lock a socket that refuses is dead.
 */
static void remove_stale(const char *folder)
{
	AUTO_DIR DIR *entries = opendir(folder);
	const struct dirent *entry;

	if (!entries || flock(dirfd(entries), LOCK_EX | LOCK_NB))
		return;
	while ((entry = readdir(entries))) {
		AUTO_FREE char *path = NULL;
		long pid = control_path_pid(entry->d_name);
		struct stat status;
		int fd;

		/* A dead process may live in another namespace: only refusing proves it. */
		if (!pid || kill((pid_t)pid, 0) == 0 || errno != ESRCH ||
		    asprintf(&path, "%s/%s", folder, entry->d_name) < 0)
			continue;
		if (lstat(path, &status) || !S_ISSOCK(status.st_mode))
			continue;
		fd = control_path_connect(path);
		if (fd == -ECONNREFUSED)
			unlink(path);
		else if (fd >= 0)
			close(fd);
	}
}

/* The place of this process, to be freed; NULL: there is none. */
static char *own_place(void)
{
	AUTO_FREE char *folder = control_path_folder();
	char *path = NULL;

	if (!folder || (mkdir(folder, geteuid() ? 0700 : 0755) && errno != EEXIST))
		return NULL;
	remove_stale(folder);
	if (asprintf(&path, "%s/%ld" CONTROL_PATH_SUFFIX, folder, (long)getpid()) < 0)
		return NULL;
	return path;
}

int control_check_path(const char *path, struct error *err)
{
	int rc = strcmp(path, "none") ? listener_check_path(path, err) : 0;

	return rc ? error_wrap(err, "--control") : 0;
}

/* ---- Life ---- */

static void control_free(struct control *control)
{
	for (int i = 0; i < CLIENTS_MAX; i++)
		client_drop(&control->clients[i]);
	listener_close_all(&control->listeners);
	cleanup_close(&control->stop_fd);
	free(control);
}

static int control_start(struct control *control, const char *path, struct error *err)
{
	mode_t mask = umask(0177); /* other threads of this process make no files yet */
	int rc = listener_open_unix(&control->listeners, path, err);

	umask(mask);
	if (rc)
		return rc;
	control->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (control->stop_fd < 0)
		return error_set_errno(err, errno, "Cannot make the control socket");
	rc = pthread_create(&control->thread, NULL, control_main, control);
	return rc ? error_set_errno(err, rc, "Cannot start a thread") : 0;
}

int control_open(struct control **out, const char *path, struct server *server,
		 const struct listener_set *listeners, struct error *err)
{
	AUTO_FREE char *own = path ? NULL : own_place();
	struct control *control;
	int rc;

	*out = NULL;
	if (path ? !strcmp(path, "none") : !own)
		return 0;
	control = calloc(1, sizeof(*control));
	if (!control)
		return path ? error_set(err, ENOMEM, "out of memory") : 0;
	control->stop_fd = -1;
	for (int i = 0; i < CLIENTS_MAX; i++)
		control->clients[i].fd = -1;
	control->world.exports = server_exports(server, &control->world.export_count);
	control->world.listeners = listeners;
	control->world.started = clock_now();
	rc = control_start(control, path ? path : own, path ? err : NULL);
	if (rc) {
		control_free(control);
		if (path)
			return error_wrap(err, "--control");
		log_info("no control socket at %s: %s", own, strerror(-rc));
		return 0;
	}
	*out = control;
	return 0;
}

void control_close(struct control *control)
{
	if (!control)
		return;
	eventfd_write(control->stop_fd, 1);
	pthread_join(control->thread, NULL);
	control_free(control);
}
