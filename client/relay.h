/* SPDX-License-Identifier: MIT */
/*
 * Carries an encrypted connection for somebody who can only speak in clear: between a transport
 * and one end of a pair of sockets. For the kernel the relay is a process that lives as long as
 * the device; for libnbd it is a thread of this program.
 */
#ifndef HAWSER_CLIENT_RELAY_H
#define HAWSER_CLIENT_RELAY_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/client-handshake.h"
#include "common/error.h"
#include "common/transport.h"

/*
 * Starts a process that relays each of the transports, and puts into sockets[i] what takes the
 * place of transports[i]'s socket: one end of a pair, blocking. The transports are closed for us;
 * each connection ends when its socket does. count: 1 to DEVICE_SOCKETS_MAX. 0 or -errno with err
 * set; then nothing has changed. The program must have one thread only.
 */
int relay_start_process(struct transport *const *transports, size_t count, int *sockets,
			struct error *err);

/* A relay for a library of this program that wants to make the handshake itself: a greeting with
 * the server's flags goes before what the server says. */
struct relay_thread {
	struct transport transport;
	int local;
	uint16_t server_flags;
	pthread_t thread;
	bool started;
};

/* Takes the transport of a handshake that is haggling; *fd is the library's end. 0 or -errno. */
int relay_start_thread(struct relay_thread *relay, struct client_handshake *handshake, int *fd,
		       struct error *err);
/* Ends it, whatever is on its way. Also for one that never began. */
void relay_finish_thread(struct relay_thread *relay);

#endif
