// SPDX-License-Identifier: MIT
/*
 * From a description to the configuration of an export. Where both the description and an option
 * speak of the same thing, the description holds, as with qemu-nbd; but -r is never taken back.
 */
#include "options-image.h"

#include <errno.h>
#include <string.h>

/* qemu-nbd reads these as something else than a file; a file of that name is reached by ./NAME. */
static int check_file(const char *file, struct error *err)
{
	const char *letters_end = file + strspn(file, "abcdefghijklmnopqrstuvwxyz+");

	if (!strncmp(file, "nbd:", 4) || (letters_end > file && !strncmp(letters_end, "://", 3)))
		return error_set(err, EINVAL,
				 "'%s': images behind a URL are not available in this version",
				 file);
	return 0;
}

/* Of all nodes from the top to the file: one that says so is enough. */
static bool any_node(const struct image_node *node, size_t place)
{
	for (; node; node = node->file)
		if (*(const enum node_switch *)((const char *)node + place) == NODE_ON)
			return true;
	return false;
}

static void apply_access(const struct image_node *root, enum image_access *access)
{
	if (any_node(root, offsetof(struct image_node, read_only)))
		*access = IMAGE_READ_ONLY;
	if (*access == IMAGE_READ_ONLY)
		return;
	if (any_node(root, offsetof(struct image_node, auto_read_only)))
		*access = IMAGE_AUTO_READ_ONLY;
	else if (root->auto_read_only == NODE_OFF)
		*access = IMAGE_READ_WRITE;
}

static void apply_cache(const struct image_node *root, struct cache_mode *cache)
{
	const struct image_node *file = description_file(root);

	if (file->direct)
		cache->direct = file->direct == NODE_ON;
	if (file->no_flush)
		cache->ignore_flush = file->no_flush == NODE_ON;
}

/* One node that keeps its room is enough; below the top, giving it back is the default. */
static void apply_discard(const struct image_node *root, enum discard_mode *discard)
{
	if (root->discard == NODE_DISCARD_UNMAP)
		*discard = DISCARD_UNMAP;
	for (; root; root = root->file)
		if (root->discard == NODE_DISCARD_IGNORE || root->pass_discard == NODE_OFF)
			*discard = DISCARD_IGNORE;
}

static void apply_detect_zeroes(const struct image_node *root, enum detect_zeroes *mode)
{
	static const enum detect_zeroes modes[] = {
		[NODE_ZEROES_OFF] = DETECT_ZEROES_OFF,
		[NODE_ZEROES_ON] = DETECT_ZEROES_ON,
		[NODE_ZEROES_UNMAP] = DETECT_ZEROES_UNMAP,
	};

	while (root && !root->detect_zeroes)
		root = root->file;
	if (root)
		*mode = modes[root->detect_zeroes];
}

static int check_detect_zeroes(const struct export_config *config, struct error *err)
{
	if (config->detect_zeroes != DETECT_ZEROES_UNMAP || config->discard == DISCARD_UNMAP)
		return 0;
	return error_set(err, EINVAL,
			 "setting detect-zeroes to unmap is not allowed without setting discard "
			 "operation to unmap");
}

/* A limit stands above the image or between it and its file: both are the way of all requests. */
static int apply_throttle(const struct image_node *root, const char **group, struct error *err)
{
	for (const struct image_node *node = root; node; node = node->file) {
		if (node->kind != NODE_FILTER)
			continue;
		if (*group)
			return error_set(err, ENOTSUP,
					 "more than one throttle node on the way to the file");
		*group = node->throttle_group;
	}
	return 0;
}

static int check_throttle(const struct options *options, struct error *err)
{
	const char *id = options->server.export_.throttle_group;
	const struct object *object = id ? object_find(&options->objects, id) : NULL;

	if (id && (!object || strcmp(object->type->name, "throttle-group")))
		return error_set(err, EINVAL, "Throttle group '%.200s' does not exist", id);
	return 0;
}

#define NATIVE_NEEDS_DIRECT \
	"aio=native was specified, but it requires cache.direct=on, which was not specified."

/* The engine has one way of its own; what the name promises of the page cache must hold. */
static int check_aio(const struct image_node *node, const struct options *options,
		     struct error *err)
{
	enum node_aio aio = options->aio;
	bool direct = options->server.export_.cache.direct;
	int rc;

	if (!node)
		return 0;
	if (node->kind != NODE_FILE) {
		rc = check_aio(node->file, options, err);
		if (!rc)
			rc = check_aio(node->backing, options, err);
		return rc ? rc : check_aio(node->data_file, options, err);
	}
	if (node->aio)
		aio = node->aio;
	if (node->direct)
		direct = node->direct == NODE_ON;
	return aio == NODE_AIO_NATIVE && !direct ? error_set(err, EINVAL, NATIVE_NEEDS_DIRECT) : 0;
}

static int apply(struct options *options, struct error *err)
{
	struct export_config *config = &options->server.export_;
	const struct image_node *root = options->description.root;
	int rc;

	config->node = root;
	config->format = NULL;
	apply_access(root, &config->access);
	rc = check_aio(root, options, err);
	if (!rc)
		rc = apply_throttle(root, &config->throttle_group, err);
	if (!rc)
		rc = check_throttle(options, err);
	apply_cache(root, &config->cache);
	apply_discard(root, &config->discard);
	apply_detect_zeroes(root, &config->detect_zeroes);
	return rc ? rc : check_detect_zeroes(config, err);
}

static int describe(struct options *options, struct error *err)
{
	const char *text = options->server.export_.file;
	int rc =
		description_parse(&options->description, text, options->server.export_.format, err);

	if (!rc)
		rc = apply(options, err);
	return rc ? error_wrap(err, "Failed to blk_new_open '%s'", text) : 0;
}

int options_image(struct options *options, struct error *err)
{
	struct export_config *config = &options->server.export_;

	if (options->image_opts && config->format)
		return error_set(err, EINVAL, "--image-opts and -f are mutually exclusive");
	if (options->image_opts || description_is_json(config->file))
		return describe(options, err);
	if (check_detect_zeroes(config, err) < 0)
		return -EINVAL;
	if (!strncmp(config->file, "file:", 5))
		config->file += 5;
	if (options->aio == NODE_AIO_NATIVE && !config->cache.direct)
		return error_set(err, EINVAL, "Failed to blk_new_open '%s': " NATIVE_NEEDS_DIRECT,
				 config->file);
	return check_file(config->file, err);
}
