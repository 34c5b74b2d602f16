// SPDX-License-Identifier: MIT
/*
 * Descriptions into trees. One table says which keys a driver has; a key that no node took is the
 * user's mistake. Must never open a file, nor follow what a file says.
 */
#include "description.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/keyval-json.h"

enum {
	DEPTH_MAX = 32,  /* nodes below each other: as many as JSON may have levels */
	KEY_ROOM = 1024, /* for "file.file. ... .filename" */
};

/* ---- Drivers ---- */

enum driver_bit {
	RAW = 1 << 0,
	QCOW2 = 1 << 1,
	LUKS = 1 << 2,
	THROTTLE = 1 << 3,
	FILE_ANY = 1 << 4,
	GUESSED = 1 << 5, /* a format that nobody has named */
	EACH = 0xff,
};

struct driver_row {
	const char *name;
	enum driver_bit bit;
	enum node_kind kind;
};

static const struct driver_row drivers[] = {
	{"raw", RAW, NODE_FORMAT},     {"qcow2", QCOW2, NODE_FORMAT},
	{"luks", LUKS, NODE_FORMAT},   {"throttle", THROTTLE, NODE_FILTER},
	{"file", FILE_ANY, NODE_FILE}, {"host_device", FILE_ANY, NODE_FILE},
};
static const struct driver_row guessed_format = {NULL, GUESSED, NODE_FORMAT};
static const struct driver_row guessed_file = {NULL, FILE_ANY, NODE_FILE};

/* Drivers of QEMU that are known by name and not here. */
static const char *const unavailable[] = {
	"blkdebug",
	"blklogwrites",
	"blkreplay",
	"blkverify",
	"bochs",
	"cloop",
	"compress",
	"copy-before-write",
	"copy-on-read",
	"dmg",
	"ftp",
	"ftps",
	"gluster",
	"host_cdrom",
	"http",
	"https",
	"io_uring",
	"iscsi",
	"nbd",
	"nfs",
	"null-aio",
	"null-co",
	"nvme",
	"parallels",
	"preallocate",
	"qcow",
	"qed",
	"quorum",
	"rbd",
	"replication",
	"snapshot-access",
	"ssh",
	"vdi",
	"vhdx",
	"vmdk",
	"vpc",
	"vvfat",
};

static const struct driver_row *driver_find(const char *name, struct error *err)
{
	for (size_t i = 0; i < sizeof(drivers) / sizeof(drivers[0]); i++)
		if (!strcmp(drivers[i].name, name))
			return &drivers[i];
	for (size_t i = 0; i < sizeof(unavailable) / sizeof(unavailable[0]); i++)
		if (!strcmp(unavailable[i], name)) {
			error_set(err, ENOTSUP, "the driver '%s' is not available in this version",
				  name);
			return NULL;
		}
	error_set(err, EINVAL, "Unknown driver '%.200s'", name);
	return NULL;
}

/* ---- Keys ---- */

enum key_kind {
	KEY_TEXT,
	KEY_SIZE,
	KEY_SWITCH,
	KEY_WORD,    /* one of words; the enum at place counts from 1 */
	KEY_REFUSED, /* known, and not here; words[0] says what to do */
};

enum { NOWHERE = SIZE_MAX }; /* checked, and without a meaning here */

struct key_row {
	const char *name;
	unsigned int drivers; /* bits */
	enum key_kind kind;
	size_t place; /* in struct image_node */
	const char *const *words;
	const char *refusal; /* of KEY_WORD, with the wrong word; in QEMU's words */
};

static const char *const words_discard[] = {"ignore", "unmap", NULL};
static const char *const words_zeroes[] = {"off", "on", "unmap", NULL};
static const char *const words_locking[] = {"auto", "on", "off", NULL};
static const char *const words_aio[] = {"threads", "native", "io_uring", NULL};
static const char *const words_overlap[] = {"none", "constant", "cached", "all", NULL};
static const char *const words_encryption[] = {"luks", "aes", NULL};
static const char *const no_unref[] = {"clusters are always given back here"};
static const char *const no_manager[] = {"SCSI reservations are not available in this version"};

#define WRONG_WORD "invalid parameter value: %s"

/* clang-format off */
#define AT(member) offsetof(struct image_node, member)
#define FORMATS    (QCOW2 | GUESSED)
static const struct key_row keys[] = {
	{"node-name", EACH, KEY_TEXT, AT(name), NULL, NULL},
	{"read-only", EACH, KEY_SWITCH, AT(read_only), NULL, NULL},
	{"auto-read-only", EACH, KEY_SWITCH, AT(auto_read_only), NULL, NULL},
	{"force-share", EACH, KEY_SWITCH, AT(force_share), NULL, NULL},
	{"cache.direct", EACH, KEY_SWITCH, AT(direct), NULL, NULL},
	{"cache.no-flush", EACH, KEY_SWITCH, AT(no_flush), NULL, NULL},
	{"discard", EACH, KEY_WORD, AT(discard), words_discard, "Invalid discard option"},
	{"detect-zeroes", EACH, KEY_WORD, AT(detect_zeroes), words_zeroes, WRONG_WORD},

	{"filename", FILE_ANY, KEY_TEXT, AT(filename), NULL, NULL},
	{"locking", FILE_ANY, KEY_WORD, AT(locking), words_locking, WRONG_WORD},
	{"aio", FILE_ANY, KEY_WORD, AT(aio), words_aio, WRONG_WORD},
	{"aio-max-batch", FILE_ANY, KEY_SIZE, NOWHERE, NULL, NULL},
	{"drop-cache", FILE_ANY, KEY_SWITCH, NOWHERE, NULL, NULL},
	{"x-check-cache-dropped", FILE_ANY, KEY_SWITCH, NOWHERE, NULL, NULL},
	{"pr-manager", FILE_ANY, KEY_REFUSED, NOWHERE, no_manager, NULL},

	{"offset", RAW, KEY_SIZE, AT(offset), NULL, NULL},
	{"size", RAW, KEY_SIZE, AT(size), NULL, NULL},
	{"throttle-group", THROTTLE, KEY_TEXT, AT(throttle_group), NULL, NULL},
	{"key-secret", LUKS | GUESSED, KEY_TEXT, AT(key_secret), NULL, NULL},

	{"encrypt.format", FORMATS, KEY_WORD, AT(encryption), words_encryption, WRONG_WORD},
	{"encrypt.key-secret", FORMATS, KEY_TEXT, AT(encrypt_key_secret), NULL, NULL},
	{"pass-discard-request", FORMATS, KEY_SWITCH, AT(pass_discard), NULL, NULL},
	/* Snapshots are not deleted here, and tables give little back. */
	{"pass-discard-snapshot", FORMATS, KEY_SWITCH, NOWHERE, NULL, NULL},
	{"pass-discard-other", FORMATS, KEY_SWITCH, NOWHERE, NULL, NULL},
	{"discard-no-unref", FORMATS, KEY_REFUSED, NOWHERE, no_unref, NULL},
	/* Refcounts wait for a flush in memory anyway, and nothing on the disk becomes dirty. */
	{"lazy-refcounts", FORMATS, KEY_SWITCH, NOWHERE, NULL, NULL},
	/* All metadata is guarded always, at the price of a lookup. */
	{"overlap-check", FORMATS, KEY_WORD, NOWHERE, words_overlap,
	 "Unsupported value '%s' for qcow2 option 'overlap-check'. Allowed are any of the following: "
	 "none, constant, cached, all"},
	{"overlap-check.template", FORMATS, KEY_WORD, NOWHERE, words_overlap, WRONG_WORD},
	{"overlap-check.main-header", FORMATS, KEY_SWITCH, NOWHERE, NULL, NULL},
	{"overlap-check.active-l1", FORMATS, KEY_SWITCH, NOWHERE, NULL, NULL},
	{"overlap-check.active-l2", FORMATS, KEY_SWITCH, NOWHERE, NULL, NULL},
	{"overlap-check.refcount-table", FORMATS, KEY_SWITCH, NOWHERE, NULL, NULL},
	{"overlap-check.refcount-block", FORMATS, KEY_SWITCH, NOWHERE, NULL, NULL},
	{"overlap-check.snapshot-table", FORMATS, KEY_SWITCH, NOWHERE, NULL, NULL},
	{"overlap-check.inactive-l1", FORMATS, KEY_SWITCH, NOWHERE, NULL, NULL},
	{"overlap-check.inactive-l2", FORMATS, KEY_SWITCH, NOWHERE, NULL, NULL},
	{"overlap-check.bitmap-directory", FORMATS, KEY_SWITCH, NOWHERE, NULL, NULL},
	/* The caches here are as large as the disk can use, within a bound of their own. */
	{"cache-size", FORMATS, KEY_SIZE, NOWHERE, NULL, NULL},
	{"l2-cache-size", FORMATS, KEY_SIZE, NOWHERE, NULL, NULL},
	{"l2-cache-entry-size", FORMATS, KEY_SIZE, NOWHERE, NULL, NULL},
	{"refcount-cache-size", FORMATS, KEY_SIZE, NOWHERE, NULL, NULL},
	{"cache-clean-interval", FORMATS, KEY_SIZE, NOWHERE, NULL, NULL},
};
/* clang-format on */

enum { KEYS = sizeof(keys) / sizeof(keys[0]) };

/* Other names that a node may have, for the search of the nearest. */
static const char *const structure[] = {"driver", "file", "backing", "data-file"};
enum { STRUCTURE = sizeof(structure) / sizeof(structure[0]) };

/* ---- One node ---- */

struct parser {
	struct keyval *list;
	char prefix[KEY_ROOM]; /* of the node in hand: "" or "file.backing." */
	char key[KEY_ROOM];
	struct error *err;
};

/* The whole name of a node's key; a prefix leaves room for each of them. */
static const char *key_of(struct parser *parser, const char *name)
{
	snprintf(parser->key, sizeof(parser->key), "%.*s%s", KEY_ROOM - 64, parser->prefix, name);
	return parser->key;
}

static int take_word(struct parser *parser, const struct key_row *row, int *place)
{
	const char *text = keyval_take(parser->list, parser->key);

	for (int i = 0; row->words[i]; i++)
		if (!strcmp(row->words[i], text)) {
			*place = i + 1;
			return 0;
		}
		/* The texts are rows of a table above. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	return error_set(parser->err, EINVAL, row->refusal, text);
#pragma GCC diagnostic pop
}

static int take_switch(struct parser *parser, enum node_switch *place)
{
	bool on = false;
	int rc = keyval_take_bool(parser->list, parser->key, &on, parser->err);

	*place = on ? NODE_ON : NODE_OFF;
	return rc;
}

static int take_key(struct parser *parser, const struct key_row *row, struct image_node *node)
{
	union {
		uint64_t size;
		const char *text;
		enum node_switch onoff;
		int word;
	} ignored;
	void *place = row->place == NOWHERE ? (void *)&ignored : (char *)node + row->place;

	if (!keyval_peek(parser->list, key_of(parser, row->name)))
		return 0;
	switch (row->kind) {
	case KEY_TEXT:
		*(const char **)place = keyval_take(parser->list, parser->key);
		return 0;
	case KEY_SIZE:
		return keyval_take_size(parser->list, parser->key, INT64_MAX, place, parser->err);
	case KEY_SWITCH:
		return take_switch(parser, place);
	case KEY_WORD:
		return take_word(parser, row, place);
	case KEY_REFUSED:
		break;
	}
	return error_set(parser->err, ENOTSUP, "Parameter '%s' is not supported: %s", parser->key,
			 row->words[0]);
}

static int unsupported(struct parser *parser, const struct image_node *node)
{
	return error_set(parser->err, EINVAL, "Block %s '%s' does not support the option '%s'%s",
			 node->kind == NODE_FILE ? "protocol" : "format",
			 node->driver ? node->driver : "", parser->key,
			 node->driver ? "" : "; say the driver");
}

static int take_keys(struct parser *parser, const struct driver_row *driver,
		     struct image_node *node)
{
	for (size_t i = 0; i < KEYS; i++) {
		int rc = 0;

		if (keys[i].drivers & driver->bit)
			rc = take_key(parser, &keys[i], node);
		else if (keyval_peek(parser->list, key_of(parser, keys[i].name)))
			rc = unsupported(parser, node);
		if (rc)
			return rc;
	}
	return 0;
}

/* ---- The tree ---- */

enum role { ROLE_ROOT, ROLE_FILE, ROLE_BACKING };

static int parse_node(struct parser *parser, enum role role, unsigned int depth,
		      struct image_node **out);

static void node_free(struct image_node *node)
{
	if (!node)
		return;
	node_free(node->file);
	node_free(node->backing);
	node_free(node->data_file);
	free(node);
}

static struct image_node *node_new(struct parser *parser, const struct driver_row *driver)
{
	struct image_node *node = calloc(1, sizeof(*node));

	if (!node) {
		error_set(parser->err, ENOMEM, "out of memory");
		return NULL;
	}
	node->kind = driver->kind;
	node->driver = driver->name;
	node->size = NODE_TO_THE_END;
	return node;
}

/* A child that is just a name: "file=disk.img". */
static int plain_child(struct parser *parser, enum role role, const char *filename,
		       struct image_node **out)
{
	struct image_node *file = node_new(parser, &guessed_file), *format;

	*out = file;
	if (!file)
		return -ENOMEM;
	file->filename = filename;
	if (role == ROLE_FILE)
		return 0;
	format = *out = node_new(parser, &guessed_format);
	if (!format) {
		node_free(file);
		return -ENOMEM;
	}
	format->file = file;
	return 0;
}

/* Does the node in hand have this child, as a name or as keys of its own? */
static bool has_child(struct parser *parser, const char *name)
{
	char dotted[32];

	snprintf(dotted, sizeof(dotted), "%s.", name);
	return keyval_peek(parser->list, key_of(parser, name)) ||
	       keyval_has_prefix(parser->list, key_of(parser, dotted));
}

static int nested_child(struct parser *parser, const char *name, enum role role, unsigned int depth,
			struct image_node **out)
{
	size_t length = strlen(parser->prefix), room = KEY_ROOM - 64 - length;
	int rc;

	if (depth == DEPTH_MAX || strlen(name) + 2 > room)
		return error_set(parser->err, EINVAL, "more than %d nodes below each other",
				 DEPTH_MAX);
	snprintf(parser->prefix + length, room, "%s.", name);
	rc = parse_node(parser, role, depth + 1, out);
	parser->prefix[length] = '\0';
	return rc;
}

static int parse_child(struct parser *parser, const char *name, enum role role, unsigned int depth,
		       struct image_node **out)
{
	const char *plain;
	char dotted[32];
	bool nested;

	snprintf(dotted, sizeof(dotted), "%s.", name);
	nested = keyval_has_prefix(parser->list, key_of(parser, dotted));
	plain = keyval_take(parser->list, key_of(parser, name));
	if (plain && nested)
		return error_set(parser->err, EINVAL,
				 "Parameter '%s' is a name, and has parameters of its own",
				 parser->key);
	if (plain && *plain)
		return plain_child(parser, role, plain, out);
	return nested ? nested_child(parser, name, role, depth, out) : 0;
}

static int parse_children(struct parser *parser, enum role role, unsigned int depth,
			  const struct driver_row *driver, struct image_node *node)
{
	const char *backing;
	int rc;

	if (driver->kind == NODE_FILE)
		return has_child(parser, "file") ? unsupported(parser, node) : 0;
	rc = parse_child(parser, "file", ROLE_FILE, depth, &node->file);
	/* A backing file without a file is the one that the image names. */
	if (!rc && !node->file && role != ROLE_BACKING)
		rc = error_set(parser->err, EINVAL,
			       "A block device must be specified for \"file\"");
	if (rc)
		return rc;
	if (!(driver->bit & FORMATS))
		return has_child(parser, "backing") || has_child(parser, "data-file")
			       ? unsupported(parser, node)
			       : 0;
	backing = keyval_peek(parser->list, key_of(parser, "backing"));
	node->no_backing = backing && !*backing;
	rc = parse_child(parser, "backing", ROLE_BACKING, depth, &node->backing);
	return rc ? rc : parse_child(parser, "data-file", ROLE_FILE, depth, &node->data_file);
}

/* Which driver the node in hand has; NULL with err set when nothing says it. */
static const struct driver_row *choose_driver(struct parser *parser, enum role role)
{
	const char *name = keyval_take(parser->list, key_of(parser, "driver"));

	if (name && *name)
		return driver_find(name, parser->err);
	if (role == ROLE_FILE && keyval_peek(parser->list, key_of(parser, "filename")))
		return &guessed_file;
	if (role == ROLE_BACKING || has_child(parser, "file"))
		return &guessed_format;
	error_set(parser->err, EINVAL, "Must specify either driver or file");
	return NULL;
}

static int check_node(struct parser *parser, const struct image_node *node)
{
	if (node->kind == NODE_FILE && (!node->filename || !*node->filename))
		return error_set(parser->err, EINVAL, "The '%s' block driver requires a file name",
				 node->driver ? node->driver : "file");
	if (node->kind == NODE_FILTER && !node->throttle_group)
		return error_set(parser->err, EINVAL, "Please specify a throttle group");
	if (node->size != NODE_TO_THE_END && node->size % 512)
		return error_set(parser->err, EINVAL, "Specified size is not multiple of 512");
	return 0;
}

static int parse_node(struct parser *parser, enum role role, unsigned int depth,
		      struct image_node **out)
{
	const struct driver_row *driver = choose_driver(parser, role);
	int rc;

	if (!driver)
		return -EINVAL;
	*out = node_new(parser, driver);
	if (!*out)
		return -ENOMEM;
	rc = take_keys(parser, driver, *out);
	if (!rc)
		rc = check_node(parser, *out);
	if (!rc)
		rc = parse_children(parser, role, depth, driver, *out);
	return rc;
}

static void inherit(struct image_node *node, const struct image_node *above)
{
	if (!node)
		return;
	if (above && !node->direct)
		node->direct = above->direct;
	if (above && !node->no_flush)
		node->no_flush = above->no_flush;
	if (above && !node->force_share)
		node->force_share = above->force_share;
	inherit(node->file, node);
	inherit(node->backing, node);
	inherit(node->data_file, node);
}

/* A limit on what is only a part of the requests is another thing than the limit of an export. */
static int check_filters(const struct image_node *node, bool beside, struct error *err)
{
	int rc;

	if (!node)
		return 0;
	if (node->kind == NODE_FILTER && beside)
		return error_set(err, ENOTSUP,
				 "a throttle node in a backing or data file is not supported; put "
				 "it above the image");
	rc = check_filters(node->file, beside, err);
	if (!rc)
		rc = check_filters(node->backing, true, err);
	return rc ? rc : check_filters(node->data_file, true, err);
}

/* QEMU reads a plain name as that of a node; here it is a file, unless there is such a node. */
static int check_names(const struct keyval *list, struct error *err)
{
	for (size_t i = 0; i < list->count; i++) {
		const char *dot = strrchr(list->entries[i].key, '.');

		if (strcmp(dot ? dot + 1 : list->entries[i].key, "node-name"))
			continue;
		for (size_t j = 0; j < list->count; j++) {
			const char *key = list->entries[j].key, *last = strrchr(key, '.');

			last = last ? last + 1 : key;
			if ((!strcmp(last, "file") || !strcmp(last, "backing") ||
			     !strcmp(last, "data-file")) &&
			    !strcmp(list->entries[i].value, list->entries[j].value))
				return error_set(err, ENOTSUP,
						 "Parameter '%.200s' refers to the node '%.200s': "
						 "describe the node in that place instead",
						 key, list->entries[j].value);
		}
	}
	return 0;
}

static int check_unknown(const struct keyval *list, struct error *err)
{
	const char *known[KEYS + STRUCTURE];

	for (size_t i = 0; i < KEYS; i++)
		known[i] = keys[i].name;
	for (size_t i = 0; i < STRUCTURE; i++)
		known[KEYS + i] = structure[i];
	return keyval_check_taken(list, known, KEYS + STRUCTURE, err);
}

static int parse_tree(struct image_description *description, struct error *err)
{
	AUTO_FREE struct parser *parser = calloc(1, sizeof(*parser));
	int rc;

	if (!parser)
		return error_set(err, ENOMEM, "out of memory");
	parser->list = &description->properties;
	parser->err = err;
	rc = parse_node(parser, ROLE_ROOT, 0, &description->root);
	if (!rc)
		rc = check_unknown(parser->list, err);
	if (!rc)
		rc = check_names(parser->list, err);
	if (!rc)
		rc = check_filters(description->root, false, err);
	if (!rc)
		inherit(description->root, NULL);
	return rc;
}

bool description_is_json(const char *text)
{
	return !strncmp(text, "json:", 5);
}

int description_parse(struct image_description *description, const char *text, const char *format,
		      struct error *err)
{
	int rc;

	*description = (struct image_description){.root = NULL};
	if (description_is_json(text))
		rc = keyval_parse_json(&description->properties, text + 5, err);
	else
		rc = keyval_parse(&description->properties, text, "file", err);
	if (!rc && format)
		rc = keyval_set(&description->properties, "driver", format, err);
	if (!rc)
		rc = parse_tree(description, err);
	if (rc)
		description_clear(description);
	return rc;
}

void description_clear(struct image_description *description)
{
	node_free(description->root);
	keyval_clear(&description->properties);
	description->root = NULL;
}

const struct image_node *description_file(const struct image_node *node)
{
	while (node && node->kind != NODE_FILE)
		node = node->file;
	return node;
}
