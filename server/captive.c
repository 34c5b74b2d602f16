// SPDX-License-Identifier: MIT
/* --run: one command with a server of its own. */
#include "captive.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/uri.h"

extern char **environ;

int captive_prepare(struct captive *captive, struct error *err)
{
	const char *base = getenv("TMPDIR");

	if (asprintf(&captive->folder, "%s/hawserd-XXXXXX", base && *base == '/' ? base : "/tmp") <
	    0)
		captive->folder = NULL;
	if (!captive->folder || !mkdtemp(captive->folder)) {
		error_set_errno(err, errno, "Cannot make a folder for the private socket");
		free(take_ptr(captive->folder));
		return -err->code;
	}
	if (asprintf(&captive->socket, "%s/socket", captive->folder) < 0) {
		captive->socket = NULL;
		return error_set_errno(err, ENOMEM, "Cannot name the private socket");
	}
	return 0;
}

/* The command is left for captive_status() to reap, so its number stays its own until then. */
static void *wait_for(void *argument)
{
	struct captive *captive = argument;
	siginfo_t info;

	while (waitid(P_PID, (id_t)captive->command, &info, WEXITED | WNOWAIT) < 0 &&
	       errno == EINTR)
		continue;
	server_stop(captive->server);
	return NULL;
}

static int set_environment(const struct captive *captive, const char *export_name)
{
	struct nbd_uri uri = {.kind = NBD_URI_UNIX,
			      .tls = captive->tls,
			      .socket = captive->socket,
			      .export_ = (char *)(uintptr_t)export_name};
	AUTO_FREE char *text = nbd_uri_format(&uri);

	if (!text || setenv("uri", text, 1) < 0 || setenv("unixsocket", captive->socket, 1) < 0)
		return -ENOMEM;
	return 0;
}

/* The command starts with the signals as a shell expects them; ours are blocked and ignored. */
static int spawn(struct captive *captive, const char *command)
{
	/* posix_spawn() writes to none of them. */
	const char *const arguments[] = {"sh", "-c", command, NULL};
	posix_spawnattr_t attributes;
	sigset_t none, standard;
	int rc;

	sigemptyset(&none);
	sigemptyset(&standard);
	sigaddset(&standard, SIGPIPE);
	rc = posix_spawnattr_init(&attributes);
	if (rc)
		return -rc;
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &standard);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	rc = posix_spawn(&captive->command, "/bin/sh", NULL, &attributes,
			 (char *const *)(uintptr_t)arguments, environ);
	posix_spawnattr_destroy(&attributes);
	if (rc)
		captive->command = 0;
	return -rc;
}

int captive_start(struct captive *captive, struct server *server, const char *command,
		  const char *export_name, struct error *err)
{
	int rc = set_environment(captive, export_name);

	captive->server = server;
	if (!rc)
		rc = spawn(captive, command);
	if (rc)
		return error_set_errno(err, -rc, "Cannot run '%s'", command);
	rc = pthread_create(&captive->waiter, NULL, wait_for, captive);
	if (rc) {
		kill(captive->command, SIGKILL);
		waitpid(captive->command, NULL, 0);
		captive->command = 0;
		return error_set_errno(err, rc, "Cannot start a thread");
	}
	return 0;
}

int captive_status(struct captive *captive)
{
	int status = 0;

	if (!captive->command)
		return 0;
	kill(captive->command, SIGTERM);
	pthread_join(captive->waiter, NULL);
	waitpid(captive->command, &status, 0);
	captive->command = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void captive_clear(struct captive *captive)
{
	if (captive->folder)
		rmdir(captive->folder);
	free(take_ptr(captive->folder));
	free(take_ptr(captive->socket));
}
