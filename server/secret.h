/* SPDX-License-Identifier: MIT */
/*
 * Bytes that must stay secret: passphrases and keys, in the forms in which QEMU takes them. They
 * never appear in a message, and their memory is overwritten before it is given back. (They are
 * not locked into memory: a lock would not survive the fork of --fork, and what is derived from
 * them lives in OpenSSL's memory anyway.) Main thread.
 */
#ifndef HAWSER_SERVER_SECRET_H
#define HAWSER_SERVER_SECRET_H

#include <stddef.h>
#include <stdint.h>

#include "common/cleanup.h"
#include "common/error.h"

struct secret {
	size_t length;
	uint8_t bytes[]; /* any values; a 0 follows them that is not counted */
};

enum { SECRET_SIZE_MAX = 8 << 20 };

/* A copy; bytes NULL: as many zeroes. NULL, with err set: no memory. */
struct secret *secret_create(const void *bytes, size_t length, struct error *err);

/* All that path holds: a file, a pipe; nothing is cut off its end. NULL with err set. */
struct secret *secret_read_file(const char *path, struct error *err);

/* What base64 text means, lines or one piece. NULL with err set. */
struct secret *secret_decode_base64(const char *text, size_t length, struct error *err);

/*
 * AES-256-CBC as `openssl enc -aes-256-cbc -K KEY -iv IV` makes it: key has 32 bytes, iv is base64
 * of 16 (NULL: the user gave none). NULL with err set.
 */
struct secret *secret_decrypt(const struct secret *data, const struct secret *key, const char *iv,
			      struct error *err);

/* Overwrites and frees; NULL is allowed. */
void secret_free(struct secret *secret);

static inline void cleanup_secret(struct secret **secret)
{
	secret_free(*secret);
}

#define AUTO_SECRET CLEANUP(cleanup_secret)

#endif
