// SPDX-License-Identifier: MIT
/* Names of control sockets. Any thread. */
#include "control-path.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cleanup.h"
#include "size.h"

char *control_path_folder(void)
{
	const char *base = getenv("XDG_RUNTIME_DIR");
	char *folder = NULL;

	if (geteuid() == 0)
		return strdup(CONTROL_PATH_SYSTEM);
	if (!base || base[0] != '/' || asprintf(&folder, "%s/hawser", base) < 0)
		return NULL;
	return folder;
}

long control_path_pid(const char *name)
{
	size_t digits = strspn(name, "0123456789");
	char number[16];
	uint64_t pid;

	if (name[0] == '0' || !digits || digits >= sizeof(number) ||
	    strcmp(name + digits, CONTROL_PATH_SUFFIX))
		return 0;
	memcpy(number, name, digits);
	number[digits] = '\0';
	return size_parse_number(number, INT32_MAX, &pid) ? 0 : (long)pid;
}

int control_path_connect(const char *path)
{
	AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (fd < 0)
		return -errno;
	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, strlen(path));
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)))
		return -errno;
	return take_fd(&fd);
}
