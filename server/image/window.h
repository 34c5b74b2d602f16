/* SPDX-License-Identifier: MIT */
/* A part of another image's disk as an image. Used by image.c. */
#ifndef HAWSER_SERVER_IMAGE_WINDOW_H
#define HAWSER_SERVER_IMAGE_WINDOW_H

#include "image.h"
#include "place.h"

extern const struct image_driver image_driver_window;

/* Makes image the part of child that place names, and child the image's. 0, or -errno with err
 * set; then child stays the caller's. */
int window_open(struct image *image, struct image *child, const struct image_place *place,
		struct error *err);

#endif
