/* SPDX-License-Identifier: MIT */
/*
 * Who may come in: rules over the name that a peer has proven (--tls-authz), in the three forms of
 * QEMU: one name, a list of rules, a file with such a list. Who matches nothing gets the policy,
 * which is to refuse unless told otherwise. The main loop asks; the main thread makes.
 */
#ifndef HAWSER_SERVER_AUTHZ_H
#define HAWSER_SERVER_AUTHZ_H

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"
#include "common/keyval.h"

struct authz;

/* One exact name; it may not be NULL. NULL: no memory. */
struct authz *authz_new_simple(const char *identity);
/* Takes "policy" and "rules.N.match", ".policy" and ".format" from properties. 0 or -errno. */
int authz_new_list(struct authz **authz, struct keyval *properties, struct error *err);
/* The same as JSON: {"policy": "deny", "rules": [{"match": .., "policy": .., "format": ..}]}. With
 * refresh the file is read again when it has changed; one that is bad then allows nobody. */
int authz_new_file(struct authz **authz, const char *path, bool refresh, struct error *err);
/* As above from text; pure. */
int authz_new_json(struct authz **authz, const char *text, size_t length, struct error *err);

bool authz_allows(struct authz *authz, const char *identity);

void authz_free(struct authz *authz);

#endif
