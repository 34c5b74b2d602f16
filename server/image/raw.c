// SPDX-License-Identifier: MIT
/*
 * The raw driver: guest bytes are file bytes. Everything but map is the default.
 */
#include <errno.h>

#include "image.h"

static int raw_open(struct image *image, struct error *err)
{
	int rc = hostfile_size(image->file, &image->size);

	if (rc)
		return error_set_errno(err, -rc, "cannot tell the size");
	return 0;
}

static int raw_map(struct image *image, uint64_t offset, uint64_t length, enum map_intent intent,
		   unsigned int flags, struct extent *extent)
{
	*extent = (struct extent){.kind = EXTENT_FILE,
				  .hole = false,
				  .length = length,
				  .file = image->file,
				  .file_offset = offset};
	if (intent != MAP_STATUS)
		return 0;
	if (flags & MAP_NOWAIT)
		return -EAGAIN;
	int rc = hostfile_extent(image->file, offset, &extent->length, &extent->hole);

	if (extent->hole)
		extent->kind = EXTENT_ZERO;
	return rc;
}

const struct image_driver image_driver_raw = {
	.name = "raw",
	.open = raw_open,
	.map = raw_map,
};
