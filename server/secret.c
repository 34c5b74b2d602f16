// SPDX-License-Identifier: MIT
/*
 * Secrets: memory, base64, decryption.
 */
#include "secret.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <string.h>

enum { KEY_SIZE = 32, IV_SIZE = 16, BLOCK = 16 };

struct secret *secret_create(const void *bytes, size_t length, struct error *err)
{
	struct secret *secret = calloc(1, sizeof(*secret) + length + 1);

	if (!secret) {
		error_set(err, ENOMEM, "out of memory");
		return NULL;
	}
	secret->length = length;
	if (bytes)
		memcpy(secret->bytes, bytes, length);
	return secret;
}

void secret_free(struct secret *secret)
{
	if (secret)
		OPENSSL_cleanse(secret->bytes, secret->length);
	free(secret);
}

/* ---- Files ---- */

/* Room for what a file may still hold; the old memory is overwritten. */
static int grow(struct secret **secret, struct error *err)
{
	struct secret *larger = secret_create(NULL, 2 * (*secret)->length, err);

	if (!larger)
		return -ENOMEM;
	memcpy(larger->bytes, (*secret)->bytes, (*secret)->length);
	secret_free(*secret);
	*secret = larger;
	return 0;
}

/* Reads to the end; *used tells how much of *secret is filled. */
static int read_all(int fd, struct secret **secret, size_t *used, struct error *err)
{
	for (;;) {
		ssize_t got = read(fd, (*secret)->bytes + *used, (*secret)->length - *used);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return error_set(err, errno, "%s", strerror(errno));
		if (got == 0)
			return 0;
		*used += (size_t)got;
		if (*used > SECRET_SIZE_MAX)
			return error_set(err, EFBIG, "it is larger than %d MiB",
					 SECRET_SIZE_MAX >> 20);
		if (*used == (*secret)->length && grow(secret, err) < 0)
			return -ENOMEM;
	}
}

struct secret *secret_read_file(const char *path, struct error *err)
{
	AUTO_SECRET struct secret *read_so_far = secret_create(NULL, 4096, err);
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t used = 0;

	if (!read_so_far)
		return NULL;
	if (fd < 0) {
		error_set_errno(err, errno, "Unable to read %s", path);
		return NULL;
	}
	if (read_all(fd, &read_so_far, &used, err) < 0) {
		error_wrap(err, "Unable to read %s", path);
		return NULL;
	}
	return secret_create(read_so_far->bytes, used, err);
}

/* ---- Base64 ---- */

static int sextet(char letter)
{
	static const char letters[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *at = letter ? strchr(letters, letter) : NULL;

	return at ? (int)(at - letters) : -1;
}

struct base64 {
	size_t letters, padding;
	uint32_t group;
};

/* False: it cannot stand there. Padding counts as a letter of value 0. */
static bool add_letter(struct base64 *base64, char letter)
{
	int value = sextet(letter);

	if (letter == '=')
		base64->padding++;
	else if (value < 0 || base64->padding)
		return false;
	base64->group = base64->group << 6 | (uint32_t)(value < 0 ? 0 : value);
	base64->letters++;
	return true;
}

struct secret *secret_decode_base64(const char *text, size_t length, struct error *err)
{
	AUTO_SECRET struct secret *bytes = secret_create(NULL, length / 4 * 3 + 3, err);
	struct base64 base64 = {0};
	size_t used = 0;

	if (!bytes)
		return NULL;
	for (size_t i = 0; i < length; i++) {
		if (text[i] == '\n')
			continue;
		if (!add_letter(&base64, text[i])) {
			error_set(err, EINVAL, "Base64 data contains invalid characters");
			return NULL;
		}
		if (base64.letters % 4 == 0)
			for (int shift = 16; shift >= 0; shift -= 8)
				bytes->bytes[used++] = (uint8_t)(base64.group >> shift);
	}
	if (base64.letters % 4 || base64.padding > 2) {
		error_set(err, EINVAL,
			  "Base64 data is incomplete: it is groups of 4 characters, the last of "
			  "them padded by '='");
		return NULL;
	}
	return secret_create(bytes->bytes, used - base64.padding, err);
}

/* ---- Decryption ---- */

static struct secret *decode_iv(const char *text, struct error *err)
{
	struct secret *iv;

	if (!text) {
		error_set(err, EINVAL, "IV is required to decrypt secret");
		return NULL;
	}
	iv = secret_decode_base64(text, strlen(text), err);
	if (iv && iv->length != IV_SIZE) {
		error_set(err, EINVAL, "IV should be %d bytes in length not %zu", IV_SIZE,
			  iv->length);
		secret_free(iv);
		return NULL;
	}
	return iv;
}

static int decrypt(const struct secret *data, const struct secret *key, const struct secret *iv,
		   struct secret *plain)
{
	EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
	int length = 0;
	bool done =
		context &&
		EVP_DecryptInit_ex(context, EVP_aes_256_cbc(), NULL, key->bytes, iv->bytes) &&
		EVP_CIPHER_CTX_set_padding(context, 0) &&
		EVP_DecryptUpdate(context, plain->bytes, &length, data->bytes, (int)data->length) &&
		(size_t)length == data->length;

	EVP_CIPHER_CTX_free(context);
	return done ? 0 : -EIO;
}

struct secret *secret_decrypt(const struct secret *data, const struct secret *key,
			      const char *iv_text, struct error *err)
{
	AUTO_SECRET struct secret *iv = NULL;
	AUTO_SECRET struct secret *plain = NULL;
	uint8_t padding;

	if (key->length != KEY_SIZE) {
		error_set(err, EINVAL, "Key should be %d bytes in length", KEY_SIZE);
		return NULL;
	}
	iv = decode_iv(iv_text, err);
	if (!iv)
		return NULL;
	if (!data->length || data->length % BLOCK || data->length > SECRET_SIZE_MAX) {
		error_set(err, EINVAL, "Length %zu must be a multiple of block size %d",
			  data->length, BLOCK);
		return NULL;
	}
	plain = secret_create(NULL, data->length, err);
	if (!plain)
		return NULL;
	if (decrypt(data, key, iv, plain) < 0) {
		error_set(err, EIO, "OpenSSL cannot decrypt by AES-256-CBC here");
		return NULL;
	}
	padding = plain->bytes[plain->length - 1];
	if (!padding || padding > BLOCK) {
		error_set(err, EINVAL,
			  "Incorrect number of padding bytes (%d) found on decrypted data; is it "
			  "the right key?",
			  padding);
		return NULL;
	}
	return secret_create(plain->bytes, plain->length - padding, err);
}
