// SPDX-License-Identifier: MIT
/*
 * Keys that change in the middle: in TLS 1.3 at the peer's wish, at ours, and at a hostile peer's;
 * in TLS 1.2 that is a new handshake, which nobody gets.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/tls-internal.h"
#include "common/tls.h"

enum { KEY_UPDATE = 24, PIECE = 40000 };

static const char user[] = "alice";
static const uint8_t key[16] = "sixteen bytes...";
static struct error err;

/* One end is ours, the other OpenSSL as it is. */
struct pair {
	struct transport ours;
	SSL *peer;
	int updates; /* that came to the peer */
};

static unsigned int give_key(SSL *ssl, const char *hint, char *identity, unsigned int identity_room,
			     unsigned char *psk, unsigned int room)
{
	(void)ssl, (void)hint, (void)room;
	snprintf(identity, identity_room, "%s", user);
	memcpy(psk, key, sizeof(key));
	return sizeof(key);
}

static unsigned int find_key(SSL *ssl, const char *identity, unsigned char *psk, unsigned int room)
{
	(void)ssl, (void)identity, (void)room;
	memcpy(psk, key, sizeof(key));
	return sizeof(key);
}

static void watch(int sent, int version, int type, const void *bytes, size_t length, SSL *ssl,
		  void *argument)
{
	struct pair *pair = argument;

	(void)version, (void)ssl;
	if (!sent && type == SSL3_RT_HANDSHAKE && length && *(const uint8_t *)bytes == KEY_UPDATE)
		pair->updates++;
}

static SSL *make_peer(enum tls_side ours, int version, int fd, struct pair *pair)
{
	SSL_CTX *context =
		SSL_CTX_new(ours == TLS_SERVER ? TLS_client_method() : TLS_server_method());
	SSL *ssl;

	SSL_CTX_set_min_proto_version(context, version);
	SSL_CTX_set_max_proto_version(context, version);
	SSL_CTX_set_num_tickets(context, 0);
	SSL_CTX_set_psk_client_callback(context, give_key);
	SSL_CTX_set_psk_server_callback(context, find_key);
	SSL_CTX_set_msg_callback(context, watch);
	ssl = SSL_new(context);
	SSL_CTX_free(context);
	ck_assert_ptr_nonnull(ssl);
	SSL_set_msg_callback_arg(ssl, pair);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	SSL_set_fd(ssl, fd);
	if (ours == TLS_SERVER)
		SSL_set_connect_state(ssl);
	else
		SSL_set_accept_state(ssl);
	return ssl;
}

static struct tls_creds *make_creds(enum tls_side side)
{
	char path[] = "/tmp/hawser-keys.XXXXXX";
	struct tls_config config = {.kind = TLS_PSK, .side = side, .psk_file = path};
	int fd = mkstemp(path);
	struct tls_creds *creds;

	config.user = side == TLS_CLIENT ? user : NULL;
	dprintf(fd, "%s:", user);
	for (size_t i = 0; i < sizeof(key); i++)
		dprintf(fd, "%02x", key[i]);
	close(fd);
	ck_assert_msg(!tls_creds_new(&creds, &config, &err), "%s", err.text);
	unlink(path);
	return creds;
}

static void pair_open(struct pair *pair, enum tls_side ours, int version)
{
	struct tls_creds *creds = make_creds(ours);
	int ends[2], rc = -EAGAIN, done = 0;

	*pair = (struct pair){0};
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	transport_init_plain(&pair->ours, ends[0]);
	pair->peer = make_peer(ours, version, ends[1], pair);
	ck_assert_int_eq(tls_start(&pair->ours, creds, NULL, &err), 0);
	for (int i = 0; i < 20 && (rc || done != 1); i++) {
		done = SSL_do_handshake(pair->peer);
		if (rc)
			rc = tls_handshake(&pair->ours, &err);
		ck_assert_msg(!rc || rc == -EAGAIN, "%s", err.text);
	}
	ck_assert_int_eq(rc, 0);
	ck_assert_int_eq(done, 1);
	ck_assert_str_eq(tls_version(&pair->ours),
			 version == TLS1_3_VERSION ? "TLSv1.3" : "TLSv1.2");
	tls_creds_free(creds);
}

static void pair_close(struct pair *pair)
{
	int fd = SSL_get_fd(pair->peer);

	transport_close(&pair->ours, TRANSPORT_CLOSE_DROP);
	SSL_free(pair->peer);
	close(fd);
}

static void fill(uint8_t *bytes, unsigned int seed)
{
	for (size_t i = 0; i < PIECE; i++)
		bytes[i] = (uint8_t)(seed + i * 7 + (i >> 8));
}

static void peer_to_us(struct pair *pair, unsigned int seed)
{
	static uint8_t bytes[PIECE], got[PIECE];
	size_t written;

	fill(bytes, seed);
	ck_assert_int_eq(SSL_write_ex(pair->peer, bytes, PIECE, &written), 1);
	for (size_t have = 0; have < PIECE;) {
		ssize_t part = transport_recv(&pair->ours, got + have, PIECE - have, MSG_DONTWAIT);

		ck_assert_msg(part > 0, "%zd after %zu bytes", part, have);
		have += (size_t)part;
	}
	ck_assert_mem_eq(bytes, got, PIECE);
}

static void us_to_peer(struct pair *pair, unsigned int seed)
{
	static uint8_t bytes[PIECE], got[PIECE];
	struct iovec iov = {.iov_base = bytes, .iov_len = PIECE};

	fill(bytes, seed);
	ck_assert_int_eq(transport_send(&pair->ours, &iov, 1, MSG_DONTWAIT), PIECE);
	for (size_t have = 0, part; have < PIECE; have += part)
		ck_assert_int_eq(SSL_read_ex(pair->peer, got + have, PIECE - have, &part), 1);
	ck_assert_mem_eq(bytes, got, PIECE);
}

/* The peer changes its keys, and with each second change wants ours changed, too. */
START_TEST(test_of_the_peer)
{
	struct pair pair;

	pair_open(&pair, _i ? TLS_SERVER : TLS_CLIENT, TLS1_3_VERSION);
	for (unsigned int round = 0; round < 10; round++) {
		bool wants = round % 2;

		ck_assert_int_eq(SSL_key_update(pair.peer, wants ? SSL_KEY_UPDATE_REQUESTED
								 : SSL_KEY_UPDATE_NOT_REQUESTED),
				 1);
		peer_to_us(&pair, round);
		us_to_peer(&pair, round + 100);
		ck_assert_int_eq(pair.updates, (int)(round + 1) / 2);
	}
	pair_close(&pair);
}
END_TEST

/* What one key has encrypted is bounded, without the peer's doing. */
START_TEST(test_of_our_own)
{
	struct pair pair;

	tls_records_per_key = 5;
	pair_open(&pair, _i ? TLS_SERVER : TLS_CLIENT, TLS1_3_VERSION);
	for (unsigned int round = 0; round < 10; round++) {
		us_to_peer(&pair, round);
		peer_to_us(&pair, round + 100);
	}
	/* Three records a round. */
	ck_assert_int_eq(pair.updates, 10 * 3 / 5);
	pair_close(&pair);
}
END_TEST

/* Who demands answers and reads none is not allowed to fill our memory, however slowly. */
START_TEST(test_flood)
{
	struct pair pair;
	ssize_t got = 1;
	uint8_t byte = 0;

	pair_open(&pair, TLS_SERVER, TLS1_3_VERSION);
	for (int asked = 0; got == 1 && asked < 200000; asked++) {
		ck_assert_int_eq(SSL_key_update(pair.peer, SSL_KEY_UPDATE_REQUESTED), 1);
		ck_assert_int_eq(SSL_write(pair.peer, &byte, 1), 1);
		got = transport_recv(&pair.ours, &byte, 1, MSG_DONTWAIT);
		usleep(1100);
	}
	ck_assert_int_eq(got, -ECONNABORTED);
	ck_assert_str_eq(transport_reason(&pair.ours), "the peer reads no answers");
	pair_close(&pair);
}
END_TEST

static const char too_many[] = "the peer sends too many records without data";

/* Nor may who changes keys all the time keep us busy; some changes are well. What it says between
 * them does not count for it. */
START_TEST(test_nothing_but_keys)
{
	struct pair pair;
	ssize_t got = -EAGAIN;
	uint8_t byte = 0;
	int asked = 0;

	pair_open(&pair, _i % 2 ? TLS_SERVER : TLS_CLIENT, TLS1_3_VERSION);
	for (; (got == -EAGAIN || got == 1) && asked < 5000; asked++) {
		ck_assert_int_eq(SSL_key_update(pair.peer, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
		ck_assert_int_eq(SSL_do_handshake(pair.peer), 1);
		if (_i > 1)
			ck_assert_int_eq(SSL_write(pair.peer, &byte, 1), 1);
		got = transport_recv(&pair.ours, &byte, 1, MSG_DONTWAIT);
	}
	ck_assert_int_eq(got, -ECONNABORTED);
	ck_assert_int_gt(asked, 32);
	ck_assert_str_eq(transport_reason(&pair.ours), too_many);
	pair_close(&pair);
}
END_TEST

/* With pauses between them there is no end to it. */
START_TEST(test_keys_now_and_then)
{
	struct pair pair;
	uint8_t byte;

	pair_open(&pair, _i ? TLS_SERVER : TLS_CLIENT, TLS1_3_VERSION);
	for (int asked = 0; asked < 300; asked++) {
		ck_assert_int_eq(SSL_key_update(pair.peer, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
		ck_assert_int_eq(SSL_do_handshake(pair.peer), 1);
		ck_assert_int_eq(transport_recv(&pair.ours, &byte, 1, MSG_DONTWAIT), -EAGAIN);
		usleep(1100);
	}
	pair_close(&pair);
}
END_TEST

static int waiting(const struct transport *transport)
{
	int bytes = 0;

	ck_assert_int_eq(ioctl(transport->fd, FIONREAD, &bytes), 0);
	return bytes;
}

static void widen(int fd)
{
	int size = 8 << 20;

	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

/* A step takes about as much from the socket as it was asked for, however little comes of it: the
 * others of the main loop want their turn. */
START_TEST(test_step_of_receiving)
{
	static uint8_t bytes[64 << 10];
	struct pair pair;
	uint8_t byte = 7;
	size_t written, sent = 0, have = 0;
	ssize_t got;

	pair_open(&pair, TLS_SERVER, TLS1_3_VERSION);
	widen(SSL_get_fd(pair.peer));
	while (waiting(&pair.ours) < 160 << 10 && SSL_write_ex(pair.peer, &byte, 1, &written) == 1)
		sent++;
	got = transport_recv(&pair.ours, bytes, 4 << 10, MSG_DONTWAIT);
	ck_assert_int_gt(got, 0);
	ck_assert_int_gt(waiting(&pair.ours), 0);
	for (have = (size_t)got; have < sent; have += (size_t)got) {
		got = transport_recv(&pair.ours, bytes, sizeof(bytes), MSG_DONTWAIT);
		ck_assert_int_gt(got, 0);
	}
	ck_assert_uint_eq(have, sent);
	ck_assert_int_eq(transport_recv(&pair.ours, bytes, 1, MSG_DONTWAIT), -EAGAIN);
	ck_assert_uint_eq(transport_pending(&pair.ours), 0);
	pair_close(&pair);
}
END_TEST

/* Nor does one of the handshake go on for as long as a server has something to say that means
 * nothing (HelloRequest). */
START_TEST(test_step_of_handshake)
{
	static const uint8_t record[] = {22, 3, 3, 0, 4, 0, 0, 0, 0};
	struct tls_creds *creds = make_creds(TLS_CLIENT);
	struct transport ours;
	int ends[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
	widen(ends[1]);
	transport_init_plain(&ours, ends[0]);
	ck_assert_int_eq(tls_start(&ours, creds, NULL, &err), 0);
	ck_assert_int_eq(tls_handshake(&ours, &err), -EAGAIN);
	while (waiting(&ours) < 160 << 10 &&
	       write(ends[1], record, sizeof(record)) == sizeof(record))
		;
	ck_assert_int_eq(tls_handshake(&ours, &err), -EAGAIN);
	ck_assert_int_gt(waiting(&ours), 0);
	transport_close(&ours, TRANSPORT_CLOSE_DROP);
	close(ends[1]);
	tls_creds_free(creds);
}
END_TEST

static int fill_ticket(SSL *ssl, void *argument)
{
	static const uint8_t data[1500];

	(void)argument;
	return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), data, sizeof(data));
}

static SSL_TICKET_RETURN ignore_ticket(SSL *ssl, SSL_SESSION *session, const unsigned char *name,
				       size_t length, SSL_TICKET_STATUS status, void *argument)
{
	(void)ssl, (void)session, (void)name, (void)length, (void)status, (void)argument;
	return SSL_TICKET_RETURN_IGNORE;
}

/* A ticket of which a part has come holds up what we say, until the rest is there. */
START_TEST(test_part_of_a_message)
{
	enum { FIRST = 700 };
	struct iovec iov = {.iov_base = (char[]){"hello"}, .iov_len = 5};
	BIO *memory = BIO_new(BIO_s_mem());
	struct pair pair;
	uint8_t byte, said[5];
	char *bytes;
	long length;

	pair_open(&pair, TLS_CLIENT, TLS1_3_VERSION);
	SSL_CTX_set_session_ticket_cb(SSL_get_SSL_CTX(pair.peer), fill_ticket, ignore_ticket, NULL);
	SSL_set_max_send_fragment(pair.peer, 512);
	SSL_set0_wbio(pair.peer, memory);
	ck_assert_int_eq(SSL_new_session_ticket(pair.peer), 1);
	ck_assert_int_eq(SSL_do_handshake(pair.peer), 1);
	length = BIO_get_mem_data(memory, &bytes);
	ck_assert_int_gt(length, FIRST);
	ck_assert_int_eq(write(SSL_get_fd(pair.peer), bytes, FIRST), FIRST);
	ck_assert_int_eq(transport_recv(&pair.ours, &byte, 1, MSG_DONTWAIT), -EAGAIN);
	ck_assert_int_eq(transport_send(&pair.ours, &iov, 1, MSG_DONTWAIT), -EAGAIN);
	ck_assert_int_eq(transport_send_event(&pair.ours), POLLIN);
	ck_assert_int_eq(write(SSL_get_fd(pair.peer), bytes + FIRST, (size_t)length - FIRST),
			 length - FIRST);
	ck_assert_int_eq(transport_send(&pair.ours, &iov, 1, MSG_DONTWAIT), 5);
	ck_assert_int_eq(transport_send_event(&pair.ours), POLLOUT);
	ck_assert_int_eq(SSL_read(pair.peer, said, sizeof(said)), 5);
	ck_assert_mem_eq(said, "hello", 5);
	pair_close(&pair);
}
END_TEST

/* Who wants it again and again is gone soon: each wish costs an answer. */
START_TEST(test_many_renegotiations)
{
	struct pair pair;
	ssize_t got = -EAGAIN;
	uint8_t byte;
	int asked = 0;

	pair_open(&pair, TLS_CLIENT, TLS1_2_VERSION);
	for (; got == -EAGAIN && asked < 1000; asked++) {
		ck_assert_int_eq(SSL_renegotiate(pair.peer), 1);
		ck_assert_int_eq(SSL_do_handshake(pair.peer), 1);
		got = transport_recv(&pair.ours, &byte, 1, MSG_DONTWAIT);
	}
	ck_assert_int_eq(got, -ECONNABORTED);
	ck_assert_int_gt(asked, 32);
	ck_assert_str_eq(transport_reason(&pair.ours), too_many);
	pair_close(&pair);
}
END_TEST

/* A peer of TLS 1.2 that wants to shake hands again gets a no, whichever side it is. */
START_TEST(test_renegotiation)
{
	struct pair pair;
	uint8_t byte;
	int rc = 0;

	pair_open(&pair, _i ? TLS_SERVER : TLS_CLIENT, TLS1_2_VERSION);
	us_to_peer(&pair, 1);
	peer_to_us(&pair, 2);
	ck_assert_int_eq(SSL_renegotiate(pair.peer), 1);
	for (int i = 0; i < 10; i++) {
		rc = SSL_do_handshake(pair.peer);
		if (rc == 1) /* a server has only asked for it */
			rc = SSL_read(pair.peer, &byte, 1);
		ck_assert_int_le(rc, 0);
		if (SSL_get_error(pair.peer, rc) == SSL_ERROR_SSL)
			break;
		ck_assert_int_eq(transport_recv(&pair.ours, &byte, 1, MSG_DONTWAIT), -EAGAIN);
	}
	ck_assert_int_eq(SSL_get_error(pair.peer, rc), SSL_ERROR_SSL);
	ck_assert_int_eq(ERR_GET_REASON(ERR_peek_error()), SSL_R_NO_RENEGOTIATION);
	ERR_clear_error();
	pair_close(&pair);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tls-update");
	TCase *tcase = tcase_create("keys");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(tcase, test_of_the_peer, 0, 2);
	tcase_add_loop_test(tcase, test_of_our_own, 0, 2);
	tcase_add_test(tcase, test_flood);
	tcase_add_loop_test(tcase, test_nothing_but_keys, 0, 4);
	tcase_add_loop_test(tcase, test_keys_now_and_then, 0, 2);
	tcase_add_test(tcase, test_step_of_receiving);
	tcase_add_test(tcase, test_step_of_handshake);
	tcase_add_test(tcase, test_part_of_a_message);
	tcase_add_loop_test(tcase, test_renegotiation, 0, 2);
	tcase_add_test(tcase, test_many_renegotiations);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
