// SPDX-License-Identifier: MIT
/*
 * The LUKS driver: guest bytes are file bytes behind the key slots, encrypted. There are no holes:
 * what the file lacks decrypts to noise, so zeroes are written, and a range that is given back to
 * the host has no content that anybody knows.
 */
#include "luks.h"

#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "server/image/cipher.h"
#include "server/image/crypt.h"
#include "server/image/image.h"

enum { ZERO_STEP = 64 << 10 };

struct luks {
	struct crypt *crypt;
	uint64_t payload; /* where in the file the guest's first byte is */
};

/* A sector that is not whole cannot be decrypted. */
static uint64_t guest_size(uint64_t file_size, uint64_t payload)
{
	return file_size > payload ? round_down(file_size - payload, CIPHER_SECTOR) : 0;
}

static int check_payload(const struct luks_header *header, uint64_t file_size, struct error *err)
{
	if (header->payload > file_size)
		return error_set(err, EINVAL,
				 "the file ends before the data of the LUKS image begins: it is "
				 "truncated");
	return 0;
}

/* Of the image that this one takes the place of, if it is one of LUKS, too. */
static struct crypt *known_crypt(const struct image *image)
{
	const struct image *previous = image->previous;

	return previous && previous->driver == &image_driver_luks
		       ? ((const struct luks *)previous->state)->crypt
		       : NULL;
}

static int luks_open(struct image *image, struct error *err)
{
	struct luks_source source = {.file = image->file, .known = known_crypt(image)};
	AUTO_FREE struct luks *luks = calloc(1, sizeof(*luks));
	struct luks_header header;
	uint64_t size;
	int rc = hostfile_size(image->file, &size);

	if (!luks)
		return error_set(err, ENOMEM, "out of memory");
	if (rc)
		return error_set_errno(err, -rc, "cannot tell the size");
	source.limit = size;
	rc = image_key(image, &source.key, err);
	if (rc == 0)
		rc = luks_unlock(&source, &header, &luks->crypt, err);
	if (rc == -ENOKEY)
		return image_key_missing(image, err);
	if (rc)
		return rc;
	rc = check_payload(&header, size, err);
	if (rc) {
		crypt_free(luks->crypt);
		return rc;
	}
	luks->payload = header.payload;
	image->size = guest_size(size, header.payload);
	image->encrypted = true;
	image->state = luks;
	luks = NULL;
	return 0;
}

static void luks_refresh(struct image *image)
{
	const struct luks *luks = image->state;
	uint64_t size;

	if (hostfile_size(image->file, &size))
		return;
	size = guest_size(size, luks->payload);
	if (image->file->is_block || size > image->size)
		image->size = size;
}

static void luks_close(struct image *image)
{
	struct luks *luks = image->state;

	crypt_free(luks->crypt);
	free(luks);
}

static int luks_map(struct image *image, uint64_t offset, uint64_t length, enum map_intent intent,
		    unsigned int flags, struct extent *extent)
{
	const struct luks *luks = image->state;

	(void)intent;
	(void)flags;
	*extent = (struct extent){.kind = EXTENT_ENCRYPTED,
				  .length = length,
				  .depth = 1,
				  .file = image->file,
				  .file_offset = luks->payload + offset,
				  .crypt = luks->crypt};
	return 0;
}

static int luks_zero(struct image *image, uint64_t offset, uint64_t length, unsigned int flags)
{
	const struct luks *luks = image->state;
	AUTO_FREE uint8_t *zeroes = NULL;
	int rc = 0;

	if (flags & ZERO_FAST)
		return -EOPNOTSUPP;
	zeroes = calloc(1, ZERO_STEP);
	if (!zeroes)
		return -ENOMEM;
	while (length && rc == 0) {
		uint64_t step = min_of(length, (uint64_t)ZERO_STEP);

		rc = crypt_write(luks->crypt, image->file, zeroes, step, luks->payload + offset);
		offset += step;
		length -= step;
	}
	return rc;
}

/* Of whole sectors: the rest of one must stay what it is. */
static int luks_discard(struct image *image, uint64_t offset, uint64_t length)
{
	const struct luks *luks = image->state;
	uint64_t begin = round_up(offset, CIPHER_SECTOR);
	uint64_t end = round_down(offset + length, CIPHER_SECTOR);

	if (begin >= end)
		return 0;
	return hostfile_discard(image->file, luks->payload + begin, end - begin);
}

const struct image_driver image_driver_luks = {
	.name = "luks",
	.open = luks_open,
	.close = luks_close,
	.refresh = luks_refresh,
	.map = luks_map,
	.zero = luks_zero,
	.discard = luks_discard,
};
