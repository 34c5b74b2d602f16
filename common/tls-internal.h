/* SPDX-License-Identifier: MIT */
/* What the files of common/tls-*.c share. */
#ifndef HAWSER_COMMON_TLS_INTERNAL_H
#define HAWSER_COMMON_TLS_INTERNAL_H

#include <openssl/ssl.h>

#include "tls-psk.h"
#include "tls.h"

struct tls_creds {
	struct tls_config config; /* its strings are ours */
	SSL_CTX *context;
	bool kernel; /* it knows TLS: sending may be left to it */
};

/* Why OpenSSL failed last, as its number (0: it does not say) and for a sentence: the last of its
 * reasons that says more than where it was. Empties its queue. */
unsigned long tls_cause(void);
const char *tls_cause_text(unsigned long cause);
const char *tls_reason(void);

/* As error_set(), and appends ": " and tls_reason(). */
int tls_error(struct error *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* tls-transport.c: does the kernel know TLS? */
bool tls_kernel_has_it(void);

/* tls-transport.c: how many records TLS 1.3 encrypts with one key. Only tests change it. */
extern uint32_t tls_records_per_key;

/* tls-transport.c: the key of this user is being used. */
void tls_note_user(SSL *ssl, const char *user);

/* tls-x509.c: loads certificates and authorities into the context, sets what is verified. */
int tls_x509_load(SSL_CTX *context, const struct tls_config *config, struct error *err);

/* tls-x509.c: does the context know of certificates that are revoked? */
bool tls_x509_revokes(const SSL_CTX *context);

/* tls-name.c: a certificate's subject as GnuTLS writes it. Allocated; NULL: no memory. */
char *tls_name_format(const X509_NAME *name);

/* Path of a file of the credentials: the one named, or `name` in the directory; allocated. NULL:
 * there is neither (no error), or no memory (err set). */
char *tls_config_path(const struct tls_config *config, const char *named, const char *name);

#endif
