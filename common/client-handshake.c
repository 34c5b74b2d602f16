// SPDX-License-Identifier: MIT
/*
 * The conversation of the handshake: options out, replies in, one after the other (C3). What the
 * replies mean is in client-handshake-parse.c. Reads exactly what the lengths say, because the
 * byte after the handshake is not ours. The caller's thread; may block until the deadline.
 */
#include "client-handshake.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "clock.h"
#include "printable.h"
#include "size.h"

enum {
	/* A server may have many exports; more is an attack on our memory. */
	LIST_MAX = 65536,
	CONTEXTS_MAX = 1024,
	INFOS_MAX = 256,
	/* All replies to one option together. */
	ANSWER_MAX = 16 << 20,
	EXPORT_NAME_ANSWER = 10,
	EXPORT_NAME_ZEROES = 124,
};
/* How long a peer may take to answer our goodbye. */
#define GOODBYE_LIMIT CLOCK_SECOND

/* One option and what its answers are to do. */
struct exchange {
	uint32_t option;
	const char *export_name; /* NULL: the option is about no export */
	const void *data;
	uint32_t length;
	uint32_t content;   /* type of the replies that carry something; 0: none may come */
	size_t content_max; /* how many of them */
	int (*take)(void *into, const void *payload, uint32_t length, struct error *err);
	void *into;
};

/* ---- Bytes ---- */

static int broken(struct client_handshake *handshake, int code)
{
	handshake->phase = CLIENT_HANDSHAKE_OVER;
	return code;
}

static int stream_fault(struct client_handshake *handshake, int code, const char *during,
			struct error *err)
{
	if (code == -ECONNRESET || code == -EPIPE)
		error_set(err, ECONNRESET, "the server closed the connection during %s", during);
	else if (code == -ETIMEDOUT)
		error_set(err, ETIMEDOUT, "the server did not answer in time during %s", during);
	else if (transport_reason(handshake->transport))
		error_set(err, -code, "the connection failed during %s: %s", during,
			  transport_reason(handshake->transport));
	else
		error_set_errno(err, -code, "the connection failed during %s", during);
	return broken(handshake, code == -EPIPE ? -ECONNRESET : code);
}

static int read_bytes(struct client_handshake *handshake, void *buffer, size_t length,
		      const char *during, struct error *err)
{
	int rc = transport_read_full(handshake->transport, buffer, length, handshake->deadline);

	return rc ? stream_fault(handshake, rc, during, err) : 0;
}

static int write_bytes(struct client_handshake *handshake, const void *buffer, size_t length,
		       const char *during, struct error *err)
{
	int rc = transport_write_full(handshake->transport, buffer, length, handshake->deadline);

	return rc ? stream_fault(handshake, rc, during, err) : 0;
}

/* ---- Greeting ---- */

static int read_greeting(struct client_handshake *handshake, struct error *err)
{
	static const char during[] = "the greeting";
	uint8_t greeting[sizeof(struct nbd_greeting_wire)];
	int rc;

	/* In two steps, because a peer that is no NBD server may say less than a greeting. */
	rc = read_bytes(handshake, greeting, 8, during, err);
	if (rc == -ECONNRESET)
		error_hint(err, "; it may not admit this client, or be no NBD server");
	if (rc == -ETIMEDOUT)
		error_hint(err, "; it may be no NBD server, or be busy with another client");
	if (rc)
		return rc;
	rc = client_greeting_parse(greeting, 8, NULL, err);
	if (rc)
		return broken(handshake, rc);
	rc = read_bytes(handshake, greeting + 8, sizeof(greeting) - 8, during, err);
	if (rc)
		return rc;
	rc = client_greeting_parse(greeting, sizeof(greeting), &handshake->server_flags, err);
	return rc ? broken(handshake, rc) : 0;
}

int client_handshake_start(struct client_handshake *handshake, struct transport *transport,
			   uint64_t deadline, struct error *err)
{
	uint8_t answer[4];
	int rc;

	*handshake = (struct client_handshake){.transport = transport, .deadline = deadline};
	rc = read_greeting(handshake, err);
	if (rc)
		return rc;
	/* Only what was offered, and nothing else (C2). */
	handshake->client_flags =
		handshake->server_flags & (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	store_be32(answer, handshake->client_flags);
	rc = write_bytes(handshake, answer, sizeof(answer), "the greeting", err);
	if (!rc)
		handshake->phase = CLIENT_HANDSHAKE_HAGGLING;
	return rc;
}

/* ---- One option and its replies ---- */

static int send_option(struct client_handshake *handshake, const struct exchange *exchange,
		       struct error *err)
{
	size_t length = sizeof(struct nbd_option_wire) + exchange->length;
	AUTO_FREE uint8_t *message = malloc(length);
	size_t header;

	if (!message)
		return error_set_errno(err, ENOMEM, "cannot ask the server");
	header = nbd_option_build(message, exchange->option, exchange->length);
	if (exchange->length)
		memcpy(message + header, exchange->data, exchange->length);
	return write_bytes(handshake, message, length, nbd_option_name(exchange->option), err);
}

/* What the replies to one option may still cost. */
struct answer {
	uint8_t *payload;
	size_t content_left;
	size_t bytes_left;
	int fault; /* of our own, kept until the last reply was read */
};

static int read_reply(struct client_handshake *handshake, const struct exchange *exchange,
		      struct answer *answer, struct client_reply *reply, struct error *err)
{
	const char *during = nbd_option_name(exchange->option);
	uint8_t header[sizeof(struct nbd_option_reply_wire)];
	int rc = read_bytes(handshake, header, sizeof(header), during, err);

	if (rc)
		return rc;
	rc = client_reply_parse(header, exchange->option, reply, err);
	if (!rc && reply->length > answer->bytes_left)
		rc = error_set(err, E2BIG, "the server's answers to %s exceed %d MiB", during,
			       ANSWER_MAX >> 20);
	if (rc)
		return broken(handshake, rc);
	answer->bytes_left -= reply->length;
	return read_bytes(handshake, answer->payload, reply->length, during, err);
}

static int take_content(struct client_handshake *handshake, const struct exchange *exchange,
			struct answer *answer, uint32_t length, struct error *err)
{
	int rc;

	if (answer->content_left-- == 0) {
		error_set(err, E2BIG, "the server answers %s more than %zu times",
			  nbd_option_name(exchange->option), exchange->content_max);
		return broken(handshake, -E2BIG);
	}
	if (answer->fault)
		return 0;
	rc = exchange->take(exchange->into, answer->payload, length, err);
	if (rc == -EPROTO)
		return broken(handshake, rc);
	answer->fault = rc;
	return 0;
}

/* Is it the last reply to its option? Then *rc is the result. */
static bool take_reply(struct client_handshake *handshake, const struct exchange *exchange,
		       struct answer *answer, const struct client_reply *reply, int *rc,
		       struct error *err)
{
	*rc = 0;
	if (reply->type & NBD_REP_ERROR(0)) {
		*rc = client_reply_error(exchange->option, reply->type, answer->payload,
					 reply->length, exchange->export_name, err);
		return true;
	}
	if (reply->type == NBD_REP_ACK && reply->length == 0) {
		/* We are in, even if what came with it is of no use to us. */
		if (exchange->option == NBD_OPT_GO)
			handshake->phase = CLIENT_HANDSHAKE_TRANSMISSION;
		*rc = answer->fault;
		return true;
	}
	if (exchange->content && reply->type == exchange->content) {
		*rc = take_content(handshake, exchange, answer, reply->length, err);
		return *rc != 0;
	}
	error_set(err, EPROTO, "the server answers %s with a reply that does not belong there (%s)",
		  nbd_option_name(exchange->option), nbd_reply_name(reply->type));
	*rc = broken(handshake, -EPROTO);
	return true;
}

static int exchange_option(struct client_handshake *handshake, const struct exchange *exchange,
			   struct error *err)
{
	AUTO_FREE uint8_t *payload = malloc(CLIENT_REPLY_MAX);
	struct answer answer = {payload, exchange->content_max, ANSWER_MAX, 0};
	struct client_reply reply;
	int rc;

	if (!client_handshake_alive(handshake))
		return error_set(err, ECONNRESET, "the conversation with the server is over");
	if (!(handshake->client_flags & NBD_FLAG_FIXED_NEWSTYLE))
		return error_set(err, EOPNOTSUPP,
				 "the server is too old to know %s (it has no fixed newstyle)",
				 nbd_option_name(exchange->option));
	if (!payload)
		return error_set_errno(err, ENOMEM, "cannot ask the server");
	rc = send_option(handshake, exchange, err);
	if (rc)
		return rc;
	do
		rc = read_reply(handshake, exchange, &answer, &reply, err);
	while (!rc && !take_reply(handshake, exchange, &answer, &reply, &rc, err));
	return rc;
}

/* ---- The options ---- */

int client_handshake_tls(struct client_handshake *handshake, struct tls_creds *creds,
			 const char *host, struct error *err)
{
	struct exchange exchange = {.option = NBD_OPT_STARTTLS};
	int rc = exchange_option(handshake, &exchange, err);

	if (rc) {
		error_wrap(err, "the server gives no TLS, and nothing is sent without");
		return broken(handshake, rc);
	}
	rc = tls_connect(handshake->transport, creds, host, handshake->deadline, err);
	if (rc == -EKEYREJECTED && host)
		error_hint(err, " (the name expected is '%s')", host);
	return rc ? broken(handshake, rc) : 0;
}

int client_handshake_structured(struct client_handshake *handshake, struct error *err)
{
	struct exchange exchange = {.option = NBD_OPT_STRUCTURED_REPLY};
	struct error refusal = ERROR_INIT;
	int rc = exchange_option(handshake, &exchange, &refusal);

	handshake->structured = rc == 0;
	/* Any refusal is fine; only a broken conversation, or its announced end, is not. */
	if (client_handshake_alive(handshake) && rc != -ESHUTDOWN)
		return 0;
	return error_set(err, -rc, "%s", refusal.text);
}

static int take_export(void *into, const void *payload, uint32_t length, struct error *err)
{
	struct nbd_export_list *list = into;
	struct nbd_export_info *grown;

	/* Room for the next power of two. */
	if ((list->count & (list->count - 1)) == 0) {
		size_t room = list->count ? 2 * list->count : 1;

		grown = reallocarray(list->exports, room, sizeof(*grown));
		if (!grown)
			return error_set_errno(err, ENOMEM, "cannot keep the list of exports");
		list->exports = grown;
	}
	nbd_export_info_init(&list->exports[list->count]);
	return client_server_parse(payload, length, &list->exports[list->count++], err);
}

int client_handshake_list(struct client_handshake *handshake, struct nbd_export_list *list,
			  struct error *err)
{
	struct exchange exchange = {
		.option = NBD_OPT_LIST,
		.content = NBD_REP_SERVER,
		.content_max = LIST_MAX,
		.take = take_export,
		.into = list,
	};
	int rc;

	*list = (struct nbd_export_list){0};
	rc = exchange_option(handshake, &exchange, err);
	if (rc)
		nbd_export_list_clear(list);
	return rc;
}

static int take_info(void *into, const void *payload, uint32_t length, struct error *err)
{
	return client_info_parse(payload, length, into, err);
}

/* The name of an export that is asked for; it also is what info->name starts with. */
static int check_name(const char *name, struct nbd_export_info *info, struct error *err)
{
	nbd_export_info_init(info);
	if (strlen(name) > NBD_STRING_MAX)
		return error_set(err, EINVAL, "an export name has at most %d bytes",
				 NBD_STRING_MAX);
	info->name = strdup(name);
	return info->name ? 0 : error_set_errno(err, ENOMEM, "cannot ask for the export");
}

/* INFO and GO are the same question; GO enters the export. */
static int ask_info(struct client_handshake *handshake, uint32_t option, const char *name,
		    struct nbd_export_info *info, struct error *err)
{
	static const uint16_t wanted[] = {NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE};
	enum { WANTED = sizeof(wanted) / sizeof(wanted[0]) };
	uint8_t data[4 + NBD_STRING_MAX + 2 + 2 * WANTED];
	uint32_t length = (uint32_t)strlen(name);
	uint8_t *at = data + 4 + length;
	struct exchange exchange = {
		.option = option,
		.export_name = name,
		.data = data,
		.length = 4 + length + 2 + 2 * WANTED,
		.content = NBD_REP_INFO,
		.content_max = INFOS_MAX,
		.take = take_info,
		.into = info,
	};
	int rc;

	store_be32(data, length);
	memcpy(data + 4, name, length);
	store_be16(at, WANTED);
	for (size_t i = 0; i < WANTED; i++)
		store_be16(at + 2 + 2 * i, wanted[i]);
	rc = exchange_option(handshake, &exchange, err);
	if (!rc && !info->has_size) {
		error_set(err, EPROTO, "the server agrees to %s without telling the size",
			  nbd_option_name(option));
		return broken(handshake, -EPROTO);
	}
	return rc;
}

int client_handshake_info(struct client_handshake *handshake, const char *name,
			  struct nbd_export_info *info, struct error *err)
{
	int rc = check_name(name, info, err);

	if (!rc)
		rc = ask_info(handshake, NBD_OPT_INFO, name, info, err);
	if (rc)
		nbd_export_info_clear(info);
	return rc;
}

/* The old way in: no reply header, and the only refusal is to hang up (C5). */
static int enter_by_name(struct client_handshake *handshake, const char *name,
			 struct nbd_export_info *info, struct error *err)
{
	static const char during[] = "NBD_OPT_EXPORT_NAME";
	struct exchange exchange = {
		.option = NBD_OPT_EXPORT_NAME, .data = name, .length = (uint32_t)strlen(name)};
	uint8_t answer[EXPORT_NAME_ANSWER], zeroes[EXPORT_NAME_ZEROES];
	uint8_t wire[2 + EXPORT_NAME_ANSWER] = {0, NBD_INFO_EXPORT};
	char shown[256];
	int rc = send_option(handshake, &exchange, err);

	if (!rc)
		rc = read_bytes(handshake, answer, sizeof(answer), during, err);
	if (rc == -ECONNRESET)
		return error_set(err, ENOENT,
				 "the server closed the connection instead of opening the export "
				 "'%s': it does not have it, or does not allow it",
				 printable_copy(shown, sizeof(shown), name, strlen(name)));
	if (!rc && !(handshake->client_flags & NBD_FLAG_NO_ZEROES))
		rc = read_bytes(handshake, zeroes, sizeof(zeroes), during, err);
	if (rc)
		return rc;
	handshake->phase = CLIENT_HANDSHAKE_TRANSMISSION;
	handshake->used_export_name = true;
	memcpy(wire + 2, answer, sizeof(answer));
	return client_info_parse(wire, sizeof(wire), info, err);
}

int client_handshake_go(struct client_handshake *handshake, const char *name,
			struct nbd_export_info *info, struct error *err)
{
	int rc = check_name(name, info, err);

	if (!rc)
		rc = ask_info(handshake, NBD_OPT_GO, name, info, err);
	if (rc == -EOPNOTSUPP && client_handshake_alive(handshake)) {
		nbd_export_info_clear(info);
		rc = check_name(name, info, err);
		if (!rc)
			rc = enter_by_name(handshake, name, info, err);
	}
	if (rc)
		nbd_export_info_clear(info);
	return rc;
}

/* ---- Metadata contexts ---- */

static int take_context(void *into, const void *payload, uint32_t length, struct error *err)
{
	struct nbd_export_info *info = into;
	struct nbd_context *grown, *next;
	int rc;

	grown = reallocarray(info->contexts, info->context_count + 1, sizeof(*grown));
	if (!grown)
		return error_set_errno(err, ENOMEM, "cannot keep the list of contexts");
	info->contexts = grown;
	next = &grown[info->context_count];
	*next = (struct nbd_context){0};
	rc = client_context_parse(payload, length, next, err);
	if (!rc)
		info->context_count++;
	return rc;
}

static uint8_t *put_string(uint8_t *at, const char *text)
{
	size_t length = strlen(text);

	store_be32(at, (uint32_t)length);
	memcpy(at + 4, text, length);
	return at + 4 + length;
}

/* Name and queries as the option's data; NULL when there is no memory for them. */
static uint8_t *meta_data(const char *name, const char *const *queries, size_t count,
			  uint32_t *length)
{
	size_t total = 4 + strlen(name) + 4;
	uint8_t *data, *at;

	for (size_t i = 0; i < count; i++)
		total += 4 + strlen(queries[i]);
	data = malloc(total);
	if (!data)
		return NULL;
	at = put_string(data, name);
	store_be32(at, (uint32_t)count);
	at += 4;
	for (size_t i = 0; i < count; i++)
		at = put_string(at, queries[i]);
	*length = (uint32_t)total;
	return data;
}

static void clear_contexts(struct nbd_export_info *info)
{
	for (size_t i = 0; i < info->context_count; i++)
		free(info->contexts[i].name);
	free(info->contexts);
	info->contexts = NULL;
	info->context_count = 0;
}

static int ask_contexts(struct client_handshake *handshake, uint32_t option, const char *name,
			const char *const *queries, size_t count, struct nbd_export_info *info,
			struct error *err)
{
	struct exchange exchange = {
		.option = option,
		.export_name = name,
		.content = NBD_REP_META_CONTEXT,
		.content_max = CONTEXTS_MAX,
		.take = take_context,
		.into = info,
	};
	AUTO_FREE uint8_t *data = NULL;
	int rc;

	clear_contexts(info);
	if (!handshake->structured)
		return error_set(err, EOPNOTSUPP,
				 "the server has no structured replies, so no metadata contexts");
	data = meta_data(name, queries, count, &exchange.length);
	if (!data)
		return error_set_errno(err, ENOMEM, "cannot ask for metadata contexts");
	exchange.data = data;
	rc = exchange_option(handshake, &exchange, err);
	/* After an error nothing is selected, whatever was said before it (C33). */
	if (rc)
		clear_contexts(info);
	return rc;
}

int client_handshake_list_contexts(struct client_handshake *handshake, const char *name,
				   const char *const *queries, size_t count,
				   struct nbd_export_info *info, struct error *err)
{
	return ask_contexts(handshake, NBD_OPT_LIST_META_CONTEXT, name, queries, count, info, err);
}

static bool ids_unique(const struct nbd_export_info *info)
{
	for (size_t i = 1; i < info->context_count; i++)
		for (size_t j = 0; j < i; j++)
			if (info->contexts[i].id == info->contexts[j].id)
				return false;
	return true;
}

int client_handshake_set_contexts(struct client_handshake *handshake, const char *name,
				  const char *const *queries, size_t count,
				  struct nbd_export_info *info, struct error *err)
{
	int rc = ask_contexts(handshake, NBD_OPT_SET_META_CONTEXT, name, queries, count, info, err);

	if (rc || ids_unique(info))
		return rc;
	clear_contexts(info);
	error_set(err, EPROTO, "the server gives two metadata contexts the same number");
	return broken(handshake, -EPROTO);
}

/* ---- Leaving ---- */

static void say_abort(struct client_handshake *handshake, uint64_t deadline)
{
	uint8_t message[sizeof(struct nbd_option_wire)];
	uint8_t answer[sizeof(struct nbd_option_reply_wire)];

	if (!(handshake->client_flags & NBD_FLAG_FIXED_NEWSTYLE))
		return;
	nbd_option_build(message, NBD_OPT_ABORT, 0);
	/* The answer may be an ACK or the end (D1); either is a goodbye. */
	if (!transport_write_full(handshake->transport, message, sizeof(message), deadline))
		transport_read_full(handshake->transport, answer, sizeof(answer), deadline);
}

static void say_disconnect(struct client_handshake *handshake, uint64_t deadline)
{
	struct nbd_request request = {.type = NBD_CMD_DISC};
	uint8_t message[sizeof(struct nbd_request_wire)];

	nbd_request_build(message, false, &request);
	transport_write_full(handshake->transport, message, sizeof(message), deadline);
}

void client_handshake_abort(struct client_handshake *handshake)
{
	uint64_t deadline = min_of(handshake->deadline, clock_now() + GOODBYE_LIMIT);
	enum client_handshake_phase phase = handshake->phase;

	handshake->phase = CLIENT_HANDSHAKE_OVER;
	if (!handshake->transport || handshake->transport->fd < 0)
		return;
	if (phase == CLIENT_HANDSHAKE_HAGGLING)
		say_abort(handshake, deadline);
	else if (phase == CLIENT_HANDSHAKE_TRANSMISSION)
		say_disconnect(handshake, deadline);
}
