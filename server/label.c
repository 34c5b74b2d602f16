// SPDX-License-Identifier: MIT
/* See label.h. The kernel judges the label; only root of an SELinux machine sees more than that. */
#include "label.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"

/* There while a policy is loaded. */
#define SELINUX_IS_ON "/sys/fs/selinux/enforce"
#define SOCKET_LABEL  "/proc/thread-self/attr/sockcreate"

int label_sockets(const char *label, struct error *err)
{
	AUTO_CLOSE int fd = -1;
	/* With its end, as libselinux does; writing nothing takes a label back. */
	size_t length = label ? strlen(label) + 1 : 0;
	ssize_t put;

	if (access(SELINUX_IS_ON, F_OK) < 0) {
		if (label)
			log_info("this machine has no SELinux: the socket gets no label");
		return 0;
	}
	fd = open(SOCKET_LABEL, O_RDWR | O_CLOEXEC);
	put = fd < 0 ? -1 : write(fd, label, length);
	if (put == (ssize_t)length)
		return 0;
	return error_set_errno(err, put < 0 ? errno : EIO,
			       "Cannot set SELinux socket create context to %s",
			       label ? label : "the usual one");
}
