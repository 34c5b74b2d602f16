// SPDX-License-Identifier: MIT
/* The two protocols of the service manager: variables in, datagrams out. */
#include "notify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cleanup.h"
#include "size.h"

static bool number_of(const char *name, uint64_t limit, uint64_t *value)
{
	const char *text = getenv(name);

	return text && size_parse_number(text, limit, value) == 0;
}

static int claim(uint64_t count, struct error *err)
{
	for (int fd = NOTIFY_FDS_START; fd < NOTIFY_FDS_START + (int)count; fd++)
		if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
			return error_set_errno(err, errno,
					       "Socket activation failed: invalid file "
					       "descriptor fd = %d",
					       fd);
	return (int)count;
}

int notify_take_sockets(struct error *err)
{
	uint64_t pid, count = 0;
	bool ours = number_of("LISTEN_PID", INT32_MAX, &pid) && pid == (uint64_t)getpid() &&
		    number_of("LISTEN_FDS", NOTIFY_FDS_MAX, &count);

	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	return ours ? claim(count, err) : 0;
}

void notify_init(struct notify *notify)
{
	const char *address = getenv("NOTIFY_SOCKET");

	notify->address = address && *address ? strdup(address) : NULL;
	unsetenv("NOTIFY_SOCKET");
}

/* '@' stands for the NUL of an abstract address. 0: not an address that we can reach. */
static socklen_t fill_address(struct sockaddr_un *address, const char *text)
{
	size_t length = strlen(text);

	if ((text[0] != '/' && text[0] != '@') || length >= sizeof(address->sun_path))
		return 0;
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(address->sun_path, text, length);
	if (text[0] == '@')
		address->sun_path[0] = '\0';
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length +
			   (text[0] == '/' ? 1 : 0));
}

void notify_send(const struct notify *notify, const char *format, ...)
{
	AUTO_CLOSE int fd = -1;
	struct sockaddr_un address;
	socklen_t length;
	char message[512];
	va_list args;

	if (!notify->address)
		return;
	length = fill_address(&address, notify->address);
	if (!length)
		return;
	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0)
		sendto(fd, message, strlen(message), MSG_NOSIGNAL,
		       (const struct sockaddr *)&address, length);
}

void notify_clear(struct notify *notify)
{
	free(notify->address);
	notify->address = NULL;
}
