/* SPDX-License-Identifier: MIT */
/*
 * The map of an export in one metadata context, read by libnbd, the field's client library: it
 * enters the export, so it is a client of the server as long as it runs.
 */
#ifndef HAWSER_CLIENT_MAP_H
#define HAWSER_CLIENT_MAP_H

#include <stdint.h>

#include "common/error.h"
#include "common/uri.h"

/* One run of equal bytes: type is what the context says, for base:allocation a set of NBD_STATE_*.
 * Runs come in order, without gaps, and
 * neighbours differ in type. */
typedef void map_visit(void *context, uint64_t offset, uint64_t length, uint32_t type);

/*
 * Walks the whole map in bounded memory. name: of the context. timeout in seconds for each answer,
 * 0 = none. 0, or -errno with err set: -EOPNOTSUPP when the server tells no map.
 */
int map_walk(const struct nbd_uri *uri, const char *name, uint64_t timeout, map_visit *visit,
	     void *context, struct error *err);

enum { MAP_WORDS_MAX = 32 };

/* What a type means in this context; NULL: it is not known here. text: room for it. */
const char *map_words(const char *name, uint32_t type, char text[MAP_WORDS_MAX]);

#endif
