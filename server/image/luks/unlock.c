// SPDX-License-Identifier: MIT
/*
 * Key slots. A passphrase and the slot's salt give a key (PBKDF2), that decrypts the slot's key
 * material, whose stripes merge into the master key, which is right when its digest is. All that
 * is secret is overwritten before its memory goes.
 */
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>

#include "common/size.h"
#include "luks.h"
#include "server/image/cipher.h"
#include "server/image/crypt.h"
#include "server/image/hostfile.h"
#include "server/secret.h"

struct unlocking {
	const struct luks_source *source;
	const struct luks_header *header;
	EVP_MD *hash;
	int costly; /* a slot that was left out, since it asks for too much; -1: none */
	uint8_t master[CIPHER_KEY_MAX];
};

/* ---- PBKDF2 ---- */

/* Whoever made the image says how long this takes. */
static int derive(struct unlocking *unlocking, const void *secret, size_t length,
		  const uint8_t salt[LUKS_SALT], uint32_t rounds, uint8_t *out, size_t out_length,
		  struct error *err)
{
	if (!PKCS5_PBKDF2_HMAC(secret, (int)length, salt, LUKS_SALT, (int)rounds, unlocking->hash,
			       (int)out_length, out))
		return error_set(err, EIO, "OpenSSL cannot derive the key by PBKDF2");
	return 0;
}

/* ---- Stripes ---- */

/* Each piece, as long as a digest, becomes the digest of its number and itself. */
static bool diffuse(const struct unlocking *unlocking, EVP_MD_CTX *context, uint8_t *key,
		    size_t length)
{
	size_t piece = (size_t)EVP_MD_get_size(unlocking->hash);
	uint8_t digest[EVP_MAX_MD_SIZE];
	bool done = true;

	for (uint32_t i = 0; length && done; i++) {
		size_t part = min_of(piece, length);
		uint8_t number[4] = {(uint8_t)(i >> 24), (uint8_t)(i >> 16), (uint8_t)(i >> 8),
				     (uint8_t)i};

		done = EVP_DigestInit_ex(context, unlocking->hash, NULL) &&
		       EVP_DigestUpdate(context, number, sizeof(number)) &&
		       EVP_DigestUpdate(context, key, part) &&
		       EVP_DigestFinal_ex(context, digest, NULL);
		memcpy(key, digest, part);
		key += part;
		length -= part;
	}
	OPENSSL_cleanse(digest, sizeof(digest));
	return done;
}

static int merge_stripes(const struct unlocking *unlocking, const uint8_t *stripes, uint32_t count,
			 uint8_t *key, struct error *err)
{
	size_t length = unlocking->header->key_length;
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	bool done = context;

	memset(key, 0, length);
	for (uint32_t i = 0; i < count && done; i++) {
		for (size_t at = 0; at < length; at++)
			key[at] ^= stripes[i * length + at];
		if (i + 1 < count)
			done = diffuse(unlocking, context, key, length);
	}
	EVP_MD_CTX_free(context);
	return done ? 0
		    : error_set(err, EIO, "OpenSSL cannot compute '%s'", unlocking->header->hash);
}

/* ---- Slots ---- */

/* The slot's key material as it is in the file: whole sectors. NULL with err set. */
static struct secret *read_material(const struct unlocking *unlocking, int number,
				    struct error *err)
{
	const struct luks_slot *slot = &unlocking->header->slots[number];
	const struct luks_source *source = unlocking->source;
	uint64_t length = luks_slot_length(unlocking->header, slot);
	struct secret *material;
	int rc;

	if (!range_inside(slot->offset, length, source->limit - source->base)) {
		error_set(err, EINVAL,
			  "key slot %d of the LUKS header lies behind the end of its file, which "
			  "seems to be truncated",
			  number);
		return NULL;
	}
	material = secret_create(NULL, length, err);
	if (!material)
		return NULL;
	rc = hostfile_read(source->file, material->bytes, length, source->base + slot->offset);
	if (rc == 0)
		return material;
	secret_free(material);
	error_set_errno(err, -rc, "Could not read key slot %d of the LUKS header", number);
	return NULL;
}

/* The master key as the slot's key material says, if this key is the right one for it. */
static int open_material(struct unlocking *unlocking, int number, const uint8_t *key,
			 struct secret *material, struct error *err)
{
	const struct luks_header *header = unlocking->header;
	struct cipher *cipher;
	int rc = cipher_new(header->cipher, header->mode, key, header->key_length, &cipher, err);

	if (rc)
		return rc;
	rc = cipher_decrypt(cipher, material->bytes, material->bytes, material->length, 0);
	cipher_free(cipher);
	if (rc)
		return error_set_errno(err, -rc, "Could not decrypt key slot %d", number);
	return merge_stripes(unlocking, material->bytes, header->slots[number].stripes,
			     unlocking->master, err);
}

static int check_digest(struct unlocking *unlocking, struct error *err)
{
	const struct luks_header *header = unlocking->header;
	uint8_t digest[LUKS_DIGEST];
	int rc = derive(unlocking, unlocking->master, header->key_length, header->digest_salt,
			header->digest_rounds, digest, sizeof(digest), err);

	if (rc)
		return rc;
	return CRYPTO_memcmp(digest, header->digest, sizeof(digest)) ? -EKEYREJECTED : 0;
}

/* 0: the master key is there. -EKEYREJECTED, without a message: not by this slot. */
static int try_slot(struct unlocking *unlocking, int number, struct error *err)
{
	const struct luks_slot *slot = &unlocking->header->slots[number];
	const struct secret *passphrase = unlocking->source->key;
	AUTO_SECRET struct secret *material = NULL;
	uint8_t key[CIPHER_KEY_MAX];
	int rc;

	if (!slot->active)
		return -EKEYREJECTED;
	if ((uint64_t)slot->rounds + unlocking->header->digest_rounds > LUKS_ROUNDS_MAX) {
		unlocking->costly = number;
		return -EKEYREJECTED;
	}
	material = read_material(unlocking, number, err);
	if (!material)
		return err ? -err->code : -EIO;
	rc = derive(unlocking, passphrase->bytes, passphrase->length, slot->salt, slot->rounds, key,
		    unlocking->header->key_length, err);
	if (rc == 0)
		rc = open_material(unlocking, number, key, material, err);
	OPENSSL_cleanse(key, sizeof(key));
	return rc ? rc : check_digest(unlocking, err);
}

static int try_slots(struct unlocking *unlocking, struct error *err)
{
	int rc = -EKEYREJECTED;

	for (int i = 0; i < LUKS_SLOTS && rc == -EKEYREJECTED; i++)
		rc = try_slot(unlocking, i, err);
	if (rc == -EKEYREJECTED && unlocking->costly >= 0)
		return error_set(err, EINVAL,
				 "key slot %d asks for more than %d rounds of PBKDF2, which would "
				 "take very long, and no other one opens; give the image a new key "
				 "slot by `cryptsetup luksChangeKey --iter-time 2000' if it can be "
				 "trusted",
				 unlocking->costly, LUKS_ROUNDS_MAX);
	if (rc == -EKEYREJECTED)
		error_set(err, EKEYREJECTED, "Invalid password, cannot unlock any keyslot");
	return rc;
}

/* ---- What was opened before ---- */

/* A digest of all that makes the master key out of a passphrase; false: a slot cannot be read. */
static bool find_origin(const struct unlocking *unlocking, const uint8_t bytes[LUKS_HEADER],
			uint8_t origin[CRYPT_ORIGIN])
{
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	bool done = context && EVP_DigestInit_ex(context, EVP_sha256(), NULL) &&
		    EVP_DigestUpdate(context, bytes, LUKS_HEADER);

	for (int i = 0; i < LUKS_SLOTS && done; i++) {
		AUTO_SECRET struct secret *material = NULL;

		if (!unlocking->header->slots[i].active)
			continue;
		material = read_material(unlocking, i, NULL);
		done = material && EVP_DigestUpdate(context, material->bytes, material->length);
	}
	done = done && EVP_DigestFinal_ex(context, origin, NULL);
	EVP_MD_CTX_free(context);
	return done;
}

/* ---- All of it ---- */

static int read_header(const struct luks_source *source, uint8_t bytes[LUKS_HEADER],
		       struct luks_header *header, struct error *err)
{
	int rc = hostfile_read(source->file, bytes, LUKS_HEADER, source->base);

	if (rc == -ENODATA)
		return error_set(err, EINVAL, "the file ends inside the LUKS header");
	if (rc)
		return error_set_errno(err, -rc, "Could not read the LUKS header");
	rc = luks_parse_header(bytes, LUKS_HEADER, header, err);
	return rc || source->inside ? rc : luks_check_payload(header, err);
}

static int unlock(struct unlocking *unlocking, struct cipher **cipher, struct error *err)
{
	const struct luks_header *header = unlocking->header;
	int rc;

	unlocking->hash = EVP_MD_fetch(NULL, luks_hash(header->hash), NULL);
	if (!unlocking->hash)
		return error_set(err, ENOTSUP, "OpenSSL does not offer the hash '%s' here",
				 header->hash);
	rc = try_slots(unlocking, err);
	if (rc == 0)
		rc = cipher_new(header->cipher, header->mode, unlocking->master, header->key_length,
				cipher, err);
	OPENSSL_cleanse(unlocking->master, sizeof(unlocking->master));
	EVP_MD_free(unlocking->hash);
	return rc;
}

int luks_unlock(const struct luks_source *source, struct luks_header *header, struct crypt **crypt,
		struct error *err)
{
	struct unlocking unlocking = {.source = source, .header = header, .costly = -1};
	uint8_t bytes[LUKS_HEADER], origin[CRYPT_ORIGIN];
	struct cipher *cipher;
	uint64_t base;
	bool known;
	int rc = read_header(source, bytes, header, err);

	*crypt = NULL;
	if (rc)
		return rc;
	if (!source->key)
		return -ENOKEY;
	base = source->inside ? 0 : header->payload;
	known = find_origin(&unlocking, bytes, origin);
	if (known)
		*crypt = crypt_share(source->known, base, origin);
	if (*crypt)
		return 0;
	rc = unlock(&unlocking, &cipher, err);
	if (rc)
		return rc;
	*crypt = crypt_new(cipher, base, known ? origin : NULL);
	return *crypt ? 0 : error_set(err, ENOMEM, "out of memory");
}
