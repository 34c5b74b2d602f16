/* SPDX-License-Identifier: MIT */
/*
 * Cleanup attributes: a resource is released where its variable goes out of scope.
 * Declare the variable with its empty value (fd -1, pointer NULL); hand it on with
 * take_fd() or take_ptr(), which leave the empty value behind.
 */
#ifndef HAWSER_COMMON_CLEANUP_H
#define HAWSER_COMMON_CLEANUP_H

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CLEANUP(function) __attribute__((cleanup(function)))

static inline void cleanup_free(void *pointer)
{
	free(*(void **)pointer);
}

/* Keeps errno, so that a function may return it after its fds went out of scope. */
static inline void cleanup_close(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	errno = saved;
}

static inline void cleanup_file(FILE **file)
{
	if (*file)
		fclose(*file);
}

static inline void cleanup_dir(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

#define AUTO_FREE  CLEANUP(cleanup_free)
#define AUTO_CLOSE CLEANUP(cleanup_close)
#define AUTO_FILE  CLEANUP(cleanup_file)
#define AUTO_DIR   CLEANUP(cleanup_dir)

/* Gives the descriptor to the caller and leaves -1. */
static inline int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

/* Gives the pointer to the caller and leaves NULL. */
#define take_ptr(pointer)                       \
	({                                      \
		__auto_type taken_ = (pointer); \
		(pointer) = NULL;               \
		taken_;                         \
	})

#endif
