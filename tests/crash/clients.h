/* SPDX-License-Identifier: MIT */
/*
 * Clients who change a disk, several at once: by the image's functions, as workers call them, or
 * over sockets through a whole server in this process, with several requests in flight. All they do
 * is noted in the history.
 */
#ifndef HAWSER_TESTS_CRASH_CLIENTS_H
#define HAWSER_TESTS_CRASH_CLIENTS_H

#include <stdbool.h>

#include "features.h"

/*
 * Opens the disk, lets the clients perform so many operations each, closes it. 0, or -1 with a
 * sentence on standard output.
 */
int clients_run(const struct disk *disk, unsigned int operations, unsigned int seed);

#endif
