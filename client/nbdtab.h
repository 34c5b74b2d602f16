/* SPDX-License-Identifier: MIT */
/*
 * /etc/nbdtab: the table of devices that may be attached by name. Reads the format that
 * nbd-client made (DEVICE HOST EXPORT [option,...]) and hands out one entry, whose place is
 * always an NBD URI. Never connects, never writes the file. Any thread.
 */
#ifndef HAWSER_CLIENT_NBDTAB_H
#define HAWSER_CLIENT_NBDTAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define NBDTAB_PATH "/etc/nbdtab"

enum { NBDTAB_UNSET = -1 }; /* a number that the line does not give */

/* All strings are owned by the entry; NULL where the line has none. */
struct nbdtab_entry {
	unsigned int line;    /* in the file, from 1 */
	char *name;           /* name= */
	char *device;         /* "/dev/nbd0", or NULL: the kernel picks one */
	char *uri;            /* where the export is; never NULL */
	int64_t block_size;   /* bs= */
	int64_t connections;  /* conns= */
	int64_t timeout;      /* timeout=, seconds */
	int64_t dead_timeout; /* dead-timeout=, seconds */
	bool read_only;       /* readonly */
	/* Names of options, comma separated, for the message to the user. */
	char *refused; /* known, not supported yet, and wrong to ignore (preinit) */
	char *ignored; /* known, without effect yet (persist, no_optgo) */
	char *unknown; /* not known; names that start with _ are not listed */
};

/*
 * Finds the first entry whose name=, or whose device (nbd0 and /dev/nbd0 are the same), is key,
 * in a table of length bytes. A bad line fails only when it is the one that is asked for.
 * Returns 0; -ENOENT: no such entry; -EINVAL: its line is bad (err names the line); -ENOMEM.
 * On failure *entry holds nothing.
 */
int nbdtab_parse(const char *text, size_t length, const char *key, struct nbdtab_entry *entry,
		 struct error *err);

/*
 * As above on a file, and the policy: ignored and unknown options are warned of once, an entry
 * with refused options is an error (-ENOTSUP). err names the file.
 */
int nbdtab_find(const char *path, const char *key, struct nbdtab_entry *entry, struct error *err);

/* Frees what the entry holds; an entry may be cleared twice. */
void nbdtab_entry_clear(struct nbdtab_entry *entry);

#endif
