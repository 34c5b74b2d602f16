// SPDX-License-Identifier: MIT
/*
 * What servers send in the handshake, as pure functions from bytes to structs (fuzzed). No I/O;
 * each length is checked before the byte behind it is used.
 */
#include "client-handshake.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "printable.h"
#include "size.h"

/* The kernel and libnbd count in signed 64-bit numbers. */
#define EXPORT_SIZE_LIMIT (UINT64_C(1) << 63)

void nbd_export_info_init(struct nbd_export_info *info)
{
	*info = (struct nbd_export_info){
		.minimum = 1, .preferred = 4096, .maximum = NBD_DEFAULT_PAYLOAD_MAX};
}

void nbd_export_info_clear(struct nbd_export_info *info)
{
	free(info->name);
	free(info->description);
	for (size_t i = 0; i < info->context_count; i++)
		free(info->contexts[i].name);
	free(info->contexts);
	nbd_export_info_init(info);
}

void nbd_export_list_clear(struct nbd_export_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		nbd_export_info_clear(&list->exports[i]);
	free(list->exports);
	*list = (struct nbd_export_list){0};
}

/* ---- Greeting ---- */

static int foreign_greeting(const char *greeting, size_t length, struct error *err)
{
	char text[80];

	printable_copy(text, sizeof(text), greeting, length);
	return error_set(err, EPROTO, "this is no NBD server: it greets with \"%s\"", text);
}

int client_greeting_parse(const void *greeting, size_t length, uint16_t *flags, struct error *err)
{
	const uint8_t *at = greeting;
	uint64_t kind;

	if (length < 8 || load_be64(at) != NBD_MAGIC)
		return foreign_greeting(greeting, length, err);
	if (length < 16)
		return 0;
	kind = load_be64(at + 8);
	if (kind == NBD_OLDSTYLE_MAGIC)
		return error_set(err, EPROTO,
				 "the server speaks the oldstyle NBD protocol, which knows no "
				 "export names and no safe start; it needs a newer server");
	if (kind != NBD_OPTION_MAGIC)
		return error_set(err, EPROTO,
				 "the server's greeting is neither newstyle nor oldstyle NBD "
				 "(magic %016" PRIx64 ")",
				 kind);
	if (length >= sizeof(struct nbd_greeting_wire))
		*flags = load_be16(at + 16);
	return 0;
}

/* ---- Replies ---- */

int client_reply_parse(const void *header, uint32_t option, struct client_reply *reply,
		       struct error *err)
{
	const uint8_t *at = header;

	if (load_be64(at) != NBD_OPTION_REPLY_MAGIC)
		return error_set(err, EPROTO,
				 "the server's answer to %s does not start as a reply does "
				 "(magic %016" PRIx64 ")",
				 nbd_option_name(option), load_be64(at));
	if (load_be32(at + 8) != option)
		return error_set(err, EPROTO,
				 "the server answers to option %" PRIu32 ", but was asked %s",
				 load_be32(at + 8), nbd_option_name(option));
	reply->type = load_be32(at + 12);
	reply->length = load_be32(at + 16);
	if (reply->length > CLIENT_REPLY_MAX)
		return error_set(err, E2BIG,
				 "the server's answer to %s has %" PRIu32
				 " bytes; more than %d have no use",
				 nbd_option_name(option), reply->length, CLIENT_REPLY_MAX);
	return 0;
}

static int no_memory(struct error *err)
{
	return error_set_errno(err, ENOMEM, "cannot keep the server's answer");
}

/*
 * Replaces *out by a string of the peer. No NUL may be in it (S6); what is not UTF-8 is kept, so
 * that one badly named export does not hide the others.
 */
static int take_string(const uint8_t *text, uint32_t length, const char *what, char **out,
		       struct error *err)
{
	char *copy;

	if (length > NBD_STRING_MAX)
		return error_set(err, EPROTO,
				 "the server sends %s of %" PRIu32 " bytes; %d are allowed", what,
				 length, NBD_STRING_MAX);
	if (length && memchr(text, 0, length))
		return error_set(err, EPROTO, "the server sends %s with a null byte in it", what);
	copy = strndup((const char *)text, length);
	if (!copy)
		return no_memory(err);
	free(*out);
	*out = copy;
	return 0;
}

static int take_description(const uint8_t *text, uint32_t length, struct nbd_export_info *info,
			    struct error *err)
{
	return length ? take_string(text, length, "a description", &info->description, err) : 0;
}

int client_server_parse(const void *payload, uint32_t length, struct nbd_export_info *info,
			struct error *err)
{
	const uint8_t *at = payload;
	uint32_t name_length;
	int rc;

	if (length < 4 || (name_length = load_be32(at)) > length - 4)
		return error_set(err, EPROTO,
				 "the server's list of exports has an entry of the wrong length");
	rc = take_string(at + 4, name_length, "an export name", &info->name, err);
	if (rc)
		return rc;
	return take_description(at + 4 + name_length, length - 4 - name_length, info, err);
}

static int parse_export(const uint8_t *at, uint32_t length, struct nbd_export_info *info,
			struct error *err)
{
	if (length != 12)
		return error_set(err, EPROTO,
				 "the server's size information has %" PRIu32
				 " bytes; 12 are right",
				 length);
	info->size = load_be64(at + 2);
	info->flags = load_be16(at + 10);
	if (!(info->flags & NBD_FLAG_HAS_FLAGS))
		info->flags = 0;
	if (info->size >= EXPORT_SIZE_LIMIT)
		return error_set(err, EFBIG,
				 "the server says that the export has %" PRIu64
				 " bytes; 2^63 and more cannot be addressed",
				 info->size);
	info->has_size = true;
	return 0;
}

static int parse_name(const uint8_t *at, uint32_t length, struct nbd_export_info *info,
		      struct error *err)
{
	return take_string(at + 2, length - 2, "an export name", &info->name, err);
}

static int parse_description(const uint8_t *at, uint32_t length, struct nbd_export_info *info,
			     struct error *err)
{
	return take_description(at + 2, length - 2, info, err);
}

static bool block_sizes_sane(uint32_t minimum, uint32_t preferred, uint32_t maximum)
{
	return is_power_of_two(minimum) && minimum <= 65536 && is_power_of_two(preferred) &&
	       preferred >= max_of(minimum, (uint32_t)NBD_SECTOR) && maximum >= preferred;
}

static int parse_block_sizes(const uint8_t *at, uint32_t length, struct nbd_export_info *info,
			     struct error *err)
{
	uint32_t minimum, preferred, maximum;

	if (length != 14)
		return error_set(err, EPROTO,
				 "the server's block size information has %" PRIu32
				 " bytes; 14 are right",
				 length);
	minimum = load_be32(at + 2);
	preferred = load_be32(at + 6);
	maximum = load_be32(at + 10);
	if (!block_sizes_sane(minimum, preferred, maximum))
		return error_set(err, EPROTO,
				 "the server's block sizes make no sense: minimum %" PRIu32
				 ", preferred %" PRIu32 ", maximum %" PRIu32,
				 minimum, preferred, maximum);
	info->minimum = minimum;
	info->preferred = preferred;
	info->maximum = maximum;
	info->has_block_sizes = true;
	return 0;
}

int client_info_parse(const void *payload, uint32_t length, struct nbd_export_info *info,
		      struct error *err)
{
	static int (*const parsers[])(const uint8_t *, uint32_t, struct nbd_export_info *,
				      struct error *) = {
		[NBD_INFO_EXPORT] = parse_export,
		[NBD_INFO_NAME] = parse_name,
		[NBD_INFO_DESCRIPTION] = parse_description,
		[NBD_INFO_BLOCK_SIZE] = parse_block_sizes,
	};
	uint16_t type;

	if (length < 2)
		return error_set(err, EPROTO, "the server sends export information without a type");
	type = load_be16(payload);
	/* Unknown ones are of no concern to us (C8). */
	if (type >= sizeof(parsers) / sizeof(parsers[0]))
		return 0;
	return parsers[type](payload, length, info, err);
}

int client_context_parse(const void *payload, uint32_t length, struct nbd_context *context,
			 struct error *err)
{
	const uint8_t *at = payload;

	if (length < 4)
		return error_set(err, EPROTO, "the server sends a metadata context without a name");
	context->id = load_be32(at);
	return take_string(at + 4, length - 4, "a context name", &context->name, err);
}

/* ---- Error replies ---- */

/* What an error reply means: the number for the program, and how the sentence begins that ends
 * with the export or the option it is about. */
struct reply_fault {
	uint32_t type;
	int code;
	bool about_export;
	const char *sentence;
};

static const struct reply_fault reply_faults[] = {
	{NBD_REP_ERR_UNSUP, EOPNOTSUPP, false, "the server does not know"},
	{NBD_REP_ERR_POLICY, EACCES, true, "the server's rules forbid"},
	{NBD_REP_ERR_INVALID, EINVAL, false, "the server refuses as invalid"},
	{NBD_REP_ERR_PLATFORM, EINVAL, false, "the server's build cannot do"},
	{NBD_REP_ERR_TLS_REQD, ENOKEY, true, "the server demands TLS for"},
	{NBD_REP_ERR_UNKNOWN, ENOENT, true, "the server does not have"},
	{NBD_REP_ERR_SHUTDOWN, ESHUTDOWN, false, "the server is shutting down and refuses"},
	{NBD_REP_ERR_BLOCK_SIZE_REQD, EINVAL, true,
	 "the server demands that the client obeys block sizes, though it does, for"},
	{NBD_REP_ERR_TOO_BIG, E2BIG, false, "the server refuses as too big"},
	{NBD_REP_ERR_EXT_HEADER_REQD, EINVAL, true, "the server demands extended headers for"},
};
/* Answers that a later version of the protocol may have. */
static const struct reply_fault other_fault = {0, EINVAL, false, "the server refuses"};

static const struct reply_fault *fault_of(uint32_t type)
{
	for (size_t i = 0; i < sizeof(reply_faults) / sizeof(reply_faults[0]); i++)
		if (reply_faults[i].type == type)
			return &reply_faults[i];
	return &other_fault;
}

static void subject_of(uint32_t option, const char *export_name, char *text, size_t size)
{
	char name[256];

	if (!export_name)
		snprintf(text, size, "%s", nbd_option_name(option));
	else if (!export_name[0])
		snprintf(text, size, "the default export");
	else
		snprintf(text, size, "the export '%s'",
			 printable_copy(name, sizeof(name), export_name, strlen(export_name)));
}

int client_reply_error(uint32_t option, uint32_t type, const void *message, uint32_t length,
		       const char *export_name, struct error *err)
{
	const struct reply_fault *fault = fault_of(type);
	char subject[320], said[400];

	subject_of(option, fault->about_export ? export_name : NULL, subject, sizeof(subject));
	error_set(err, fault->code, "%s %s", fault->sentence, subject);
	if (fault == &other_fault)
		error_hint(err, " with the unknown error %" PRIu32, type & ~NBD_REP_ERROR(0));
	if (length)
		error_hint(err, " (it says: %s)",
			   printable_copy(said, sizeof(said), message, length));
	return -fault->code;
}
