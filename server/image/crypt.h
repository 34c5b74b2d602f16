/* SPDX-License-Identifier: MIT */
/*
 * Encrypted bytes in a host file: reading decrypts, writing encrypts, and what is a part of a
 * sector is read, changed and written, apart from all others. Any thread.
 */
#ifndef HAWSER_SERVER_IMAGE_CRYPT_H
#define HAWSER_SERVER_IMAGE_CRYPT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct cipher;
struct crypt;
struct hostfile;

enum { CRYPT_ORIGIN = 32 };

/* Sector 0 begins at file offset base, a multiple of 512. origin is a digest of what the cipher
 * came from; NULL: it will not be shared. Takes the cipher, also when it fails. NULL: no memory. */
struct crypt *crypt_new(struct cipher *cipher, uint64_t base, const uint8_t *origin);
/* The same once more, for a crypt_free() of its own, if it has this base and origin; else NULL. Who
 * shares one is apart from the others where a sector changes in part. crypt may be NULL. */
struct crypt *crypt_share(struct crypt *crypt, uint64_t base, const uint8_t origin[CRYPT_ORIGIN]);
void crypt_free(struct crypt *crypt);

/* As hostfile_read(): after -ENODATA what lies beyond the end is what zeroes decrypt to. */
int crypt_read(struct crypt *crypt, struct hostfile *file, void *buffer, size_t length,
	       uint64_t offset);

/* As hostfile_read_nowait(), of whole sectors; all of them or -EAGAIN. */
int crypt_read_nowait(struct crypt *crypt, struct hostfile *file, void *buffer, size_t length,
		      uint64_t offset);

/* As hostfile_write(). */
int crypt_write(struct crypt *crypt, struct hostfile *file, const void *buffer, size_t length,
		uint64_t offset);

#endif
