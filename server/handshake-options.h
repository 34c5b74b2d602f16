/* SPDX-License-Identifier: MIT */
/*
 * Between handshake.c (framing, table) and the files that hold one option's handshake a function.
 * Each handler gets the whole payload of its option, answers with exactly one final reply (S9),
 * or changes the phase.
 */
#ifndef HAWSER_SERVER_HANDSHAKE_OPTIONS_H
#define HAWSER_SERVER_HANDSHAKE_OPTIONS_H

#include "handshake.h"

typedef void handshake_handler(struct handshake *handshake, const uint8_t *payload,
			       uint32_t length);

handshake_handler handshake_export_name;
handshake_handler handshake_list;
handshake_handler handshake_info;
handshake_handler handshake_go;
handshake_handler handshake_list_meta_context;
handshake_handler handshake_set_meta_context;

/* Replies to the option in hand. */
void handshake_reply(struct handshake *handshake, uint32_t type, const void *data, uint32_t length);
/* An error reply with a message for people (S28), cut to what may be sent. */
void handshake_refuse(struct handshake *handshake, uint32_t type, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The export of that name; the empty name is the default export (S14). NULL: there is none. */
struct export *handshake_find_export(const struct handshake *handshake, struct nbd_string name);

/* A name for a message: cut to 80 bytes, so that no echo can grow (CVE-2020-10761). */
#define NAME_FOR_MESSAGE(name) (int)((name).length < 80 ? (name).length : 80), (name).text

#endif
