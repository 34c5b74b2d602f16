// SPDX-License-Identifier: MIT
/*
 * The options that show and choose exports: LIST, INFO, GO, EXPORT_NAME. Pure, as all of the
 * handshake.
 */
#include <stdlib.h>
#include <string.h>

#include "access.h"
#include "handshake-options.h"
#include "trace.h"

void handshake_list(struct handshake *handshake, const uint8_t *payload, uint32_t length)
{
	const struct handshake_world *world = handshake->world;

	(void)payload, (void)length;
	for (size_t i = 0; i < world->export_count; i++) {
		const struct export *export = &world->exports[i];
		const char *text = export->description ? export->description : "";
		uint32_t name = (uint32_t)strlen(export->name);

		handshake_reply(handshake, NBD_REP_SERVER, NULL, 0);
		/* The head was written without its data: put the true length in. */
		if (!handshake->out->failed)
			store_be32(handshake->out->bytes + handshake->out->used - 4,
				   4 + name + (uint32_t)strlen(text));
		outbuf_add32(handshake->out, name);
		outbuf_add(handshake->out, export->name, name);
		outbuf_add(handshake->out, text, strlen(text));
	}
	handshake_reply(handshake, NBD_REP_ACK, NULL, 0);
}

static uint16_t flags_for(const struct handshake *handshake, const struct export *export,
			  bool contexts)
{
	return export_flags(export, handshake_read_only(handshake, export),
			    handshake->terms.structured, handshake->terms.extended, contexts);
}

/* Are the negotiated contexts meant for this export (S46)? */
static bool contexts_apply(const struct handshake *handshake, const struct export *export)
{
	return handshake->terms.contexts && handshake->terms.context_export &&
	       strcmp(handshake->terms.context_export, export->name) == 0;
}

static void info_export(struct handshake *handshake, const struct export *export)
{
	uint8_t data[12];

	store_be16(data, NBD_INFO_EXPORT);
	store_be64(data + 2, export->size);
	store_be16(data + 10, flags_for(handshake, export, contexts_apply(handshake, export)));
	handshake_reply(handshake, NBD_REP_INFO, data, sizeof(data));
}

static void info_text(struct handshake *handshake, enum nbd_info type, const char *text)
{
	uint8_t data[2 + NBD_STRING_MAX];
	size_t length = min_of(strlen(text), (size_t)NBD_STRING_MAX);

	store_be16(data, type);
	memcpy(data + 2, text, length);
	handshake_reply(handshake, NBD_REP_INFO, data, (uint32_t)(2 + length));
}

static void info_block_size(struct handshake *handshake)
{
	uint8_t data[14];

	store_be16(data, NBD_INFO_BLOCK_SIZE);
	store_be32(data + 2, EXPORT_BLOCK_MINIMUM);
	store_be32(data + 6, EXPORT_BLOCK_PREFERRED);
	store_be32(data + 10, EXPORT_PAYLOAD_MAX);
	handshake_reply(handshake, NBD_REP_INFO, data, sizeof(data));
}

/* The image is opened as this client needs it, and stays so for it: INFO and GO tell the same. */
static enum access_answer attach(struct handshake *handshake)
{
	const struct handshake_world *world = handshake->world;
	enum access_answer answer = ACCESS_GIVEN;
	struct error err = ERROR_INIT;

	if (world->access && handshake->right == RIGHT_NONE)
		answer = access_attach(world->access, handshake, &err);
	if (answer == ACCESS_WAIT)
		handshake->phase = HANDSHAKE_OPENING;
	else if (answer == ACCESS_REFUSED && handshake->option != NBD_OPT_EXPORT_NAME)
		handshake_refuse(handshake, NBD_REP_ERR_POLICY, "%s", err.text);
	return answer;
}

/* What INFO and GO have in common: the same answers to the same question (S26). Returns the
 * export, or NULL when the request was refused. */
static struct export *answer_info(struct handshake *handshake, const uint8_t *payload,
				  uint32_t length)
{
	struct nbd_info_request request;
	struct export *export;

	if (!nbd_info_request_parse(payload, length, &request)) {
		handshake_refuse(handshake, NBD_REP_ERR_INVALID, "the lengths do not fit");
		return NULL;
	}
	if (!nbd_string_valid(request.name)) {
		handshake_refuse(handshake, NBD_REP_ERR_INVALID,
				 "an export name is UTF-8 of at most %d bytes", NBD_STRING_MAX);
		return NULL;
	}
	export = handshake_find_export(handshake, request.name);
	if (!export) {
		handshake_refuse(handshake, NBD_REP_ERR_UNKNOWN, "export '%.*s' not present",
				 NAME_FOR_MESSAGE(request.name));
		return NULL;
	}
	if (attach(handshake) != ACCESS_GIVEN)
		return NULL;
	if (handshake->option == NBD_OPT_GO &&
	    !handshake->world->take_slot(handshake->world->context)) {
		if (!handshake->slot_refused) {
			handshake->phase = HANDSHAKE_FULL;
			return NULL;
		}
		handshake->slot_refused = false;
		handshake_refuse(handshake, NBD_REP_ERR_POLICY,
				 "all client slots of this server are taken");
		return NULL;
	}
	if (nbd_info_requested(&request, NBD_INFO_NAME))
		info_text(handshake, NBD_INFO_NAME, export->name);
	if (export->description && *export->description &&
	    nbd_info_requested(&request, NBD_INFO_DESCRIPTION))
		info_text(handshake, NBD_INFO_DESCRIPTION, export->description);
	if (nbd_info_requested(&request, NBD_INFO_BLOCK_SIZE))
		info_block_size(handshake);
	info_export(handshake, export);
	handshake_reply(handshake, NBD_REP_ACK, NULL, 0);
	return export;
}

void handshake_info(struct handshake *handshake, const uint8_t *payload, uint32_t length)
{
	answer_info(handshake, payload, length);
}

static void enter_transmission(struct handshake *handshake, struct export *export)
{
	if (!contexts_apply(handshake, export))
		handshake->terms.contexts = 0;
	handshake->export_ = export;
	handshake->phase = HANDSHAKE_DONE;
	trace_handshake_done(handshake->client, export->name, handshake->terms.structured,
			     handshake->terms.extended, handshake->terms.contexts);
}

void handshake_go(struct handshake *handshake, const uint8_t *payload, uint32_t length)
{
	struct export *export = answer_info(handshake, payload, length);

	if (export)
		enter_transmission(handshake, export);
}

void handshake_export_name(struct handshake *handshake, const uint8_t *payload, uint32_t length)
{
	static const uint8_t zeroes[124];
	struct nbd_string name = {(const char *)payload, length};
	struct export *export;

	/* There is no way to refuse but to leave (S13); with extended headers it is forbidden. */
	export = nbd_string_valid(name) && !handshake->terms.extended
			 ? handshake_find_export(handshake, name)
			 : NULL;
	if (!export) {
		handshake->phase = HANDSHAKE_DROP;
		return;
	}
	switch (attach(handshake)) {
	case ACCESS_GIVEN:
		break;
	case ACCESS_WAIT:
		return;
	case ACCESS_REFUSED:
		handshake->phase = HANDSHAKE_DROP;
		return;
	}
	if (!handshake->world->take_slot(handshake->world->context)) {
		handshake->phase = handshake->slot_refused ? HANDSHAKE_DROP : HANDSHAKE_FULL;
		return;
	}
	outbuf_add64(handshake->out, export->size);
	outbuf_add16(handshake->out,
		     flags_for(handshake, export, contexts_apply(handshake, export)));
	if (!handshake->no_zeroes)
		outbuf_add(handshake->out, zeroes, sizeof(zeroes));
	enter_transmission(handshake, export);
}
