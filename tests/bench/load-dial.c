// SPDX-License-Identifier: MIT
/*
 * Dial and hang-up of the load generator, on the project's own dial and handshake. Each thread
 * dials for itself; nothing is shared.
 */
#include "load.h"

#include <stdio.h>
#include <sys/socket.h>

#include "common/client-handshake.h"
#include "common/clock.h"
#include "common/dial.h"
#include "common/nbd-protocol.h"

#define DIAL_TIMEOUT (10 * CLOCK_SECOND)

int load_keys(struct load_options *options)
{
	struct tls_config config = {.kind = options->keys ? TLS_PSK : TLS_X509,
				    .side = TLS_CLIENT,
				    .directory = options->certificates,
				    .psk_file = options->keys,
				    .verify_peer = true,
				    .user = "bench"};
	struct error err = ERROR_INIT;

	if (!options->keys && !options->certificates)
		return 0;
	if (tls_creds_new(&options->creds, &config, &err))
		fprintf(stderr, "bench-load: %s\n", err.text);
	return -err.code;
}

static int dial(const struct load_options *options, struct transport *transport, struct error *err)
{
	/* A server that says nothing for so long has failed: recv returns EAGAIN. */
	const struct timeval patience = {.tv_sec = 30};
	uint64_t deadline = clock_now() + DIAL_TIMEOUT;
	int fd, rc;

	rc = options->unix_path ? dial_unix(options->unix_path, deadline, &fd, err)
				: dial_tcp(options->host, options->port, deadline, &fd, err);
	if (rc)
		return rc;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	transport_init_plain(transport, fd);
	return 0;
}

static int enter_export(const struct load_options *options, struct load_session *session,
			struct error *err)
{
	struct client_handshake handshake;
	struct nbd_export_info info;
	int rc;

	rc = client_handshake_start(&handshake, &session->transport, clock_now() + DIAL_TIMEOUT,
				    err);
	if (!rc && options->creds)
		rc = client_handshake_tls(&handshake, options->creds,
					  options->keys ? NULL : "localhost", err);
	if (!rc && !options->simple)
		rc = client_handshake_structured(&handshake, err);
	if (rc)
		return rc;
	rc = client_handshake_go(&handshake, options->export_name, &info, err);
	session->structured = handshake.structured;
	session->size = info.size;
	nbd_export_info_clear(&info);
	return rc;
}

int load_dial(const struct load_options *options, struct load_session *session)
{
	struct error err = ERROR_INIT;
	int rc = dial(options, &session->transport, &err);

	if (!rc) {
		rc = enter_export(options, session, &err);
		if (rc)
			transport_close(&session->transport, TRANSPORT_CLOSE_DROP);
	}
	if (rc)
		fprintf(stderr, "bench-load: %s\n", err.text);
	return rc;
}

int load_dial_greeting(const struct load_options *options)
{
	uint8_t greeting[sizeof(struct nbd_greeting_wire)];
	struct transport transport;
	int rc = dial(options, &transport, NULL);

	if (rc)
		return rc;
	rc = transport_read_full(&transport, greeting, sizeof(greeting),
				 clock_now() + DIAL_TIMEOUT);
	transport_close(&transport, TRANSPORT_CLOSE_DROP);
	return rc;
}

void load_hang_up(struct load_session *session)
{
	const struct nbd_request disconnect = {.type = NBD_CMD_DISC};
	uint8_t message[sizeof(struct nbd_request_wire)];
	size_t length = nbd_request_build(message, false, &disconnect);

	transport_write_full(&session->transport, message, length, clock_now() + DIAL_TIMEOUT);
	transport_close(&session->transport, TRANSPORT_CLOSE_CLEAN);
}
