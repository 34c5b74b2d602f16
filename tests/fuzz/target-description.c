// SPDX-License-Identifier: MIT
/*
 * Descriptions of images, as lists and as JSON: what is accepted is a tree that keeps the rules on
 * which opening it relies. Opens nothing.
 */
#include <errno.h>

#include "fuzz.h"
#include "server/image/description.h"
#include "server/image/place.h"

enum { DEPTH = 64 };

static void check_node(const struct image_node *node, unsigned int depth)
{
	const struct image_node *format;
	struct image_place place;
	struct error err = ERROR_INIT;

	FUZZ_CHECK(depth < DEPTH);
	FUZZ_CHECK(node->size == NODE_TO_THE_END ||
		   (node->size <= INT64_MAX && node->size % 512 == 0));
	FUZZ_CHECK(node->offset <= INT64_MAX);
	FUZZ_CHECK(node->locking <= NODE_LOCKING_OFF && node->aio <= NODE_AIO_IO_URING);
	switch (node->kind) {
	case NODE_FILE:
		FUZZ_CHECK(node->filename && *node->filename && !node->file && !node->backing);
		break;
	case NODE_FILTER:
		FUZZ_CHECK(node->throttle_group && node->file && !node->backing);
		break;
	case NODE_FORMAT:
		FUZZ_CHECK(!node->filename);
		break;
	}
	if (node->kind == NODE_FILE || node->file) {
		FUZZ_CHECK(description_file(node));
		if (place_find(node, &place, &format, &err))
			FUZZ_CHECK(err.code && *err.text);
		else
			FUZZ_CHECK(format ? format->kind == NODE_FORMAT : *place.path);
	}
	if (node->file)
		check_node(node->file, depth + 1);
	if (node->backing)
		check_node(node->backing, depth + 1);
	if (node->data_file)
		check_node(node->data_file, depth + 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error err = ERROR_INIT;
	struct image_description description;
	char *text = fuzz_text(data, size);
	int rc = description_parse(&description, text, NULL, &err);

	if (rc) {
		FUZZ_CHECK(err.code && *err.text && !description.root);
	} else {
		FUZZ_CHECK(description.root->file || description.root->kind == NODE_FILE);
		check_node(description.root, 0);
		description_clear(&description);
		FUZZ_CHECK(!description_parse(&description, text, "raw", NULL) ||
			   !description.root);
		description_clear(&description);
	}
	free(text);
	return 0;
}
