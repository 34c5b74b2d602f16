// SPDX-License-Identifier: MIT
/*
 * The temporary overlay of --snapshot: a qcow2 image in a file without a name, over an image that
 * is only read. It goes away with the process, whatever way that ends. The thread that opens.
 */
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "qcow2.h"
#include "server/image/cipher.h"
#include "server/image/crypt.h"

enum {
	BITS = 16,
	CLUSTER = 1 << BITS,
	REFTABLE = CLUSTER, /* the places of things in the new file */
	BLOCK = 2 * CLUSTER,
	L1 = 3 * CLUSTER,
};

static int open_nameless(const char *folder)
{
	AUTO_FREE char *path = NULL;
	int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
		return fd;
	/* A file system without nameless files: the name is gone before anybody knows it. */
	if (asprintf(&path, "%s/hawserd-XXXXXX", folder) < 0) {
		path = NULL;
		errno = ENOMEM;
		return -1;
	}
	fd = mkostemp(path, O_CLOEXEC);
	if (fd >= 0)
		unlink(path);
	return fd;
}

static uint64_t l1_entries(uint64_t size)
{
	const struct qcow2_header header = {.cluster_bits = BITS};

	return qcow2_l1_needed(&header, size);
}

/* Header, refcounts of what is there at the start, and an empty L1 table. */
static int write_empty(int fd, uint64_t size)
{
	AUTO_FREE uint8_t *bytes = calloc(1, L1);
	uint64_t entries = l1_entries(size);
	uint64_t clusters = L1 / CLUSTER + (entries * 8 + CLUSTER - 1) / CLUSTER;

	if (!bytes)
		return -ENOMEM;
	if (entries * 8 > QCOW2_L1_BYTES_MAX)
		return -EFBIG;
	store_be32(bytes, QCOW2_MAGIC);
	store_be32(bytes + 4, 3);
	store_be32(bytes + 20, BITS);
	store_be64(bytes + 24, size);
	store_be32(bytes + 36, entries);
	store_be64(bytes + 40, L1);
	store_be64(bytes + QCOW2_AT_REFTABLE, REFTABLE);
	store_be32(bytes + 56, 1);
	store_be32(bytes + 96, 4);
	store_be32(bytes + 100, QCOW2_HEADER_V3);
	store_be64(bytes + REFTABLE, BLOCK);
	for (uint64_t c = 0; c < clusters; c++)
		qcow2_refcount_set(bytes + BLOCK, 4, c, 1);
	if (pwrite(fd, bytes, L1, 0) != L1)
		return errno ? -errno : -EIO;
	return ftruncate(fd, (off_t)(clusters << BITS)) ? -errno : 0;
}

/* The nameless file's path, for opening it anew. */
enum { PATH_LENGTH = 32 };

static int create(uint64_t size, int *fd, char path[PATH_LENGTH], struct error *err)
{
	const char *folder = getenv("TMPDIR");
	int rc;

	if (!folder || !*folder)
		folder = "/var/tmp";
	*fd = open_nameless(folder);
	if (*fd < 0)
		return error_set_errno(err, errno, "Could not create a temporary file in '%s'",
				       folder);
	rc = write_empty(*fd, size);
	if (rc)
		return error_set_errno(err, -rc, "Could not make the temporary overlay in '%s'",
				       folder);
	snprintf(path, PATH_LENGTH, "/proc/self/fd/%d", *fd);
	return 0;
}

/* What is written over an encrypted disk must not come to lie on another in the clear. Nobody will
 * ever know the key. */
static int encrypt(struct qcow2 *q, struct error *err)
{
	uint8_t key[CIPHER_KEY_MAX];
	struct cipher *cipher;
	int rc;

	if (RAND_priv_bytes(key, sizeof(key)) != 1)
		return error_set(err, EIO, "OpenSSL has no random bytes for a key");
	rc = cipher_new("aes", "xts-plain64", key, sizeof(key), &cipher, err);
	OPENSSL_cleanse(key, sizeof(key));
	if (rc)
		return rc;
	q->crypt = crypt_new(cipher, 0, NULL);
	return q->crypt ? 0 : error_set(err, ENOMEM, "out of memory");
}

int image_open_temporary(const char *path, const struct image_options *options, struct image **out,
			 struct error *err)
{
	const struct image_options overlay_options = {
		.format = "qcow2", .access = IMAGE_READ_WRITE, .discard = options->discard};
	struct image_options base_options = *options;
	AUTO_CLOSE int fd = -1;
	char overlay[PATH_LENGTH];
	struct image *base;
	struct qcow2 *q;
	int rc;

	*out = NULL;
	base_options.access = IMAGE_READ_ONLY;
	base_options.backing = true;
	rc = image_open(path, &base_options, &base, err);
	if (rc)
		return rc;
	rc = create(round_up(base->size, QCOW2_SECTOR), &fd, overlay, err);
	if (rc == 0)
		rc = image_open(overlay, &overlay_options, out, err);
	if (rc == 0 && base->encrypted)
		rc = encrypt((*out)->state, err);
	if (rc) {
		image_close(*out);
		*out = NULL;
		image_close(base);
		return rc;
	}
	q = (*out)->state;
	q->backing = base;
	q->temporary = true;
	(*out)->size = base->size;
	return 0;
}
