/* SPDX-License-Identifier: MIT */
/*
 * Encryption of disks: sectors of 512 bytes, each on its own, its number in the initialisation
 * vector, under names as LUKS has them ("aes", "xts-plain64"). AES itself is OpenSSL's; that it
 * need not be set up for each sector is why the modes are put together here.
 *
 * Any number of threads use one cipher at once.
 */
#ifndef HAWSER_SERVER_IMAGE_CIPHER_H
#define HAWSER_SERVER_IMAGE_CIPHER_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum { CIPHER_SECTOR = 512, CIPHER_KEY_MAX = 64 };

struct cipher;

/* Is this a cipher that we have? 0, or -ENOTSUP with err set. Needs no key, only its length. */
int cipher_check(const char *name, const char *mode, size_t key_length, struct error *err);

/* For cipher_free(). The key is not needed afterwards. 0 or -errno with err set. */
int cipher_new(const char *name, const char *mode, const uint8_t *key, size_t key_length,
	       struct cipher **cipher, struct error *err);
void cipher_free(struct cipher *cipher);

/*
 * Whole sectors, the first of them with this number; in and out are the same or do not overlap.
 * 0, or -EIO, -ENOMEM: then out is undefined.
 */
int cipher_encrypt(struct cipher *cipher, const uint8_t *in, uint8_t *out, size_t length,
		   uint64_t sector);
int cipher_decrypt(struct cipher *cipher, const uint8_t *in, uint8_t *out, size_t length,
		   uint64_t sector);

#endif
