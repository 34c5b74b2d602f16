// SPDX-License-Identifier: MIT
/*
 * Encrypted bytes in a host file. A sector changes as a whole when a part of it does, so whoever
 * changes a part holds its stripe alone, readers included: between the old and the new one lies
 * what decrypts to nothing.
 */
#include "crypt.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cipher.h"
#include "common/cleanup.h"
#include "common/size.h"
#include "hostfile.h"
#include "stripes.h"

enum {
	MASK = CIPHER_SECTOR - 1,
	STEP = 64 << 10,       /* encrypted at once: it stays in the processor's cache */
	STEP_DIRECT = 1 << 20, /* where each write waits for the disk */
	PAGE = 4096,
};

struct crypt {
	struct cipher *cipher;
	uint64_t base;
	bool shareable;
	uint8_t origin[CRYPT_ORIGIN];
	_Atomic unsigned int holders; /* images, the old and the new one */
	struct stripes stripes;
};

struct crypt *crypt_new(struct cipher *cipher, uint64_t base, const uint8_t *origin)
{
	struct crypt *crypt = calloc(1, sizeof(*crypt));

	if (!crypt) {
		cipher_free(cipher);
		return NULL;
	}
	crypt->cipher = cipher;
	crypt->base = base;
	crypt->shareable = origin;
	if (origin)
		memcpy(crypt->origin, origin, sizeof(crypt->origin));
	atomic_init(&crypt->holders, 1);
	stripes_init(&crypt->stripes);
	return crypt;
}

struct crypt *crypt_share(struct crypt *crypt, uint64_t base, const uint8_t origin[CRYPT_ORIGIN])
{
	if (!crypt || !crypt->shareable || crypt->base != base ||
	    memcmp(crypt->origin, origin, sizeof(crypt->origin)))
		return NULL;
	atomic_fetch_add(&crypt->holders, 1);
	return crypt;
}

void crypt_free(struct crypt *crypt)
{
	if (!crypt || atomic_fetch_sub(&crypt->holders, 1) > 1)
		return;
	cipher_free(crypt->cipher);
	stripes_destroy(&crypt->stripes);
	free(crypt);
}

static uint64_t sector_of(const struct crypt *crypt, uint64_t offset)
{
	return (offset - crypt->base) / CIPHER_SECTOR;
}

/* How much of a range is a part of its first sector, or whole sectors. */
static size_t next_part(size_t length, uint64_t offset, bool *whole)
{
	*whole = !(offset & MASK) && length > MASK;
	if (*whole)
		return length & ~(size_t)MASK;
	return min_of(length, (size_t)(CIPHER_SECTOR - (offset & MASK)));
}

/* ---- Reading ---- */

static int decrypt(struct crypt *crypt, uint8_t *bytes, size_t length, uint64_t offset)
{
	return cipher_decrypt(crypt->cipher, bytes, bytes, length, sector_of(crypt, offset));
}

static int read_sectors(struct crypt *crypt, struct hostfile *file, uint8_t *buffer, size_t length,
			uint64_t offset)
{
	int rc = hostfile_read(file, buffer, length, offset), failed;

	if (rc && rc != -ENODATA)
		return rc;
	failed = decrypt(crypt, buffer, length, offset);
	return failed ? failed : rc;
}

static int read_part(struct crypt *crypt, struct hostfile *file, uint8_t *buffer, size_t length,
		     uint64_t offset)
{
	uint8_t sector[CIPHER_SECTOR];
	int rc = read_sectors(crypt, file, sector, sizeof(sector), round_down(offset, MASK + 1));

	memcpy(buffer, sector + (offset & MASK), length);
	return rc;
}

int crypt_read(struct crypt *crypt, struct hostfile *file, void *buffer, size_t length,
	       uint64_t offset)
{
	uint8_t *at = buffer;
	int result = 0;

	while (length) {
		bool whole;
		size_t step = next_part(length, offset, &whole);
		uint64_t stripes = stripes_of(offset, step);
		int rc;

		stripes_lock(&crypt->stripes, stripes, false);
		rc = whole ? read_sectors(crypt, file, at, step, offset)
			   : read_part(crypt, file, at, step, offset);
		stripes_unlock(&crypt->stripes, stripes);
		if (rc && rc != -ENODATA)
			return rc;
		result = rc ? rc : result;
		at += step;
		offset += step;
		length -= step;
	}
	return result;
}

int crypt_read_nowait(struct crypt *crypt, struct hostfile *file, void *buffer, size_t length,
		      uint64_t offset)
{
	uint64_t stripes = stripes_of(offset, length);
	ssize_t got;

	if ((offset | length) & MASK || !stripes_try_share(&crypt->stripes, stripes))
		return -EAGAIN;
	got = hostfile_read_nowait(file, buffer, length, offset);
	stripes_unlock(&crypt->stripes, stripes);
	if (got != (ssize_t)length)
		return -EAGAIN;
	return decrypt(crypt, buffer, length, offset);
}

/* ---- Writing ---- */

static int write_sectors(struct crypt *crypt, struct hostfile *file, const uint8_t *buffer,
			 size_t length, uint64_t offset)
{
	size_t room = min_of(length, (size_t)(file->direct ? STEP_DIRECT : STEP));
	AUTO_FREE uint8_t *encrypted = aligned_alloc(PAGE, round_up(room, PAGE));
	int rc = encrypted ? 0 : -ENOMEM;

	while (length && rc == 0) {
		size_t step = min_of(length, room);

		rc = cipher_encrypt(crypt->cipher, buffer, encrypted, step,
				    sector_of(crypt, offset));
		if (rc == 0)
			rc = hostfile_write(file, encrypted, step, offset);
		buffer += step;
		offset += step;
		length -= step;
	}
	return rc;
}

/* Beyond the end of the file there is nothing to be kept. */
static int write_part(struct crypt *crypt, struct hostfile *file, const uint8_t *buffer,
		      size_t length, uint64_t offset)
{
	uint8_t sector[CIPHER_SECTOR];
	uint64_t start = round_down(offset, MASK + 1);
	int rc = read_sectors(crypt, file, sector, sizeof(sector), start);

	if (rc && rc != -ENODATA)
		return rc;
	memcpy(sector + (offset & MASK), buffer, length);
	return write_sectors(crypt, file, sector, sizeof(sector), start);
}

int crypt_write(struct crypt *crypt, struct hostfile *file, const void *buffer, size_t length,
		uint64_t offset)
{
	const uint8_t *at = buffer;

	while (length) {
		bool whole;
		size_t step = next_part(length, offset, &whole);
		uint64_t stripes = stripes_of(offset, step);
		int rc;

		stripes_lock(&crypt->stripes, stripes, !whole);
		rc = whole ? write_sectors(crypt, file, at, step, offset)
			   : write_part(crypt, file, at, step, offset);
		stripes_unlock(&crypt->stripes, stripes);
		if (rc)
			return rc;
		at += step;
		offset += step;
		length -= step;
	}
	return 0;
}
