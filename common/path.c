// SPDX-License-Identifier: MIT
/* See path.h. */
#include "path.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"

char *path_absolute(const char *path)
{
	AUTO_FREE char *folder = NULL;
	char *absolute;

	if (*path == '/')
		return strdup(path);
	folder = getcwd(NULL, 0);
	if (!folder)
		return NULL;
	if (asprintf(&absolute, "%s/%s", folder, path) >= 0)
		return absolute;
	errno = ENOMEM;
	return NULL;
}
