/* SPDX-License-Identifier: MIT */
/*
 * FILE as an image: a path, "json:{...}", or with --image-opts a list of properties; and what a
 * description says that other options could have said. Main thread, at start; opens nothing.
 */
#ifndef HAWSER_SERVER_OPTIONS_IMAGE_H
#define HAWSER_SERVER_OPTIONS_IMAGE_H

#include "options.h"

/*
 * Fills options->description and what follows from it in options->server.export_, after all other
 * options were read. 0, or -errno with err set.
 */
int options_image(struct options *options, struct error *err);

#endif
