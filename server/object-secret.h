/* SPDX-License-Identifier: MIT */
/*
 * --object secret and secret_keyring: bytes that other objects and images ask for by id. Main
 * thread.
 */
#ifndef HAWSER_SERVER_OBJECT_SECRET_H
#define HAWSER_SERVER_OBJECT_SECRET_H

#include "common/error.h"
#include "object.h"
#include "secret.h"

extern const struct object_type object_type_secret;
extern const struct object_type object_type_secret_keyring;

/*
 * The bytes of the secret called id; they belong to the set. NULL with err set: there is no such
 * object, it is something else, or it is not made yet.
 */
const struct secret *object_secret_find(const struct object_set *set, const char *id,
					struct error *err);

#endif
