/* SPDX-License-Identifier: MIT */
/*
 * TLS by OpenSSL: credentials, and the transport that encrypts. Versions 1.2 and 1.3 only, no
 * compression, renegotiation, tickets or resumption; anonymous suites only with credentials of
 * that kind. Nothing here ever asks on a terminal, and there is no way back to clear text.
 *
 * Any thread may use credentials while none reloads them; connections that they made live on their
 * own.
 */
#ifndef HAWSER_COMMON_TLS_H
#define HAWSER_COMMON_TLS_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "transport.h"

enum tls_kind { TLS_X509, TLS_PSK, TLS_ANON };
enum tls_side { TLS_SERVER, TLS_CLIENT };

/*
 * What credentials are made of. A directory holds the files that QEMU, nbdkit and libnbd know:
 * ca-cert.pem, ca-crl.pem, server-cert.pem, server-key.pem, client-cert.pem, client-key.pem,
 * keys.psk. A file named here takes the place of the one in the directory. Strings are copied.
 */
struct tls_config {
	enum tls_kind kind;
	enum tls_side side;
	const char *directory; /* NULL: only the files below, or the system's authorities */
	const char *ca_file, *certificate_file, *key_file, *psk_file;
	bool verify_peer;     /* X.509: the peer must have a certificate that we trust */
	bool sanity_check;    /* X.509: refuse to load certificates that no peer would accept */
	bool any_issuer;      /* X.509: but they may come from an authority that we do not know */
	const char *password; /* of the private key; NULL: none */
	const char *user;     /* PSK client: whose key */
	const char *priority; /* as GnuTLS writes it, tls-priority.h; NULL: NORMAL */
};

struct tls_creds;

/* Loads everything. 0, or -errno with err set (the file and what is wrong) and *creds NULL. */
int tls_creds_new(struct tls_creds **creds, const struct tls_config *config, struct error *err);

/* Loads the files again, for connections to come; on failure the old ones stay in use. That a list
 * of revoked certificates is no longer there is one. */
int tls_creds_reload(struct tls_creds *creds, struct error *err);

/* Connections that began with them go on. NULL is allowed. */
void tls_creds_free(struct tls_creds *creds);

enum tls_kind tls_creds_kind(const struct tls_creds *creds);
enum tls_side tls_creds_side(const struct tls_creds *creds);

/* Can a certificate have this name, or address? 0, or -EINVAL with err set. */
int tls_check_host(const char *host, struct error *err);

/*
 * Puts TLS above a plain transport; nothing is sent yet, and what the peer has sent in clear
 * before its first record makes the handshake fail. host: the name that the server's certificate
 * must have (NULL: none is checked); only for clients. The socket becomes non-blocking. 0 or
 * -errno with err set; the transport then is as it was.
 */
int tls_start(struct transport *transport, struct tls_creds *creds, const char *host,
	      struct error *err);

/*
 * One step of the handshake without waiting. 0: done; -EAGAIN: call again when the socket is ready
 * for tls_wanted() (POLLIN or POLLOUT). Else it failed, with err set, and the transport is only
 * good for closing: -EKEYREJECTED when we do not accept the peer, -ECONNRESET, -ECONNABORTED.
 */
int tls_handshake(struct transport *transport, struct error *err);
short tls_wanted(const struct transport *transport);

/* Both of the above, waiting until deadline (clock.h): also -ETIMEDOUT. */
int tls_connect(struct transport *transport, struct tls_creds *creds, const char *host,
		uint64_t deadline, struct error *err);

/* "TLSv1.3 TLS_AES_128_GCM_SHA256", for messages. Constant strings of the library, or "". */
const char *tls_version(const struct transport *transport);
const char *tls_cipher(const struct transport *transport);

/* Does the kernel encrypt what is sent? */
bool tls_by_kernel(const struct transport *transport);

/*
 * Who the peer is: the name in its certificate as GnuTLS writes it ("C=GB,O=Home,CN=laptop", in
 * the order of the certificate), or the user of its key. Allocated; NULL when it has none.
 */
char *tls_peer_name(const struct transport *transport);

/* Is this an encrypted transport? */
bool tls_is_on(const struct transport *transport);

#endif
