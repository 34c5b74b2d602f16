/* SPDX-License-Identifier: MIT */
/*
 * A server for the time of one command (--run): a private socket in a folder of its own, the
 * command with its address in the environment, and the command's end as the server's. A thread
 * waits for the command; all functions belong to the main thread.
 */
#ifndef HAWSER_SERVER_CAPTIVE_H
#define HAWSER_SERVER_CAPTIVE_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

#include "common/error.h"
#include "server.h"

struct captive {
	char *folder; /* NULL: none */
	char *socket;
	bool tls;      /* $uri is of the encrypted kind */
	pid_t command; /* 0: not started */
	pthread_t waiter;
	struct server *server;
};

/* Makes the folder; captive->socket is the path to listen on. */
int captive_prepare(struct captive *captive, struct error *err);

/* Runs command by sh with $uri and $unixsocket; stops server when it ends. */
int captive_start(struct captive *captive, struct server *server, const char *command,
		  const char *export_name, struct error *err);

/* After the server ran: ends the command if it has not, and returns its status as a shell does. */
int captive_status(struct captive *captive);

/* Removes the folder; the socket in it must have been removed. Also for an empty one. */
void captive_clear(struct captive *captive);

#endif
