/* SPDX-License-Identifier: MIT */
/*
 * The SELinux label of a listening socket, for virtual machines that may connect to sockets of
 * their own label only. Speaks with the kernel itself, without a library. Main thread, at start.
 */
#ifndef HAWSER_SERVER_LABEL_H
#define HAWSER_SERVER_LABEL_H

#include "common/error.h"

/*
 * Sockets that this thread makes from now on get the label; NULL: the usual one again. Where the
 * kernel has no SELinux there are no labels, and nothing happens. 0 or -errno with err set.
 */
int label_sockets(const char *label, struct error *err);

#endif
