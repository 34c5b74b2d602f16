/* SPDX-License-Identifier: MIT */
/*
 * The initiating side of the handshake, for attach, list and info (and hawserd -L). Works over a
 * transport, up to a deadline, and takes every byte of the handshake and not one more: after GO
 * the next byte on the socket belongs to whoever gets it (the kernel). The peer is hostile:
 * every length is checked before use, memory and the number of replies are bounded.
 *
 * One thread uses a handshake. The functions return 0 or one of these, with err set:
 *
 *   -ENOENT      the server does not know the export
 *   -ENOKEY      the server demands TLS (for this export, or at all)
 *   -EACCES      refused by the server's policy
 *   -EOPNOTSUPP  the server does not know the option
 *   -EINVAL      the server finds the option invalid, or refuses it for another reason
 *   -ESHUTDOWN   the server is shutting down
 *   -EPROTO      the peer broke the protocol, or is no NBD server of the newstyle kind
 *   -E2BIG       an answer, or their number, is above our limits; or the option above the server's
 *   -EFBIG       the export is 2^63 bytes or more
 *   -ECONNRESET  the peer closed the connection
 *   -ETIMEDOUT   the deadline passed
 *   -ENOMEM, or another errno of the socket
 *
 * After -EPROTO, -ECONNRESET, -ETIMEDOUT, -E2BIG by our limits and socket errors the conversation
 * is over (client_handshake_alive() is false); after the others the next option may be sent
 * (but to -ESHUTDOWN the only answer is to leave, C6).
 */
#ifndef HAWSER_COMMON_CLIENT_HANDSHAKE_H
#define HAWSER_COMMON_CLIENT_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "nbd-protocol.h"
#include "tls.h"
#include "transport.h"

struct nbd_context {
	uint32_t id;
	char *name;
};

/* What a server tells about one export. Strings are owned, as the peer sent them: make them
 * printable.h before showing them. */
struct nbd_export_info {
	char *name;        /* as the server calls it, or as asked for */
	char *description; /* NULL: none */
	bool has_size;     /* size and flags are known (false for a mere LIST entry) */
	uint64_t size;
	uint16_t flags;       /* NBD_FLAG_*; 0 when the server set no HAS_FLAGS */
	bool has_block_sizes; /* the three below are the server's, else the defaults (C13) */
	uint32_t minimum;
	uint32_t preferred;
	uint32_t maximum; /* payload; UINT32_MAX: no limit */
	size_t context_count;
	struct nbd_context *contexts;
};

struct nbd_export_list {
	size_t count;
	struct nbd_export_info *exports;
};

void nbd_export_info_init(struct nbd_export_info *info);
void nbd_export_info_clear(struct nbd_export_info *info);
void nbd_export_list_clear(struct nbd_export_list *list);

enum client_handshake_phase {
	CLIENT_HANDSHAKE_OVER,         /* not begun, left, or broken */
	CLIENT_HANDSHAKE_HAGGLING,     /* options may be sent */
	CLIENT_HANDSHAKE_TRANSMISSION, /* after GO or EXPORT_NAME */
};

struct client_handshake {
	struct transport *transport; /* lent */
	uint64_t deadline;
	enum client_handshake_phase phase;
	uint16_t server_flags; /* of the greeting */
	uint16_t client_flags; /* what we answered */
	bool structured;       /* structured replies were agreed on */
	bool used_export_name; /* the export was entered by the old EXPORT_NAME */
};

static inline bool client_handshake_alive(const struct client_handshake *handshake)
{
	return handshake->phase == CLIENT_HANDSHAKE_HAGGLING;
}

/* Reads the greeting and answers it. deadline (clock.h) holds for the whole conversation. */
int client_handshake_start(struct client_handshake *handshake, struct transport *transport,
			   uint64_t deadline, struct error *err);

/*
 * Changes to TLS, which must come before all other options: STARTTLS, and the handshake of TLS. A
 * server that refuses it ends the conversation; there is no going on in clear (C17). host as in
 * tls_start(). Also -EKEYREJECTED, when the server's certificate is not to be trusted, and
 * -ECONNABORTED, when TLS failed for another reason; both end the conversation.
 */
int client_handshake_tls(struct client_handshake *handshake, struct tls_creds *creds,
			 const char *host, struct error *err);

/* Asks for structured replies; a refusal is no error, it leaves handshake->structured false.
 * Never before handing the socket to the kernel: it knows simple replies only. */
int client_handshake_structured(struct client_handshake *handshake, struct error *err);

/* Names and descriptions of all exports; *list is empty on failure. */
int client_handshake_list(struct client_handshake *handshake, struct nbd_export_list *list,
			  struct error *err);

/* All about one export without entering it. info is initialised here, empty on failure. */
int client_handshake_info(struct client_handshake *handshake, const char *name,
			  struct nbd_export_info *info, struct error *err);

/* Enters the export: GO, or EXPORT_NAME where the server has no GO (C4). */
int client_handshake_go(struct client_handshake *handshake, const char *name,
			struct nbd_export_info *info, struct error *err);

/* Metadata contexts of the export that match one of the queries (count 0: all), into
 * info->contexts. LIST only looks; SET selects for the GO that follows. Both need structured
 * replies, else -EOPNOTSUPP. */
int client_handshake_list_contexts(struct client_handshake *handshake, const char *name,
				   const char *const *queries, size_t count,
				   struct nbd_export_info *info, struct error *err);
int client_handshake_set_contexts(struct client_handshake *handshake, const char *name,
				  const char *const *queries, size_t count,
				  struct nbd_export_info *info, struct error *err);

/*
 * Leaves politely: ABORT, and a moment for its answer, while haggling (C6); DISC after GO. Nothing
 * is sent once the transport gave its socket away (transport_release): then the connection is the
 * kernel's. The transport stays open: the caller closes it.
 */
void client_handshake_abort(struct client_handshake *handshake);

/* ---- Pure parsers of what a server sends; payload of one reply (fuzzed) ---- */

/* The first length bytes of a greeting: 0, or -EPROTO with a sentence that tells what is wrong.
 * *flags is set from 18 bytes on. */
int client_greeting_parse(const void *greeting, size_t length, uint16_t *flags, struct error *err);

/* Longest reply we read: the longest legal one has two strings of NBD_STRING_MAX bytes. */
enum { CLIENT_REPLY_MAX = 65536 };

/* Header of a reply to option: -EPROTO, or -E2BIG above CLIENT_REPLY_MAX. */
struct client_reply {
	uint32_t type;
	uint32_t length;
};
int client_reply_parse(const void *header, uint32_t option, struct client_reply *reply,
		       struct error *err);

/* REP_SERVER, REP_INFO, REP_META_CONTEXT into what they add; -EPROTO, -EFBIG or -ENOMEM. */
int client_server_parse(const void *payload, uint32_t length, struct nbd_export_info *info,
			struct error *err);
int client_info_parse(const void *payload, uint32_t length, struct nbd_export_info *info,
		      struct error *err);
int client_context_parse(const void *payload, uint32_t length, struct nbd_context *context,
			 struct error *err);

/* Sets err for an error reply to option (about an export, or NULL); returns the matching -errno of
 * the table above. */
int client_reply_error(uint32_t option, uint32_t type, const void *message, uint32_t length,
		       const char *export_name, struct error *err);

#endif
