/* SPDX-License-Identifier: MIT */
/*
 * What TLS may use, from a priority string as GnuTLS and QEMU have it ("NORMAL:-VERS-TLS1.2",
 * "@SYSTEM"), in OpenSSL's words. What cannot be carried over is refused by its name, never
 * ignored. A string chooses what is allowed, not the order: among the allowed ciphers the one
 * comes first that this processor does fastest. Pure functions (fuzzed).
 */
#ifndef HAWSER_COMMON_TLS_PRIORITY_H
#define HAWSER_COMMON_TLS_PRIORITY_H

#include <stdbool.h>

#include "error.h"

enum {
	TLS_VERSION_12 = 1 << 0,
	TLS_VERSION_13 = 1 << 1,
};

enum {
	TLS_EXCHANGE_ECDHE_ECDSA = 1 << 0,
	TLS_EXCHANGE_ECDHE_RSA = 1 << 1,
	TLS_EXCHANGE_DHE_RSA = 1 << 2,
	TLS_EXCHANGE_DHE_PSK = 1 << 3,
	TLS_EXCHANGE_ECDHE_PSK = 1 << 4,
	TLS_EXCHANGE_PSK = 1 << 5,
	TLS_EXCHANGE_ANON_DH = 1 << 6,
	TLS_EXCHANGE_ANON_ECDH = 1 << 7,

	TLS_EXCHANGES_X509 =
		TLS_EXCHANGE_ECDHE_ECDSA | TLS_EXCHANGE_ECDHE_RSA | TLS_EXCHANGE_DHE_RSA,
	TLS_EXCHANGES_PSK = TLS_EXCHANGE_DHE_PSK | TLS_EXCHANGE_ECDHE_PSK | TLS_EXCHANGE_PSK,
	TLS_EXCHANGES_ANON = TLS_EXCHANGE_ANON_DH | TLS_EXCHANGE_ANON_ECDH,
};

struct tls_priority {
	unsigned int versions;  /* TLS_VERSION_* */
	unsigned int ciphers;   /* a bit for each in tls-priority.c */
	unsigned int exchanges; /* TLS_EXCHANGE_* */
	unsigned int groups;    /* likewise; 0: OpenSSL's choice */
	unsigned int missing;   /* likewise: what was taken away and cannot be done without */
	int level;              /* OpenSSL's security level; -1: its own */
	bool names_version;     /* versions are the string's own choice, not ours */
};

enum { TLS_PRIORITY_TEXT_MAX = 1024 };

/*
 * Reads text (NULL: NORMAL) for credentials that allow these kinds of key exchange; others are
 * left out of the result. 0, or -EINVAL with err set: also when nothing is left.
 */
int tls_priority_parse(const char *text, unsigned int exchanges, struct tls_priority *priority,
		       struct error *err);

/* OpenSSL's lists: ciphers up to TLS 1.2, suites of TLS 1.3, groups ("": its own). aes: this
 * processor does AES in hardware. */
void tls_priority_ciphers(const struct tls_priority *priority, bool aes,
			  char text[TLS_PRIORITY_TEXT_MAX]);
void tls_priority_suites(const struct tls_priority *priority, bool aes,
			 char text[TLS_PRIORITY_TEXT_MAX]);
void tls_priority_groups(const struct tls_priority *priority, char text[TLS_PRIORITY_TEXT_MAX]);

#endif
