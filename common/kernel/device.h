/* SPDX-License-Identifier: MIT */
/*
 * /dev/nbdN as verbs: attach, detach, state. Two implementations carry them out, generic netlink
 * and the ioctls; one is chosen once per program run. Nothing here prints, and nothing here knows
 * URIs, servers or command lines: policy belongs to the callers (hawser, and hawserd for -c/-d).
 *
 * What may hang in the kernel (opening or flushing a device whose server is gone) runs in a helper
 * process, so every verb ends when its time is over. A caller that wants Ctrl-C to undo an attach
 * blocks SIGINT, SIGTERM and SIGHUP before device_attach(): a pending one ends the wait with
 * -EINTR, and the device is given back. Any thread; not two verbs on one device at once.
 */
#ifndef HAWSER_COMMON_KERNEL_DEVICE_H
#define HAWSER_COMMON_KERNEL_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum {
	DEVICE_INDEX_ANY = -1,
	DEVICE_NAME_SIZE = 16,     /* "nbd1048575" */
	DEVICE_PATH_SIZE = 32,     /* "/dev/nbd1048575" */
	DEVICE_BACKEND_MAX = 200,  /* bytes of the backend identifier */
	DEVICE_LABEL_MAX = 64,     /* bytes of the name within it */
	DEVICE_SOCKETS_MAX = 64,   /* each costs the kernel a queue freeze while attaching */
	DEVICE_TIMEOUT_MAX = 86400 /* seconds; longer waits leave tasks unkillable for days */
};
/* Simple mode (no monitor): both above zero, so that nothing hangs for ever. */
enum { DEVICE_TIMEOUT_DEFAULT = 45, DEVICE_DEAD_TIMEOUT_DEFAULT = 60 };

/* ---- Names ---- */

/*
 * "/dev/nbdN", "nbdN", "N", or a link in /dev to one. A partition node is refused with a hint to
 * its disk, anything else with EINVAL.
 */
int device_parse(const char *text, int *index, struct error *err);
/* Is text spelled like one of the first three forms (so it cannot be an attach's name)? */
bool device_spelling(const char *text);
/* "/dev/nbdNpM" or "nbdNpM"? */
bool device_is_partition(const char *text);
const char *device_path(int index, char path[DEVICE_PATH_SIZE]);

/* ---- The two interfaces ---- */

enum device_choice { DEVICE_CHOICE_AUTO, DEVICE_CHOICE_NETLINK, DEVICE_CHOICE_IOCTL };

/* Client flags of the netlink interface. */
enum {
	DEVICE_CLIENT_DESTROY = 1 << 0, /* the device vanishes after the disconnect */
	DEVICE_CLIENT_CLOSE = 1 << 1,   /* disconnects at any last close: never while attaching */
};

struct device_request {
	int index;          /* or DEVICE_INDEX_ANY */
	const int *sockets; /* connected, blocking, handshake done to the last byte */
	size_t socket_count;
	uint64_t size;         /* bytes, a multiple of block_size */
	uint32_t block_size;   /* power of two, 512 or more */
	uint16_t flags;        /* NBD transmission flags */
	uint32_t timeout;      /* T, seconds, above 0 */
	uint32_t dead_timeout; /* D, seconds; netlink only */
	uint32_t client_flags; /* DEVICE_CLIENT_*; netlink only */
	const char *backend;   /* identifier or NULL */
};

struct device_interface {
	const char *name; /* "netlink", "ioctl" */
	/* Configures the device and starts it; *index is told when the kernel chose it. The sockets
	 * stay the caller's to close. */
	int (*connect)(const struct device_request *request, int *index, struct error *err);
	/* Ends the connection, also that of a device of the other interface. 0 when idle. */
	int (*disconnect)(int index, struct error *err);
	/* New sockets for dead ones; request as for connect, zero fields are not sent. */
	int (*reconfigure)(const struct device_request *request, struct error *err);
};

/*
 * Loads the module where it is missing, checks the rights and picks the interface. With AUTO and
 * no netlink family the ioctls are picked and *degraded (may be NULL) is set to true: the caller
 * says aloud what that costs.
 */
int device_interface_choose(enum device_choice choice, const struct device_interface **interface,
			    bool *degraded, struct error *err);

/* ---- State ---- */

struct device_state {
	int index;
	bool exists;
	bool attached;
	bool read_only;
	bool netlink;        /* attached by netlink (5.14 and later tell) */
	int pid;             /* who attached it; netlink: most often gone */
	uint64_t size;       /* bytes, 0 = detached */
	uint32_t block_size; /* logical */
	unsigned int queues; /* hardware queues: connections, at most one per CPU */
	unsigned int partitions;
	char backend[DEVICE_BACKEND_MAX + 56];
};

/* Reads sysfs; a missing device is exists = false, not an error. */
int device_state_read(int index, struct device_state *state, struct error *err);
/* Calls visit for each nbd device in rising order until it returns non-zero; returns that. */
int device_each(int (*visit)(const struct device_state *state, void *context), void *context);

/* The backend identifier "v1;LABEL;URI;KEY=VALUE..."; what does not fit is cut, in the URI. */
void device_backend_build(char backend[DEVICE_BACKEND_MAX + 1], const char *label, const char *uri,
			  unsigned int connections);
struct device_backend {
	char label[DEVICE_LABEL_MAX + 1];
	char uri[DEVICE_BACKEND_MAX + 1];
	unsigned int connections; /* 0 = not told */
};
/* False when another program wrote it; then *out is empty. */
bool device_backend_parse(const char *backend, struct device_backend *out);
/* May label name an attach? [A-Za-z0-9._:@-]{1,64}, and spelled like no device. */
bool device_label_valid(const char *label);
/* The attached device with this label; -ENOENT (no error text) when there is none. */
int device_find_label(const char *label, int *index);

/* ---- Attach ---- */

struct device_attach {
	struct device_request request;
	uint32_t max_payload;   /* the server's limit; 0 = 32 MiB */
	uint32_t ready_seconds; /* wait for size, partitions, nodes, udev; 0 = 30 */
	bool no_wait;           /* return when the kernel has the device */
};

/*
 * Attaches and makes ready: cures what an earlier attach left on the index, connects (EBUSY is
 * retried, then the holder is named), sets the queue limits, waits until the size is right,
 * partitions are scanned, their nodes are there and udev has settled. On failure after the
 * connect the device is given back. The server must be able to answer while this runs: partition
 * tables are read.
 */
int device_attach(const struct device_interface *interface, const struct device_attach *attach,
		  int *index, struct error *err);

/*
 * All of the above for one end of a socketpair or one connected socket: chooses the interface,
 * block = max(512, minimum_block), size rounded down to it. Closes nothing. *index in:
 * the wanted device or DEVICE_INDEX_ANY, out: the device. For hawserd -c: run it on a thread of
 * its own while the server serves the other end, which speaks transmission at once (no
 * handshake, simple replies).
 */
struct device_socket {
	int fd;
	uint64_t size;
	uint16_t flags;
	uint32_t minimum_block; /* the server's limits; 0 = none told */
	uint32_t max_payload;
	const char *label; /* or NULL */
	const char *uri;   /* what the device is: "file:///path"; or NULL */
};
int device_attach_socket(const struct device_socket *socket, int *index, struct error *err);

/* ---- Detach ---- */

struct device_detach {
	bool force;       /* also when mounted, held, or not to be flushed */
	uint32_t seconds; /* for the flush and for the driver to let go; 0 = 30 */
};

/*
 * Flushes, refuses (EBUSY, naming each) when somebody holds the device, disconnects, waits until
 * the driver has let go and stale partition nodes are gone. A device that is not attached gives
 * -ENOTCONN with a sentence; hawserd -d makes a success of it.
 */
int device_detach(const struct device_interface *interface, int index,
		  const struct device_detach *detach, struct error *err);

#endif
