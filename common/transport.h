/* SPDX-License-Identifier: MIT */
/*
 * The byte stream to a peer: plain, or TLS by another implementation of the same operations
 * (tls.h). Only the transport touches the socket; everybody else holds a struct transport.
 * One thread at a time uses a transport.
 */
#ifndef HAWSER_COMMON_TRANSPORT_H
#define HAWSER_COMMON_TRANSPORT_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct transport;

enum transport_close {
	TRANSPORT_CLOSE_CLEAN, /* say goodbye as the layer demands (close_notify), then close */
	TRANSPORT_CLOSE_DROP,  /* close at once */
};

struct transport_ops {
	const char *name;
	/* As recv(2) and sendmsg(2) with MSG_NOSIGNAL: bytes, 0 at the end, or -errno. flags:
	 * MSG_DONTWAIT, which is a must, and MSG_MORE. A send that ended with -EAGAIN is to be
	 * tried again with the same bytes (more may follow them): part of them may be on its way.
	 */
	ssize_t (*recv)(struct transport *transport, void *buffer, size_t length, int flags);
	ssize_t (*send)(struct transport *transport, const struct iovec *iov, int count, int flags);
	/* What to poll for when a send ended with -EAGAIN; NULL: always POLLOUT. */
	short (*send_event)(const struct transport *transport);
	/* Moves up to length bytes out of a pipe, as splice(2); NULL: this layer cannot. */
	ssize_t (*splice)(struct transport *transport, int pipe_fd, size_t length,
			  unsigned int flags);
	/* Bytes that recv returns without reading the socket (decrypted, not yet taken). */
	size_t (*pending)(const struct transport *transport);
	/* Why the stream failed, for people; NULL: this layer knows no more than errno says. */
	const char *(*reason)(const struct transport *transport);
	/* Closes the socket and frees the layer's own state. */
	void (*close)(struct transport *transport, enum transport_close how);
	/* Bytes to send are read in user space, so none may lie in a mapped file: one that is cut
	 * short would kill the process. */
	bool reads_bytes;
};

/* By value in its owner; fd -1 when closed. */
struct transport {
	const struct transport_ops *ops;
	int fd; /* for poll only, outside the transport's own files */
	bool is_unix;
	void *layer; /* the layer's own state */
};

/* Wraps a connected stream socket (or one end of a pipe pair of sockets); owns fd from now on. */
void transport_init_plain(struct transport *transport, int fd);

static inline ssize_t transport_recv(struct transport *transport, void *buffer, size_t length,
				     int flags)
{
	return transport->ops->recv(transport, buffer, length, flags);
}

static inline ssize_t transport_send(struct transport *transport, const struct iovec *iov,
				     int count, int flags)
{
	return transport->ops->send(transport, iov, count, flags);
}

/* POLLOUT, or POLLIN where the layer has to hear from the peer before it can send. */
static inline short transport_send_event(const struct transport *transport)
{
	return transport->ops->send_event ? transport->ops->send_event(transport) : POLLOUT;
}

/* Bytes that a receive returns although the socket has none; a poll does not tell of them. */
static inline size_t transport_pending(const struct transport *transport)
{
	return transport->ops->pending(transport);
}

/* The layer's own word about a failure, or NULL. */
static inline const char *transport_reason(const struct transport *transport)
{
	return transport->ops && transport->ops->reason ? transport->ops->reason(transport) : NULL;
}

/* Closing twice is allowed. */
void transport_close(struct transport *transport, enum transport_close how);

/* Another descriptor of the socket for who lets it linger, if closing it now could cost the peer
 * what was sent to it (on TCP: the peer may send, and has not taken all); else -1. */
int transport_keep(const struct transport *transport);

/* Ends the stream from outside: whoever reads or writes it finds it closed. Any thread. */
void transport_interrupt(struct transport *transport);

/* Gives the plain socket away (to the kernel); -EINVAL when the layer holds bytes or keys. */
int transport_release(struct transport *transport);

/*
 * Whole buffers or nothing, waiting until deadline (clock_now() based, CLOCK_NEVER for ever):
 * 0, -ETIMEDOUT, -ECONNRESET when the stream ends early, or another -errno. Never reads a byte
 * more than asked: what follows belongs to whoever gets the socket next.
 */
int transport_read_full(struct transport *transport, void *buffer, size_t length,
			uint64_t deadline);
int transport_write_full(struct transport *transport, const void *buffer, size_t length,
			 uint64_t deadline);

#endif
