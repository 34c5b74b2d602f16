/* SPDX-License-Identifier: MIT */
/*
 * The server as a whole: an export made from options, the sockets it is served on, the life from
 * start to drain. The front (main, options, listener) fills a configuration; nothing below it
 * reads command lines.
 */
#ifndef HAWSER_SERVER_SERVER_H
#define HAWSER_SERVER_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "partition/partition.h"

struct authz;
struct image_node;
struct server;
struct throttle_group;
struct tls_creds;

/* How an image is opened for writing. */
enum image_access {
	IMAGE_READ_WRITE,     /* fail where writing is not possible */
	IMAGE_READ_ONLY,      /* never write */
	IMAGE_AUTO_READ_ONLY, /* write where possible, degrade with a notice where not */
};

/* What TRIM, and zeroes that may become holes, do to the host (--discard). */
enum discard_mode {
	DISCARD_IGNORE, /* what is allocated stays allocated */
	DISCARD_UNMAP,  /* it is given back */
};

/* What becomes of written bytes that are all zeroes (--detect-zeroes). */
enum detect_zeroes {
	DETECT_ZEROES_OFF,   /* they are written */
	DETECT_ZEROES_ON,    /* the place is zeroed, and stays allocated if it was */
	DETECT_ZEROES_UNMAP, /* the place becomes a hole; with DISCARD_UNMAP only */
};

/* What an acknowledged write means, and whether the host's page cache is used (--cache). */
struct cache_mode {
	bool direct;        /* around the page cache (O_DIRECT) */
	bool write_through; /* a write is answered when it is on stable storage */
	bool ignore_flush;  /* flushes do nothing: for images that may be lost */
};

/* Dirty bitmaps of one export. */
enum { SERVER_BITMAPS_MAX = 62 };

/* One export. Strings belong to the caller and outlive the server. */
struct export_config {
	const char *file;                /* path of the image, or the text that describes it */
	const struct image_node *node;   /* that description; NULL: file is a path */
	const char *throttle_group;      /* the object that limits the export, or NULL */
	struct throttle_group *throttle; /* that object, once it is made; the caller's */
	const char *format;              /* "raw", or NULL to probe */
	const char *name;                /* export name, "" is the default export */
	const char *description;         /* NULL or "" for none */
	uint64_t offset;                 /* start of the window, bytes */
	const char *load_snapshot;       /* -l: an internal snapshot instead of the disk, or NULL */
	bool snapshot;                   /* -s: writes go to a temporary overlay */
	bool no_references;              /* refuse an image that names other files */
	bool drop_bitmaps;               /* write although dirty bitmaps become void */
	bool allocation_depth;           /* -A: tell which image of a chain holds what */
	const char *const *bitmaps;      /* -B: names of the dirty bitmaps to tell */
	size_t bitmap_count;             /* at most SERVER_BITMAPS_MAX */
	enum image_access access;
	struct cache_mode cache;
	enum discard_mode discard;
	enum detect_zeroes detect_zeroes;
	const struct object_set *objects; /* where a description's key-secret is found */
	const struct secret *key_secret;  /* opens an encrypted image; NULL: none was given */
	/* -P: the window is this partition; text NULL: it begins at offset. */
	struct partition_choice partition;
};

/* Encryption that every client must begin with. Both belong to the caller and outlive the server;
 * while it runs only its loop uses them. */
struct server_tls {
	struct tls_creds *creds; /* NULL: no TLS */
	struct authz *authz;     /* who may come in; NULL: whoever the credentials let in */
};

struct server_config {
	struct export_config export_;
	struct server_tls tls;       /* with it SIGHUP loads the credentials again */
	uint32_t max_clients;        /* -e: 0 = unlimited */
	bool persistent;             /* -t: go on after the last client */
	uint32_t handshake_limit_ms; /* 0 = none */
	bool keep_memory_locked;     /* reclaim-safe service of a local kernel device */
	bool signals_elsewhere;      /* server_run leaves signals alone: the caller takes them */
	/* Told once, when the drain begins, on the thread of server_run; must not block. NULL:
	 * nobody. */
	void (*stopping)(void *context);
	void *stopping_context;
};

/*
 * Opens the image and makes the export; starts no thread and opens no socket, so the caller may
 * still fork. On failure nothing is left behind and *server is NULL. 0 or -errno with err set.
 */
int server_open(struct server **server, const struct server_config *config, struct error *err);

/* What was opened, for the messages of the front. Valid as long as the server is. */
uint64_t server_size(const struct server *server);
bool server_read_only(const struct server *server);

/* Serves on these listening sockets from now on (ownership stays with the caller, who closes and
 * unlinks after server_run). Call before server_run. */
int server_add_listener(struct server *server, int fd, struct error *err);

/* Adds one already connected client (socketpair of a kernel device, stdin of inetd). Takes fd. */
int server_add_client(struct server *server, int fd, struct error *err);

/*
 * Serves until the work is over: the last negotiated client left (unless persistent), or
 * server_stop() or SIGINT, SIGTERM, SIGHUP was received (SIGHUP: not with TLS); drains, flushes,
 * and returns 0, or a negative errno with err set when the service could not go on. The calling
 * thread runs the accept loop. After -ETIMEDOUT threads are still stuck in the disk: end the
 * process without server_close(). The caller has blocked SIGINT, SIGTERM, SIGHUP and ignored
 * SIGPIPE before any thread existed.
 */
int server_run(struct server *server, struct error *err);

/* Asks a running server to drain and return. Async-signal-safe; any thread. */
void server_stop(struct server *server);

void server_close(struct server *server);

#endif
