// SPDX-License-Identifier: MIT
/*
 * The plain transport, and the waiting helpers that all layers share. Works on sockets and, for
 * tests and stdin/stdout service, on anything that read(2) and write(2) understand.
 */
#include "transport.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"

static ssize_t plain_recv(struct transport *transport, void *buffer, size_t length, int flags)
{
	ssize_t got = recv(transport->fd, buffer, length, flags);

	return got < 0 ? -errno : got;
}

static ssize_t plain_send(struct transport *transport, const struct iovec *iov, int count,
			  int flags)
{
	struct msghdr message = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count};
	ssize_t sent = sendmsg(transport->fd, &message, flags | MSG_NOSIGNAL);

	return sent < 0 ? -errno : sent;
}

static ssize_t plain_splice(struct transport *transport, int pipe_fd, size_t length,
			    unsigned int flags)
{
	ssize_t moved = splice(pipe_fd, NULL, transport->fd, NULL, length, flags);

	return moved < 0 ? -errno : moved;
}

static size_t plain_pending(const struct transport *transport)
{
	(void)transport;
	return 0;
}

static void plain_close(struct transport *transport, enum transport_close how)
{
	(void)how;
	close(transport->fd);
}

static const struct transport_ops plain_ops = {
	.name = "plain",
	.recv = plain_recv,
	.send = plain_send,
	.splice = plain_splice,
	.pending = plain_pending,
	.close = plain_close,
};

void transport_init_plain(struct transport *transport, int fd)
{
	int domain = 0;
	socklen_t length = sizeof(domain);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length))
		domain = 0;
	*transport = (struct transport){
		.ops = &plain_ops, .fd = fd, .is_unix = domain == AF_UNIX, .layer = NULL};
}

void transport_close(struct transport *transport, enum transport_close how)
{
	if (transport->fd < 0)
		return;
	transport->ops->close(transport, how);
	transport->fd = -1;
}

int transport_keep(const struct transport *transport)
{
	int fd = transport->fd, queued = 0;
	ssize_t unread;
	char byte;

	if (fd < 0 || transport->is_unix)
		return -1;
	unread = recv(fd, &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT);
	/* Nothing can come any more, or nothing has and nothing is left to be taken. */
	if (unread == 0 ||
	    (unread < 0 && (errno != EAGAIN || ioctl(fd, SIOCOUTQ, &queued) || queued == 0)))
		return -1;
	return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

void transport_interrupt(struct transport *transport)
{
	shutdown(transport->fd, SHUT_RDWR);
}

int transport_release(struct transport *transport)
{
	int fd = transport->fd;

	if (fd < 0 || transport->ops != &plain_ops)
		return -EINVAL;
	transport->fd = -1;
	return fd;
}

static int wait_for(struct transport *transport, short events, uint64_t deadline)
{
	struct pollfd item = {.fd = transport->fd, .events = events};
	int ready = poll(&item, 1, clock_poll_timeout(deadline));

	if (ready < 0)
		return errno == EINTR ? 0 : -errno;
	return ready ? 0 : -ETIMEDOUT;
}

int transport_read_full(struct transport *transport, void *buffer, size_t length, uint64_t deadline)
{
	uint8_t *at = buffer;

	while (length) {
		ssize_t got = transport_recv(transport, at, length, MSG_DONTWAIT);

		if (got == 0)
			return -ECONNRESET;
		if (got == -EAGAIN) {
			int rc = wait_for(transport, POLLIN, deadline);

			if (rc)
				return rc;
			continue;
		}
		if (got == -EINTR)
			continue;
		if (got < 0)
			return (int)got;
		at += got;
		length -= (size_t)got;
	}
	return 0;
}

int transport_write_full(struct transport *transport, const void *buffer, size_t length,
			 uint64_t deadline)
{
	const uint8_t *at = buffer;

	while (length) {
		struct iovec iov = {.iov_base = (void *)at, .iov_len = length};
		ssize_t sent = transport_send(transport, &iov, 1, MSG_DONTWAIT);

		if (sent == -EAGAIN) {
			int rc = wait_for(transport, transport_send_event(transport), deadline);

			if (rc)
				return rc;
			continue;
		}
		if (sent == -EINTR)
			continue;
		if (sent < 0)
			return (int)sent;
		at += sent;
		length -= (size_t)sent;
	}
	return 0;
}
