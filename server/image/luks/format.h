/* SPDX-License-Identifier: MIT */
/*
 * The header of LUKS version 1 as a pure function: bytes of a stranger in, checked numbers out.
 */
#ifndef HAWSER_SERVER_IMAGE_LUKS_FORMAT_H
#define HAWSER_SERVER_IMAGE_LUKS_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum {
	LUKS_HEADER = 592, /* bytes */
	LUKS_SLOTS = 8,
	LUKS_NAME = 32,
	LUKS_SALT = 32,
	LUKS_DIGEST = 20,
	LUKS_STRIPES_MAX = 4000, /* all programs write just so many */
	/* Rounds of PBKDF2 that one slot may cost, with those of the digest: a minute with SHA-256,
	 * five with RIPEMD-160, where honest ones take some seconds. A wrong passphrase, which is
	 * tried on all eight, takes up to eight times as long. */
	LUKS_ROUNDS_MAX = 100 * 1000 * 1000,
};

struct luks_slot {
	bool active;
	uint32_t rounds;
	uint8_t salt[LUKS_SALT];
	uint64_t offset; /* of its key material from the header's begin, bytes */
	uint32_t stripes;
};

struct luks_header {
	char cipher[LUKS_NAME + 1];
	char mode[LUKS_NAME + 1];
	char hash[LUKS_NAME + 1];
	uint64_t payload; /* offset from the header's begin, bytes; 0: in another file */
	uint32_t key_length;
	uint8_t digest[LUKS_DIGEST]; /* of the master key */
	uint8_t digest_salt[LUKS_SALT];
	uint32_t digest_rounds;
	struct luks_slot slots[LUKS_SLOTS];
};

/* 0, or -EINVAL, -ENOTSUP with err set: what is broken, or not supported here. */
int luks_parse_header(const uint8_t *bytes, size_t length, struct luks_header *header,
		      struct error *err);

/* Do the data lie behind all that the header needs for itself, so that writing them leaves the keys
 * alone? 0, or -EINVAL, -ENOTSUP with err set. Not for headers inside other images: there the
 * payload means nothing. */
int luks_check_payload(const struct luks_header *header, struct error *err);

/* Bytes of key material, in whole sectors, of a slot in use or free. */
uint64_t luks_slot_length(const struct luks_header *header, const struct luks_slot *slot);

/* OpenSSL's name for a hash of LUKS; NULL: there is none. */
const char *luks_hash(const char *name);

#endif
