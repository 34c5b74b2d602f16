/* SPDX-License-Identifier: MIT */
/*
 * How exports are shown: words for people, keys for scripts (those of nbdinfo, where it has them).
 * Everything that a server said is made harmless for terminals here.
 */
#ifndef HAWSER_CLIENT_OUTPUT_H
#define HAWSER_CLIENT_OUTPUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/client-handshake.h"
#include "common/json.h"
#include "common/uri.h"

enum { OUTPUT_FLAGS_MAX = 160 };

/* "readonly flush fua", "-" when there is none. Returns text. */
const char *output_flags(uint16_t flags, char text[OUTPUT_FLAGS_MAX]);

/* A name in at most size - 1 bytes; "" shows as two quotes. Returns out. */
const char *output_name(const char *name, char *out, size_t size);

/* How many columns printable text takes (one a character). */
int output_width(const char *text);

/* The head of the document that list and info share: protocol, TLS, structured. */
void output_json_protocol(struct json *json, const struct client_handshake *handshake);

/* One export as an object in an array; server is where it is, for its URI. */
void output_json_export(struct json *json, const struct nbd_export_info *info,
			const struct nbd_uri *server);

#endif
