/* SPDX-License-Identifier: MIT */
/*
 * One service from start to end: the background, the image, the sockets, the telling of the world,
 * the run, and the clearing up. Main thread.
 */
#ifndef HAWSER_SERVER_SERVICE_H
#define HAWSER_SERVER_SERVICE_H

#include "options.h"

/* Serves as the options say; prints what goes wrong. activation is the number of sockets handed
 * over by the service manager. Returns the exit status of the program. */
int service_run(const struct options *options, unsigned int activation);

#endif
