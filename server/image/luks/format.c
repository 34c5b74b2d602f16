// SPDX-License-Identifier: MIT
/*
 * The header of LUKS version 1. Pure functions; any thread.
 */
#include "format.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/size.h"
#include "server/image/cipher.h"

enum {
	AT_VERSION = 6,
	AT_CIPHER = 8,
	AT_MODE = 40,
	AT_HASH = 72,
	AT_PAYLOAD = 104,
	AT_KEY_LENGTH = 108,
	AT_DIGEST = 112,
	AT_DIGEST_SALT = 132,
	AT_DIGEST_ROUNDS = 164,
	AT_SLOTS = 208,
	SLOT = 48,
	SLOT_ACTIVE = 0x00ac71f3,
	SLOT_FREE = 0x0000dead,
};

const char *luks_hash(const char *name)
{
	static const struct {
		const char *luks, *openssl;
	} hashes[] = {
		{"md5", "MD5"},
		{"sha1", "SHA1"},
		{"sha224", "SHA224"},
		{"sha256", "SHA256"},
		{"sha384", "SHA384"},
		{"sha512", "SHA512"},
		{"ripemd160", "RIPEMD160"},
	};

	for (size_t i = 0; i < sizeof(hashes) / sizeof(hashes[0]); i++)
		if (!strcmp(hashes[i].luks, name))
			return hashes[i].openssl;
	return NULL;
}

/* Names go into messages: letters, digits and what is between them. */
static int take_name(const uint8_t *bytes, char *out, const char *what, struct error *err)
{
	static const char allowed[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_:()[],.";

	memcpy(out, bytes, LUKS_NAME);
	out[LUKS_NAME] = '\0';
	if (strlen(out) == LUKS_NAME || strspn(out, allowed) != strlen(out))
		return error_set(err, EINVAL, "the LUKS header is broken: its %s is no name", what);
	return 0;
}

static int take_names(const uint8_t *bytes, struct luks_header *header, struct error *err)
{
	int rc = take_name(bytes + AT_CIPHER, header->cipher, "cipher", err);

	if (rc == 0)
		rc = take_name(bytes + AT_MODE, header->mode, "cipher mode", err);
	if (rc == 0)
		rc = take_name(bytes + AT_HASH, header->hash, "hash", err);
	if (rc == 0 && !luks_hash(header->hash))
		rc = error_set(err, ENOTSUP, "the hash '%s' of LUKS is not supported",
			       header->hash);
	return rc;
}

static int take_slot(const uint8_t *bytes, int number, struct luks_slot *slot, struct error *err)
{
	uint32_t state = load_be32(bytes);

	slot->active = state == SLOT_ACTIVE;
	slot->rounds = load_be32(bytes + 4);
	memcpy(slot->salt, bytes + 8, LUKS_SALT);
	slot->offset = (uint64_t)load_be32(bytes + 40) * CIPHER_SECTOR;
	slot->stripes = load_be32(bytes + 44);
	if (!slot->active && state != SLOT_FREE)
		return error_set(
			err, EINVAL,
			"the LUKS header is broken: key slot %d is neither in use nor free",
			number);
	/* A free one gets a key some day, and what lies in its place is gone. */
	if (!slot->stripes || slot->stripes > LUKS_STRIPES_MAX)
		return error_set(err, EINVAL,
				 "the LUKS header is broken: key slot %d has %u stripes, not %d",
				 number, slot->stripes, LUKS_STRIPES_MAX);
	if (slot->offset < LUKS_HEADER)
		return error_set(err, EINVAL,
				 "the LUKS header is broken: key slot %d lies in the header",
				 number);
	if (slot->active && !slot->rounds)
		return error_set(err, EINVAL,
				 "the LUKS header is broken: key slot %d has no rounds", number);
	return 0;
}

uint64_t luks_slot_length(const struct luks_header *header, const struct luks_slot *slot)
{
	return round_up((uint64_t)slot->stripes * header->key_length, CIPHER_SECTOR);
}

static int check_slots_apart(const struct luks_header *header, struct error *err)
{
	for (int i = 0; i < LUKS_SLOTS; i++)
		for (int j = i + 1; j < LUKS_SLOTS; j++) {
			const struct luks_slot *one = &header->slots[i], *other = &header->slots[j];

			if (one->offset < other->offset + luks_slot_length(header, other) &&
			    other->offset < one->offset + luks_slot_length(header, one))
				return error_set(err, EINVAL,
						 "Keyslots %d and %d are overlapping in the header",
						 i, j);
		}
	return 0;
}

int luks_check_payload(const struct luks_header *header, struct error *err)
{
	if (!header->payload)
		return error_set(err, ENOTSUP,
				 "this is a LUKS header without data, which must be in another "
				 "file; such detached headers are not supported");
	if (header->payload < LUKS_HEADER)
		return error_set(err, EINVAL, "LUKS payload is overlapping with the header");
	for (int i = 0; i < LUKS_SLOTS; i++)
		if (header->slots[i].offset + luks_slot_length(header, &header->slots[i]) >
		    header->payload)
			return error_set(err, EINVAL,
					 "Keyslot %d is overlapping with the encrypted payload", i);
	return 0;
}

static int check_version(const uint8_t *bytes, size_t length, struct error *err)
{
	static const uint8_t magic[] = {'L', 'U', 'K', 'S', 0xba, 0xbe};
	uint32_t version;

	if (length < LUKS_HEADER || memcmp(bytes, magic, sizeof(magic)))
		return error_set(err, EINVAL, "Volume is not in LUKS format");
	version = load_be16(bytes + AT_VERSION);
	if (version == 2)
		return error_set(
			err, ENOTSUP,
			"the image is LUKS version 2, which is not supported; convert it by "
			"`cryptsetup convert --type luks1', or serve its own bytes by -f raw "
			"and open them by cryptsetup on the client");
	if (version != 1)
		return error_set(err, ENOTSUP, "LUKS version %u is not supported", version);
	return 0;
}

int luks_parse_header(const uint8_t *bytes, size_t length, struct luks_header *header,
		      struct error *err)
{
	int rc = check_version(bytes, length, err);

	if (rc == 0)
		rc = take_names(bytes, header, err);
	if (rc)
		return rc;
	header->payload = (uint64_t)load_be32(bytes + AT_PAYLOAD) * CIPHER_SECTOR;
	header->key_length = load_be32(bytes + AT_KEY_LENGTH);
	memcpy(header->digest, bytes + AT_DIGEST, LUKS_DIGEST);
	memcpy(header->digest_salt, bytes + AT_DIGEST_SALT, LUKS_SALT);
	header->digest_rounds = load_be32(bytes + AT_DIGEST_ROUNDS);
	if (!header->digest_rounds)
		return error_set(
			err, EINVAL,
			"the LUKS header is broken: the master key's digest has no rounds");
	rc = cipher_check(header->cipher, header->mode, header->key_length, err);
	for (int i = 0; i < LUKS_SLOTS && rc == 0; i++)
		rc = take_slot(bytes + AT_SLOTS + i * SLOT, i, &header->slots[i], err);
	return rc ? rc : check_slots_apart(header, err);
}
