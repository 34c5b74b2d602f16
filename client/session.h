/* SPDX-License-Identifier: MIT */
/*
 * A conversation with a server as all subcommands begin it: URI, dial, greeting. Turns faults of
 * these steps into exit codes.
 */
#ifndef HAWSER_CLIENT_SESSION_H
#define HAWSER_CLIENT_SESSION_H

#include <stdint.h>

#include "common/client-handshake.h"
#include "common/error.h"
#include "common/transport.h"
#include "common/uri.h"

enum { SESSION_TIMEOUT_SECONDS = 30 };

struct session {
	struct nbd_uri uri;
	char *server; /* for messages, see nbd_uri_server() */
	struct transport transport;
	struct client_handshake handshake;
};

#define SESSION_INIT                                          \
	{                                                     \
		.uri = NBD_URI_INIT, .transport = {.fd = -1 } \
	}

/*
 * Parses text (warns of unknown parameters), dials, reads the greeting; timeout in seconds for the
 * whole conversation, 0 = for ever. COMMAND_OK with options to be sent next, or another
 * command_status with err set.
 */
int session_open(struct session *session, const char *text, uint64_t timeout, struct error *err);

/* Names the server in err and returns the command_status for a -errno of client-handshake.h. */
int session_fault(const struct session *session, int code, struct error *err);

/* Leaves politely if the handshake is still on, closes the socket, frees. Any state. */
void session_close(struct session *session);

#define AUTO_SESSION __attribute__((cleanup(session_close)))

#endif
