// SPDX-License-Identifier: MIT
/*
 * Places. Sizes come from the command line only; what the files hold is checked afterwards.
 */
#include "place.h"

#include <errno.h>
#include <string.h>

#include "common/size.h"

const struct image_node *place_skip_filters(const struct image_node *node)
{
	while (node->kind == NODE_FILTER)
		node = node->file;
	return node;
}

static int part_too_large(uint64_t offset, uint64_t length, uint64_t size, struct error *err)
{
	return error_set(err, EINVAL,
			 "The sum of offset (%llu) and size (%llu) has to be smaller or equal to "
			 "the  actual size of the containing file (%llu)",
			 (unsigned long long)offset, (unsigned long long)length,
			 (unsigned long long)size);
}

/* The part of the part that a raw node is. */
static int narrow(struct image_place *place, const struct image_node *raw, struct error *err)
{
	if (raw->size != NODE_TO_THE_END) {
		if (place->base > raw->size ||
		    (place->length != NODE_TO_THE_END &&
		     !range_inside(place->base, place->length, raw->size)))
			return part_too_large(place->base, place->length, raw->size, err);
		place->length = min_of(place->length, raw->size - place->base);
	}
	if (size_add_overflows(place->base, raw->offset, &place->base) || place->base > INT64_MAX)
		return error_set(err, EINVAL, "the offsets together are too large");
	return 0;
}

static bool is_raw(const struct image_node *node)
{
	return node->driver && !strcmp(node->driver, "raw");
}

int place_find(const struct image_node *node, struct image_place *place,
	       const struct image_node **format, struct error *err)
{
	*place = (struct image_place){.length = NODE_TO_THE_END};
	*format = NULL;
	for (node = place_skip_filters(node); node->kind == NODE_FORMAT;
	     node = place_skip_filters(node->file)) {
		int rc;

		if (!is_raw(node)) {
			*format = node;
			return 0;
		}
		rc = narrow(place, node, err);
		if (rc)
			return rc;
	}
	place->path = node->filename;
	place->driver = node->driver;
	place->locking = node->locking;
	place->force_share = node->force_share == NODE_ON;
	place->direct = node->direct;
	return 0;
}

int place_check_size(const struct image_place *place, uint64_t size, struct error *err)
{
	if (place->base > size)
		return error_set(err, EINVAL,
				 "Offset (%llu) cannot be greater than size of the containing file "
				 "(%llu)",
				 (unsigned long long)place->base, (unsigned long long)size);
	if (place->length != NODE_TO_THE_END && place->length > size - place->base)
		return part_too_large(place->base, place->length, size, err);
	return 0;
}
