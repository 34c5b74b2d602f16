/* SPDX-License-Identifier: MIT */
/*
 * Where the bytes of an image are in the files of the host: what a described format node comes
 * down to when raw and throttle nodes below it are taken together. Pure.
 */
#ifndef HAWSER_SERVER_IMAGE_PLACE_H
#define HAWSER_SERVER_IMAGE_PLACE_H

#include "common/error.h"
#include "description.h"

struct image_place {
	const char *path;
	const char *driver;    /* "file", "host_device", or NULL: either */
	uint64_t base, length; /* the part of the file; NODE_TO_THE_END */
	enum node_locking locking;
	bool force_share;
	enum node_switch direct; /* around the page cache; unset: as the image above says */
};

/* The first node that is no filter. */
const struct image_node *place_skip_filters(const struct image_node *node);

/*
 * From node down over raw nodes. Ends at a file: *place is filled, *format is NULL. Ends at another
 * format: *format is that node, and place->base and length are the part of its disk. 0 or -EINVAL
 * with err set.
 */
int place_find(const struct image_node *node, struct image_place *place,
	       const struct image_node **format, struct error *err);

/* Does the part lie in a file or disk of that size? 0 or -EINVAL with err set. */
int place_check_size(const struct image_place *place, uint64_t size, struct error *err);

#endif
