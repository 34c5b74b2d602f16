/* SPDX-License-Identifier: MIT */
/*
 * LUKS: from a header and a passphrase to a crypt, for images of their own and those inside
 * others. The thread that opens.
 */
#ifndef HAWSER_SERVER_IMAGE_LUKS_LUKS_H
#define HAWSER_SERVER_IMAGE_LUKS_LUKS_H

#include "format.h"

struct crypt;
struct hostfile;
struct secret;

/* A header and what is to open it. */
struct luks_source {
	struct hostfile *file;
	uint64_t base, limit;     /* the header is there, and ends with its key slots at limit */
	bool inside;              /* another image: it says where the data are, not the header */
	const struct secret *key; /* NULL: nobody gave one */
	struct crypt *known;      /* what this key has opened in the same place before, or NULL */
};

/*
 * Reads the header and tries the key on each slot, unless all is as it was when the known crypt was
 * made: then it is shared, and nobody waits. 0, with *crypt for crypt_free(); else -errno with err
 * set: -EKEYREJECTED where it fits no slot. -ENOKEY, without a message, where there is no
 * key.
 */
int luks_unlock(const struct luks_source *source, struct luks_header *header, struct crypt **crypt,
		struct error *err);

#endif
