/* SPDX-License-Identifier: MIT */
/*
 * The kernel's nbd device as a client of this very server (-c), and its end (-d). Server and
 * kernel are joined by a socketpair. A thread attaches while the server already serves, and then
 * waits for the signals that end a server: what the page cache holds must reach the image while
 * somebody still answers.
 */
#ifndef HAWSER_SERVER_DEVICE_H
#define HAWSER_SERVER_DEVICE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "common/error.h"
#include "options.h"

/* "auto": the kernel picks a free device. 0 or -EINVAL. */
int device_choose(const char *text, int *index, struct error *err);

struct device_link {
	/* Called once on the link's thread when the device can be used. */
	int (*ready)(void *context, const char *device, struct error *err);
	void *context;

	int index;
	int fd; /* our end, until the kernel has it */
	const char *name;
	const char *file;
	struct server *server;
	bool started;
	bool attached;
	int attached_by;  /* as sysfs tells it: our attach, and no later one */
	atomic_bool over; /* the server has ended */
	pthread_t thread;
	int status; /* of the thread; after the join */
	struct error error;
};

/* Adds the kernel's end to the server and starts to attach. Call before server_run(). */
int device_link_start(struct device_link *link, struct server *server,
		      const struct options *options, struct error *err);

/* After server_run(): waits for the thread, and gives the device back if it still has it. 0, or
 * -errno with err set when the link failed. Also for one that was not started. */
int device_link_finish(struct device_link *link, struct error *err);

/* hawserd -d. Success means that the device is free, also when it was so before. */
int device_disconnect(const char *text, struct error *err);

#endif
