/* SPDX-License-Identifier: MIT */
/*
 * Keys for TLS with pre-shared keys, in the form of GnuTLS's psktool: lines "user:hexkey", a user
 * that begins with '#' is written in hexadecimal digits ("# " begins a comment). Pure functions
 * over text (fuzzed); keys are wiped where their memory is given back, and never part of a message.
 */
#ifndef HAWSER_COMMON_TLS_PSK_H
#define HAWSER_COMMON_TLS_PSK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

enum {
	TLS_PSK_USER_MAX = 128, /* bytes; what OpenSSL passes on */
	TLS_PSK_KEY_MAX = 512,  /* bytes; likewise */
	TLS_PSK_ENTRIES_MAX = 1 << 16,
};

struct tls_psk_entry {
	char *user; /* without null bytes */
	uint8_t *key;
	size_t key_length; /* 1 to TLS_PSK_KEY_MAX */
};

/* A line that holds no key, and why: a constant string, which shows nothing of the line. */
struct tls_psk_flaw {
	size_t line;
	const char *why;
};

/* All zero is an empty table. */
struct tls_psk {
	struct tls_psk_entry *entries;
	size_t count;
	size_t skipped;           /* lines that are neither keys nor comments */
	struct tls_psk_flaw flaw; /* the first of them */
};

/* Reads all lines; what is no key is skipped, as GnuTLS does, and noted in the table. 0, or -E2BIG,
 * -ENOMEM; then *table is empty. */
int tls_psk_parse(const char *text, size_t length, struct tls_psk *table, struct error *err);

/* The first entry of that user; NULL when there is none. */
const struct tls_psk_entry *tls_psk_find(const struct tls_psk *table, const char *user);

/* Wipes and forgets all but the first entry of that user; false, and nothing changes, when there is
 * none. */
bool tls_psk_keep(struct tls_psk *table, const char *user);

/* Also for an empty table; leaves it empty. */
void tls_psk_clear(struct tls_psk *table);

#endif
