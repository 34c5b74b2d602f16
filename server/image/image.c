// SPDX-License-Identifier: MIT
/*
 * Opening images: registry, access rules, locks, chains. The rules by which --auto-read-only
 * degrades are in image_access_degrades(). What is done with an open image is in image-io.c.
 * One thread before service begins, or one that opens an image anew (server/access.h).
 */
#include "image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "lock.h"
#include "place.h"
#include "window.h"
#include "server/object-secret.h"
#include "server/trace.h"

static const struct image_driver *const drivers[] = {&image_driver_raw, &image_driver_qcow2,
						     &image_driver_luks};

/* Magic numbers of formats that must not be mistaken for raw disks. */
static const struct {
	const char *format;
	uint32_t offset, length;
	const char *bytes;
} magics[] = {
	{"qcow", 0, 8, "QFI\xfb\0\0\0\1"},
	{"qcow2", 0, 4, "QFI\xfb"},
	{"qed", 0, 4, "QED\0"},
	{"vmdk", 0, 4, "KDMV"},
	{"vhdx", 0, 8, "vhdxfile"},
	{"vpc", 0, 8, "conectix"},
	{"vdi", 0x40, 4, "\x7f\x10\xda\xbe"},
	{"luks", 0, 6, "LUKS\xba\xbe"},
	{"parallels", 0, 16, "WithoutFreeSpace"},
	{"parallels", 0, 16, "WithouFreSpacExt"},
	{"bochs", 0, 22, "Bochs Virtual HD Image"},
	{"cloop", 0, 38, "#!/bin/sh\n#V2.0 Format\nmodprobe cloop"},
};

/* Formats that a file does not begin with. */
static const char *const unmarked[] = {"dmg", "vvfat"};

static const struct image_driver *driver_find(const char *format)
{
	for (size_t i = 0; i < sizeof(drivers) / sizeof(drivers[0]); i++)
		if (strcmp(drivers[i]->name, format) == 0)
			return drivers[i];
	return NULL;
}

static const char *format_known(const char *format)
{
	for (size_t i = 0; i < sizeof(magics) / sizeof(magics[0]); i++)
		if (strcmp(magics[i].format, format) == 0)
			return magics[i].format;
	for (size_t i = 0; i < sizeof(unmarked) / sizeof(unmarked[0]); i++)
		if (strcmp(unmarked[i], format) == 0)
			return unmarked[i];
	return NULL;
}

const char *image_probe_format(const uint8_t head[512])
{
	for (size_t i = 0; i < sizeof(magics) / sizeof(magics[0]); i++)
		if (memcmp(head + magics[i].offset, magics[i].bytes, magics[i].length) == 0)
			return magics[i].format;
	return "raw";
}

static const char *format_probe(struct hostfile *file)
{
	uint8_t head[512];
	int rc = hostfile_read(file, head, sizeof(head), 0);

	return rc && rc != -ENODATA ? "raw" : image_probe_format(head);
}

/* A format that was not said has been found, and what was said of encryption must be meant for it:
 * who gives a key does not want to write in the clear. */
static int check_encryption(const struct image *image, const struct image_node *node,
			    struct error *err)
{
	const char *wrong = NULL;

	if (image->driver != &image_driver_luks && node->key_secret)
		wrong = "key-secret";
	else if (image->driver != &image_driver_qcow2 && node->encrypt_key_secret)
		wrong = "encrypt.key-secret";
	else if (image->driver != &image_driver_qcow2 && node->encryption)
		wrong = "encrypt.format";
	return wrong ? error_set(err, EINVAL, "Block format '%s' does not support the option '%s'",
				 image->driver->name, wrong)
		     : 0;
}

static int choose_driver(struct image *image, struct error *err)
{
	const struct image_node *node = image->options.node;
	const char *format = image->options.format;

	image->probed = !format;
	/* Others may have written what looks like another format meanwhile: it is not followed. */
	if (image->probed)
		format =
			image->replaces ? image->replaces->driver->name : format_probe(image->file);
	image->driver = driver_find(format);
	if (image->driver == &image_driver_raw && node && node->kind == NODE_FORMAT &&
	    (node->backing || node->data_file || node->no_backing))
		return error_set(err, EINVAL, "Block format 'raw' does not support the option '%s'",
				 node->data_file ? "data-file" : "backing");
	if (image->driver && image->options.load_snapshot && !image->driver->snapshots)
		return error_set(err, ENOTSUP,
				 "Failed to load snapshot: Block format '%s' used by device '' "
				 "does not support temporarily loading internal snapshots",
				 format);
	if (image->driver)
		return node ? check_encryption(image, node, err) : 0;
	if (format_known(format))
		return error_set(err, ENOTSUP,
				 "the image format '%s' is not available in this version%s", format,
				 image->probed ? "; use -f raw to serve the file's own bytes" : "");
	return error_set(err, EINVAL, "Unknown driver '%s'; there are raw, qcow2 and luks", format);
}

/* Locks held by others, missing files and I/O errors are not. */
bool image_access_degrades(int rc)
{
	return rc == -EACCES || rc == -EROFS || rc == -EPERM || rc == -ETXTBSY;
}

/* Is it of the kind that the description names? */
static int check_kind(const struct hostfile *file, const struct image_place *place,
		      struct error *err)
{
	if (!place->driver || file->is_block == !strcmp(place->driver, "host_device"))
		return 0;
	if (file->is_block)
		return error_set(err, EINVAL, "'file' driver requires '%s' to be a regular file",
				 place->path);
	return error_set(err, EINVAL,
			 "'host_device' driver requires '%s' to be either a character or block "
			 "device",
			 place->path);
}

static int choose_part(struct hostfile *file, const struct image_place *place, struct error *err)
{
	uint64_t size;
	int rc = hostfile_size(file, &size);

	if (rc)
		return error_set_errno(err, -rc, "cannot tell the size");
	rc = place_check_size(place, size, err);
	if (rc == 0)
		hostfile_set_part(file, place->base, place->length);
	return rc;
}

int image_choose_cache(const struct image *image, struct hostfile *file,
		       const struct image_place *place, struct error *err)
{
	bool direct = place->direct ? place->direct == NODE_ON : image->options.direct;
	int rc = direct ? hostfile_use_direct(file) : 0;

	return rc ? error_set_errno(err, -rc,
				    "'%s' cannot be read and written directly; use another "
				    "--cache mode",
				    place->path)
		  : 0;
}

static int open_file(const struct image_place *place, struct image *image, struct error *err)
{
	int rc = image->replaces
			 ? hostfile_reopen(image->replaces->file, !image->read_only, &image->file)
			 : hostfile_open(place->path, !image->read_only, &image->file);

	if (rc == -EINVAL)
		return error_set(
			err, EINVAL,
			"Could not open '%s': It is neither a regular file nor a block device",
			place->path);
	if (rc == -EISDIR && image->read_only)
		return error_set(err, EISDIR, "'file' driver requires '%s' to be a regular file",
				 place->path);
	if (rc)
		return error_set_errno(err, -rc, "Could not open '%s'", place->path);
	rc = check_kind(image->file, place, err);
	if (rc == 0)
		rc = image_choose_cache(image, image->file, place, err);
	if (rc == 0 && (place->base || place->length != NODE_TO_THE_END))
		rc = choose_part(image->file, place, err);
	return rc;
}

/* QEMU lets two writers share a raw image; we do not. Reading beside one is allowed, but not where
 * the file's metadata is read, or others build upon it. */
static int lock_image(const struct image_place *place, struct image *image, struct error *err)
{
	unsigned int used = PERMISSION_CONSISTENT_READ, unshared = PERMISSION_RESIZE;

	if (place->force_share && !image->read_only)
		return error_set(err, EINVAL,
				 "force-share=on can only be used with read-only images");
	if (!image->read_only)
		used |= PERMISSION_WRITE;
	if (!image->read_only && image->driver->metadata)
		used |= PERMISSION_RESIZE;
	if (!image->read_only || image->driver->metadata || image->parent ||
	    image->options.backing || image->options.dynamic)
		unshared |= PERMISSION_WRITE;
	return lock_take_over(image->replaces ? image->replaces->file : NULL, image->file, used,
			      place->force_share ? 0 : unshared, place->locking, err);
}

/* Formats that have a structure are read from files of the host, or parts of them. */
static int find_place(const char *path, const struct image *image, struct image_place *place,
		      const struct image_node **below, struct error *err)
{
	const struct image_node *node = image->options.node;

	*below = NULL;
	*place = (struct image_place){.path = path, .length = NODE_TO_THE_END};
	if (!node || (node->kind == NODE_FORMAT && !node->file))
		return 0;
	if (node->kind == NODE_FILE || (node->driver && !strcmp(node->driver, "raw")))
		return place_find(node, place, below, err);
	if (place_find(node->file, place, below, err))
		return -EINVAL;
	if (!*below)
		return 0;
	return error_set(err, ENOTSUP,
			 "the %s image must be in a file, not on the disk of another image",
			 node->driver ? node->driver : "inner");
}

static int check_chain(const struct image *image, struct error *err);
static int check_guess(const struct image *image, struct error *err);
static int open_child(const char *path, const struct image_place *place,
		      const struct image_node *below, struct image *image, struct error *err);

static void restore_locks(struct hostfile *file, void *context)
{
	(void)context;
	lock_restore(file);
}

/* A damaged header makes an encrypted disk look like a raw one. Whoever gives the key for all must
 * not write in the clear. */
static int check_key_used(struct image *image, struct error *err)
{
	if (image->parent || !image->options.key_secret || image->encrypted)
		return 0;
	if (image->replaces)
		image_visit_files((struct image *)image->replaces, restore_locks, NULL);
	if (image->driver->close)
		image->driver->close(image);
	return error_set(err, EINVAL,
			 "there is a passphrase, by --key-secret, but the image is not encrypted: "
			 "it %s '%s'; serve it without --key-secret if that is right",
			 image->probed ? "looks like" : "is", image->driver->name);
}

static int open_driver(struct image *image, struct error *err)
{
	int rc;

	/* What is only guessed to be an image may be read, but not lead to other files. */
	if (image->parent)
		image->options.no_references |= check_guess(image, NULL) != 0;
	rc = image->driver->open(image, err);
	if (rc == -EPERM && image->parent && check_guess(image, NULL))
		check_guess(image, err);
	return rc ? rc : check_key_used(image, err);
}

static int open_once(const char *path, struct image *image, struct error *err)
{
	const struct image_node *below;
	struct image_place place;
	int rc = find_place(path, image, &place, &below, err);

	if (rc == 0 && below)
		return open_child(path, &place, below, image, err);
	if (rc == 0)
		rc = open_file(&place, image, err);
	if (rc == 0 && image->parent)
		rc = check_chain(image, err);
	if (rc == 0)
		rc = choose_driver(image, err);
	if (rc == 0)
		rc = lock_image(&place, image, err);
	if (rc == 0) {
		rc = open_driver(image, err);
		if (rc && image->replaces)
			lock_restore(image->replaces->file);
	}
	if (rc) {
		hostfile_close(image->file);
		image->file = NULL;
	}
	return rc;
}

/* The image that node describes, for a parent that stands for it. */
static void take_node(struct image *image, const struct image_node *node)
{
	node = place_skip_filters(node);
	image->options.node = node;
	image->options.format = node->kind == NODE_FILE ? "raw" : node->driver;
}

/* An image of which this one is to be a part. */
static int open_child(const char *path, const struct image_place *place,
		      const struct image_node *below, struct image *image, struct error *err)
{
	struct image *child = calloc(1, sizeof(*child));
	int rc;

	if (!child)
		return error_set(err, ENOMEM, "out of memory");
	child->options = image->options;
	child->parent = image->parent;
	child->depth = image->depth;
	child->read_only = image->read_only;
	child->replaces = image->replaces ? image->replaces->child : NULL;
	child->previous = image->previous ? image->previous->child : NULL;
	take_node(child, below);
	rc = open_once(path, child, err);
	child->replaces = child->previous = NULL;
	if (rc) {
		free(child);
		return rc;
	}
	rc = window_open(image, child, place, err);
	if (rc)
		image_close(child);
	return rc;
}

/* Tries again without the wish to write. When that fails, too, the first error stands. */
static int open_degraded(const char *path, struct image *image, int first, struct error *err)
{
	struct error again = ERROR_INIT;

	if (image->options.access == IMAGE_READ_WRITE && !image->options.dynamic)
		error_hint(err, "; use --read-only or --auto-read-only");
	if (image->options.access != IMAGE_AUTO_READ_ONLY)
		return first;
	image->read_only = true;
	if (open_once(path, image, &again))
		return first;
	trace_image_degraded(path, first);
	log_warning("%s: exporting read-only: %s", path, err ? err->text : strerror(-first));
	return 0;
}

static int open_image(const char *path, struct image *image, struct error *err)
{
	int rc;

	image->read_only = image->options.access == IMAGE_READ_ONLY;
	rc = open_once(path, image, err);
	if (image_access_degrades(rc) && !image->read_only)
		rc = open_degraded(path, image, rc, err);
	if (rc == 0 && image->probed && !image->read_only && !image->replaces &&
	    image->driver == &image_driver_raw)
		log_warning(
			"Image format was not specified for '%s' and probing guessed raw.\n"
			"         Automatically detecting the format is dangerous for raw images, "
			"write operations on block 0 will be restricted.\n"
			"         Specify the 'raw' format explicitly to remove the restrictions.",
			path);
	return rc;
}

static int open_new(const char *path, const struct image_options *options,
		    const struct image *replaces, struct image **out, struct error *err)
{
	struct image *image = calloc(1, sizeof(*image));
	int rc;

	*out = NULL;
	if (!image)
		return error_set(err, ENOMEM, "out of memory");
	image->options = *options;
	image->replaces = image->previous = replaces;
	if (options->node)
		take_node(image, options->node);
	rc = open_image(path, image, err);
	image->replaces = image->previous = NULL;
	if (rc) {
		free(image);
		return rc;
	}
	trace_image_opened(path, image->driver->name, image->size, image->read_only);
	*out = image;
	return 0;
}

/* Some say themselves, in words that are known, what has failed. */
static int wrap(const char *path, int rc, struct error *err)
{
	if (rc && err && strncmp(err->text, "Failed ", 7))
		error_wrap(err, "Failed to blk_new_open '%s'", path);
	return rc;
}

int image_open(const char *path, const struct image_options *options, struct image **image,
	       struct error *err)
{
	return wrap(path, open_new(path, options, NULL, image, err), err);
}

static void abandon(struct image *image)
{
	for (; image; image = image->child)
		image->abandoned = true;
}

int image_reopen(struct image *old, bool writable, struct image **image, struct error *err)
{
	struct image_options options = old->options;
	int rc;

	options.access = writable ? IMAGE_READ_WRITE : IMAGE_READ_ONLY;
	rc = open_new(old->file->path, &options, old, image, err);
	if (rc == 0)
		abandon(old);
	return rc;
}

void image_reopen_undo(struct image *old, struct image *image)
{
	abandon(image);
	image_visit_files(old, restore_locks, NULL);
	for (; old; old = old->child)
		old->abandoned = false;
	image_close(image);
}

static void adopt_view(struct hostfile *file, void *context)
{
	struct hostfile *from = context;

	if (!file->view && hostfile_same(file, from))
		hostfile_adopt_view(file, from);
}

static void hand_over_file(struct hostfile *from, void *context)
{
	if (from->view)
		image_visit_files(context, adopt_view, from);
	lock_release(from);
}

void image_hand_over(struct image *old, struct image *image)
{
	image_visit_files(old, hand_over_file, image);
}

int image_open_resting(const char *path, const struct image_options *options, struct image **image,
		       struct error *why, struct error *err)
{
	struct image_options access = *options;
	struct image *written;
	int rc;

	access.dynamic = true;
	access.access = IMAGE_READ_WRITE;
	rc = open_new(path, &access, NULL, &written, why);
	if (rc == 0) {
		rc = image_reopen(written, false, image, err);
		image_close(written);
		return wrap(path, rc, err);
	}
	access.access = IMAGE_READ_ONLY;
	*image = NULL;
	if ((image_access_degrades(rc) || rc == -EAGAIN) &&
	    open_new(path, &access, NULL, image, NULL) == 0)
		return 0;
	if (err)
		*err = *why;
	return wrap(path, rc, err);
}

void image_close(struct image *image)
{
	if (!image)
		return;
	trace_image_closed(image->file->path);
	if (image->driver->close)
		image->driver->close(image);
	if (image->child)
		image_close(image->child);
	else
		hostfile_close(image->file);
	free(image);
}

int image_key(const struct image *image, const struct secret **key, struct error *err)
{
	const struct image_node *node = image->options.node;
	bool luks = image->driver == &image_driver_luks;
	const char *id = NULL;

	if (node)
		id = luks ? node->key_secret : node->encrypt_key_secret;
	*key = image->options.key_secret;
	if (!id)
		return 0;
	*key = object_secret_find(image->options.objects, id, err);
	return *key ? 0 : -EINVAL;
}

int image_key_missing(const struct image *image, struct error *err)
{
	const char *name =
		image->driver == &image_driver_luks ? "key-secret" : "encrypt.key-secret";

	if (image->options.node)
		return error_set(err, ENOKEY,
				 "Parameter '%s' is required for cipher: give the passphrase by "
				 "--object secret,id=ID,file=PATH and say %s=ID of this image",
				 name, name);
	return error_set(err, ENOKEY,
			 "Parameter '%s' is required for cipher: give the passphrase by --object "
			 "secret,id=ID,file=PATH --key-secret=ID",
			 name);
}

/* ---- Chains ---- */

char *image_resolve_name(const struct image *image, const char *name, struct error *err)
{
	const char *overlay = image->file->path, *slash = strrchr(overlay, '/');
	char *path = NULL;
	int rc;

	if (image->options.no_references) {
		error_set(err, EPERM,
			  "the image names another file, '%s', which is not allowed here", name);
		return NULL;
	}
	/* QEMU reads a colon before any slash as a protocol: json:, nbd:, fat: ... */
	if (name[strcspn(name, ":/")] == ':') {
		error_set(err, ENOTSUP,
			  "the image names '%s', which is no plain file name; protocols are not "
			  "followed",
			  name);
		return NULL;
	}
	if (*name == '/' || !slash)
		path = strdup(name);
	else {
		rc = asprintf(&path, "%.*s/%s", (int)(slash - overlay), overlay, name);
		path = rc < 0 ? NULL : path;
	}
	if (!path)
		error_set(err, ENOMEM, "out of memory");
	return path;
}

static int check_chain(const struct image *image, struct error *err)
{
	if (image->depth > IMAGE_DEPTH_MAX)
		return error_set(err, ELOOP, "more than %d backing files in a chain",
				 IMAGE_DEPTH_MAX);
	for (const struct image *above = image->parent; above; above = above->parent)
		if (hostfile_same(image->file, above->file))
			return error_set(err, ELOOP, "the image is its own backing file");
	return 0;
}

/* Where an overlay does not say the format of its backing file, a guest may have made its raw disk
 * look like an image that names other files. */
static int check_guess(const struct image *image, struct error *err)
{
	if (!image->probed || !image->driver->metadata)
		return 0;
	return error_set(
		err, EPERM,
		"the overlay does not say that this is a %s image and not the content of a "
		"raw disk; say it by `qemu-img rebase -u -F %s -b BACKING OVERLAY'",
		image->driver->name, image->driver->name);
}

/* What the user says of the backing file takes the place of what the image says. */
static int describe_backing(const struct image *parent, struct image *image, char **path,
			    const char *name, struct error *err)
{
	const struct image_node *above = parent->options.node;
	const struct image_node *node = above ? above->backing : NULL, *file;

	if (node) {
		const char *format = image->options.format;

		take_node(image, node);
		if (!image->options.format)
			image->options.format = format;
		file = description_file(node);
		if (file) {
			*path = strdup(file->filename);
			return *path ? 0 : error_set(err, ENOMEM, "out of memory");
		}
	}
	if (!*name) /* keys that have nothing to say something of */
		return node ? error_set(err, EINVAL, "the image has no backing file") : 0;
	*path = image_resolve_name(parent, name, err);
	return *path ? 0 : err ? -err->code : -EPERM;
}

#define BACKING_FAILED "Could not open backing file"

static int open_backing(struct image *image, const char *path, struct error *err)
{
	int rc = open_once(path, image, err);

	/* In a long chain the image that failed is of interest, not the way to it. */
	if (rc && err && strncmp(err->text, BACKING_FAILED, strlen(BACKING_FAILED)))
		error_wrap(err, BACKING_FAILED " '%s'", path);
	return rc == -EROFS || rc == -EACCES ? -EIO : rc; /* reading failed, not writing */
}

int image_open_backing(const struct image *parent, const char *name, const char *format,
		       const struct image *previous, struct image **out, struct error *err)
{
	AUTO_FREE char *path = NULL;
	struct image *image;
	int rc;

	*out = NULL;
	if (parent->options.node && parent->options.node->no_backing)
		return 0;
	image = calloc(1, sizeof(*image));
	if (!image)
		return error_set(err, ENOMEM, "out of memory");
	image->options = (struct image_options){.format = format && *format ? format : NULL,
						.access = IMAGE_READ_ONLY,
						.no_references = parent->options.no_references,
						.direct = parent->options.direct,
						.key_secret = parent->options.key_secret,
						.objects = parent->options.objects};
	image->read_only = true;
	image->parent = parent;
	image->depth = parent->depth + 1;
	image->previous = previous;
	rc = describe_backing(parent, image, &path, name, err);
	if (rc == 0 && path)
		rc = open_backing(image, path, err);
	if (rc || !path) {
		free(image);
		return rc;
	}
	image->previous = NULL;
	trace_image_opened(path, image->driver->name, image->size, true);
	*out = image;
	return 0;
}
