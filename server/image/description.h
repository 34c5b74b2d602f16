/* SPDX-License-Identifier: MIT */
/*
 * Images as users describe them, "driver=qcow2,file.filename=a" or the same as JSON: a tree of
 * nodes, each a format, a filter, or a file of the host. The text is that of the person who starts
 * the server; what stands inside an image is never read as a description. Opens nothing. One
 * thread, at start.
 */
#ifndef HAWSER_SERVER_IMAGE_DESCRIPTION_H
#define HAWSER_SERVER_IMAGE_DESCRIPTION_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/keyval.h"

enum node_kind {
	NODE_FORMAT, /* the bytes of its file have a structure; driver NULL: look */
	NODE_FILTER, /* throttle */
	NODE_FILE,   /* filename, of any kind that driver allows */
};

/* What the description says; for what it leaves out the command line holds. */
enum node_switch { NODE_UNSET, NODE_OFF, NODE_ON };
enum node_discard { NODE_DISCARD_UNSET, NODE_DISCARD_IGNORE, NODE_DISCARD_UNMAP };
enum node_zeroes { NODE_ZEROES_UNSET, NODE_ZEROES_OFF, NODE_ZEROES_ON, NODE_ZEROES_UNMAP };
enum node_locking { NODE_LOCKING_UNSET, NODE_LOCKING_AUTO, NODE_LOCKING_ON, NODE_LOCKING_OFF };
enum node_aio { NODE_AIO_UNSET, NODE_AIO_THREADS, NODE_AIO_NATIVE, NODE_AIO_IO_URING };
enum node_encryption { NODE_ENCRYPTION_UNSET, NODE_ENCRYPTION_LUKS, NODE_ENCRYPTION_AES };

#define NODE_TO_THE_END UINT64_MAX

struct image_node {
	enum node_kind kind;
	const char *driver;   /* NULL: not said */
	const char *filename; /* NODE_FILE */
	const char *name;     /* node-name, or NULL */
	uint64_t offset;      /* these two of raw: its part of the file */
	uint64_t size;        /* or NODE_TO_THE_END */
	const char *throttle_group;
	const char *key_secret;         /* of luks */
	const char *encrypt_key_secret; /* encrypt.key-secret of qcow2 */
	/* direct, no_flush and force_share come down from the node above when they are not said. */
	enum node_switch read_only, auto_read_only, direct, no_flush, force_share;
	enum node_switch pass_discard;
	enum node_discard discard;
	enum node_zeroes detect_zeroes;
	enum node_locking locking;
	enum node_aio aio;
	enum node_encryption encryption; /* encrypt.format of qcow2 */
	bool no_backing;                 /* although the image may name one */
	/* Each may be NULL. A backing node without a file says something of the backing file that
	 * the image names; all other formats and filters have a file. */
	struct image_node *file, *backing, *data_file;
};

/* The strings of a tree are those of its list of properties. */
struct image_description {
	struct keyval properties;
	struct image_node *root; /* NULL: none */
};

/* Is text a json: file name? */
bool description_is_json(const char *text);

/*
 * Reads "driver=..,key=value", or "json:{...}". format, if not NULL, stands for the driver of the
 * root. 0, or -EINVAL, -ENOMEM with err set, and nothing is kept.
 */
int description_parse(struct image_description *description, const char *text, const char *format,
		      struct error *err);
void description_clear(struct image_description *description);

/* The file of the host at the bottom of node, NULL when the description does not name it. */
const struct image_node *description_file(const struct image_node *node);

#endif
