/* SPDX-License-Identifier: MIT */
/*
 * The credentials that a nbds:// URI speaks of: what it names, else what the user or the system
 * has. The peer is verified unless the URI says otherwise. The main thread.
 */
#ifndef HAWSER_CLIENT_CREDENTIALS_H
#define HAWSER_CLIENT_CREDENTIALS_H

#include "common/error.h"
#include "common/tls.h"
#include "common/uri.h"

/* 0; -EINVAL when the URI contradicts itself, or another -errno when they cannot be loaded or
 * used. */
int credentials_load(const struct nbd_uri *uri, struct tls_creds **creds, struct error *err);

/* The name that the server's certificate must have; NULL: none (a socket of this machine). */
const char *credentials_host(const struct nbd_uri *uri);

/* Adds to err what may be the reason when a TLS handshake fails: the key, or that there is no
 * certificate. */
void credentials_explain_failure(const struct nbd_uri *uri, struct error *err);

/* Adds to err where a certificate was looked for, if there was none; wants: "the server wants". */
void credentials_explain_certificate(const struct nbd_uri *uri, const char *wants,
				     struct error *err);

#endif
