// SPDX-License-Identifier: MIT
/*
 * The NBD protocol as bytes. Pure functions; each bound is checked before the byte behind it is
 * used, because both servers and clients are strangers.
 */
#include "nbd-protocol.h"

#include <errno.h>
#include <string.h>

#include "printable.h"

bool nbd_request_parse(const void *buffer, bool extended, struct nbd_request *request)
{
	const uint8_t *at = buffer;

	if (load_be32(at) != (extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC))
		return false;
	request->flags = load_be16(at + 4);
	request->type = load_be16(at + 6);
	memcpy(&request->cookie, at + 8, sizeof(request->cookie)); /* opaque (S63) */
	request->offset = load_be64(at + 16);
	request->length = extended ? load_be64(at + 24) : load_be32(at + 24);
	return true;
}

bool nbd_string_valid(struct nbd_string string)
{
	const char *at = string.text;
	size_t left = string.length;

	if (left > NBD_STRING_MAX)
		return false;
	while (left) {
		uint32_t code;
		size_t count = utf8_decode(at, left, &code);

		if (!count || !code)
			return false;
		at += count;
		left -= count;
	}
	return true;
}

bool nbd_string_equals(struct nbd_string string, const char *text)
{
	return strlen(text) == string.length && memcmp(string.text, text, string.length) == 0;
}

/* Takes a u32-counted string off the front of [*at, end). */
static bool take_string(const uint8_t **at, const uint8_t *end, struct nbd_string *out)
{
	uint32_t length;

	if (end - *at < 4)
		return false;
	length = load_be32(*at);
	*at += 4;
	if ((uint64_t)(end - *at) < length)
		return false;
	*out = (struct nbd_string){(const char *)*at, length};
	*at += length;
	return true;
}

bool nbd_info_request_parse(const void *payload, uint32_t length, struct nbd_info_request *out)
{
	const uint8_t *at = payload, *end = at + length;

	if (!take_string(&at, end, &out->name) || end - at < 2)
		return false;
	out->count = load_be16(at);
	out->types = at + 2;
	return end - out->types == 2 * (ptrdiff_t)out->count;
}

bool nbd_info_requested(const struct nbd_info_request *request, enum nbd_info type)
{
	for (uint16_t i = 0; i < request->count; i++)
		if (load_be16(request->types + 2 * (size_t)i) == type)
			return true;
	return false;
}

bool nbd_meta_request_parse(const void *payload, uint32_t length, struct nbd_meta_request *out)
{
	const uint8_t *at = payload, *end = at + length;
	struct nbd_string query;

	if (!take_string(&at, end, &out->name) || end - at < 4)
		return false;
	out->count = load_be32(at);
	out->queries = at += 4;
	out->end = end;
	for (uint32_t i = 0; i < out->count; i++)
		if (!take_string(&at, end, &query))
			return false;
	return at == end;
}

bool nbd_meta_query_next(const struct nbd_meta_request *request, const uint8_t **cursor,
			 struct nbd_string *query)
{
	return take_string(cursor, request->end, query);
}

size_t nbd_option_build(void *at, uint32_t option, uint32_t length)
{
	struct nbd_option_wire *wire = at;

	store_be64(&wire->magic, NBD_OPTION_MAGIC);
	store_be32(&wire->option, option);
	store_be32(&wire->length, length);
	return sizeof(*wire);
}

size_t nbd_option_reply_build(void *at, uint32_t option, uint32_t type, uint32_t length)
{
	struct nbd_option_reply_wire *wire = at;

	store_be64(&wire->magic, NBD_OPTION_REPLY_MAGIC);
	store_be32(&wire->option, option);
	store_be32(&wire->type, type);
	store_be32(&wire->length, length);
	return sizeof(*wire);
}

size_t nbd_request_build(void *at, bool extended, const struct nbd_request *request)
{
	uint8_t *out = at;

	store_be32(out, extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC);
	store_be16(out + 4, request->flags);
	store_be16(out + 6, request->type);
	memcpy(out + 8, &request->cookie, sizeof(request->cookie));
	store_be64(out + 16, request->offset);
	if (extended)
		store_be64(out + 24, request->length);
	else
		store_be32(out + 24, (uint32_t)request->length);
	return nbd_request_size(extended);
}

size_t nbd_simple_reply_build(void *at, uint64_t cookie, uint32_t error)
{
	struct nbd_simple_reply_wire *wire = at;

	store_be32(&wire->magic, NBD_SIMPLE_REPLY_MAGIC);
	store_be32(&wire->error, error);
	memcpy(&wire->cookie, &cookie, sizeof(cookie));
	return sizeof(*wire);
}

size_t nbd_chunk_build(void *at, bool extended, uint16_t flags, uint16_t type, uint64_t cookie,
		       uint64_t offset, uint64_t length)
{
	uint8_t *out = at;

	store_be32(out, extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC);
	store_be16(out + 4, flags);
	store_be16(out + 6, type);
	memcpy(out + 8, &cookie, sizeof(cookie));
	if (extended) {
		store_be64(out + 16, offset);
		store_be64(out + 24, length);
	} else {
		store_be32(out + 16, (uint32_t)length);
	}
	return nbd_chunk_size(extended);
}

uint32_t nbd_errno_from_host(int host)
{
	switch (host) {
	case 0:
		return NBD_SUCCESS;
	case EPERM:
	case EROFS:
	case EACCES:
		return NBD_EPERM;
	case ENOMEM:
		return NBD_ENOMEM;
	case EINVAL:
		return NBD_EINVAL;
	case ENOSPC:
	case EFBIG:
	case EDQUOT:
		return NBD_ENOSPC;
	case EOVERFLOW:
		return NBD_EOVERFLOW;
	case EOPNOTSUPP:
		return NBD_ENOTSUP;
	case ESHUTDOWN:
		return NBD_ESHUTDOWN;
	default:
		return NBD_EIO;
	}
}

int nbd_errno_to_host(uint32_t wire)
{
	switch (wire) {
	case NBD_SUCCESS:
		return 0;
	case NBD_EPERM:
		return EPERM;
	case NBD_EIO:
		return EIO;
	case NBD_ENOMEM:
		return ENOMEM;
	case NBD_ENOSPC:
		return ENOSPC;
	case NBD_EOVERFLOW:
		return EOVERFLOW;
	case NBD_ENOTSUP:
		return EOPNOTSUPP;
	case NBD_ESHUTDOWN:
		return ESHUTDOWN;
	default:
		return EINVAL;
	}
}

struct number_name {
	uint32_t number;
	const char *name;
};

#define NAME(constant)              \
	{                           \
		constant, #constant \
	}

static const char *name_of(const struct number_name *table, size_t count, uint32_t number)
{
	for (size_t i = 0; i < count; i++)
		if (table[i].number == number)
			return table[i].name;
	return "unknown";
}

const char *nbd_option_name(uint32_t option)
{
	static const struct number_name names[] = {
		NAME(NBD_OPT_EXPORT_NAME),
		NAME(NBD_OPT_ABORT),
		NAME(NBD_OPT_LIST),
		NAME(NBD_OPT_STARTTLS),
		NAME(NBD_OPT_INFO),
		NAME(NBD_OPT_GO),
		NAME(NBD_OPT_STRUCTURED_REPLY),
		NAME(NBD_OPT_LIST_META_CONTEXT),
		NAME(NBD_OPT_SET_META_CONTEXT),
		NAME(NBD_OPT_EXTENDED_HEADERS),
	};

	return name_of(names, sizeof(names) / sizeof(names[0]), option);
}

const char *nbd_reply_name(uint32_t type)
{
	static const struct number_name names[] = {
		NAME(NBD_REP_ACK),          NAME(NBD_REP_SERVER),
		NAME(NBD_REP_INFO),         NAME(NBD_REP_META_CONTEXT),
		NAME(NBD_REP_ERR_UNSUP),    NAME(NBD_REP_ERR_POLICY),
		NAME(NBD_REP_ERR_INVALID),  NAME(NBD_REP_ERR_PLATFORM),
		NAME(NBD_REP_ERR_TLS_REQD), NAME(NBD_REP_ERR_UNKNOWN),
		NAME(NBD_REP_ERR_SHUTDOWN), NAME(NBD_REP_ERR_BLOCK_SIZE_REQD),
		NAME(NBD_REP_ERR_TOO_BIG),  NAME(NBD_REP_ERR_EXT_HEADER_REQD),
	};

	return name_of(names, sizeof(names) / sizeof(names[0]), type);
}

const char *nbd_command_name(uint16_t command)
{
	static const struct number_name names[] = {
		{NBD_CMD_READ, "READ"},
		{NBD_CMD_WRITE, "WRITE"},
		{NBD_CMD_DISC, "DISC"},
		{NBD_CMD_FLUSH, "FLUSH"},
		{NBD_CMD_TRIM, "TRIM"},
		{NBD_CMD_CACHE, "CACHE"},
		{NBD_CMD_WRITE_ZEROES, "WRITE_ZEROES"},
		{NBD_CMD_BLOCK_STATUS, "BLOCK_STATUS"},
		{NBD_CMD_RESIZE, "RESIZE"},
	};

	return name_of(names, sizeof(names) / sizeof(names[0]), command);
}

const uint8_t nbd_flag_word_order[NBD_FLAG_WORD_ORDER] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

const char *nbd_flag_word(unsigned int bit)
{
	static const char *const words[] = {
		NULL,
		"readonly",
		"flush",
		"fua",
		"rotational",
		"trim",
		"zeroes",
		"df",
		"multi",
		"resize",
		"cache",
		"fast-zero",
		"block-status-payload",
	};

	return bit < sizeof(words) / sizeof(words[0]) ? words[bit] : NULL;
}
