// SPDX-License-Identifier: MIT
/*
 * The options that list and select metadata contexts of block status. Pure, as all of the
 * handshake.
 */
#include <stdlib.h>
#include <string.h>

#include "handshake-options.h"

/* Contexts by their names on the wire; the row is the context's id. */
static const char *const context_names[CONTEXT_COUNT] = {
	[CONTEXT_BASE_ALLOCATION] = "base:allocation",
};

/* Does a query of LIST (wildcards allowed) or SET (they are not, S42) mean this context? */
static bool query_matches(struct nbd_string query, const char *name, bool wildcards)
{
	const char *colon = strchr(name, ':');
	size_t namespace_length = (size_t)(colon - name) + 1;

	if (nbd_string_equals(query, name))
		return true;
	return wildcards && query.length == namespace_length &&
	       memcmp(query.text, name, namespace_length) == 0;
}

static unsigned int match_contexts(const struct nbd_meta_request *request, bool wildcards)
{
	const uint8_t *cursor = request->queries;
	struct nbd_string query;
	unsigned int found = 0;

	for (uint32_t i = 0; i < request->count; i++) {
		if (!nbd_meta_query_next(request, &cursor, &query))
			break;
		for (unsigned int id = 0; id < CONTEXT_COUNT; id++)
			if (query_matches(query, context_names[id], wildcards))
				found |= 1u << id;
	}
	return found;
}

static void reply_contexts(struct handshake *handshake, unsigned int contexts, bool with_ids)
{
	for (unsigned int id = 0; id < CONTEXT_COUNT; id++) {
		uint8_t data[4 + 64];
		size_t length = strlen(context_names[id]);

		if (!(contexts & (1u << id)))
			continue;
		nbd_put32(data, with_ids ? id : 0);
		memcpy(data + 4, context_names[id], length);
		handshake_reply(handshake, NBD_REP_META_CONTEXT, data, (uint32_t)(4 + length));
	}
	handshake_reply(handshake, NBD_REP_ACK, NULL, 0);
}

static void forget_selection(struct handshake *handshake)
{
	handshake->terms.contexts = 0;
	free(handshake->terms.context_export);
	handshake->terms.context_export = NULL;
}

/* The common checks; the export is NULL when the request was refused. */
static struct export *parse_request(struct handshake *handshake, const uint8_t *payload,
				    uint32_t length, struct nbd_meta_request *request)
{
	struct export *export;

	if (!nbd_meta_request_parse(payload, length, request) || !nbd_string_valid(request->name)) {
		handshake_refuse(handshake, NBD_REP_ERR_INVALID, "the lengths do not fit");
		return NULL;
	}
	export = handshake_find_export(handshake, request->name);
	if (!export)
		handshake_refuse(handshake, NBD_REP_ERR_UNKNOWN, "export '%.*s' not present",
				 NAME_FOR_MESSAGE(request->name));
	return export;
}

void handshake_list_meta_context(struct handshake *handshake, const uint8_t *payload,
				 uint32_t length)
{
	struct nbd_meta_request request;

	if (!parse_request(handshake, payload, length, &request))
		return;
	/* No query asks for everything (S41). */
	reply_contexts(handshake,
		       request.count ? match_contexts(&request, true) : (1u << CONTEXT_COUNT) - 1,
		       false);
}

void handshake_set_meta_context(struct handshake *handshake, const uint8_t *payload,
				uint32_t length)
{
	struct nbd_meta_request request;
	struct export *export;

	forget_selection(handshake); /* replaced also when this one fails (S45) */
	if (!handshake->terms.structured && !handshake->terms.extended) {
		handshake_refuse(handshake, NBD_REP_ERR_INVALID,
				 "structured replies must be negotiated first");
		return;
	}
	export = parse_request(handshake, payload, length, &request);
	if (!export)
		return;
	handshake->terms.context_export = strdup(export->name);
	handshake->terms.contexts = match_contexts(&request, false);
	reply_contexts(handshake, handshake->terms.contexts, true);
}
