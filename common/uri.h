/* SPDX-License-Identifier: MIT */
/*
 * Where a server and its export are: the NBD URI forms, host[:port], and the path of a socket.
 * Pure functions over text (fuzzed); nothing here resolves names or opens files.
 */
#ifndef HAWSER_COMMON_URI_H
#define HAWSER_COMMON_URI_H

#include <stdbool.h>

#include "error.h"

enum nbd_uri_kind { NBD_URI_TCP, NBD_URI_UNIX };
enum nbd_uri_verify { NBD_URI_VERIFY_DEFAULT, NBD_URI_VERIFY_ON, NBD_URI_VERIFY_OFF };

/* All strings are owned; NULL where the text has none, unless noted. */
struct nbd_uri {
	enum nbd_uri_kind kind;
	bool tls;      /* nbds: encryption is a must */
	char *host;    /* TCP: name or address, without brackets; never NULL, never empty */
	char *port;    /* TCP: decimal text, never NULL */
	char *socket;  /* Unix: path of the socket, never NULL */
	char *user;    /* name towards TLS or PSK */
	char *export_; /* never NULL; "" is the default export */

	char *tls_type;
	char *tls_hostname;
	char *tls_certificates;
	char *tls_psk_file;
	/* x-tls-...-file: single files, as nbd-client names them; and a priority string. */
	char *tls_ca_file;
	char *tls_certificate_file;
	char *tls_key_file;
	char *tls_priority;
	enum nbd_uri_verify tls_verify_peer;

	char *unknown; /* query parameters that mean nothing here, for a warning ("a, b") */
};

#define NBD_URI_INIT                \
	{                           \
		.kind = NBD_URI_TCP \
	}

/*
 * Reads any of the forms nbd[s]://[user@]host[:port][/export], nbd[s]+unix:///[export]?socket=PATH,
 * host[:port], [v6]:port, /path/of/socket, ./socket. 0, or -EINVAL (-ENOMEM, -ENOTSUP for vsock)
 * with a sentence that shows the right form; then *uri is empty.
 */
int nbd_uri_parse(const char *text, struct nbd_uri *uri, struct error *err);

/* The canonical text, without the tls-* parameters (they name local secrets) and unknown ones.
 * Allocated; NULL when there is no memory. */
char *nbd_uri_format(const struct nbd_uri *uri);

/* The server without the export, for messages: "host:port", "[v6]:port" or the path. Allocated. */
char *nbd_uri_server(const struct nbd_uri *uri);

/* Also for an empty (NBD_URI_INIT) one; leaves it empty. */
void nbd_uri_clear(struct nbd_uri *uri);

#endif
