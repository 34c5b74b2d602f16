// SPDX-License-Identifier: MIT
/* Block status over libnbd, one request at a time. The main thread. */
#include "map.h"

#include <errno.h>
#include <inttypes.h>
#include <libnbd.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/dial.h"
#include "credentials.h"
#include "relay.h"
#include "common/nbd-protocol.h"
#include "common/printable.h"
#include "common/size.h"

/* One request; libnbd 1.14 has 32-bit lengths. A multiple of every block size. */
#define STEP (UINT64_C(1) << 31)

struct walk {
	struct nbd_handle *nbd;
	struct relay_thread relay;
	const char *name; /* of the context */
	uint64_t timeout;
	uint64_t size;
	uint64_t at;   /* everything before it has been told */
	bool answered; /* the request in flight told the map at least once */
	/* The run that may still grow. */
	uint64_t run_start;
	uint32_t run_type;
	map_visit *visit;
	void *context;
};

static void close_handle(struct nbd_handle **nbd)
{
	nbd_close(*nbd);
}

/* libnbd's sentence, which may quote the server. */
static int library_fault(const char *what, struct error *err)
{
	const char *text = nbd_get_error();
	int code = nbd_get_errno();
	char shown[600];

	printable_copy(shown, sizeof(shown), text ? text : "no reason given",
		       text ? strlen(text) : 15);
	return error_set(err, code > 0 ? code : EIO, "%s: %s", what, shown);
}

/* Drives the handle until done() or until nothing came for timeout seconds. */
static int drive(struct walk *walk, bool (*done)(struct walk *walk, int64_t cookie), int64_t cookie,
		 const char *what, struct error *err)
{
	uint64_t limit = walk->timeout ? walk->timeout * CLOCK_SECOND : CLOCK_NEVER;
	uint64_t deadline = limit == CLOCK_NEVER ? CLOCK_NEVER : clock_now() + limit;

	while (!done(walk, cookie)) {
		int rc = nbd_poll(walk->nbd, clock_poll_timeout(deadline));

		if (rc < 0)
			return library_fault(what, err);
		if (rc == 0 && clock_now() >= deadline)
			return error_set(err, ETIMEDOUT, "%s: the server did not answer in time",
					 what);
	}
	return 0;
}

static bool connected(struct walk *walk, int64_t cookie)
{
	(void)cookie;
	return !nbd_aio_is_connecting(walk->nbd);
}

/* Also when it failed: nbd_aio_command_completed() is asked again for the result. */
static bool completed(struct walk *walk, int64_t cookie)
{
	return nbd_aio_is_dead(walk->nbd) > 0 ||
	       nbd_aio_peek_command_completed(walk->nbd) == cookie;
}

static int missing(const char *name, struct error *err)
{
	char shown[300];

	if (!strcmp(name, NBD_CONTEXT_ALLOCATION))
		return error_set(err, EOPNOTSUPP,
				 "the server does not tell which parts of the export are holes "
				 "(it has no base:allocation)");
	printable_copy(shown, sizeof(shown), name, strlen(name));
	return error_set(err, EOPNOTSUPP,
			 "the server has no context '%s' for this export; 'hawser info' shows "
			 "which it has",
			 shown);
}

/* Bits that a later version of the protocol may define are of no interest. */
static uint32_t known_bits(const char *name, uint32_t type)
{
	return strcmp(name, NBD_CONTEXT_ALLOCATION) ? type
						    : type & (NBD_STATE_HOLE | NBD_STATE_ZERO);
}

/* Our own TLS, so that the library's idea of whom to trust is none of our worries. */
static int secure_socket(struct walk *walk, struct tls_creds *creds, const struct nbd_uri *uri,
			 uint64_t deadline, int *fd, struct error *err)
{
	struct client_handshake handshake;
	struct transport transport;
	int socket, rc = dial_uri(uri, deadline, &socket, err);

	if (rc)
		return rc;
	transport_init_plain(&transport, socket);
	rc = client_handshake_start(&handshake, &transport, deadline, err);
	if (!rc)
		rc = client_handshake_tls(&handshake, creds, credentials_host(uri), err);
	if (!rc)
		rc = relay_start_thread(&walk->relay, &handshake, fd, err);
	transport_close(&transport, TRANSPORT_CLOSE_DROP);
	return rc;
}

static int open_socket(struct walk *walk, const struct nbd_uri *uri, uint64_t deadline, int *fd,
		       struct error *err)
{
	struct tls_creds *creds = NULL;
	int rc;

	if (!uri->tls)
		return dial_uri(uri, deadline, fd, err);
	rc = credentials_load(uri, &creds, err);
	if (!rc)
		rc = secure_socket(walk, creds, uri, deadline, fd, err);
	tls_creds_free(creds);
	return rc;
}

static void end_walk(struct walk *walk)
{
	relay_finish_thread(&walk->relay);
}

static int open_handle(struct walk *walk, const struct nbd_uri *uri, struct error *err)
{
	static const char what[] = "cannot read the map";
	uint64_t deadline =
		walk->timeout ? clock_now() + walk->timeout * CLOCK_SECOND : CLOCK_NEVER;
	AUTO_CLOSE int fd = -1;
	int64_t size;
	int rc = open_socket(walk, uri, deadline, &fd, err);

	if (rc)
		return rc;
	walk->nbd = nbd_create();
	if (!walk->nbd || nbd_set_export_name(walk->nbd, uri->export_) ||
	    nbd_add_meta_context(walk->nbd, walk->name) || nbd_aio_connect_socket(walk->nbd, fd))
		return library_fault(what, err);
	take_fd(&fd);
	rc = drive(walk, connected, 0, what, err);
	if (rc)
		return rc;
	if (nbd_aio_is_ready(walk->nbd) <= 0)
		return library_fault(what, err);
	if (nbd_can_meta_context(walk->nbd, walk->name) <= 0)
		return missing(walk->name, err);
	size = nbd_get_size(walk->nbd);
	if (size < 0)
		return library_fault(what, err);
	walk->size = (uint64_t)size;
	return 0;
}

static void end_run(struct walk *walk)
{
	if (walk->at > walk->run_start)
		walk->visit(walk->context, walk->run_start, walk->at - walk->run_start,
			    walk->run_type);
	walk->run_start = walk->at;
}

/* libnbd gives entries as pairs of length and type. The answer may be shorter than asked, and its
 * last extent may reach beyond the request, even beyond the end (C32). */
static int take_extents(void *context, const char *name, uint64_t offset, uint32_t *entries,
			size_t count, int *error)
{
	struct walk *walk = context;

	(void)error;
	if (strcmp(name, walk->name) != 0 || offset != walk->at || walk->answered)
		return 0;
	walk->answered = true;
	for (size_t i = 0; i + 1 < count; i += 2) {
		uint32_t type = known_bits(walk->name, entries[i + 1]);

		if (type != walk->run_type)
			end_run(walk);
		walk->run_type = type;
		walk->at += min_of((uint64_t)entries[i], walk->size - walk->at);
	}
	return 0;
}

static int step(struct walk *walk, struct error *err)
{
	static const char what[] = "cannot read the map";
	nbd_extent_callback extents = {.callback = take_extents, .user_data = walk};
	uint64_t before = walk->at;
	uint64_t length = min_of(walk->size - before, STEP);
	int64_t cookie;
	int rc;

	walk->answered = false;
	cookie = nbd_aio_block_status(walk->nbd, length, before, extents, NBD_NULL_COMPLETION, 0);
	if (cookie < 0)
		return library_fault(what, err);
	rc = drive(walk, completed, cookie, what, err);
	if (rc)
		return rc;
	if (nbd_aio_command_completed(walk->nbd, (uint64_t)cookie) <= 0)
		return library_fault(what, err);
	if (walk->at == before)
		return error_set(err, EPROTO,
				 "%s: the server says nothing about the bytes from %" PRIu64, what,
				 before);
	return 0;
}

int map_walk(const struct nbd_uri *uri, const char *name, uint64_t timeout, map_visit *visit,
	     void *context, struct error *err)
{
	__attribute__((cleanup(close_handle))) struct nbd_handle *nbd = NULL;
	__attribute__((cleanup(end_walk))) struct walk walk = {
		.name = name, .timeout = timeout, .visit = visit, .context = context};
	int rc = open_handle(&walk, uri, err);

	nbd = walk.nbd;
	while (!rc && walk.at < walk.size)
		rc = step(&walk, err);
	if (rc)
		return rc;
	end_run(&walk);
	/* A goodbye, so that the server does not count a lost client. */
	nbd_shutdown(nbd, 0);
	return 0;
}

/* ---- Words ---- */

static const char *allocation_words(uint32_t type)
{
	static const char *const words[] = {
		[0] = "data",
		[NBD_STATE_HOLE] = "hole",
		[NBD_STATE_ZERO] = "zero",
		[NBD_STATE_HOLE | NBD_STATE_ZERO] = "hole,zero",
	};

	return type < sizeof(words) / sizeof(words[0]) ? words[type] : NULL;
}

static const char *depth_words(uint32_t depth, char text[MAP_WORDS_MAX])
{
	if (depth < 2)
		return depth ? "local" : "absent";
	snprintf(text, MAP_WORDS_MAX, "backing depth %" PRIu32, depth);
	return text;
}

static const char *dirty_words(uint32_t type)
{
	if (type & ~(uint32_t)NBD_STATE_DIRTY)
		return NULL;
	return type ? "dirty" : "clean";
}

const char *map_words(const char *name, uint32_t type, char text[MAP_WORDS_MAX])
{
	if (!strcmp(name, NBD_CONTEXT_ALLOCATION))
		return allocation_words(type);
	if (!strcmp(name, NBD_CONTEXT_ALLOCATION_DEPTH))
		return depth_words(type, text);
	if (!strncmp(name, NBD_CONTEXT_DIRTY_BITMAP, strlen(NBD_CONTEXT_DIRTY_BITMAP)))
		return dirty_words(type);
	return NULL;
}
