/* SPDX-License-Identifier: MIT */
/*
 * The server's side of the newstyle handshake as a pure machine: bytes in, bytes out, no I/O, no
 * clock. Whoever owns the connection feeds what arrived and sends what came out, so a mute or slow
 * peer costs no thread. S-numbers cite the protocol rules in the tests.
 *
 * One thread at a time. All state that STARTTLS must forget is in struct handshake_terms.
 */
#ifndef HAWSER_SERVER_HANDSHAKE_H
#define HAWSER_SERVER_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/nbd-protocol.h"
#include "export.h"
#include "outbuf.h"

enum {
	/*
	 * The longest option that the protocol can need: SET_META_CONTEXT with a longest name and
	 * three longest queries. Longer ones are refused without being stored.
	 */
	HANDSHAKE_OPTION_MAX = 16 << 10,
	/* Longer than this is an attack and ends the connection (S7). */
	HANDSHAKE_SWALLOW_MAX = 1 << 20,
	/* Options a client may send; listing many exports one by one stays far below. */
	HANDSHAKE_OPTIONS_MAX = 4096,
	/* No further option is begun while this much waits to be sent. */
	HANDSHAKE_OUTPUT_MAX = 64 << 10,
};

enum handshake_phase {
	HANDSHAKE_FLAGS,   /* the greeting is out, client flags are awaited */
	HANDSHAKE_OPTIONS, /* haggling */
	HANDSHAKE_SWALLOW, /* the rest of an over-long option passes by */
	HANDSHAKE_FULL,    /* a client slot is awaited: feed again when one is free */
	HANDSHAKE_OPENING, /* the image is being opened: feed again when that has ended */
	HANDSHAKE_DONE,    /* transmission begins with the next byte */
	HANDSHAKE_TLS,     /* send what is in out, then TLS begins: handshake_secured() */
	HANDSHAKE_CLOSE,   /* send what is in out, then close politely (ABORT) */
	HANDSHAKE_DROP,    /* close at once: the peer broke a MUST */
};

/* What was agreed; transmission reads it. */
struct handshake_terms {
	bool structured;
	bool extended;
	uint64_t contexts;    /* of block status: a bit each, its number the id */
	char *context_export; /* the name that the selection is valid for, or NULL (S46) */
};

/* What a client may do with an export that is opened as its clients need it. */
enum handshake_right { RIGHT_NONE, RIGHT_READ, RIGHT_WRITE };

struct access;

/* What the machine asks of its world. */
struct handshake_world {
	struct export *exports;
	size_t export_count;
	/* A client enters transmission: false when all slots are taken. */
	bool (*take_slot)(void *context);
	void *context;
	bool tls; /* nothing is to be had without TLS (FORCEDTLS) */
	/* Who gives rights to clients of an export that is opened as they need it. NULL:
	 * export->read_only tells. */
	struct access *access;
};

struct handshake {
	const struct handshake_world *world;
	enum handshake_phase phase;
	unsigned int client; /* whose it is, for traces */
	bool fixed;          /* the client knows fixed newstyle */
	bool no_zeroes;
	bool secured;         /* TLS is on */
	bool shutting_down;   /* every option but ABORT gets ERR_SHUTDOWN (S10) */
	bool slot_refused;    /* waiting for a slot took too long */
	bool info_block_size; /* the client asked for block sizes */
	unsigned int options;
	uint32_t option;            /* the one in hand */
	enum handshake_right right; /* of access.h; TLS does not change it */
	uint64_t attempt;           /* of access.h: what this client waits for */
	uint64_t swallow;
	struct handshake_terms terms;
	struct export *export_; /* the chosen one, when phase is HANDSHAKE_DONE */
	struct outbuf *out;
};

/* Sends the greeting into out, which stays the owner's. */
void handshake_start(struct handshake *handshake, const struct handshake_world *world,
		     struct outbuf *out);

/*
 * Takes what can be taken of data and returns how many bytes were used; call again when more has
 * arrived behind the rest, or when output was sent. At most HANDSHAKE_OPTION_MAX + 16 bytes are
 * ever left over. Look at phase afterwards.
 */
size_t handshake_feed(struct handshake *handshake, const uint8_t *data, size_t length);

/* TLS is on: haggling begins anew, on what comes from the transport now. Phase HANDSHAKE_TLS, and
 * no byte that came in clear may be left over. */
void handshake_secured(struct handshake *handshake);

void handshake_clear(struct handshake *handshake);

/* Is the export read-only for this client? */
static inline bool handshake_read_only(const struct handshake *handshake,
				       const struct export *export)
{
	return handshake->world->access ? handshake->right != RIGHT_WRITE : export->read_only;
}

#endif
