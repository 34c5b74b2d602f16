// SPDX-License-Identifier: MIT
/*
 * common/nbd-protocol: bytes to structures and back. Payloads lie at the end of an exact
 * allocation, so that the address sanitizer sees a read behind them.
 */
#include "common/nbd-protocol.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A payload without a spare byte behind it. */
static uint8_t *exact(const void *bytes, size_t length)
{
	uint8_t *copy = malloc(length ? length : 1);

	ck_assert_ptr_nonnull(copy);
	memcpy(copy, bytes, length);
	return copy;
}

START_TEST(test_request_bytes)
{
	static const uint8_t wire[28] = {
		0x25, 0x60, 0x95, 0x13, 0, 1, 0, 6, 'c', 'o', 'o', 'k', 'i', 'e',
		'0',  '1',  0,    0,    0, 1, 0, 0, 2,   0,   0,   1,   0,   0,
	};
	const struct nbd_request request = {
		.flags = NBD_CMD_FLAG_FUA,
		.type = NBD_CMD_WRITE_ZEROES,
		.offset = UINT64_C(0x100000200),
		.length = 0x10000,
	};
	struct nbd_request parsed;
	uint8_t built[64];

	ck_assert(nbd_request_parse(wire, false, &parsed));
	ck_assert_uint_eq(parsed.flags, request.flags);
	ck_assert_uint_eq(parsed.type, request.type);
	ck_assert_uint_eq(parsed.offset, request.offset);
	ck_assert_uint_eq(parsed.length, request.length);
	/* The cookie comes back as it came, whatever the byte order. */
	ck_assert_mem_eq(&parsed.cookie, "cookie01", 8);
	ck_assert_uint_eq(nbd_request_build(built, false, &parsed), sizeof(wire));
	ck_assert_mem_eq(built, wire, sizeof(wire));
}
END_TEST

START_TEST(test_request_forms)
{
	const struct nbd_request request = {
		.flags = 0xffff,
		.type = 0xffff,
		.cookie = UINT64_MAX,
		.offset = UINT64_MAX,
		.length = UINT64_MAX,
	};
	struct nbd_request parsed;
	uint8_t wire[64];

	ck_assert_uint_eq(nbd_request_build(wire, true, &request), 32);
	ck_assert(nbd_request_parse(wire, true, &parsed));
	ck_assert_uint_eq(parsed.length, UINT64_MAX);
	ck_assert_uint_eq(parsed.offset, UINT64_MAX);
	/* Each form refuses the other's magic, and a damaged one. */
	ck_assert(!nbd_request_parse(wire, false, &parsed));
	wire[0] ^= 1;
	ck_assert(!nbd_request_parse(wire, true, &parsed));
}
END_TEST

START_TEST(test_replies)
{
	static const uint8_t simple[16] = {0x67, 0x44, 0x66, 0x98, 0,   0,   0,   28,
					   'c',  'o',  'o',  'k',  'i', 'e', '0', '1'};
	static const uint8_t chunk[20] = {0x66, 0x8e, 0x33, 0xef, 0,   1,   0, 2, 'c', 'o',
					  'o',  'k',  'i',  'e',  '0', '1', 0, 0, 0,   12};
	static const uint8_t option[20] = {0, 3, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, 0, 0,
					   0, 7, 0x80, 0,    0,    6,    0,    0,    1, 0};
	uint8_t built[64];
	uint64_t cookie;

	memcpy(&cookie, "cookie01", 8);
	ck_assert_uint_eq(nbd_simple_reply_build(built, cookie, NBD_ENOSPC), 16);
	ck_assert_mem_eq(built, simple, 16);
	ck_assert_uint_eq(nbd_chunk_build(built, false, NBD_REPLY_FLAG_DONE, NBD_REPLY_OFFSET_HOLE,
					  cookie, 0, 12),
			  20);
	ck_assert_mem_eq(built, chunk, 20);
	ck_assert_uint_eq(nbd_chunk_build(built, true, 0, NBD_REPLY_NONE, cookie, 1, 2), 32);
	ck_assert_uint_eq(load_be32(built), NBD_EXTENDED_REPLY_MAGIC);
	ck_assert_uint_eq(load_be64(built + 16), 1);
	ck_assert_uint_eq(load_be64(built + 24), 2);
	ck_assert_uint_eq(nbd_option_reply_build(built, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN, 256), 20);
	ck_assert_mem_eq(built, option, 20);
	ck_assert_uint_eq(nbd_option_build(built, NBD_OPT_LIST, 0), 16);
	ck_assert_mem_eq(built, "IHAVEOPT\0\0\0\3\0\0\0\0", 16);
}
END_TEST

static const struct {
	const char *text;
	uint32_t length;
	bool valid;
} strings[] = {
	{"", 0, true},
	{"data", 4, true},
	{"\xc3\xa4", 2, true},
	{"\xf0\x9f\x9a\xa2", 4, true},
	{"a\0b", 3, false},
	{"\xc3", 1, false},             /* cut */
	{"\x80", 1, false},             /* continuation alone */
	{"\xc0\xaf", 2, false},         /* overlong '/' */
	{"\xed\xa0\x80", 3, false},     /* surrogate */
	{"\xf4\x90\x80\x80", 4, false}, /* above U+10FFFF */
	{"\xff", 1, false},
};

START_TEST(test_strings)
{
	uint8_t *bytes = exact(strings[_i].text, strings[_i].length);
	struct nbd_string string = {(const char *)bytes, strings[_i].length};

	ck_assert(nbd_string_valid(string) == strings[_i].valid);
	free(bytes);
}
END_TEST

START_TEST(test_string_limit)
{
	char *text = malloc(NBD_STRING_MAX + 1);

	ck_assert_ptr_nonnull(text);
	memset(text, 'x', NBD_STRING_MAX + 1);
	ck_assert(nbd_string_valid((struct nbd_string){text, NBD_STRING_MAX}));
	ck_assert(!nbd_string_valid((struct nbd_string){text, NBD_STRING_MAX + 1}));
	ck_assert(nbd_string_equals((struct nbd_string){text, 3}, "xxx"));
	ck_assert(!nbd_string_equals((struct nbd_string){text, 3}, "xx"));
	ck_assert(!nbd_string_equals((struct nbd_string){text, 3}, "xxxx"));
	free(text);
}
END_TEST

static const struct {
	const char *bytes;
	uint32_t length;
	bool good;
} infos[] = {
	{"\0\0\0\0\0\0", 6, true},
	{"\0\0\0\1a\0\1\0\3", 9, true},
	{"\0\0\0\1a\0\2\0\3\0\1", 11, true},
	{"", 0, false},
	{"\0\0\0", 3, false},
	{"\0\0\0\0", 4, false},
	{"\0\0\0\0\0", 5, false},
	{"\0\0\0\2a\0\0", 7, false},         /* the name eats the count */
	{"\xff\xff\xff\xff\0\0", 6, false},  /* a name of 4 GiB */
	{"\0\0\0\0\0\1", 6, false},          /* a count without its number */
	{"\0\0\0\0\0\1\0", 7, false},        /* half a number */
	{"\0\0\0\0\0\0\0", 7, false},        /* a byte too many */
	{"\0\0\0\0\xff\xff\0\3", 8, false},  /* 65535 numbers */
	{"\0\0\0\0\0\1\0\3\0\1", 10, false}, /* a number too many */
};

START_TEST(test_info_requests)
{
	uint8_t *payload = exact(infos[_i].bytes, infos[_i].length);
	struct nbd_info_request request;

	ck_assert(nbd_info_request_parse(payload, infos[_i].length, &request) == infos[_i].good);
	if (infos[_i].good)
		ck_assert(nbd_info_requested(&request, NBD_INFO_BLOCK_SIZE) == (request.count > 0));
	free(payload);
}
END_TEST

static const struct {
	const char *bytes;
	uint32_t length;
	int queries; /* -1: refused */
} metas[] = {
	{"\0\0\0\0\0\0\0\0", 8, 0},
	{"\0\0\0\1a\0\0\0\1\0\0\0\2q:", 15, 1},
	{"\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\1x", 17, 2},
	{"", 0, -1},
	{"\0\0\0\0\0\0\0", 7, -1},
	{"\0\0\0\0\0\0\0\1", 8, -1},
	{"\0\0\0\0\0\0\0\1\0\0\0\3ab", 14, -1},
	{"\0\0\0\0\0\0\0\1\0\0\0\1ab", 14, -1},
	{"\0\0\0\0\0\0\0\0z", 9, -1},
	{"\0\0\0\0\xff\xff\xff\xff\0\0\0\0", 12, -1},
	{"\0\0\0\0\0\0\0\1\xff\xff\xff\xff", 12, -1},
	{"\xff\xff\xff\xff\0\0\0\0", 8, -1},
};

START_TEST(test_meta_requests)
{
	uint8_t *payload = exact(metas[_i].bytes, metas[_i].length);
	struct nbd_meta_request request;
	bool good = nbd_meta_request_parse(payload, metas[_i].length, &request);

	ck_assert(good == (metas[_i].queries >= 0));
	if (good) {
		const uint8_t *cursor = request.queries;
		struct nbd_string query;
		int seen = 0;

		while (nbd_meta_query_next(&request, &cursor, &query))
			seen++;
		ck_assert_int_eq(seen, metas[_i].queries);
		ck_assert_ptr_eq(cursor, request.end);
	}
	free(payload);
}
END_TEST

START_TEST(test_errors)
{
	static const uint32_t allowed[] = {0, 1, 5, 12, 22, 28, 75, 95, 108};

	/* Whatever the host says, only the protocol's numbers leave (S69). */
	for (int host = 0; host < 200; host++) {
		uint32_t wire = nbd_errno_from_host(host);
		bool known = false;

		for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
			known = known || wire == allowed[i];
		ck_assert_msg(known, "errno %d becomes %u", host, wire);
		ck_assert_msg(!host || wire, "errno %d becomes success", host);
	}
	ck_assert_uint_eq(nbd_errno_from_host(EROFS), NBD_EPERM);
	ck_assert_uint_eq(nbd_errno_from_host(EDQUOT), NBD_ENOSPC);
	ck_assert_uint_eq(nbd_errno_from_host(ENOENT), NBD_EIO);
	for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
		ck_assert_uint_eq(nbd_errno_from_host(nbd_errno_to_host(allowed[i])), allowed[i]);
	ck_assert_int_eq(nbd_errno_to_host(7), EINVAL);
	ck_assert_int_eq(nbd_errno_to_host(UINT32_MAX), EINVAL);
}
END_TEST

START_TEST(test_names)
{
	ck_assert_str_eq(nbd_option_name(NBD_OPT_GO), "NBD_OPT_GO");
	ck_assert_str_eq(nbd_reply_name(NBD_REP_ERR_TLS_REQD), "NBD_REP_ERR_TLS_REQD");
	ck_assert_str_eq(nbd_command_name(NBD_CMD_DISC), "DISC");
	ck_assert_str_eq(nbd_option_name(UINT32_MAX), "unknown");
	ck_assert_str_eq(nbd_reply_name(UINT32_MAX), "unknown");
	ck_assert_str_eq(nbd_command_name(UINT16_MAX), "unknown");
	for (size_t i = 0; i < NBD_FLAG_WORD_ORDER; i++)
		ck_assert_ptr_nonnull(nbd_flag_word(nbd_flag_word_order[i]));
	ck_assert_ptr_null(nbd_flag_word(0));
	ck_assert_ptr_null(nbd_flag_word(63));
}
END_TEST

#define COUNT(table) ((int)(sizeof(table) / sizeof((table)[0])))

int main(void)
{
	Suite *suite = suite_create("nbd-protocol");
	TCase *tests = tcase_create("nbd-protocol");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tests, test_request_bytes);
	tcase_add_test(tests, test_request_forms);
	tcase_add_test(tests, test_replies);
	tcase_add_loop_test(tests, test_strings, 0, COUNT(strings));
	tcase_add_test(tests, test_string_limit);
	tcase_add_loop_test(tests, test_info_requests, 0, COUNT(infos));
	tcase_add_loop_test(tests, test_meta_requests, 0, COUNT(metas));
	tcase_add_test(tests, test_errors);
	tcase_add_test(tests, test_names);
	suite_add_tcase(suite, tests);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
