// SPDX-License-Identifier: MIT
/*
 * The initiating side against scripts: the whole of a server's side is written into a socket pair
 * beforehand, the client runs, and then both what it sent and what it left unread are looked at.
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/client-handshake.h"
#include "common/clock.h"

enum { FIXED = NBD_FLAG_FIXED_NEWSTYLE, BOTH = FIXED | NBD_FLAG_NO_ZEROES };

static int peer; /* the server's end */
static struct transport transport;
static struct client_handshake handshake;
static struct nbd_export_info info;
static struct error err;

static void setup(void)
{
	int pair[2], room = 1 << 20;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	transport_init_plain(&transport, pair[0]);
	peer = pair[1];
	nbd_export_info_init(&info);
	err = (struct error)ERROR_INIT;
}

static void teardown(void)
{
	transport_close(&transport, TRANSPORT_CLOSE_DROP);
	close(peer);
	nbd_export_info_clear(&info);
}

/* ---- The script of the server ---- */

static void say(const void *bytes, size_t length)
{
	ck_assert_int_eq(write(peer, bytes, length), (ssize_t)length);
}

static void say_greeting(uint16_t flags)
{
	uint8_t greeting[18];

	store_be64(greeting, NBD_MAGIC);
	store_be64(greeting + 8, NBD_OPTION_MAGIC);
	store_be16(greeting + 16, flags);
	say(greeting, sizeof(greeting));
}

static void say_reply(uint32_t option, uint32_t type, const void *data, uint32_t length)
{
	uint8_t header[20];

	say(header, nbd_option_reply_build(header, option, type, length));
	say(data, length);
}

static void say_export(uint32_t option, uint64_t size, uint16_t flags)
{
	uint8_t data[12] = {0, NBD_INFO_EXPORT};

	store_be64(data + 2, size);
	store_be16(data + 10, flags);
	say_reply(option, NBD_REP_INFO, data, sizeof(data));
}

static size_t put_block_sizes(uint8_t *data, uint32_t minimum, uint32_t preferred, uint32_t maximum)
{
	store_be16(data, NBD_INFO_BLOCK_SIZE);
	store_be32(data + 2, minimum);
	store_be32(data + 6, preferred);
	store_be32(data + 10, maximum);
	return 14;
}

static void end_of_server(void)
{
	shutdown(peer, SHUT_WR);
}

static int start(void)
{
	return client_handshake_start(&handshake, &transport, clock_now() + 2 * CLOCK_SECOND, &err);
}

/* Takes what the client sent: the client flags, then options. */
static uint32_t heard_flags(void)
{
	uint8_t flags[4];

	ck_assert_int_eq(read(peer, flags, 4), 4);
	return load_be32(flags);
}

static uint32_t heard_option(uint8_t *data, uint32_t *length)
{
	uint8_t header[16];

	ck_assert_int_eq(read(peer, header, 16), 16);
	ck_assert_uint_eq(load_be64(header), NBD_OPTION_MAGIC);
	*length = load_be32(header + 12);
	ck_assert_uint_le(*length, 8192);
	if (*length)
		ck_assert_int_eq(read(peer, data, *length), *length);
	return load_be32(header + 8);
}

static void assert_left(const char *expected)
{
	char left[16] = "";
	ssize_t got = recv(transport.fd, left, sizeof(left) - 1, MSG_DONTWAIT);

	ck_assert_int_eq(got < 0 ? 0 : got, (ssize_t)strlen(expected));
	ck_assert_str_eq(left, expected);
}

/* ---- Conversations ---- */

START_TEST(test_go_leaves_the_next_byte)
{
	static const uint8_t name[] = {0, NBD_INFO_NAME, 'd'};
	static const uint8_t description[] = {0, NBD_INFO_DESCRIPTION, 'h', 'i'};
	static const uint8_t unknown[] = {0x12, 0x34, 1, 2, 3};
	uint8_t data[8192], sizes[14];
	uint32_t length;

	say_greeting(BOTH | 0xff00); /* unknown flags are of no concern (C2) */
	say_reply(NBD_OPT_GO, NBD_REP_INFO, unknown, sizeof(unknown));
	put_block_sizes(sizes, 512, 4096, 1 << 20);
	say_reply(NBD_OPT_GO, NBD_REP_INFO, sizes, sizeof(sizes));
	say_reply(NBD_OPT_GO, NBD_REP_INFO, name, sizeof(name));
	say_reply(NBD_OPT_GO, NBD_REP_INFO, description, sizeof(description));
	say_export(NBD_OPT_GO, 12345, 0xf00d);
	say_reply(NBD_OPT_GO, NBD_REP_ACK, NULL, 0);
	say("K", 1);
	ck_assert_int_eq(start(), 0);
	ck_assert_msg(client_handshake_go(&handshake, "disk", &info, &err) == 0, "%s", err.text);
	assert_left("K");
	ck_assert_str_eq(info.name, "d");
	ck_assert_str_eq(info.description, "hi");
	ck_assert_uint_eq(info.size, 12345);
	ck_assert_uint_eq(info.flags, 0xf00d);
	ck_assert(info.has_block_sizes);
	ck_assert_uint_eq(info.minimum, 512);
	ck_assert_uint_eq(info.maximum, 1 << 20);
	ck_assert_int_eq(handshake.phase, CLIENT_HANDSHAKE_TRANSMISSION);
	ck_assert_uint_eq(heard_flags(), BOTH);
	ck_assert_uint_eq(heard_option(data, &length), NBD_OPT_GO);
	/* Name, then three different requests (C9). */
	ck_assert_uint_eq(length, 4 + 4 + 2 + 6);
	ck_assert_mem_eq(data, "\0\0\0\4disk\0\3\0\1\0\2\0\3", length);
}
END_TEST

/* EXPORT_NAME only where GO is unknown (C4), and its zeroes are taken (C5). */
START_TEST(test_old_server_by_export_name)
{
	uint8_t answer[10 + 124 + 1] = {0}, data[8192];
	bool no_zeroes = _i;
	uint32_t length;

	say_greeting(no_zeroes ? BOTH : FIXED);
	say_reply(NBD_OPT_GO, NBD_REP_ERR_UNSUP, "no", 2);
	store_be64(answer, 4096);
	store_be16(answer + 8, NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY);
	answer[no_zeroes ? 10 : 134] = 'K';
	say(answer, no_zeroes ? 11 : 135);
	ck_assert_int_eq(start(), 0);
	ck_assert_int_eq(client_handshake_go(&handshake, "x", &info, &err), 0);
	assert_left("K");
	ck_assert(handshake.used_export_name);
	ck_assert_uint_eq(info.size, 4096);
	ck_assert_uint_eq(info.flags, NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY);
	ck_assert(!info.has_block_sizes);
	heard_flags();
	ck_assert_uint_eq(heard_option(data, &length), NBD_OPT_GO);
	ck_assert_uint_eq(heard_option(data, &length), NBD_OPT_EXPORT_NAME);
	ck_assert_uint_eq(length, 1);
}
END_TEST

START_TEST(test_not_fixed_newstyle)
{
	uint8_t answer[134] = {0}, data[8192];
	uint32_t length;

	say_greeting(0);
	store_be64(answer, 512);
	say(answer, sizeof(answer));
	ck_assert_int_eq(start(), 0);
	ck_assert_int_eq(client_handshake_info(&handshake, "", &info, &err), -EOPNOTSUPP);
	ck_assert_int_eq(client_handshake_go(&handshake, "", &info, &err), 0);
	ck_assert_uint_eq(info.flags, 0);
	assert_left("");
	ck_assert_uint_eq(heard_flags(), 0);
	ck_assert_uint_eq(heard_option(data, &length), NBD_OPT_EXPORT_NAME);
}
END_TEST

START_TEST(test_refused_export_name)
{
	say_greeting(BOTH);
	say_reply(NBD_OPT_GO, NBD_REP_ERR_UNSUP, NULL, 0);
	end_of_server();
	ck_assert_int_eq(start(), 0);
	ck_assert_int_eq(client_handshake_go(&handshake, "x", &info, &err), -ENOENT);
	ck_assert(!client_handshake_alive(&handshake));
}
END_TEST

static const struct {
	uint32_t type;
	int code;
	const char *words;
} refusals[] = {
	{NBD_REP_ERR_POLICY, -EACCES, "forbid the export 'x'"},
	{NBD_REP_ERR_INVALID, -EINVAL, "invalid"},
	{NBD_REP_ERR_PLATFORM, -EINVAL, "build"},
	{NBD_REP_ERR_TLS_REQD, -ENOKEY, "TLS for the export 'x'"},
	{NBD_REP_ERR_UNKNOWN, -ENOENT, "does not have the export 'x'"},
	{NBD_REP_ERR_SHUTDOWN, -ESHUTDOWN, "shutting down"},
	{NBD_REP_ERR_BLOCK_SIZE_REQD, -EINVAL, "block sizes"},
	{NBD_REP_ERR_TOO_BIG, -E2BIG, "too big"},
	{NBD_REP_ERR_EXT_HEADER_REQD, -EINVAL, "extended headers"},
	{NBD_REP_ERROR(4711), -EINVAL, "unknown error 4711"},
};

START_TEST(test_refusals)
{
	say_greeting(BOTH);
	/* A refusal may come after information; then that is void. */
	say_export(NBD_OPT_GO, 4096, 1);
	say_reply(NBD_OPT_GO, refusals[_i].type,
		  "\x1b[2Jgo \xff"
		  "away",
		  12);
	say_reply(NBD_OPT_ABORT, NBD_REP_ACK, NULL, 0);
	ck_assert_int_eq(start(), 0);
	ck_assert_int_eq(client_handshake_go(&handshake, "x", &info, &err), refusals[_i].code);
	ck_assert_int_eq(err.code, -refusals[_i].code);
	ck_assert_msg(strstr(err.text, refusals[_i].words) != NULL, "%s", err.text);
	ck_assert_msg(strstr(err.text, "(it says: \\x1b[2Jgo \\xffaway)") != NULL, "%s", err.text);
	ck_assert(!info.has_size);
	ck_assert_ptr_null(info.name);
	ck_assert(client_handshake_alive(&handshake));
	client_handshake_abort(&handshake);
	assert_left("");
}
END_TEST

START_TEST(test_list)
{
	struct nbd_export_list list;
	char entry[600];

	say_greeting(BOTH);
	memset(entry, 'd', sizeof(entry));
	memcpy(entry, "\0\0\0\3one", 7);
	say_reply(NBD_OPT_LIST, NBD_REP_SERVER, entry, sizeof(entry));
	for (int i = 0; i < 100; i++)
		say_reply(NBD_OPT_LIST, NBD_REP_SERVER, "\0\0\0\2n\xff", 6);
	say_reply(NBD_OPT_LIST, NBD_REP_SERVER, "\0\0\0\0", 4);
	say_reply(NBD_OPT_LIST, NBD_REP_ACK, NULL, 0);
	ck_assert_int_eq(start(), 0);
	ck_assert_int_eq(client_handshake_list(&handshake, &list, &err), 0);
	ck_assert_uint_eq(list.count, 102);
	ck_assert_str_eq(list.exports[0].name, "one");
	ck_assert_uint_eq(strlen(list.exports[0].description), 593);
	ck_assert_str_eq(list.exports[100].name, "n\xff");
	ck_assert_ptr_null(list.exports[100].description);
	ck_assert_str_eq(list.exports[101].name, "");
	nbd_export_list_clear(&list);
	ck_assert_uint_eq(list.count, 0);
}
END_TEST

/* A size beyond us is the fault of that export only: the answer is read to its end. */
START_TEST(test_too_large_stays_in_sync)
{
	say_greeting(BOTH);
	say_export(NBD_OPT_INFO, UINT64_C(1) << 63, 1);
	say_export(NBD_OPT_INFO, 1, 1);
	say_reply(NBD_OPT_INFO, NBD_REP_ACK, NULL, 0);
	say_export(NBD_OPT_INFO, (UINT64_C(1) << 63) - 1, 1);
	say_reply(NBD_OPT_INFO, NBD_REP_ACK, NULL, 0);
	ck_assert_int_eq(start(), 0);
	ck_assert_int_eq(client_handshake_info(&handshake, "x", &info, &err), -EFBIG);
	ck_assert(client_handshake_alive(&handshake));
	ck_assert_int_eq(client_handshake_info(&handshake, "x", &info, &err), 0);
	ck_assert_uint_eq(info.size, INT64_MAX);
}
END_TEST

START_TEST(test_contexts)
{
	static const char *const queries[] = {"base:allocation", "x:"};
	uint8_t data[8192];
	uint32_t length;

	say_greeting(BOTH);
	say_reply(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NULL, 0);
	say_reply(NBD_OPT_LIST_META_CONTEXT, NBD_REP_META_CONTEXT, "\0\0\0\0base:allocation", 19);
	say_reply(NBD_OPT_LIST_META_CONTEXT, NBD_REP_META_CONTEXT, "\0\0\0\0x:y", 7);
	say_reply(NBD_OPT_LIST_META_CONTEXT, NBD_REP_ACK, NULL, 0);
	say_reply(NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, "\0\0\0\7x:y", 7);
	say_reply(NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_TOO_BIG, NULL, 0);
	say_reply(NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, "\0\0\0\7x:y", 7);
	say_reply(NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, "\0\0\0\7x:z", 7);
	say_reply(NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, NULL, 0);
	ck_assert_int_eq(start(), 0);
	ck_assert_int_eq(client_handshake_list_contexts(&handshake, "d", NULL, 0, &info, &err),
			 -EOPNOTSUPP);
	ck_assert_int_eq(client_handshake_structured(&handshake, &err), 0);
	ck_assert(handshake.structured);
	ck_assert_int_eq(client_handshake_list_contexts(&handshake, "d", queries, 2, &info, &err),
			 0);
	ck_assert_uint_eq(info.context_count, 2);
	ck_assert_str_eq(info.contexts[0].name, "base:allocation");
	ck_assert_str_eq(info.contexts[1].name, "x:y");
	/* An error voids what came before it (C33), and two contexts never share a number. */
	ck_assert_int_eq(client_handshake_set_contexts(&handshake, "d", queries, 1, &info, &err),
			 -E2BIG);
	ck_assert_uint_eq(info.context_count, 0);
	ck_assert_int_eq(client_handshake_set_contexts(&handshake, "d", queries, 1, &info, &err),
			 -EPROTO);
	ck_assert_uint_eq(info.context_count, 0);
	heard_flags();
	ck_assert_uint_eq(heard_option(data, &length), NBD_OPT_STRUCTURED_REPLY);
	ck_assert_uint_eq(length, 0); /* C7 */
	ck_assert_uint_eq(heard_option(data, &length), NBD_OPT_LIST_META_CONTEXT);
	ck_assert_uint_eq(length, 4 + 1 + 4 + 4 + 15 + 4 + 2);
	ck_assert_mem_eq(data, "\0\0\0\1d\0\0\0\2\0\0\0\17base:allocation\0\0\0\2x:", length);
}
END_TEST

START_TEST(test_structured_is_optional)
{
	say_greeting(BOTH);
	say_reply(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_UNSUP, NULL, 0);
	ck_assert_int_eq(start(), 0);
	ck_assert_int_eq(client_handshake_structured(&handshake, &err), 0);
	ck_assert(!handshake.structured);
	ck_assert_int_eq(err.code, 0);
	/* But a server that leaves is no server without structured replies. */
	end_of_server();
	ck_assert_int_eq(client_handshake_structured(&handshake, &err), -ECONNRESET);
}
END_TEST

START_TEST(test_goodbyes)
{
	uint8_t data[8192], request[28];
	uint32_t length;

	say_greeting(BOTH);
	say_reply(NBD_OPT_ABORT, NBD_REP_ACK, NULL, 0);
	ck_assert_int_eq(start(), 0);
	client_handshake_abort(&handshake);
	client_handshake_abort(&handshake); /* once only */
	heard_flags();
	ck_assert_uint_eq(heard_option(data, &length), NBD_OPT_ABORT);
	ck_assert_uint_eq(length, 0);
	ck_assert_int_eq(recv(peer, data, 1, MSG_DONTWAIT), -1);

	say_greeting(BOTH);
	say_export(NBD_OPT_GO, 1, 1);
	say_reply(NBD_OPT_GO, NBD_REP_ACK, NULL, 0);
	ck_assert_int_eq(start(), 0);
	ck_assert_int_eq(client_handshake_go(&handshake, "", &info, &err), 0);
	client_handshake_abort(&handshake);
	heard_flags();
	heard_option(data, &length);
	ck_assert_int_eq(read(peer, request, 28), 28);
	ck_assert_uint_eq(load_be32(request), NBD_REQUEST_MAGIC);
	ck_assert_uint_eq(load_be16(request + 6), NBD_CMD_DISC);
}
END_TEST

/* Whoever took the socket owns what is said on it. */
START_TEST(test_no_goodbye_on_a_released_socket)
{
	uint8_t data[8192];
	uint32_t length;
	int fd;

	say_greeting(BOTH);
	say_export(NBD_OPT_GO, 1, 1);
	say_reply(NBD_OPT_GO, NBD_REP_ACK, NULL, 0);
	ck_assert_int_eq(start(), 0);
	ck_assert_int_eq(client_handshake_go(&handshake, "", &info, &err), 0);
	fd = transport_release(&transport);
	client_handshake_abort(&handshake);
	heard_flags();
	heard_option(data, &length);
	ck_assert_int_eq(recv(peer, data, 1, MSG_DONTWAIT), -1);
	close(fd);
}
END_TEST

START_TEST(test_silent_server)
{
	uint64_t before = clock_now();

	say_greeting(BOTH);
	ck_assert_int_eq(client_handshake_start(&handshake, &transport,
						before + 200 * CLOCK_MILLISECOND, &err),
			 0);
	ck_assert_int_eq(client_handshake_info(&handshake, "", &info, &err), -ETIMEDOUT);
	ck_assert_uint_lt(clock_now() - before, 2 * CLOCK_SECOND);
	ck_assert(!client_handshake_alive(&handshake));
}
END_TEST

START_TEST(test_long_name)
{
	static char name[NBD_STRING_MAX + 2];

	memset(name, 'n', NBD_STRING_MAX + 1);
	say_greeting(BOTH);
	ck_assert_int_eq(start(), 0);
	ck_assert_int_eq(client_handshake_go(&handshake, name, &info, &err), -EINVAL);
	ck_assert(client_handshake_alive(&handshake));
}
END_TEST

/* ---- Parsers ---- */

START_TEST(test_greetings)
{
	static const struct {
		const char *greeting, *words;
	} foreign[] = {
		{"SSH-2.0-", "\"SSH-2.0-\""},
		{"\0\1\2\3\4\5\6\7", "no NBD server"},
		{"NBDMAGIC\0\0\x42\2\x81\x86\x12\x53\0\0", "oldstyle"},
		{"NBDMAGICIHAVEOPX\0\3", "neither"},
	};
	uint16_t flags = 0;

	for (size_t i = 0; i < sizeof(foreign) / sizeof(foreign[0]); i++) {
		ck_assert_int_eq(
			client_greeting_parse(foreign[i].greeting, i < 2 ? 8 : 18, &flags, &err),
			-EPROTO);
		ck_assert_msg(strstr(err.text, foreign[i].words) != NULL, "%s", err.text);
	}
	ck_assert_int_eq(client_greeting_parse("NBDMAGICIHAVEOPT\0\3", 18, &flags, &err), 0);
	ck_assert_uint_eq(flags, BOTH);
}
END_TEST

/* Reply payloads that no honest server sends (C8). */
static const struct {
	int (*parse)(const void *, uint32_t, struct nbd_export_info *, struct error *);
	const char *payload;
	uint32_t length;
	int code;
} bad_payloads[] = {
	{client_server_parse, "", 0, -EPROTO},
	{client_server_parse, "\0\0\0", 3, -EPROTO},
	{client_server_parse, "\0\0\0\2x", 5, -EPROTO},
	{client_server_parse, "\xff\xff\xff\xffx", 5, -EPROTO},
	{client_server_parse, "\0\0\0\2x\0", 6, -EPROTO},
	{client_server_parse, "\0\0\0\1xa\0b", 8, -EPROTO},
	{client_info_parse, "", 0, -EPROTO},
	{client_info_parse, "\0", 1, -EPROTO},
	{client_info_parse, "\0\0", 2, -EPROTO},
	{client_info_parse, "\0\0\0\0\0\0\0\0\0\1\0", 11, -EPROTO},
	{client_info_parse, "\0\0\0\0\0\0\0\0\0\1\0\1\0", 13, -EPROTO},
	{client_info_parse, "\0\0\x80\0\0\0\0\0\0\0\0\1", 12, -EFBIG},
	{client_info_parse, "\0\1a\0", 4, -EPROTO},
	{client_info_parse, "\0\3\0\0\0\1\0\0\x10\0\0\0\x10", 13, -EPROTO},
	{client_info_parse, "\0\3\0\0\0\0\0\0\x10\0\0\0\x10\0", 14, -EPROTO},   /* minimum 0 */
	{client_info_parse, "\0\3\0\0\0\3\0\0\x10\0\0\0\x10\0", 14, -EPROTO},   /* minimum 3 */
	{client_info_parse, "\0\3\0\2\0\0\0\2\0\0\0\2\0\0", 14, -EPROTO},       /* 128 KiB */
	{client_info_parse, "\0\3\0\0\0\1\0\0\1\0\0\0\x10\0", 14, -EPROTO},     /* preferred 256 */
	{client_info_parse, "\0\3\0\0\x20\0\0\0\x10\0\0\0\x20\0", 14, -EPROTO}, /* pref. < min. */
	{client_info_parse, "\0\3\0\0\0\1\0\0\x10\0\0\0\x0f\xff", 14, -EPROTO}, /* max. < pref. */
};

START_TEST(test_bad_payloads)
{
	/* A copy of the right size, so that the sanitizer sees a step beyond it. */
	AUTO_FREE char *payload = malloc(bad_payloads[_i].length + 1);

	memcpy(payload, bad_payloads[_i].payload, bad_payloads[_i].length);
	payload = realloc(payload, bad_payloads[_i].length ? bad_payloads[_i].length : 1);
	ck_assert_int_eq(bad_payloads[_i].parse(payload, bad_payloads[_i].length, &info, &err),
			 bad_payloads[_i].code);
	ck_assert_int_eq(err.code, -bad_payloads[_i].code);
	ck_assert(!info.has_size && !info.has_block_sizes);
}
END_TEST

START_TEST(test_string_limit)
{
	static uint8_t payload[2 + NBD_STRING_MAX + 1] = {0, NBD_INFO_DESCRIPTION};

	memset(payload + 2, 'd', sizeof(payload) - 2);
	ck_assert_int_eq(client_info_parse(payload, 2 + NBD_STRING_MAX, &info, &err), 0);
	ck_assert_uint_eq(strlen(info.description), NBD_STRING_MAX);
	ck_assert_int_eq(client_info_parse(payload, sizeof(payload), &info, &err), -EPROTO);
}
END_TEST

START_TEST(test_reply_headers)
{
	struct client_reply reply;
	uint8_t header[20];

	nbd_option_reply_build(header, NBD_OPT_GO, NBD_REP_ACK, CLIENT_REPLY_MAX);
	ck_assert_int_eq(client_reply_parse(header, NBD_OPT_GO, &reply, &err), 0);
	ck_assert_uint_eq(reply.type, NBD_REP_ACK);
	ck_assert_uint_eq(reply.length, CLIENT_REPLY_MAX);
	ck_assert_int_eq(client_reply_parse(header, NBD_OPT_INFO, &reply, &err), -EPROTO);
	store_be32(header + 16, CLIENT_REPLY_MAX + 1);
	ck_assert_int_eq(client_reply_parse(header, NBD_OPT_GO, &reply, &err), -E2BIG);
	header[0] = 1;
	ck_assert_int_eq(client_reply_parse(header, NBD_OPT_GO, &reply, &err), -EPROTO);
}
END_TEST

/* ---- Answers that end the conversation ---- */

static void bad_magic(void)
{
	static const uint8_t zeroes[20];

	say(zeroes, sizeof(zeroes));
}

static void other_option(void)
{
	say_reply(NBD_OPT_INFO, NBD_REP_ACK, NULL, 0);
}

static void no_size(void)
{
	say_reply(NBD_OPT_GO, NBD_REP_ACK, NULL, 0);
}

static void ack_with_data(void)
{
	say_export(NBD_OPT_GO, 1, 1);
	say_reply(NBD_OPT_GO, NBD_REP_ACK, "x", 1);
}

static void foreign_reply(void)
{
	say_reply(NBD_OPT_GO, NBD_REP_SERVER, "\0\0\0\0", 4);
}

static void unknown_reply(void)
{
	say_reply(NBD_OPT_GO, 77, NULL, 0);
}

static void cut_reply(void)
{
	say("\0\3\xe8\x89\4\x55", 6);
	end_of_server();
}

static void huge_reply(void)
{
	uint8_t header[20];

	say(header, nbd_option_reply_build(header, NBD_OPT_GO, NBD_REP_INFO, UINT32_MAX));
}

static void endless_infos(void)
{
	for (int i = 0; i < 300; i++)
		say_reply(NBD_OPT_GO, NBD_REP_INFO, "\x12\x34", 2);
}

static const struct {
	void (*script)(void);
	int code;
} fatal[] = {
	{bad_magic, -EPROTO},     {other_option, -EPROTO},  {no_size, -EPROTO},
	{ack_with_data, -EPROTO}, {foreign_reply, -EPROTO}, {unknown_reply, -EPROTO},
	{cut_reply, -ECONNRESET}, {huge_reply, -E2BIG},     {endless_infos, -E2BIG},
};

START_TEST(test_fatal_answers)
{
	say_greeting(BOTH);
	fatal[_i].script();
	ck_assert_int_eq(start(), 0);
	ck_assert_int_eq(client_handshake_go(&handshake, "x", &info, &err), fatal[_i].code);
	ck_assert_int_eq(err.code, -fatal[_i].code);
	ck_assert_int_eq(handshake.phase, CLIENT_HANDSHAKE_OVER);
	ck_assert_ptr_null(info.name);
	/* Nothing goes out on a broken conversation. */
	ck_assert_int_eq(client_handshake_info(&handshake, "x", &info, &err), -ECONNRESET);
}
END_TEST

static TCase *conversations(void)
{
	TCase *tcase = tcase_create("conversations");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, test_go_leaves_the_next_byte);
	tcase_add_loop_test(tcase, test_old_server_by_export_name, 0, 2);
	tcase_add_test(tcase, test_not_fixed_newstyle);
	tcase_add_test(tcase, test_refused_export_name);
	tcase_add_loop_test(tcase, test_refusals, 0, sizeof(refusals) / sizeof(refusals[0]));
	tcase_add_test(tcase, test_list);
	tcase_add_test(tcase, test_too_large_stays_in_sync);
	tcase_add_test(tcase, test_contexts);
	tcase_add_test(tcase, test_structured_is_optional);
	tcase_add_test(tcase, test_goodbyes);
	tcase_add_test(tcase, test_no_goodbye_on_a_released_socket);
	tcase_add_test(tcase, test_silent_server);
	tcase_add_test(tcase, test_long_name);
	tcase_add_loop_test(tcase, test_fatal_answers, 0, sizeof(fatal) / sizeof(fatal[0]));
	return tcase;
}

static TCase *parsers(void)
{
	TCase *tcase = tcase_create("parsers");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, test_greetings);
	tcase_add_loop_test(tcase, test_bad_payloads, 0,
			    sizeof(bad_payloads) / sizeof(bad_payloads[0]));
	tcase_add_test(tcase, test_string_limit);
	tcase_add_test(tcase, test_reply_headers);
	return tcase;
}

int main(void)
{
	Suite *suite = suite_create("client-handshake");
	SRunner *runner;
	int failed;

	suite_add_tcase(suite, conversations());
	suite_add_tcase(suite, parsers());
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
