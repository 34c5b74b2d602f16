// SPDX-License-Identifier: MIT
/*
 * What block status tells of an export: metadata contexts, their names, and their values. Bitmaps
 * are opened with the export, by the thread that opens it; the rest runs on any thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "export.h"

/* ---- Bitmaps ---- */

static int open_bitmap(struct export *export, const char *name, struct error *err)
{
	struct nbd_string text;
	size_t at = export->bitmap_count;
	int rc;

	rc = image_bitmap_open(export->image, name, &export->bitmaps[at], err);
	if (rc)
		return rc;
	export->bitmap_count++;
	if (asprintf(&export->bitmap_contexts[at], NBD_CONTEXT_DIRTY_BITMAP "%s", name) < 0) {
		export->bitmap_contexts[at] = NULL;
		return error_set(err, ENOMEM, "out of memory");
	}
	text = (struct nbd_string){export->bitmap_contexts[at],
				   (uint32_t)strlen(export->bitmap_contexts[at])};
	if (!nbd_string_valid(text))
		return error_set(err, EINVAL, "Bitmap '%s' cannot be served: its name is not UTF-8",
				 name);
	return 0;
}

int export_bitmaps_open(struct export *export, const struct export_config *config,
			struct error *err)
{
	int rc = 0;

	if (!config->bitmap_count)
		return 0;
	export->bitmaps = calloc(config->bitmap_count, sizeof(struct image_bitmap *));
	export->bitmap_contexts = calloc(config->bitmap_count, sizeof(char *));
	if (!export->bitmaps || !export->bitmap_contexts)
		return error_set(err, ENOMEM, "out of memory");
	for (size_t i = 0; i < config->bitmap_count && !rc; i++)
		rc = open_bitmap(export, config->bitmaps[i], err);
	return rc;
}

void export_bitmaps_close(struct export *export)
{
	for (size_t i = 0; i < export->bitmap_count; i++) {
		image_bitmap_close(export->bitmaps[i]);
		free(export->bitmap_contexts[i]);
	}
	free(export->bitmaps);
	free(export->bitmap_contexts);
	export->bitmap_count = 0;
}

/* ---- Block status ---- */

const char *export_context_name(const struct export *export, unsigned int id)
{
	if (id == CONTEXT_BASE_ALLOCATION)
		return NBD_CONTEXT_ALLOCATION;
	if (id == CONTEXT_ALLOCATION_DEPTH)
		return export->allocation_depth ? NBD_CONTEXT_ALLOCATION_DEPTH : NULL;
	return id - CONTEXT_FIRST_BITMAP < export->bitmap_count
		       ? export->bitmap_contexts[id - CONTEXT_FIRST_BITMAP]
		       : NULL;
}

static uint32_t allocation_status(const struct extent *extent)
{
	return (extent->hole ? NBD_STATE_HOLE : 0) |
	       (extent->kind == EXTENT_ZERO ? NBD_STATE_ZERO : 0);
}

static int walk_allocation(struct export *export, unsigned int id, uint64_t offset, uint64_t length,
			   export_status_visit *visit, void *context)
{
	bool depth = id == CONTEXT_ALLOCATION_DEPTH, more = true;

	while (length && more) {
		struct extent extent;
		/* For the depth nobody needs to look for holes. */
		int rc = export_map(export, offset, length, depth ? MAP_READ : MAP_STATUS, 0,
				    &extent);

		if (rc)
			return rc;
		more = visit(context, extent.length,
			     depth ? extent.depth : allocation_status(&extent));
		offset += extent.length;
		length -= extent.length;
	}
	return 0;
}

struct bitmap_walk {
	export_status_visit *visit;
	void *context;
};

static bool tell_dirty(void *context, uint64_t length, bool dirty)
{
	struct bitmap_walk *walk = context;

	return walk->visit(walk->context, length, dirty ? NBD_STATE_DIRTY : 0);
}

int export_status(struct export *export, unsigned int id, uint64_t offset, uint64_t length,
		  export_status_visit *visit, void *context)
{
	struct bitmap_walk walk = {visit, context};

	if (id < CONTEXT_FIRST_BITMAP)
		return walk_allocation(export, id, offset, length, visit, context);
	return image_bitmap_walk(export->bitmaps[id - CONTEXT_FIRST_BITMAP],
				 export->offset + offset, length, tell_dirty, &walk);
}
