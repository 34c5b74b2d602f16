// SPDX-License-Identifier: MIT
/* Exports as text and as JSON. Writes to streams; the main thread. */
#include "output.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/printable.h"
#include "common/size.h"

const char *output_flags(uint16_t flags, char text[OUTPUT_FLAGS_MAX])
{
	size_t used = 0;

	strcpy(text, "-");
	for (size_t i = 0; i < NBD_FLAG_WORD_ORDER; i++) {
		const char *word = nbd_flag_word(nbd_flag_word_order[i]);

		if (word && flags & 1u << nbd_flag_word_order[i])
			used += (size_t)snprintf(text + used, OUTPUT_FLAGS_MAX - used, "%s%s",
						 used ? " " : "", word);
	}
	return text;
}

const char *output_name(const char *name, char *out, size_t size)
{
	return name[0] ? printable_copy(out, size, name, strlen(name)) : "\"\"";
}

int output_width(const char *text)
{
	int width = 0;

	for (; *text; text++)
		width += (*text & 0xc0) != 0x80;
	return width;
}

void output_json_protocol(struct json *json, const struct client_handshake *handshake)
{
	json_string(json, "protocol",
		    handshake->client_flags & NBD_FLAG_FIXED_NEWSTYLE ? "newstyle-fixed"
								      : "newstyle");
	json_bool(json, "TLS", tls_is_on(handshake->transport));
	json_bool(json, "structured", handshake->structured);
}

static void json_uri(struct json *json, const char *name, const struct nbd_uri *server)
{
	struct nbd_uri uri = *server;
	AUTO_FREE char *text = NULL;

	uri.export_ = (char *)name;
	text = nbd_uri_format(&uri);
	json_string(json, "uri", text);
}

static void json_contexts(struct json *json, const struct nbd_export_info *info)
{
	json_array_begin(json, "contexts");
	for (size_t i = 0; i < info->context_count; i++)
		json_string(json, NULL, info->contexts[i].name);
	json_array_end(json);
}

static const struct {
	uint16_t flag;
	const char *key;
} flag_keys[] = {
	{NBD_FLAG_ROTATIONAL, "is_rotational"},
	{NBD_FLAG_READ_ONLY, "is_read_only"},
	{NBD_FLAG_SEND_CACHE, "can_cache"},
	{NBD_FLAG_SEND_DF, "can_df"},
	{NBD_FLAG_SEND_FAST_ZERO, "can_fast_zero"},
	{NBD_FLAG_SEND_FLUSH, "can_flush"},
	{NBD_FLAG_SEND_FUA, "can_fua"},
	{NBD_FLAG_CAN_MULTI_CONN, "can_multi_conn"},
	{NBD_FLAG_SEND_TRIM, "can_trim"},
	{NBD_FLAG_SEND_WRITE_ZEROES, "can_zero"},
};

static void json_properties(struct json *json, const struct nbd_export_info *info)
{
	char size[SIZE_TEXT_MAX];

	json_number(json, "flags", info->flags);
	for (size_t i = 0; i < sizeof(flag_keys) / sizeof(flag_keys[0]); i++)
		json_bool(json, flag_keys[i].key, info->flags & flag_keys[i].flag);
	if (info->has_block_sizes) {
		json_number(json, "block_size_minimum", info->minimum);
		json_number(json, "block_size_preferred", info->preferred);
		json_number(json, "block_size_maximum", info->maximum);
	}
	json_number(json, "export-size", info->size);
	json_string(json, "export-size-str", size_format(info->size, size));
}

void output_json_export(struct json *json, const struct nbd_export_info *info,
			const struct nbd_uri *server)
{
	json_object_begin(json, NULL);
	json_string(json, "export-name", info->name);
	if (info->description)
		json_string(json, "description", info->description);
	json_uri(json, info->name, server);
	if (info->has_size) {
		json_contexts(json, info);
		json_properties(json, info);
	}
	json_object_end(json);
}
