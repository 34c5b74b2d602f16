// SPDX-License-Identifier: MIT
/*
 * Where secrets come from: the command line, a file, the kernel's keyring. What was read may be
 * base64, and may be encrypted by another secret; the texts of errors are QEMU's.
 */
#include "object-secret.h"

#include <errno.h>
#include <limits.h>
#include <linux/keyctl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- What both types do with the bytes ---- */

static int take_format(struct keyval *properties, bool *base64, struct error *err)
{
	const char *format = keyval_take(properties, "format");

	*base64 = format && !strcmp(format, "base64");
	if (format && !*base64 && strcmp(format, "raw"))
		return error_set(err, EINVAL,
				 "Parameter 'format' does not accept this value; it is raw or "
				 "base64");
	return 0;
}

/* Undoes encoding and encryption of what was read; consumes it. NULL with err set. */
static struct secret *open_secret(struct secret *read_, struct keyval *properties,
				  const struct object_set *earlier, struct error *err)
{
	AUTO_SECRET struct secret *bytes = read_;
	const char *keyid = keyval_take(properties, "keyid");
	const char *iv = keyval_take(properties, "iv");
	const struct secret *key;
	bool base64;

	if (!bytes || take_format(properties, &base64, err) < 0)
		return NULL;
	if (base64) {
		struct secret *decoded =
			secret_decode_base64((const char *)bytes->bytes, bytes->length, err);

		secret_free(bytes);
		bytes = decoded;
	}
	if (!bytes || !keyid)
		return take_ptr(bytes);
	key = object_secret_find(earlier, keyid, err);
	return key ? secret_decrypt(bytes, key, iv, err) : NULL;
}

static int create(struct object *object, struct secret *read_, struct keyval *properties,
		  const struct object_set *earlier, struct error *err)
{
	object->state = open_secret(read_, properties, earlier, err);
	return object->state ? 0 : -EINVAL;
}

static void destroy(struct object *object)
{
	secret_free(object->state);
}

/* ---- secret ---- */

static const char *const secret_keys[] = {"data", "file", "format", "keyid", "iv", NULL};

static int secret_object_create(struct object *object, struct keyval *properties,
				const struct object_set *earlier, struct error *err)
{
	const char *data = keyval_take(properties, "data");
	const char *file = keyval_take(properties, "file");
	struct secret *bytes;

	if (data && file)
		return error_set(err, EINVAL, "'file' and 'data' are mutually exclusive");
	if (!data && !file)
		return error_set(err, EINVAL, "Either 'file' or 'data' must be provided");
	bytes = file ? secret_read_file(file, err) : secret_create(data, strlen(data), err);
	keyval_wipe(properties, "data");
	return create(object, bytes, properties, earlier, err);
}

const struct object_type object_type_secret = {
	.name = "secret",
	.help = "a passphrase or key: data=TEXT or file=PATH",
	.keys = secret_keys,
	.confidential = true,
	.create = secret_object_create,
	.destroy = destroy,
};

/* ---- secret_keyring ---- */

static const char *const keyring_keys[] = {"serial", "format", "keyid", "iv", NULL};

static int take_serial(struct keyval *properties, int32_t *serial, struct error *err)
{
	const char *text = keyval_take(properties, "serial");
	char *end;
	long value;

	if (!text)
		return error_set(err, EINVAL, "Parameter 'serial' is missing");
	errno = 0;
	value = strtol(text, &end, 0);
	if (errno || end == text || *end || value < INT32_MIN || value > INT32_MAX)
		return error_set(err, EINVAL, "Parameter 'serial' expects integer");
	*serial = (int32_t)value;
	return 0;
}

/* The payload of a key. Its owner may change it between the question for its size and the reading:
 * then the reading is tried anew. */
static struct secret *read_key(int32_t serial, struct error *err)
{
	long size = syscall(SYS_keyctl, KEYCTL_READ, serial, NULL, 0);

	while (size >= 0 && size <= SECRET_SIZE_MAX) {
		struct secret *bytes = secret_create(NULL, (size_t)size, err);
		long now;

		if (!bytes)
			return NULL;
		now = syscall(SYS_keyctl, KEYCTL_READ, serial, bytes->bytes, bytes->length);
		if (now == size)
			return bytes;
		secret_free(bytes);
		size = now;
	}
	if (size < 0)
		error_set_errno(err, errno, "Unable to read serial key %08x", (unsigned int)serial);
	else
		error_set(err, EFBIG, "serial key %08x is larger than %d MiB", (unsigned int)serial,
			  SECRET_SIZE_MAX >> 20);
	return NULL;
}

static int keyring_create(struct object *object, struct keyval *properties,
			  const struct object_set *earlier, struct error *err)
{
	int32_t serial = 0;

	if (take_serial(properties, &serial, err) < 0)
		return -EINVAL;
	return create(object, read_key(serial, err), properties, earlier, err);
}

const struct object_type object_type_secret_keyring = {
	.name = "secret_keyring",
	.help = "the same, from the kernel's keyring: serial=NUMBER",
	.keys = keyring_keys,
	.confidential = true,
	.create = keyring_create,
	.destroy = destroy,
};

/* ---- For others ---- */

const struct secret *object_secret_find(const struct object_set *set, const char *id,
					struct error *err)
{
	const struct object *object = object_find(set, id);

	if (!object)
		error_set(err, ENOENT, "No secret with id '%.200s'", id);
	else if (object->type != &object_type_secret && object->type != &object_type_secret_keyring)
		error_set(err, EINVAL, "Object with id '%.200s' is not a secret", id);
	else if (!object->state)
		error_set(err, EINVAL, "Secret with id '%.200s' has no data", id);
	else
		return object->state;
	return NULL;
}
