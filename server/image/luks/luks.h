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

/*
 * Reads the header at base of the file, which with its key slots ends at limit, and tries key
 * (NULL: nobody gave one) on each slot. 0, with *cipher for cipher_free(); else -errno with err
 * set: -EKEYREJECTED where it fits no slot. -ENOKEY, without a
 * message, where there is no key.
 */
int luks_unlock(struct hostfile *file, uint64_t base, uint64_t limit, const struct secret *key,
		struct luks_header *header, struct cipher **cipher, struct error *err);

#endif
