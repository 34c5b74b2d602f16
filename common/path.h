/* SPDX-License-Identifier: MIT */
/*
 * Paths that have to hold after the process has changed its folder. Main thread.
 */
#ifndef HAWSER_COMMON_PATH_H
#define HAWSER_COMMON_PATH_H

/* path, with the current folder in front when it is relative. Links in it stay links: where they
 * lead is found anew at each use, so they may be moved meanwhile. To be freed; NULL with errno. */
char *path_absolute(const char *path);

#endif
