/* SPDX-License-Identifier: MIT */
/*
 * --object tls-creds-x509, tls-creds-psk, tls-creds-anon, authz-simple, authz-list and
 * authz-list-file: who we are in TLS, and who may come in. Main thread.
 */
#ifndef HAWSER_SERVER_OBJECT_TLS_H
#define HAWSER_SERVER_OBJECT_TLS_H

#include <stdbool.h>

#include "common/error.h"
#include "common/tls.h"
#include "object.h"

struct authz;

extern const struct object_type object_type_tls_x509;
extern const struct object_type object_type_tls_psk;
extern const struct object_type object_type_tls_anon;
extern const struct object_type object_type_authz_simple;
extern const struct object_type object_type_authz_list;
extern const struct object_type object_type_authz_list_file;

/* The credentials called id, for that side; they belong to the set. NULL with err set, in
 * qemu-nbd's words. */
struct tls_creds *object_tls_creds(const struct object_set *set, const char *id, enum tls_side side,
				   struct error *err);

/* Do the credentials called id, made for a server, make clients prove a name? */
bool object_tls_asks_names(struct object_set *set, const char *id);

/* The rules called id. NULL with err set. */
struct authz *object_authz(const struct object_set *set, const char *id, struct error *err);

#endif
