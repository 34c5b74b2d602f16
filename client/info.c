// SPDX-License-Identifier: MIT
/*
 * hawser info: all about one export. Asks by INFO and leaves by ABORT, so it takes no client slot;
 * only --map has to enter the export.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "common/cleanup.h"
#include "common/printable.h"
#include "common/size.h"
#include "map.h"
#include "output.h"
#include "session.h"

struct info_options {
	bool json;
	bool map;
	const char *context;
	uint64_t timeout;
};

static const struct option_row info_options[] = {
	{"json", 'j', NULL, OPTION_FLAG, offsetof(struct info_options, json),
	 "write JSON for scripts, with the keys of nbdinfo"},
	{"map", 'm', NULL, OPTION_FLAG, offsetof(struct info_options, map),
	 "show which parts are data, holes and zeroes, instead of the rest"},
	{"context", 'c', "NAME", OPTION_STRING, offsetof(struct info_options, context),
	 "the map of this metadata context, instead of base:allocation"},
	{"timeout", 't', "SECONDS", OPTION_SECONDS, offsetof(struct info_options, timeout),
	 "give up on a server that does not answer (30; 0 waits for ever)"},
	{0},
};

static int ask_server(struct session *session, const char *uri, uint64_t timeout,
		      struct nbd_export_info *info, struct error *err)
{
	struct client_handshake *handshake = &session->handshake;
	int status = session_open(session, uri, timeout, err);
	int rc;

	if (status != COMMAND_OK)
		return status;
	rc = client_handshake_structured(handshake, err);
	if (!rc)
		rc = client_handshake_info(handshake, session->uri.export_, info, err);
	if (rc == -ENOENT)
		error_hint(err, "; 'hawser list' shows what it has");
	if (rc == -EOPNOTSUPP)
		error_hint(err, "; only a client that attaches learns more");
	if (rc)
		return session_fault(session, rc, err);
	/* Without contexts there is still a lot to show. */
	client_handshake_list_contexts(handshake, session->uri.export_, NULL, 0, info, NULL);
	return COMMAND_OK;
}

/* ---- Output ---- */

static void print_field(const char *name, const char *value)
{
	printf("  %-13s%s\n", name, value);
}

static void print_printable(const char *name, const char *value)
{
	AUTO_FREE char *text = printable_dup(value);

	if (text)
		print_field(name, text);
}

static void print_size(const struct nbd_export_info *info)
{
	char unit[SIZE_TEXT_MAX], text[80];

	size_format(info->size, unit);
	snprintf(text, sizeof(text), "%s (%" PRIu64 " bytes)", unit, info->size);
	print_field("size", info->size < 1024 ? unit : text);
	/* nbd-server up to 3.24 does so for each export. */
	if (info->size == 0)
		print_field("", "(some servers tell the size only to a client that attaches)");
}

static void print_block_sizes(const struct nbd_export_info *info)
{
	char minimum[SIZE_TEXT_MAX], preferred[SIZE_TEXT_MAX], maximum[SIZE_TEXT_MAX], text[160];

	if (!info->has_block_sizes) {
		print_field("block sizes", "not told");
		return;
	}
	size_format(info->maximum, maximum);
	snprintf(text, sizeof(text), "minimum %s, preferred %s, largest request %s",
		 size_format(info->minimum, minimum), size_format(info->preferred, preferred),
		 info->maximum == UINT32_MAX ? "unlimited" : maximum);
	print_field("block sizes", text);
}

static void print_contexts(const struct nbd_export_info *info)
{
	for (size_t i = 0; i < info->context_count; i++)
		print_printable(i ? "" : "contexts", info->contexts[i].name);
}

static void print_text(const struct session *session, const struct nbd_export_info *info)
{
	const struct client_handshake *handshake = &session->handshake;
	AUTO_FREE char *uri = nbd_uri_format(&session->uri);
	char words[OUTPUT_FLAGS_MAX], text[OUTPUT_FLAGS_MAX + 16];

	puts(uri ? uri : session->server);
	/* Worth a line only when the server calls it by another name. */
	if (strcmp(info->name, session->uri.export_) != 0)
		print_printable("name", info->name);
	if (info->description)
		print_printable("description", info->description);
	print_size(info);
	snprintf(text, sizeof(text), "%s (0x%x)", output_flags(info->flags, words), info->flags);
	print_field("flags", text);
	print_block_sizes(info);
	print_contexts(info);
	snprintf(text, sizeof(text), "newstyle, %s replies, %s%s%s",
		 handshake->structured ? "structured" : "simple",
		 tls_is_on(handshake->transport) ? tls_version(handshake->transport) : "no TLS",
		 tls_is_on(handshake->transport) ? " " : "", tls_cipher(handshake->transport));
	print_field("protocol", text);
}

static void print_json(const struct session *session, const struct nbd_export_info *info)
{
	struct json json;

	json_init(&json, stdout);
	json_object_begin(&json, NULL);
	output_json_protocol(&json, &session->handshake);
	json_array_begin(&json, "exports");
	output_json_export(&json, info, &session->uri);
	json_array_end(&json);
	json_object_end(&json);
	json_finish(&json);
}

static int show_info(const char *uri, const struct info_options *options, struct error *err)
{
	AUTO_SESSION struct session session = SESSION_INIT;
	__attribute__((cleanup(nbd_export_info_clear))) struct nbd_export_info info = {0};
	int status = ask_server(&session, uri, options->timeout, &info, err);

	if (status != COMMAND_OK)
		return status;
	if (options->json)
		print_json(&session, &info);
	else
		print_text(&session, &info);
	return COMMAND_OK;
}

/* ---- The map: rows go out as they come, because there may be millions ---- */

struct map_output {
	const char *name; /* of the context */
	struct json json;
};

static void print_map_row(void *context, uint64_t offset, uint64_t length, uint32_t type)
{
	const struct map_output *output = context;
	char text[MAP_WORDS_MAX];
	const char *words = map_words(output->name, type, text);

	printf("%12" PRIu64 "  %12" PRIu64 "  %3" PRIu32 "%s%s\n", offset, length, type,
	       words ? "  " : "", words ? words : "");
}

static void json_map_row(void *context, uint64_t offset, uint64_t length, uint32_t type)
{
	struct map_output *output = context;
	struct json *json = &output->json;
	char text[MAP_WORDS_MAX];
	const char *words = map_words(output->name, type, text);

	if (!json->depth)
		json_array_begin(json, NULL);
	json_object_begin_line(json, NULL);
	json_number(json, "offset", offset);
	json_number(json, "length", length);
	json_number(json, "type", type);
	if (words)
		json_string(json, "description", words);
	json_object_end(json);
}

static int show_map(const char *text, const struct info_options *options, struct error *err)
{
	AUTO_SESSION struct session session = SESSION_INIT;
	__attribute__((cleanup(nbd_export_info_clear))) struct nbd_export_info info = {0};
	int status = ask_server(&session, text, options->timeout, &info, err);
	struct map_output output = {.name = options->context ? options->context
							     : NBD_CONTEXT_ALLOCATION};
	struct json *json = &output.json;
	int rc;

	if (status != COMMAND_OK)
		return status;
	/* Make room for the library's connection: the server may take one at a time. */
	client_handshake_abort(&session.handshake);
	transport_close(&session.transport, TRANSPORT_CLOSE_CLEAN);
	json_init(json, stdout);
	rc = map_walk(&session.uri, output.name, options->timeout,
		      options->json ? json_map_row : print_map_row, &output, err);
	if (rc)
		return session_fault(&session, rc, err);
	if (options->json) {
		if (!json->depth)
			json_array_begin(json, NULL);
		json_array_end(json);
		json_finish(json);
	}
	return COMMAND_OK;
}

static int run_info(int argc, char **argv, struct error *err)
{
	struct info_options options = {.timeout = SESSION_TIMEOUT_SECONDS};
	struct operands operands;
	int status = command_parse(&command_info, argc, argv, &options, &operands, err);

	if (status != COMMAND_GO_ON)
		return status;
	if (options.map || options.context)
		return show_map(operands.text[0], &options, err);
	return show_info(operands.text[0], &options, err);
}

const struct command command_info = {
	.name = "info",
	.operands = "URI",
	.summary = "Show what a server tells about an export, or its map",
	.details = "Takes no client slot of the server, except for --map, which reads.",
	.operands_min = 1,
	.operands_max = 1,
	.options = info_options,
	.run = run_info,
};
