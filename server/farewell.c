// SPDX-License-Identifier: MIT
/* Sockets whose peers still have to take what was sent to them. Main loop only. */
#include "farewell.h"

#include <linux/sockios.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "limits.h"

enum { LINGER_EVENTS = 16, LINGER_READ = 1 << 20 };

struct departed {
	TAILQ_ENTRY(departed) link;
	int fd;
	bool heard; /* since the last look */
	uint64_t deadline;
};

TAILQ_HEAD(departed_list, departed);

struct farewell {
	int epoll_fd;
	unsigned int count;
	struct departed_list list; /* in the order of deadlines */
	uint64_t look_at;          /* the next look at all of them, while there are any */
};

struct farewell *farewell_new(void)
{
	struct farewell *farewell = calloc(1, sizeof(*farewell));

	if (!farewell)
		return NULL;
	TAILQ_INIT(&farewell->list);
	farewell->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (farewell->epoll_fd < 0) {
		free(farewell);
		return NULL;
	}
	return farewell;
}

static void drop(struct farewell *farewell, struct departed *departed)
{
	TAILQ_REMOVE(&farewell->list, departed, link);
	farewell->count--;
	close(departed->fd);
	free(departed);
}

bool farewell_drop_oldest(struct farewell *farewell)
{
	struct departed *oldest = TAILQ_FIRST(&farewell->list);

	if (oldest)
		drop(farewell, oldest);
	return oldest;
}

void farewell_free(struct farewell *farewell)
{
	if (!farewell)
		return;
	while (farewell_drop_oldest(farewell))
		;
	close(farewell->epoll_fd);
	free(farewell);
}

int farewell_fd(const struct farewell *farewell)
{
	return farewell->epoll_fd;
}

/* Takes fd in any case. */
static void add(struct farewell *farewell, int fd)
{
	struct departed *departed = calloc(1, sizeof(*departed));
	struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = departed};

	if (!departed || shutdown(fd, SHUT_WR) ||
	    epoll_ctl(farewell->epoll_fd, EPOLL_CTL_ADD, fd, &event)) {
		free(departed);
		close(fd);
		return;
	}
	if (farewell->count == LINGERING_MAX)
		farewell_drop_oldest(farewell);
	departed->fd = fd;
	departed->deadline = clock_now() + LINGER_LIMIT;
	if (TAILQ_EMPTY(&farewell->list))
		farewell->look_at = clock_now() + LINGER_LOOK;
	TAILQ_INSERT_TAIL(&farewell->list, departed, link);
	farewell->count++;
}

void farewell_close(struct farewell *farewell, struct transport *transport)
{
	int fd = transport_keep(transport);

	transport_close(transport, TRANSPORT_CLOSE_CLEAN);
	if (fd >= 0)
		add(farewell, fd);
}

/* A recv(2) into nothing: on TCP the bytes are thrown away. */
static bool has_ended(struct departed *departed)
{
	departed->heard = true;
	return recv(departed->fd, NULL, LINGER_READ, MSG_TRUNC | MSG_DONTWAIT) == 0;
}

/* The peer has taken all, and is silent: nothing is lost any more. */
static bool is_content(struct departed *departed)
{
	bool heard = departed->heard;
	int queued = 0;

	departed->heard = false;
	return !heard && ioctl(departed->fd, SIOCOUTQ, &queued) == 0 && queued == 0;
}

static void look_around(struct farewell *farewell, uint64_t now)
{
	struct departed *departed, *next;

	for (departed = TAILQ_FIRST(&farewell->list); departed; departed = next) {
		next = TAILQ_NEXT(departed, link);
		if (departed->deadline <= now || is_content(departed))
			drop(farewell, departed);
	}
	farewell->look_at = now + LINGER_LOOK;
}

void farewell_go_on(struct farewell *farewell)
{
	struct epoll_event events[LINGER_EVENTS];
	int count = epoll_wait(farewell->epoll_fd, events, LINGER_EVENTS, 0);
	uint64_t now = clock_now();

	for (int i = 0; i < count; i++) {
		struct departed *departed = events[i].data.ptr;

		if (events[i].events & (EPOLLHUP | EPOLLERR) || has_ended(departed))
			drop(farewell, departed);
	}
	if (farewell->look_at <= now)
		look_around(farewell, now);
}

uint64_t farewell_deadline(const struct farewell *farewell)
{
	return TAILQ_EMPTY(&farewell->list) ? CLOCK_NEVER : farewell->look_at;
}
