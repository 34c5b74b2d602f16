// SPDX-License-Identifier: MIT
/* URIs and the plain forms: what is understood, what is refused with which advice, and the way
 * back to text (C36, C37). */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/uri.h"

static const struct {
	const char *text, *host, *port, *export_, *canonical;
} tcp_forms[] = {
	{"nbd://host", "host", "10809", "", "nbd://host/"},
	{"nbd://host/", "host", "10809", "", "nbd://host/"},
	{"NBD://host/disk", "host", "10809", "disk", "nbd://host/disk"},
	{"nbd://host//disk", "host", "10809", "/disk", "nbd://host//disk"},
	{"nbd://host:2000/a/b", "host", "2000", "a/b", "nbd://host:2000/a/b"},
	{"nbd://host:/a", "host", "10809", "a", "nbd://host/a"},
	{"nbd://host:010809/a", "host", "10809", "a", "nbd://host/a"},
	{"nbd:///disk", "localhost", "10809", "disk", "nbd://localhost/disk"},
	{"nbd://:99/disk", "localhost", "99", "disk", "nbd://localhost:99/disk"},
	{"nbd://[::1]/x", "::1", "10809", "x", "nbd://[::1]/x"},
	{"nbd://[2001:db8::1]:65535", "2001:db8::1", "65535", "", "nbd://[2001:db8::1]:65535/"},
	{"nbd://[fe80::1%25eth0]:1/", "fe80::1%eth0", "1", "", "nbd://[fe80::1%25eth0]:1/"},
	{"nbd://host/a%20b%2Fc%3F", "host", "10809", "a b/c?", "nbd://host/a%20b/c%3F"},
	{"nbd://host/%c3%a4", "host", "10809", "\xc3\xa4", "nbd://host/%C3%A4"},
	{"nbd://host/a+b", "host", "10809", "a+b", "nbd://host/a%2Bb"},
	{"nbd://host/a@b:c", "host", "10809", "a@b:c", "nbd://host/a@b:c"},
	{"nbd://host?x-flavour=1", "host", "10809", "", "nbd://host/"},
	{"host", "host", "10809", "", "nbd://host/"},
	{"host:1234", "host", "1234", "", "nbd://host:1234/"},
	{"10.0.0.1:1234", "10.0.0.1", "1234", "", "nbd://10.0.0.1:1234/"},
	{"[::1]", "::1", "10809", "", "nbd://[::1]/"},
	{"[::1]:1234", "::1", "1234", "", "nbd://[::1]:1234/"},
	{"nbd:1234", "nbd", "1234", "", "nbd://nbd:1234/"},
};

static const struct {
	const char *text, *socket, *export_, *canonical;
} unix_forms[] = {
	{"nbd+unix:///?socket=/run/x", "/run/x", "", "nbd+unix:///?socket=/run/x"},
	{"nbd+unix:///disk?socket=/run/x", "/run/x", "disk", "nbd+unix:///disk?socket=/run/x"},
	{"nbd+unix:////disk?socket=x", "x", "/disk", "nbd+unix:////disk?socket=x"},
	{"nbd+unix://?socket=/a", "/a", "", "nbd+unix:///?socket=/a"},
	{"nbd+unix:///?x-a=1&socket=/a&x-b", "/a", "", "nbd+unix:///?socket=/a"},
	{"nbd+unix:///?socket=/a%26b%20c=d", "/a&b c=d", "", "nbd+unix:///?socket=/a%26b%20c%3Dd"},
	{"/run/x.sock", "/run/x.sock", "", "nbd+unix:///?socket=/run/x.sock"},
	{"./x?y#z", "./x?y#z", "", "nbd+unix:///?socket=./x%3Fy%23z"},
	{"/odd://name", "/odd://name", "", "nbd+unix:///?socket=/odd://name"},
};

/* What is wrong, and a part of the advice. */
static const struct {
	const char *text, *words;
} refused[] = {
	{"", "empty"},
	{"http://host/", "'http://' is not an NBD URI"},
	{"nbd+unix:///disk", "nbd+unix:///EXPORT?socket=PATH"},
	{"nbd+unix:///tmp/sock", "nbd+unix:///?socket=/tmp/sock"},
	{"nbds+unix:///tmp/sock", "nbds+unix:///?socket=/tmp/sock"},
	{"nbd+unix:///?socket=", "lacks the path"},
	{"nbd+unix:/run/x.sock", "lacks the // of a URI; write nbd://"},
	{"nbds:server", "lacks the // of a URI"},
	{"nbd+unix://host/x?socket=/a", "three slashes"},
	{"nbd://host/x?socket=/a", "nbd+unix:///EXPORT?socket=PATH"},
	{"nbd+unix:///?socket=/a&socket=/b", "twice"},
	{"nbd://2001:db8::1/x", "brackets"},
	{"2001:db8::1", "brackets"},
	{"nbd://[::1", "closing bracket"},
	{"nbd://[::1]x", "may follow"},
	{"nbd://[]/", "empty"},
	{"nbd://host:0/", "1 to 65535"},
	{"nbd://host:65536/", "1 to 65535"},
	{"nbd://host:4294977105/", "1 to 65535"},
	{"nbd://host:-1/", "1 to 65535"},
	{"nbd://host: 1/", "1 to 65535"},
	{"host:disk", "1 to 65535"},
	{"nbd://ho st/", "character"},
	{"nbd://ho%0ast/", "character"},
	{"nbd://host/%zz", "%25"},
	{"nbd://host/%4", "%25"},
	{"nbd://host/a%00b", "null byte"},
	{"nbd://host/%ff", "UTF-8"},
	{"nbd://host/disk#1", "%23"},
	{"nbd://me:secret@host/", "password"},
	{"nbd://host/?tls-verify-peer=maybe", "0 or 1"},
	{"nbds://host/?tls-verify-peer=1&tls-verify-peer=0", "twice"},
	{"nbds://host/?tls-verify-peer=1&tls%2Dverify-peer=0", "twice"},
	{"nbds://host/?tls%2Dhostname=a&tls-hostname=b", "twice"},
	{"nbd://host/?tls-verify-peer=1", "nbds://"},
	{"nbd://host/?tls-verify-pee%72=0", "nbds://"},
	{"nbd://host/?x-tls-priority=PFS", "nbds://"},
	{"nbd+unix:///?socket=/a&x-tls%2dpriority=PFS", "nbds+unix://"},
	{"nbds://host/?tls%2=x", "%25"},
	{"nbd://host/?tls-username=alice", "nbds://"},
	{"nbds://bob@host/?tls-username=alice", "twice"},
	{"nbds://host/?tls-username=alice&tls-username=bob", "twice"},
	{"host/disk", "nbd://host/disk"},
	{"nbd:localhost:10809:exportname=x", "QEMU"},
	{"nbd:unix:/tmp/x", "QEMU"},
};

static struct nbd_uri uri;
static struct error err;

static void parse_good(const char *text)
{
	nbd_uri_clear(&uri);
	ck_assert_msg(nbd_uri_parse(text, &uri, &err) == 0, "%s: %s", text, err.text);
}

static void assert_canonical(const char *expected)
{
	AUTO_FREE char *text = nbd_uri_format(&uri);
	AUTO_FREE char *again = NULL;

	ck_assert_str_eq(text, expected);
	parse_good(text);
	again = nbd_uri_format(&uri);
	ck_assert_str_eq(again, expected);
}

START_TEST(test_tcp)
{
	parse_good(tcp_forms[_i].text);
	ck_assert_int_eq(uri.kind, NBD_URI_TCP);
	ck_assert_str_eq(uri.host, tcp_forms[_i].host);
	ck_assert_str_eq(uri.port, tcp_forms[_i].port);
	ck_assert_str_eq(uri.export_, tcp_forms[_i].export_);
	ck_assert_ptr_null(uri.socket);
	ck_assert_ptr_null(uri.unknown);
	assert_canonical(tcp_forms[_i].canonical);
}
END_TEST

START_TEST(test_unix)
{
	parse_good(unix_forms[_i].text);
	ck_assert_int_eq(uri.kind, NBD_URI_UNIX);
	ck_assert_str_eq(uri.socket, unix_forms[_i].socket);
	ck_assert_str_eq(uri.export_, unix_forms[_i].export_);
	ck_assert_ptr_null(uri.host);
	assert_canonical(unix_forms[_i].canonical);
}
END_TEST

START_TEST(test_refused)
{
	nbd_uri_clear(&uri);
	ck_assert_int_eq(nbd_uri_parse(refused[_i].text, &uri, &err), -EINVAL);
	ck_assert_msg(strstr(err.text, refused[_i].words) != NULL, "'%s' in: %s", refused[_i].words,
		      err.text);
	ck_assert_msg(!strstr(err.text, "secret"), "%s", err.text);
	ck_assert_ptr_null(uri.export_);
	ck_assert_ptr_null(uri.host);
}
END_TEST

START_TEST(test_vsock)
{
	ck_assert_int_eq(nbd_uri_parse("nbd+vsock://2:10809/", &uri, &err), -ENOTSUP);
	ck_assert_msg(strstr(err.text, "vsock") != NULL, "%s", err.text);
}
END_TEST

START_TEST(test_tls_parameters)
{
	AUTO_FREE char *text = NULL;

	parse_good("nbds://alice@host/x?tls-certificates=/etc/pki&tls-psk-file=/k&tls-type=psk"
		   "&tls-hostname=other&tls-verify-peer=0&TLS-Flavour=1&colour=red");
	ck_assert(uri.tls);
	ck_assert_str_eq(uri.user, "alice");
	ck_assert_str_eq(uri.tls_certificates, "/etc/pki");
	ck_assert_str_eq(uri.tls_psk_file, "/k");
	ck_assert_str_eq(uri.tls_type, "psk");
	ck_assert_str_eq(uri.tls_hostname, "other");
	ck_assert_int_eq(uri.tls_verify_peer, NBD_URI_VERIFY_OFF);
	ck_assert_str_eq(uri.unknown, "TLS-Flavour, colour");
	text = nbd_uri_format(&uri);
	ck_assert_str_eq(text, "nbds://alice@host/x");
	parse_good("nbds://h/?tls-verify-peer=%30&tls%2Dcertificates=/c&x-tls-filly=1&x-other=2");
	ck_assert_int_eq(uri.tls_verify_peer, NBD_URI_VERIFY_OFF);
	ck_assert_str_eq(uri.tls_certificates, "/c");
	ck_assert_str_eq(uri.unknown, "x-tls-filly");
	parse_good("nbds+unix:///?socket=/s&tls-username=b%20b");
	ck_assert_str_eq(uri.user, "b b");
	parse_good("nbd://alice@host/x");
	ck_assert_str_eq(uri.user, "alice");
}
END_TEST

START_TEST(test_long_export)
{
	static char text[8000] = "nbd://h/";

	memset(text + 8, 'x', 4096);
	parse_good(text);
	ck_assert_uint_eq(strlen(uri.export_), 4096);
	text[8 + 4096] = 'x';
	nbd_uri_clear(&uri);
	ck_assert_int_eq(nbd_uri_parse(text, &uri, &err), -EINVAL);
}
END_TEST

START_TEST(test_server_text)
{
	static const char *const pairs[][2] = {
		{"nbd://host/x", "host:10809"},
		{"nbd://[::1]/x", "[::1]:10809"},
		{"nbd+unix:///x?socket=/a%20b", "/a b"},
	};

	for (size_t i = 0; i < 3; i++) {
		AUTO_FREE char *text = NULL;

		parse_good(pairs[i][0]);
		text = nbd_uri_server(&uri);
		ck_assert_str_eq(text, pairs[i][1]);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("uri");
	TCase *tcase = tcase_create("forms");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_loop_test(tcase, test_tcp, 0, sizeof(tcp_forms) / sizeof(tcp_forms[0]));
	tcase_add_loop_test(tcase, test_unix, 0, sizeof(unix_forms) / sizeof(unix_forms[0]));
	tcase_add_loop_test(tcase, test_refused, 0, sizeof(refused) / sizeof(refused[0]));
	tcase_add_test(tcase, test_vsock);
	tcase_add_test(tcase, test_tls_parameters);
	tcase_add_test(tcase, test_long_export);
	tcase_add_test(tcase, test_server_text);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	nbd_uri_clear(&uri);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
