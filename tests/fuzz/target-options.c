// SPDX-License-Identifier: MIT
/*
 * The protocol's pure parsers: payloads of INFO, GO and the meta context options, request headers,
 * counted strings. Each is checked against the bytes that it claims to have read.
 */
#include "common/nbd-protocol.h"
#include "common/printable.h"
#include "fuzz.h"

static bool inside(const void *at, size_t length, const uint8_t *payload, size_t size)
{
	const uint8_t *from = at;

	return from >= payload && from <= payload + size &&
	       length <= (size_t)(payload + size - from);
}

/* UTF-8 the other way round: from the number to the bytes. */
static size_t utf8_encode(uint32_t code, uint8_t out[4])
{
	static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
	size_t count = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;

	for (size_t i = count - 1; i; i--, code >>= 6)
		out[i] = (uint8_t)(0x80 | (code & 0x3f));
	out[0] = (uint8_t)(lead[count] | code);
	return count;
}

static void check_string(const uint8_t *text, size_t size)
{
	struct nbd_string string = {(const char *)text, (uint32_t)size};
	bool valid = size <= NBD_STRING_MAX;
	size_t at = 0;

	while (at < size) {
		uint8_t bytes[4];
		uint32_t code = 0;
		size_t count = utf8_decode((const char *)text + at, size - at, &code);

		FUZZ_CHECK(count <= size - at);
		valid = valid && count && code;
		if (count) {
			FUZZ_CHECK(code <= 0x10ffff && (code < 0xd800 || code > 0xdfff));
			FUZZ_CHECK(utf8_encode(code, bytes) == count);
			FUZZ_CHECK(memcmp(bytes, text + at, count) == 0);
		}
		at += count ? count : 1;
	}
	FUZZ_CHECK(nbd_string_valid(string) == valid);
}

static void check_info(const uint8_t *payload, size_t size)
{
	struct nbd_info_request request;

	if (!nbd_info_request_parse(payload, (uint32_t)size, &request))
		return;
	FUZZ_CHECK(4 + request.name.length + 2 + 2 * (size_t)request.count == size);
	FUZZ_CHECK(inside(request.name.text, request.name.length, payload, size));
	FUZZ_CHECK(inside(request.types, 2 * (size_t)request.count, payload, size));
	for (unsigned int type = 0; type < 5; type++) {
		bool found = false;

		for (size_t i = 0; i < request.count; i++)
			found |= request.types[2 * i] == 0 && request.types[2 * i + 1] == type;
		FUZZ_CHECK(nbd_info_requested(&request, (enum nbd_info)type) == found);
	}
	check_string((const uint8_t *)request.name.text, request.name.length);
}

static void check_meta(const uint8_t *payload, size_t size)
{
	struct nbd_meta_request request;
	struct nbd_string query;
	const uint8_t *cursor;
	size_t total;

	if (!nbd_meta_request_parse(payload, (uint32_t)size, &request))
		return;
	FUZZ_CHECK(inside(request.name.text, request.name.length, payload, size));
	total = 4 + request.name.length + 4;
	cursor = request.queries;
	for (uint32_t i = 0; i < request.count; i++) {
		FUZZ_CHECK(nbd_meta_query_next(&request, &cursor, &query));
		FUZZ_CHECK(inside(query.text, query.length, payload, size));
		total += 4 + query.length;
	}
	FUZZ_CHECK(total == size && cursor == request.end);
	FUZZ_CHECK(!nbd_meta_query_next(&request, &cursor, &query));
}

static void check_header(const uint8_t *data, size_t size, bool extended)
{
	uint8_t again[sizeof(struct nbd_extended_request_wire)];
	struct nbd_request request;

	if (size < nbd_request_size(extended) || !nbd_request_parse(data, extended, &request))
		return;
	FUZZ_CHECK(nbd_request_build(again, extended, &request) == nbd_request_size(extended));
	FUZZ_CHECK(memcmp(again, data, nbd_request_size(extended)) == 0);
	FUZZ_CHECK(nbd_command_name(request.type));
}

/* No error number may go out that the protocol does not know. */
static void check_errors(const uint8_t *data, size_t size)
{
	uint32_t wire;

	if (size < 4)
		return;
	wire = load_be32(data);
	FUZZ_CHECK(nbd_errno_to_host(wire) > 0 || wire == 0);
	wire = nbd_errno_from_host((int)(wire & 0xffff));
	FUZZ_CHECK(nbd_errno_from_host(nbd_errno_to_host(wire)) == wire);
	FUZZ_CHECK(nbd_option_name(load_be32(data)) && nbd_reply_name(load_be32(data)));
	nbd_flag_word(load_be32(data));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *exact = fuzz_exact(data, size);

	check_info(exact, size);
	check_meta(exact, size);
	check_header(exact, size, false);
	check_header(exact, size, true);
	check_errors(exact, size);
	check_string(exact, size);
	free(exact);
	return 0;
}
