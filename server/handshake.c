// SPDX-License-Identifier: MIT
/*
 * Handshake framing and the table of options. Must never do I/O and never trust a length: an
 * option is handled when all of it has arrived, an over-long one is refused and passes by.
 */
#include "handshake.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "handshake-options.h"
#include "trace.h"

static handshake_handler handle_abort, handle_starttls, handle_structured_reply,
	handle_extended_headers;

static const struct option_row {
	uint32_t option;
	bool without_data; /* data with it is an error: INVALID */
	handshake_handler *handle;
} option_table[] = {
	{NBD_OPT_EXPORT_NAME, false, handshake_export_name},
	{NBD_OPT_ABORT, false, handle_abort},
	{NBD_OPT_LIST, true, handshake_list},
	{NBD_OPT_STARTTLS, true, handle_starttls},
	{NBD_OPT_INFO, false, handshake_info},
	{NBD_OPT_GO, false, handshake_go},
	{NBD_OPT_STRUCTURED_REPLY, true, handle_structured_reply},
	{NBD_OPT_LIST_META_CONTEXT, false, handshake_list_meta_context},
	{NBD_OPT_SET_META_CONTEXT, false, handshake_set_meta_context},
	{NBD_OPT_EXTENDED_HEADERS, true, handle_extended_headers},
};

static const struct option_row *find_option(uint32_t option)
{
	for (size_t i = 0; i < sizeof(option_table) / sizeof(option_table[0]); i++)
		if (option_table[i].option == option)
			return &option_table[i];
	return NULL;
}

void handshake_reply(struct handshake *handshake, uint32_t type, const void *data, uint32_t length)
{
	void *head = outbuf_extend(handshake->out, sizeof(struct nbd_option_reply_wire));

	trace_handshake_reply(handshake->client, handshake->option, type, length);
	if (head)
		nbd_option_reply_build(head, handshake->option, type, length);
	outbuf_add(handshake->out, data, length);
}

void handshake_refuse(struct handshake *handshake, uint32_t type, const char *format, ...)
{
	char message[256];
	va_list args;

	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	log_debug("%s refused: %s: %s", nbd_option_name(handshake->option), nbd_reply_name(type),
		  message);
	handshake_reply(handshake, type, message, (uint32_t)strlen(message));
}

struct export *handshake_find_export(const struct handshake *handshake, struct nbd_string name)
{
	const struct handshake_world *world = handshake->world;

	for (size_t i = 0; i < world->export_count; i++)
		if (nbd_string_equals(name, world->exports[i].name))
			return &world->exports[i];
	return NULL;
}

static void handle_abort(struct handshake *handshake, const uint8_t *payload, uint32_t length)
{
	(void)payload, (void)length; /* data with ABORT is ignored (S11) */
	handshake_reply(handshake, NBD_REP_ACK, NULL, 0);
	handshake->phase = HANDSHAKE_CLOSE;
}

static void handle_starttls(struct handshake *handshake, const uint8_t *payload, uint32_t length)
{
	(void)payload, (void)length;
	if (!handshake->world->tls) {
		handshake_refuse(handshake, NBD_REP_ERR_POLICY,
				 "TLS is not configured on this server");
	} else if (handshake->secured) {
		handshake_refuse(handshake, NBD_REP_ERR_INVALID, "TLS is already on"); /* S53 */
	} else {
		handshake_reply(handshake, NBD_REP_ACK, NULL, 0);
		handshake->phase = HANDSHAKE_TLS;
	}
}

/* What was agreed in clear may have been said by anybody (S55). */
static void forget_terms(struct handshake *handshake)
{
	free(handshake->terms.context_export);
	handshake->terms = (struct handshake_terms){0};
	handshake->info_block_size = false;
}

void handshake_secured(struct handshake *handshake)
{
	forget_terms(handshake);
	handshake->secured = true;
	handshake->phase = HANDSHAKE_OPTIONS;
}

static void handle_structured_reply(struct handshake *handshake, const uint8_t *payload,
				    uint32_t length)
{
	(void)payload, (void)length;
	if (handshake->terms.extended) {
		handshake_refuse(handshake, NBD_REP_ERR_EXT_HEADER_REQD,
				 "extended headers are already negotiated");
	} else if (handshake->terms.structured) {
		handshake_refuse(handshake, NBD_REP_ERR_INVALID,
				 "structured replies are already negotiated");
	} else {
		handshake->terms.structured = true;
		handshake_reply(handshake, NBD_REP_ACK, NULL, 0);
	}
}

static void handle_extended_headers(struct handshake *handshake, const uint8_t *payload,
				    uint32_t length)
{
	(void)payload, (void)length;
	if (handshake->terms.extended) {
		handshake_refuse(handshake, NBD_REP_ERR_INVALID,
				 "extended headers are already negotiated");
	} else {
		handshake->terms.extended = true;
		handshake_reply(handshake, NBD_REP_ACK, NULL, 0);
	}
}

void handshake_start(struct handshake *handshake, const struct handshake_world *world,
		     struct outbuf *out)
{
	*handshake = (struct handshake){.world = world, .phase = HANDSHAKE_FLAGS, .out = out};
	outbuf_add64(out, NBD_MAGIC);
	outbuf_add64(out, NBD_OPTION_MAGIC);
	outbuf_add16(out, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

void handshake_clear(struct handshake *handshake)
{
	forget_terms(handshake);
}

static size_t feed_flags(struct handshake *handshake, const uint8_t *data, size_t length)
{
	uint32_t flags;

	if (length < 4)
		return 0;
	flags = load_be32(data);
	handshake->fixed = flags & NBD_FLAG_FIXED_NEWSTYLE;
	handshake->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
	handshake->phase = flags & ~(uint32_t)(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)
				   ? HANDSHAKE_DROP /* S3 */
				   : HANDSHAKE_OPTIONS;
	return 4;
}

/* An option that is refused before its payload has arrived: the payload passes by unread. */
static void refuse_long_option(struct handshake *handshake, uint32_t length)
{
	if (length > HANDSHAKE_SWALLOW_MAX || handshake->option == NBD_OPT_EXPORT_NAME) {
		handshake->phase = HANDSHAKE_DROP;
		return;
	}
	handshake->swallow = length;
	handshake->phase = HANDSHAKE_SWALLOW;
}

static void refuse_unknown(struct handshake *handshake)
{
	handshake_refuse(handshake, NBD_REP_ERR_UNSUP, "unknown option %u", handshake->option);
}

static void refuse_at_shutdown(struct handshake *handshake)
{
	handshake_refuse(handshake, NBD_REP_ERR_SHUTDOWN, "the server is shutting down");
}

/* Without TLS there is only the way to it, and the way out (S49, S50). */
static bool refuse_in_clear(struct handshake *handshake)
{
	if (!handshake->world->tls || handshake->secured || handshake->option == NBD_OPT_STARTTLS ||
	    handshake->option == NBD_OPT_ABORT)
		return false;
	if (handshake->option == NBD_OPT_EXPORT_NAME)
		handshake->phase = HANDSHAKE_DROP;
	else
		handshake_refuse(handshake, NBD_REP_ERR_TLS_REQD,
				 "the server demands TLS for everything");
	return true;
}

static void finish_long_option(struct handshake *handshake)
{
	handshake->phase = HANDSHAKE_OPTIONS;
	if (++handshake->options > HANDSHAKE_OPTIONS_MAX)
		handshake->phase = HANDSHAKE_DROP;
	else if (handshake->option == NBD_OPT_ABORT)
		handle_abort(handshake, NULL, 0);
	else if (handshake->shutting_down)
		refuse_at_shutdown(handshake);
	else if (refuse_in_clear(handshake))
		return;
	else if (!find_option(handshake->option))
		refuse_unknown(handshake);
	else
		handshake_refuse(handshake, NBD_REP_ERR_TOO_BIG,
				 "the option is longer than %d bytes", HANDSHAKE_OPTION_MAX);
}

static size_t feed_swallow(struct handshake *handshake, size_t length)
{
	size_t used = (size_t)min_of((uint64_t)length, handshake->swallow);

	handshake->swallow -= used;
	if (!handshake->swallow)
		finish_long_option(handshake);
	return used;
}

static void handle_option(struct handshake *handshake, const uint8_t *payload, uint32_t length)
{
	const struct option_row *row = find_option(handshake->option);

	if (handshake->shutting_down && handshake->option != NBD_OPT_ABORT)
		refuse_at_shutdown(handshake);
	else if (refuse_in_clear(handshake))
		return;
	else if (!row)
		refuse_unknown(handshake);
	else if (row->without_data && length)
		handshake_refuse(handshake, NBD_REP_ERR_INVALID, "%s takes no data",
				 nbd_option_name(row->option));
	else
		row->handle(handshake, payload, length);
}

static size_t feed_option(struct handshake *handshake, const uint8_t *data, size_t length)
{
	const size_t head = sizeof(struct nbd_option_wire);
	uint32_t payload;

	if (length < head)
		return 0;
	handshake->option = load_be32(data + 8);
	payload = load_be32(data + 12);
	if (load_be64(data) != NBD_OPTION_MAGIC ||
	    /* A client without fixed newstyle may only choose an export (S5). */
	    (!handshake->fixed && handshake->option != NBD_OPT_EXPORT_NAME)) {
		handshake->phase = HANDSHAKE_DROP;
		return head;
	}
	if (payload > HANDSHAKE_OPTION_MAX) {
		refuse_long_option(handshake, payload);
		return head;
	}
	if (length - head < payload)
		return 0;
	handshake->phase = HANDSHAKE_OPTIONS;
	trace_handshake_option(handshake->client, handshake->option, payload);
	log_debug("%s, %u bytes", nbd_option_name(handshake->option), payload);
	handle_option(handshake, data + head, payload);
	if (handshake->phase == HANDSHAKE_FULL || handshake->phase == HANDSHAKE_OPENING)
		return 0; /* the same option comes again */
	if (++handshake->options > HANDSHAKE_OPTIONS_MAX)
		handshake->phase = HANDSHAKE_DROP;
	return head + payload;
}

size_t handshake_feed(struct handshake *handshake, const uint8_t *data, size_t length)
{
	size_t used = 0, step = 0;

	do {
		switch (handshake->phase) {
		case HANDSHAKE_FLAGS:
			step = feed_flags(handshake, data + used, length - used);
			break;
		case HANDSHAKE_OPTIONS:
		case HANDSHAKE_FULL:
		case HANDSHAKE_OPENING:
			if (handshake->out->used > HANDSHAKE_OUTPUT_MAX)
				return used;
			step = feed_option(handshake, data + used, length - used);
			break;
		case HANDSHAKE_SWALLOW:
			step = feed_swallow(handshake, length - used);
			break;
		case HANDSHAKE_TLS:
		case HANDSHAKE_DONE:
		case HANDSHAKE_CLOSE:
		case HANDSHAKE_DROP:
			return used;
		}
		used += step;
		if (handshake->out->failed)
			handshake->phase = HANDSHAKE_DROP;
	} while (step);
	return used;
}
