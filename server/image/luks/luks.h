/* SPDX-License-Identifier: MIT */
/*
 * LUKS: from a header and a passphrase to a cipher, for images of their own and those inside
 * others. The thread that opens.
 */
#ifndef HAWSER_SERVER_IMAGE_LUKS_LUKS_H
#define HAWSER_SERVER_IMAGE_LUKS_LUKS_H

#include "format.h"

struct cipher;
struct hostfile;
struct secret;

/* A header and what is to open it. */
struct luks_source {
	struct hostfile *file;
	uint64_t base, limit;     /* the header is there, and ends with its key slots at limit */
	bool inside;              /* another image: it says where the data are, not the header */
	const struct secret *key; /* NULL: nobody gave one */
};

/*
 * Reads the header and tries the key on each slot. 0, with *cipher for cipher_free(); else -errno
 * with err set: -EKEYREJECTED where it fits no slot. -ENOKEY, without a message, where there is no
 * key.
 */
int luks_unlock(const struct luks_source *source, struct luks_header *header,
		struct cipher **cipher, struct error *err);

#endif
