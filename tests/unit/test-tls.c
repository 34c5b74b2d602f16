// SPDX-License-Identifier: MIT
/* TLS without a network: priority strings in OpenSSL's words, files of keys, and the transport
 * over a pair of sockets. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/tls-priority.h"
#include "common/tls-psk.h"
#include "common/tls.h"

static struct error err;
static struct tls_priority priority;
static char text[TLS_PRIORITY_TEXT_MAX];

static const char *ciphers(const char *words, unsigned int kinds, bool aes)
{
	ck_assert_msg(!tls_priority_parse(words, kinds, &priority, &err), "%s", err.text);
	tls_priority_ciphers(&priority, aes, text);
	return text;
}

static const char *suites(const char *words, unsigned int kinds, bool aes)
{
	ck_assert_msg(!tls_priority_parse(words, kinds, &priority, &err), "%s", err.text);
	tls_priority_suites(&priority, aes, text);
	return text;
}

/* The fastest first, whatever that is on this processor. */
START_TEST(test_order)
{
	ck_assert_str_eq(suites(NULL, TLS_EXCHANGES_X509, true),
			 "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
			 "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_CCM_SHA256");
	ck_assert_str_eq(suites("NORMAL:-AES-128-CCM", TLS_EXCHANGES_X509, false),
			 "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256:"
			 "TLS_AES_256_GCM_SHA384");
	ck_assert_str_eq(ciphers("NORMAL:-CIPHER-ALL:+AES-256-GCM", TLS_EXCHANGES_PSK, true),
			 "DHE-PSK-AES256-GCM-SHA384:PSK-AES256-GCM-SHA384");
}
END_TEST

/* Each kind of credentials has its own ciphers, and no others. */
START_TEST(test_kinds)
{
	ck_assert_ptr_null(strstr(ciphers("NORMAL:+ANON-DH", TLS_EXCHANGES_X509, true), "ADH"));
	ck_assert_ptr_null(strstr(ciphers("NORMAL:+ANON-ECDH", TLS_EXCHANGES_PSK, true), "ADH"));
	ck_assert_ptr_null(strstr(ciphers(NULL, TLS_EXCHANGES_X509, true), "PSK"));
	ck_assert_ptr_null(strstr(ciphers(NULL, TLS_EXCHANGES_X509, true), "-SHA:"));
	ck_assert_str_eq(suites("NORMAL", TLS_EXCHANGES_ANON, true), "");
	ck_assert_str_eq(ciphers("NORMAL:-ANON-DH:-AES-256-CBC", TLS_EXCHANGES_ANON, true),
			 "AECDH-AES128-SHA");
	ck_assert_ptr_null(strstr(ciphers("PFS", TLS_EXCHANGES_PSK, true), ":PSK-"));
}
END_TEST

START_TEST(test_versions)
{
	ck_assert_str_eq(ciphers("NORMAL:-VERS-TLS1.2", TLS_EXCHANGES_X509, true), "");
	ck_assert_uint_eq(priority.versions, TLS_VERSION_13);
	ck_assert(priority.names_version);
	ciphers("@SYSTEM:-AES-128-CCM:%PROFILE_HIGH", TLS_EXCHANGES_X509, true);
	ck_assert(!priority.names_version);
	ck_assert_str_eq(suites("NORMAL:-VERS-ALL:+VERS-TLS1.2", TLS_EXCHANGES_X509, true), "");
	ck_assert_uint_eq(priority.versions, TLS_VERSION_12);
	ciphers("NORMAL:-VERS-TLS1.0:!VERS-TLS1.1:%SERVER_PRECEDENCE", TLS_EXCHANGES_X509, true);
	ck_assert_uint_eq(priority.versions, TLS_VERSION_12 | TLS_VERSION_13);
}
END_TEST

START_TEST(test_groups_and_level)
{
	ciphers("NORMAL", TLS_EXCHANGES_X509, true);
	tls_priority_groups(&priority, text);
	ck_assert_str_eq(text, "");
	ck_assert_int_eq(priority.level, -1);
	ciphers("NORMAL:-GROUP-X25519:-CURVE-X448:%PROFILE_HIGH", TLS_EXCHANGES_X509, true);
	tls_priority_groups(&priority, text);
	ck_assert_str_eq(text, "P-256:P-384:P-521");
	ciphers("NORMAL:-GROUP-ALL:+GROUP-X25519:-MAC-ALL:+AEAD:-SIGN-ALL:+SIGN-ALL:%PROFILE_HIGH",
		TLS_EXCHANGES_X509, true);
	tls_priority_groups(&priority, text);
	ck_assert_str_eq(text, "X25519");
	ck_assert_int_eq(priority.level, 3);
	ck_assert_ptr_null(strstr(ciphers("SECURE256", TLS_EXCHANGES_X509, true), "AES128"));
}
END_TEST

/* What cannot be carried over is named. */
static const struct {
	const char *words, *named;
} refused[] = {
	{"LEGACY", "'LEGACY'"},
	{"", "''"},
	{"NORMAL:", "''"},
	{"NORMAL:AES-128-GCM", "'AES-128-GCM'"},
	{"NORMAL:+ROT13", "'+ROT13' is not known here"},
	{"NORMAL:+VERS-TLS1.1", "not safe"},
	{"NORMAL:+RSA", "not safe"},
	{"NORMAL:+3DES-CBC", "not safe"},
	{"NORMAL:%UNSAFE_RENEGOTIATION", "'%UNSAFE_RENEGOTIATION'"},
	{"NORMAL:-SIGN-RSA-SHA256", "'-SIGN-RSA-SHA256'"},
	{"NORMAL:-VERS-ALL", "leaves no cipher"},
	{"NONE", "leaves no cipher"},
	{"NORMAL:-AEAD", "leaves no integrity"},
	{"NORMAL:-MAC-ALL:+SHA256", "leaves no integrity"},
	{"NORMAL:-SIGN-ALL", "leaves no signature"},
	{"NORMAL:-COMP-NULL", "leaves nothing"},
	{"NORMAL:-GROUP-ALL", "leaves no group"},
	{"NORMAL:-GROUP-ALL:-GROUP-X25519", "leaves no group"},
	{"NORMAL:+GROUP-X448:-CURVE-ALL", "leaves no group"},
	{"SECURE192:-GROUP-ALL", "leaves no group"},
	{"NORMAL:-GROUP-X25519:-GROUP-SECP256R1:-GROUP-SECP384R1:-GROUP-SECP521R1:-GROUP-X448",
	 "leaves no group"},
};

START_TEST(test_refused)
{
	ck_assert_int_eq(tls_priority_parse(refused[_i].words, TLS_EXCHANGES_X509, &priority, &err),
			 -EINVAL);
	ck_assert_msg(strstr(err.text, refused[_i].named) != NULL, "%s", err.text);
}
END_TEST

START_TEST(test_keys)
{
	static const char file[] =
		"# a comment: 11\nalice:00ff\r\n\n#62:Ab\nwith:colon:0102\nalice:11";
	static const uint8_t alice[] = {0, 0xff};
	struct tls_psk table;
	const struct tls_psk_entry *entry;

	ck_assert_msg(!tls_psk_parse(file, strlen(file), &table, &err), "%s", err.text);
	ck_assert_uint_eq(table.count, 4);
	ck_assert_uint_eq(table.skipped, 0);
	entry = tls_psk_find(&table, "alice");
	ck_assert_uint_eq(entry->key_length, 2);
	ck_assert_mem_eq(entry->key, alice, 2);
	ck_assert_uint_eq(tls_psk_find(&table, "b")->key[0], 0xab);
	ck_assert_uint_eq(tls_psk_find(&table, "with:colon")->key_length, 2);
	ck_assert_ptr_null(tls_psk_find(&table, "alic"));
	ck_assert_ptr_null(tls_psk_find(&table, ""));
	ck_assert(!tls_psk_keep(&table, "nobody"));
	ck_assert_uint_eq(table.count, 4);
	ck_assert(tls_psk_keep(&table, "alice"));
	ck_assert_uint_eq(table.count, 1);
	ck_assert_mem_eq(table.entries[0].key, alice, 2);
	ck_assert_ptr_null(tls_psk_find(&table, "b"));
	tls_psk_clear(&table);
	ck_assert_ptr_null(table.entries);
}
END_TEST

static const char *const bad_keys[] = {
	"alice", "alice:", "alice:1", "alice:0g", ":00", "#:00", "#0:00", "#00:00", "bob", "#x:00",
};

/* What is no key is skipped and told, and others are good. */
START_TEST(test_bad_keys)
{
	struct tls_psk table;
	char file[64];

	snprintf(file, sizeof(file), "#\n%s\na:00\n\n%s", bad_keys[_i], bad_keys[_i]);
	ck_assert_msg(!tls_psk_parse(file, strlen(file), &table, &err), "%s", err.text);
	ck_assert_uint_eq(table.count, 1);
	ck_assert_uint_eq(table.skipped, 2);
	ck_assert_uint_eq(table.flaw.line, 2);
	ck_assert_str_eq(table.entries[0].user, "a");
	tls_psk_clear(&table);
	ck_assert_uint_eq(table.skipped, 0);
}
END_TEST

START_TEST(test_long_keys)
{
	static char file[2 * TLS_PSK_KEY_MAX + 5];
	struct tls_psk table;

	memset(file, '7', sizeof(file) - 1);
	memcpy(file, "a:", 2);
	ck_assert(!tls_psk_parse(file, 2 * TLS_PSK_KEY_MAX + 2, &table, &err));
	ck_assert_uint_eq(table.entries[0].key_length, TLS_PSK_KEY_MAX);
	tls_psk_clear(&table);
	ck_assert(!tls_psk_parse(file, 2 * TLS_PSK_KEY_MAX + 4, &table, &err));
	ck_assert_uint_eq(table.count, 0);
	ck_assert_ptr_nonnull(strstr(table.flaw.why, "1024"));
	tls_psk_clear(&table);
}
END_TEST

/* ---- The transport ---- */

/* Two ends that have shaken hands; anonymous, because that needs no files. */
struct pair {
	struct transport client, server;
};

static struct tls_creds *anonymous(enum tls_side side)
{
	struct tls_config config = {.kind = TLS_ANON, .side = side};
	struct tls_creds *creds;

	ck_assert_msg(!tls_creds_new(&creds, &config, &err), "%s", err.text);
	return creds;
}

static void pair_open(struct pair *pair)
{
	struct tls_creds *server = anonymous(TLS_SERVER), *client = anonymous(TLS_CLIENT);
	int ends[2], one = -EAGAIN, other = -EAGAIN;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	transport_init_plain(&pair->client, ends[0]);
	transport_init_plain(&pair->server, ends[1]);
	ck_assert_int_eq(tls_start(&pair->client, client, NULL, &err), 0);
	ck_assert_int_eq(tls_start(&pair->server, server, NULL, &err), 0);
	for (int i = 0; i < 20 && (one || other); i++) {
		one = tls_handshake(&pair->client, &err);
		other = tls_handshake(&pair->server, &err);
		ck_assert_msg((!one || one == -EAGAIN) && (!other || other == -EAGAIN), "%s",
			      err.text);
	}
	ck_assert_int_eq(one | other, 0);
	ck_assert_str_eq(tls_version(&pair->client), "TLSv1.2");
	tls_creds_free(server); /* the connections live on */
	tls_creds_free(client);
}

static void pair_close(struct pair *pair)
{
	transport_close(&pair->client, TRANSPORT_CLOSE_DROP);
	transport_close(&pair->server, TRANSPORT_CLOSE_DROP);
}

static ssize_t send_bytes(struct transport *transport, const void *bytes, size_t length)
{
	struct iovec iov = {.iov_base = (void *)bytes, .iov_len = length};

	return transport_send(transport, &iov, 1, MSG_DONTWAIT);
}

/* Bytes that were decrypted and not taken are told, and only those. */
START_TEST(test_pending)
{
	static uint8_t bytes[60000], got[60000];
	struct pair pair;

	pair_open(&pair);
	ck_assert_uint_eq(transport_pending(&pair.server), 0);
	ck_assert_int_eq(send_bytes(&pair.client, bytes, sizeof(bytes)), sizeof(bytes));
	ck_assert_int_eq(transport_recv(&pair.server, got, 10, MSG_DONTWAIT), 10);
	ck_assert_uint_gt(transport_pending(&pair.server), 0);
	for (size_t left = sizeof(bytes) - 10; left;) {
		ssize_t part = transport_recv(&pair.server, got, left, MSG_DONTWAIT);

		ck_assert_int_gt(part, 0);
		left -= (size_t)part;
	}
	ck_assert_int_eq(transport_recv(&pair.server, got, 1, MSG_DONTWAIT), -EAGAIN);
	ck_assert_uint_eq(transport_pending(&pair.server), 0);
	ck_assert_int_eq(transport_release(&pair.server), -EINVAL);
	pair_close(&pair);
}
END_TEST

/* Into a socket that is full: what was told as sent has left, and every byte comes once, whatever
 * the pieces. */
START_TEST(test_back_pressure)
{
	enum { TOTAL = 3 << 20 };
	uint8_t *bytes = malloc(TOTAL), *got = malloc(TOTAL);
	size_t sent = 0, received = 0, waits = 0;
	struct pair pair;

	pair_open(&pair);
	for (size_t i = 0; i < TOTAL; i++)
		bytes[i] = (uint8_t)(i * 31 + (i >> 12));
	while (received < TOTAL) {
		ssize_t part = 0;

		while (sent < TOTAL && part >= 0) {
			struct iovec iov[3] = {{bytes + sent, (TOTAL - sent) / 3},
					       {bytes + sent + (TOTAL - sent) / 3, 1}};
			size_t used = (TOTAL - sent) / 3 + 1;

			if (used > TOTAL - sent)
				used = iov[1].iov_len = 0;
			iov[2] = (struct iovec){bytes + sent + used, TOTAL - sent - used};
			part = transport_send(&pair.client, iov, 3, MSG_DONTWAIT);
			sent += part > 0 ? (size_t)part : 0;
		}
		waits += part == -EAGAIN;
		ck_assert_msg(part >= 0 || part == -EAGAIN, "%zd", part);
		part = transport_recv(&pair.server, got + received,
				      received + 5000 < TOTAL ? 5000 : TOTAL - received,
				      MSG_DONTWAIT);
		ck_assert_int_gt(part, 0);
		received += (size_t)part;
	}
	ck_assert_uint_eq(sent, TOTAL);
	ck_assert_uint_gt(waits, 0);
	ck_assert_mem_eq(bytes, got, TOTAL);
	pair_close(&pair);
	free(bytes);
	free(got);
}
END_TEST

/* The end is one thing, a stream that was cut another. */
START_TEST(test_goodbye)
{
	struct pair pair;
	uint8_t byte;

	pair_open(&pair);
	transport_close(&pair.client, TRANSPORT_CLOSE_CLEAN);
	ck_assert_int_eq(transport_recv(&pair.server, &byte, 1, MSG_DONTWAIT), 0);
	pair_close(&pair);
	pair_open(&pair);
	transport_close(&pair.client, TRANSPORT_CLOSE_DROP);
	ck_assert_int_eq(transport_recv(&pair.server, &byte, 1, MSG_DONTWAIT), -ECONNRESET);
	ck_assert_int_lt(send_bytes(&pair.server, "x", 1), 0);
	pair_close(&pair);
}
END_TEST

/* A byte that was changed on the way, and clear text, end the stream with a reason. */
START_TEST(test_tampered)
{
	struct pair pair;
	uint8_t byte;

	pair_open(&pair);
	ck_assert_int_eq(send(pair.client.fd, "GET / HTTP/1.0\r\n\r\n", 18, 0), 18);
	ck_assert_int_eq(transport_recv(&pair.server, &byte, 1, MSG_DONTWAIT), -ECONNABORTED);
	ck_assert_ptr_nonnull(transport_reason(&pair.server));
	pair_close(&pair);
}
END_TEST

#define COUNT(array) (int)(sizeof(array) / sizeof((array)[0]))

int main(void)
{
	Suite *suite = suite_create("tls");
	TCase *tcase = tcase_create("text");
	SRunner *runner;
	int failed;

	tcase_add_test(tcase, test_order);
	tcase_add_test(tcase, test_kinds);
	tcase_add_test(tcase, test_versions);
	tcase_add_test(tcase, test_groups_and_level);
	tcase_add_loop_test(tcase, test_refused, 0, COUNT(refused));
	tcase_add_test(tcase, test_keys);
	tcase_add_loop_test(tcase, test_bad_keys, 0, COUNT(bad_keys));
	tcase_add_test(tcase, test_long_keys);
	tcase_add_test(tcase, test_pending);
	tcase_add_test(tcase, test_back_pressure);
	tcase_add_test(tcase, test_goodbye);
	tcase_add_test(tcase, test_tampered);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
