// SPDX-License-Identifier: MIT
/*
 * The options that list and select metadata contexts of block status. Pure, as all of the
 * handshake.
 */
#include <stdlib.h>
#include <string.h>

#include "handshake-options.h"

/* Prefixes that ask LIST for all contexts that have them. */
static const char *const wildcards[] = {"base:", "qemu:", NBD_CONTEXT_DIRTY_BITMAP};

static bool wildcard_matches(struct nbd_string query, const char *name)
{
	for (size_t i = 0; i < sizeof(wildcards) / sizeof(wildcards[0]); i++)
		if (nbd_string_equals(query, wildcards[i]))
			return strncmp(name, wildcards[i], query.length) == 0;
	return false;
}

/* The contexts that a query of LIST (wildcards allowed) or SET (they are not, S42) means. */
static uint64_t match_query(const struct export *export, struct nbd_string query, bool list)
{
	uint64_t found = 0;

	for (unsigned int id = 0; id < CONTEXTS_MAX; id++) {
		const char *name = export_context_name(export, id);

		if (name &&
		    (nbd_string_equals(query, name) || (list && wildcard_matches(query, name))))
			found |= UINT64_C(1) << id;
	}
	return found;
}

static uint64_t match_contexts(const struct export *export, const struct nbd_meta_request *request,
			       bool list)
{
	const uint8_t *cursor = request->queries;
	struct nbd_string query;
	uint64_t found = 0;

	for (uint32_t i = 0; i < request->count; i++) {
		if (!nbd_meta_query_next(request, &cursor, &query))
			break;
		found |= match_query(export, query, list);
	}
	return found;
}

static void reply_contexts(struct handshake *handshake, const struct export *export,
			   uint64_t contexts, bool with_ids)
{
	for (unsigned int id = 0; id < CONTEXTS_MAX; id++) {
		const char *name = export_context_name(export, id);
		uint8_t data[4 + NBD_STRING_MAX];
		size_t length;

		if (!name || !(contexts & (UINT64_C(1) << id)))
			continue;
		length = strlen(name); /* export_bitmaps_open() has seen to it that it is short */
		store_be32(data, with_ids ? id : 0);
		memcpy(data + 4, name, length);
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
	struct export *export = parse_request(handshake, payload, length, &request);

	if (!export)
		return;
	/* No query asks for everything (S41). */
	reply_contexts(handshake, export,
		       request.count ? match_contexts(export, &request, true) : UINT64_MAX, false);
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
	handshake->terms.contexts = match_contexts(export, &request, false);
	reply_contexts(handshake, export, handshake->terms.contexts, true);
}
