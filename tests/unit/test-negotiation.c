// SPDX-License-Identifier: MIT
/*
 * A connection on its way to transmission: how the handshake machine meets a socket. The peer is
 * the other end of a pair.
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/connection.h"

/* What a client says that wants chunks, contexts and the default export. */
static const uint8_t wishes[] = "\0\0\0\3"
				"IHAVEOPT\0\0\0\x08\0\0\0\0"
				"IHAVEOPT\0\0\0\x0a\0\0\0\x1b\0\0\0\0\0\0\0\1\0\0\0\x0f"
				"base:allocation"
				"IHAVEOPT\0\0\0\x07\0\0\0\6\0\0\0\0\0\0";
enum { WISHES = sizeof(wishes) - 1, GO = 22 /* bytes of the last option */ };
/* What it hears: greeting, ACK, context and ACK, size and ACK. */
enum { ANSWERS = 18 + 20 + 20 + 19 + 20 + 20 + 12 + 20 };

static struct export export = {.name = "", .size = 4096};
static bool slot;
static struct handshake_world world;
static struct connection *connection;
static uint8_t scratch[NEGOTIATION_SCRATCH];
static int peer;

static bool take_slot(void *context)
{
	(void)context;
	return slot;
}

static void setup(void)
{
	int pair[2];

	slot = true;
	world = (struct handshake_world){
		.exports = &export, .export_count = 1, .take_slot = take_slot};
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	peer = pair[1];
	connection = connection_new(NULL, pair[0], &world);
	ck_assert_ptr_nonnull(connection);
}

static void teardown(void)
{
	transport_close(&connection->transport, TRANSPORT_CLOSE_DROP);
	connection_free(connection);
	close(peer);
}

static enum negotiation step(void)
{
	return connection_negotiate(connection, scratch);
}

static void say(const void *bytes, size_t length)
{
	ck_assert_int_eq(send(peer, bytes, length, MSG_NOSIGNAL), (ssize_t)length);
}

/* Takes all that the server has said so far. */
static size_t hear(void)
{
	static uint8_t bytes[1 << 20];
	size_t heard = 0;
	ssize_t got;

	while ((got = recv(peer, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
		heard += (size_t)got;
	return heard;
}

START_TEST(test_silence)
{
	ck_assert_int_eq(step(), NEGOTIATION_GOES_ON);
	ck_assert_uint_eq(hear(), 18);
	ck_assert_int_eq(step(), NEGOTIATION_GOES_ON);
	ck_assert_uint_eq(hear(), 0);
}
END_TEST

/* Whatever the pieces, the outcome is the same, and what follows is kept. */
START_TEST(test_pieces)
{
	size_t piece = (size_t)_i, at = 0;

	while (at < WISHES) {
		size_t length = WISHES - at < piece ? WISHES - at : piece;

		ck_assert_int_eq(step(), NEGOTIATION_GOES_ON);
		say(wishes + at, length);
		at += length;
	}
	say("request", 7);
	ck_assert_int_eq(step(), NEGOTIATION_DONE);
	ck_assert_uint_eq(hear(), ANSWERS);
	ck_assert_ptr_eq(connection->export_, &export);
	ck_assert(connection->terms.structured && connection->terms.contexts);
	/* With the last option it may have come in one piece, or it is still in the socket. */
	ck_assert(connection->held.used == 7 || connection->held.used == 0);
}
END_TEST

/* Waiting for a slot loses nothing of what was agreed, and keeps what follows. */
START_TEST(test_waits_for_slot)
{
	slot = false;
	say(wishes, WISHES);
	ck_assert_int_eq(step(), NEGOTIATION_FULL);
	ck_assert_uint_eq(connection->held.used, GO);
	say("request", 7);
	ck_assert_int_eq(step(), NEGOTIATION_FULL);
	slot = true;
	ck_assert_int_eq(step(), NEGOTIATION_DONE);
	ck_assert_uint_eq(hear(), ANSWERS);
	ck_assert_uint_eq(connection->held.used, 7);
	ck_assert_int_eq(memcmp(connection->held.bytes, "request", 7), 0);
	/* The name is the connection's now, once: it is freed with it. */
	ck_assert_ptr_null(connection->handshake.terms.context_export);
	ck_assert_ptr_nonnull(connection->terms.context_export);
}
END_TEST

START_TEST(test_slot_refused)
{
	slot = false;
	say(wishes, WISHES);
	ck_assert_int_eq(step(), NEGOTIATION_FULL);
	connection->handshake.slot_refused = true;
	ck_assert_int_eq(step(), NEGOTIATION_GOES_ON);
	ck_assert_ptr_null(connection->export_);
	ck_assert_uint_eq(connection->held.used, 0);
}
END_TEST

/* Who waits for a slot may send ahead, but not for ever. */
START_TEST(test_sending_ahead_is_bounded)
{
	static const uint8_t zeroes[16 << 10];
	size_t taken = 0;
	ssize_t sent;

	slot = false;
	say(wishes, WISHES);
	for (int i = 0; i < 1000; i++) {
		sent = send(peer, zeroes, sizeof(zeroes), MSG_DONTWAIT | MSG_NOSIGNAL);
		taken += sent > 0 ? (size_t)sent : 0;
		ck_assert_int_eq(step(), NEGOTIATION_FULL);
		ck_assert_uint_le(connection->held.used,
				  HANDSHAKE_OPTION_MAX + 16 + NEGOTIATION_SCRATCH);
	}
	ck_assert_uint_lt(taken, 1000 * sizeof(zeroes));
}
END_TEST

/* A client that reads no answers stops being heard. */
START_TEST(test_answers_nobody_reads)
{
	static uint8_t lists[1000 * 16];
	int small = 4096;

	for (size_t i = 0; i < 1000; i++)
		nbd_option_build(lists + 16 * i, NBD_OPT_LIST, 0);
	setsockopt(connection->transport.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	say(wishes, 4);
	for (int i = 0; i < 100; i++) {
		send(peer, lists, sizeof(lists), MSG_DONTWAIT | MSG_NOSIGNAL);
		ck_assert_int_eq(step(), NEGOTIATION_GOES_ON);
		ck_assert_uint_le(connection->out.used, HANDSHAKE_OUTPUT_MAX + 1024);
		ck_assert_uint_le(connection->held.used,
				  HANDSHAKE_OPTION_MAX + 16 + NEGOTIATION_SCRATCH);
	}
	ck_assert_uint_gt(connection->out.used, 0);
}
END_TEST

/* Options that came all at once are all answered, although nothing more comes. */
START_TEST(test_many_at_once)
{
	static uint8_t lists[3000 * 16];
	size_t heard;

	for (size_t i = 0; i < 3000; i++)
		nbd_option_build(lists + 16 * i, NBD_OPT_LIST, 0);
	say(wishes, 4);
	ck_assert_int_eq(step(), NEGOTIATION_GOES_ON);
	say(lists, sizeof(lists));
	if (_i)
		shutdown(peer, SHUT_WR);
	ck_assert_int_eq(step(), _i ? NEGOTIATION_DROP : NEGOTIATION_GOES_ON);
	heard = hear();
	while (connection->out.used) {
		step();
		heard += hear();
	}
	ck_assert_uint_eq(heard, 18 + 3000 * (20 + 4 + 20));
}
END_TEST

/* While the last answer is still leaving nothing is agreed on twice. */
START_TEST(test_slow_end)
{
	int small = 1;

	setsockopt(connection->transport.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	say(wishes, 4);
	while (send(connection->transport.fd, scratch, 1024, MSG_DONTWAIT) > 0)
		;
	say(wishes + 4, WISHES - 4);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(step(), NEGOTIATION_GOES_ON);
	ck_assert_uint_gt(connection->out.used, 0);
	hear();
	ck_assert_int_eq(step(), NEGOTIATION_DONE);
	ck_assert_ptr_nonnull(connection->terms.context_export);
}
END_TEST

START_TEST(test_abort_is_answered)
{
	say("\0\0\0\3IHAVEOPT\0\0\0\2\0\0\0\0", 20);
	ck_assert_int_eq(step(), NEGOTIATION_CLOSE);
	ck_assert_uint_eq(hear(), 18 + 20);
}
END_TEST

START_TEST(test_breach)
{
	say("\0\0\0\3GET / HTTP/1.1\r\n\r\n", 22);
	ck_assert_int_eq(step(), NEGOTIATION_DROP);
}
END_TEST

START_TEST(test_peer_leaves)
{
	say(wishes, (size_t)_i);
	shutdown(peer, SHUT_WR);
	ck_assert_int_eq(step(), NEGOTIATION_DROP);
	ck_assert_ptr_null(connection->export_);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("negotiation");
	TCase *tcase = tcase_create("socket");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, test_silence);
	tcase_add_loop_test(tcase, test_pieces, 1, 24);
	tcase_add_test(tcase, test_waits_for_slot);
	tcase_add_test(tcase, test_slot_refused);
	tcase_add_test(tcase, test_sending_ahead_is_bounded);
	tcase_add_test(tcase, test_answers_nobody_reads);
	tcase_add_loop_test(tcase, test_many_at_once, 0, 2);
	tcase_add_test(tcase, test_slow_end);
	tcase_add_test(tcase, test_abort_is_answered);
	tcase_add_test(tcase, test_breach);
	tcase_add_loop_test(tcase, test_peer_leaves, 0, WISHES);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
