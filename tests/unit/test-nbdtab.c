// SPDX-License-Identifier: MIT
/* The table of devices: what people write into it, and what must not spoil the rest of it. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/nbdtab.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "common/uri.h"

static struct nbdtab_entry entry;
static struct nbd_uri parsed; /* entry.uri, as the other commands will read it */
static struct error err;

static int parse(const char *table, const char *key)
{
	nbdtab_entry_clear(&entry);
	nbd_uri_clear(&parsed);
	err.code = 0;
	return nbdtab_parse(table, strlen(table), key, &entry, &err);
}

static void assert_uri(const char *table, const char *key, const char *uri)
{
	ck_assert_msg(parse(table, key) == 0, "%s", err.text);
	ck_assert_str_eq(entry.uri, uri);
	ck_assert_msg(nbd_uri_parse(entry.uri, &parsed, &err) == 0, "%s", err.text);
}

static void assert_bad(const char *table, const char *key, const char *words)
{
	ck_assert_int_eq(parse(table, key), -EINVAL);
	ck_assert_int_eq(err.code, EINVAL);
	ck_assert_msg(strstr(err.text, words) != NULL, "'%s' in: %s", words, err.text);
	ck_assert_ptr_null(entry.uri);
	ck_assert_ptr_null(entry.device);
}

START_TEST(test_classic)
{
	assert_uri("nbd0 server disk bs=4096,timeout=30,dead-timeout=90,conns=4,readonly,swap,"
		   "port=2000\n",
		   "nbd0", "nbd://server:2000/disk");
	ck_assert_str_eq(entry.device, "/dev/nbd0");
	ck_assert_uint_eq(entry.line, 1);
	ck_assert_int_eq(entry.block_size, 4096);
	ck_assert_int_eq(entry.timeout, 30);
	ck_assert_int_eq(entry.dead_timeout, 90);
	ck_assert_int_eq(entry.connections, 4);
	ck_assert(entry.read_only);
	ck_assert_ptr_null(entry.name);
}
END_TEST

/* An export may be called as an option is written: it makes no name. */
START_TEST(test_export_like_an_option)
{
	static const char table[] = "nbd0 host name=x readonly\nnbd1 host e name=x\n";

	assert_uri(table, "nbd0", "nbd://host/name%3Dx");
	ck_assert_ptr_null(entry.name);
	assert_uri(table, "x", "nbd://host/e");
	ck_assert_uint_eq(entry.line, 2);
}
END_TEST

START_TEST(test_nul_and_two_names)
{
	static const char nul[] = "nbd0\0x host e name=x\n";

	ck_assert_int_eq(nbdtab_parse(nul, sizeof(nul) - 1, "x", &entry, &err), -EINVAL);
	ck_assert_msg(strstr(err.text, "NUL") != NULL, "%s", err.text);
	ck_assert_int_eq(nbdtab_parse(nul, sizeof(nul) - 1, "nbd0", &entry, &err), -EINVAL);
	assert_bad("nbd0 host e name=a,name=b\n", "a", "twice");
	assert_bad("nbd0 host e name=a,name=b\n", "b", "twice");
}
END_TEST

START_TEST(test_unset)
{
	assert_uri("nbd12\tserver\tdisk", "/dev/nbd12", "nbd://server/disk");
	ck_assert_int_eq(entry.block_size, NBDTAB_UNSET);
	ck_assert_int_eq(entry.timeout, NBDTAB_UNSET);
	ck_assert_int_eq(entry.dead_timeout, NBDTAB_UNSET);
	ck_assert_int_eq(entry.connections, NBDTAB_UNSET);
	ck_assert(!entry.read_only);
	ck_assert_ptr_null(entry.refused);
	ck_assert_ptr_null(entry.ignored);
	ck_assert_ptr_null(entry.unknown);
}
END_TEST

/* What 0 means to nbd-client, whose files we read. */
START_TEST(test_timeout_of_zero)
{
	assert_uri("nbd0 h e timeout=0,dead-timeout=0", "nbd0", "nbd://h/e");
	ck_assert_int_eq(entry.timeout, NBDTAB_UNSET);
	ck_assert_int_eq(entry.dead_timeout, NBDTAB_UNSET);
}
END_TEST

START_TEST(test_places)
{
	assert_uri("nbd0 fd00::7 a/b", "nbd0", "nbd://[fd00::7]/a/b");
	ck_assert_str_eq(parsed.host, "fd00::7");
	ck_assert_str_eq(parsed.export_, "a/b");
	assert_uri("nbd0 fe80::1%eth0 e port=7", "nbd0", "nbd://[fe80::1%25eth0]:7/e");
	ck_assert_str_eq(parsed.host, "fe80::1%eth0");
	ck_assert_str_eq(parsed.port, "7");
	assert_uri("nbd0 [::1] e", "nbd0", "nbd://[::1]/e");
	assert_uri("nbd0 10.0.0.1 100%?#&x", "nbd0", "nbd://10.0.0.1/100%25%3F%23%26x");
	ck_assert_str_eq(parsed.export_, "100%?#&x");
	assert_uri("nbd0 h /abs", "nbd0", "nbd://h//abs");
	ck_assert_str_eq(parsed.export_, "/abs");
	assert_uri("nbd0 /run/n&b/d.sock big=1 unix", "nbd0",
		   "nbd+unix:///big%3D1?socket=/run/n%26b/d.sock");
	ck_assert_int_eq(parsed.kind, NBD_URI_UNIX);
	ck_assert_str_eq(parsed.socket, "/run/n&b/d.sock");
	ck_assert_str_eq(parsed.export_, "big=1");
	assert_uri("/dev/nbd3 host -", "nbd3", "nbd://host/-");
	assert_uri("3 host x", "nbd3", "nbd://host/x");
}
END_TEST

START_TEST(test_uri)
{
	assert_uri("nbd1 nbd://h:99/e", "nbd1", "nbd://h:99/e");
	assert_uri("nbd1 nbd://h/e -", "nbd1", "nbd://h/e");
	assert_uri("nbd1 nbd://h/e - timeout=5", "nbd1", "nbd://h/e");
	ck_assert_int_eq(entry.timeout, 5);
	assert_uri("nbd1 nbd+unix:///e?socket=/a,b=c timeout=6", "nbd1",
		   "nbd+unix:///e?socket=/a,b=c");
	ck_assert_int_eq(entry.timeout, 6);
	assert_bad("nbd1 nbd://h/e other", "nbd1", "line 1: the URI names the export");
	assert_bad("nbd1 nbd://h/e - port=7", "nbd1", "port: the URI already says");
	assert_bad("nbd1 nbd+unix:///?socket=/s - unix", "nbd1", "unix: the URI already says");
}
END_TEST

START_TEST(test_names)
{
	static const char table[] = "nbd0 a x\n"
				    "nbd1 b y bs=512,name=data.1-x\n"
				    "- nbd://c/z - name=photos, timeout=9\n"
				    "nbd1 d never\n";

	assert_uri(table, "data.1-x", "nbd://b/y");
	ck_assert_str_eq(entry.device, "/dev/nbd1");
	ck_assert_uint_eq(entry.line, 2);
	assert_uri(table, "nbd1", "nbd://b/y");
	assert_uri(table, "photos", "nbd://c/z");
	ck_assert_str_eq(entry.name, "photos");
	ck_assert_ptr_null(entry.device);
	ck_assert_int_eq(entry.timeout, 9);
	ck_assert_int_eq(parse(table, "photo"), -ENOENT);
	ck_assert_int_eq(parse(table, "-"), -ENOENT);
	ck_assert_int_eq(parse(table, ""), -ENOENT);
	ck_assert_int_eq(parse("", "nbd0"), -ENOENT);
	assert_bad("nbd0 a x name=nbd7", "nbd0", "line 1: name=nbd7");
	assert_bad("nbd0 a x name=a/b", "nbd0", "name=a/b");
	assert_bad("nbd0 a x name=-a", "nbd0", "name=-a");
	assert_bad("nbd0 a x name=", "nbd0", "name=");
	assert_bad("nbd0 a x name", "nbd0", "name=");
}
END_TEST

START_TEST(test_tolerated)
{
	static const char table[] =
		"# a comment\r\n"
		"\r\n"
		"   \t \r\n"
		"  nbd0  host   exp#1   bs=512, , timeout=7 ,_mine=a=b  # why\r\n"
		"#nbd2 old old\r\n"
		"nbd2 host exp bs=1024   \r\n"
		"nbd3 host exp # bs=2048";

	assert_uri(table, "nbd0", "nbd://host/exp%231");
	ck_assert_int_eq(entry.block_size, 512);
	ck_assert_int_eq(entry.timeout, 7);
	ck_assert_uint_eq(entry.line, 4);
	ck_assert_ptr_null(entry.unknown);
	assert_uri(table, "nbd2", "nbd://host/exp");
	ck_assert_int_eq(entry.block_size, 1024);
	ck_assert_uint_eq(entry.line, 6);
	assert_uri(table, "nbd3", "nbd://host/exp");
	ck_assert_int_eq(entry.block_size, NBDTAB_UNSET);
}
END_TEST

START_TEST(test_other_options)
{
	assert_uri("nbd0 h e "
		   "persist,no_optgo,swap,sdp,priority=NORMAL:-VERS-ALL=x,_x,tls,certfile=/"
		   "c=d,colour=1",
		   "nbd0",
		   "nbds://h/e?x-tls-certificate-file=/c%3Dd&x-tls-key-file=/c%3Dd"
		   "&x-tls-priority=NORMAL:-VERS-ALL%3Dx");
	ck_assert_str_eq(entry.ignored, "persist, no_optgo");
	ck_assert_str_eq(entry.unknown, "sdp, colour");
	ck_assert_ptr_null(entry.refused);
}
END_TEST

START_TEST(test_tls)
{
	assert_uri("nbd0 h e tls", "nbd0", "nbds://h/e");
	assert_uri("nbd0 h e cacertfile=/a&b,tlshostname=n", "nbd0",
		   "nbds://h/e?x-tls-ca-file=/a%26b&tls-hostname=n");
	assert_uri("nbd0 /s e unix,keyfile=/k", "nbd0",
		   "nbds+unix:///e?socket=/s&x-tls-certificate-file=/k&x-tls-key-file=/k");
	assert_uri("nbd0 h e certfile=/c,keyfile=/k", "nbd0",
		   "nbds://h/e?x-tls-certificate-file=/c&x-tls-key-file=/k");
	/* By itself it says how, not whether. */
	assert_uri("nbd0 h e priority=NORMAL", "nbd0", "nbd://h/e");
	assert_bad("nbd0 h e tls=1", "nbd0", "tls takes no value");
	assert_bad("nbd0 nbds://h/e - tls", "nbd0", "the URI already says");
}
END_TEST

START_TEST(test_bad_line_fails_alone)
{
	static const char table[] = "nbd0 host\n"
				    "nbd1 host exp timeout=soon\n"
				    "garbage\n"
				    "nbd2 host exp bs=1000,name=bad\n"
				    "nbd5 good exp name=good\n";

	assert_uri(table, "nbd5", "nbd://good/exp");
	assert_uri(table, "good", "nbd://good/exp");
	assert_bad(table, "nbd0", "line 1: it needs DEVICE HOST EXPORT");
	assert_bad(table, "nbd1", "line 2: timeout=soon");
	assert_bad(table, "nbd2", "line 4: bs=1000 is not a power of two");
	assert_bad(table, "bad", "line 4: bs=1000");
	ck_assert_int_eq(parse(table, "garbage"), -ENOENT);
}
END_TEST

START_TEST(test_bad_values)
{
	assert_bad("nbd0", "nbd0", "names no host");
	assert_bad("nbd0 # host exp", "nbd0", "names no host");
	assert_bad("nbd0 h e bs=511", "nbd0", "from 512 to 65536");
	assert_bad("nbd0 h e bs", "nbd0", "bs=");
	assert_bad("nbd0 h e bs=-512", "nbd0", "bs=-512");
	assert_bad("nbd0 h e conns=0", "nbd0", "from 1 to 64");
	assert_bad("nbd0 h e port=65536", "nbd0", "from 1 to 65535");
	assert_bad("nbd0 h e timeout=99999999999999999999999", "nbd0", "from 0 to 86400");
	assert_bad("nbd0 h e unix=/x", "nbd0", "unix takes no value");
	assert_bad("mydisk h e name=n", "n", "'mydisk' is no nbd device");
	assert_bad("nbd00 h e name=n", "n", "'nbd00' is no nbd device");
	assert_bad("nbd4294967296 h e name=n", "n", "is no nbd device");
}
END_TEST

START_TEST(test_device_spelling)
{
	assert_uri("/dev/nbd1048575 h e", "nbd1048575", "nbd://h/e");
	ck_assert_str_eq(entry.device, "/dev/nbd1048575");
	ck_assert_int_eq(parse("nbd1 h e", "nbd"), -ENOENT);
	ck_assert_int_eq(parse("nbd1 h e", "nbd10"), -ENOENT);
	ck_assert_int_eq(parse("nbd1 h e", "/dev/nbd"), -ENOENT);
}
END_TEST

START_TEST(test_nul_and_long)
{
	static const char nul[] = "nbd0 h e bs=512\0000,timeout=1\nnbd1 g f\n";
	AUTO_FREE char *long_line = malloc(1 << 16);

	nbdtab_entry_clear(&entry);
	ck_assert_int_eq(nbdtab_parse(nul, sizeof(nul) - 1, "nbd0", &entry, &err), -EINVAL);
	ck_assert_int_eq(nbdtab_parse(nul, sizeof(nul) - 1, "nbd1", &entry, &err), 0);
	ck_assert_str_eq(entry.uri, "nbd://g/f");

	memset(long_line, 'x', 1 << 16);
	memcpy(long_line, "nbd0 h ", 7);
	nbdtab_entry_clear(&entry);
	ck_assert_int_eq(nbdtab_parse(long_line, 1 << 16, "nbd0", &entry, &err), 0);
	ck_assert_uint_eq(strlen(entry.uri), strlen("nbd://h/") + (1 << 16) - 7);
}
END_TEST

/* Writes text to a file and looks key up in it. */
static int find_in_file(const char *text, size_t length, const char *key)
{
	char path[] = "/tmp/test-nbdtab-XXXXXX";
	AUTO_CLOSE int fd = mkstemp(path);
	int rc;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, text, length), (ssize_t)length);
	nbdtab_entry_clear(&entry);
	rc = nbdtab_find(path, key, &entry, &err);
	unlink(path);
	if (rc)
		ck_assert_msg(strstr(err.text, path) != NULL, "%s", err.text);
	return rc;
}

START_TEST(test_find)
{
	static const char table[] = "nbd0 h e\nnbd1 h e preinit\nnbd2 h\n";
	AUTO_FREE char *huge = calloc(1, (1 << 20) + 1);

	ck_assert_int_eq(find_in_file(table, strlen(table), "/dev/nbd0"), 0);
	ck_assert_str_eq(entry.uri, "nbd://h/e");
	ck_assert_int_eq(find_in_file(table, strlen(table), "nbd1"), -ENOTSUP);
	ck_assert_ptr_nonnull(strstr(err.text, "line 2: preinit"));
	ck_assert_ptr_null(entry.uri);
	ck_assert_int_eq(find_in_file(table, strlen(table), "nbd2"), -EINVAL);
	ck_assert_int_eq(find_in_file(table, strlen(table), "nbd3"), -ENOENT);
	memset(huge, '\n', (1 << 20) + 1);
	ck_assert_int_eq(find_in_file(huge, (1 << 20) + 1, "nbd0"), -EFBIG);
	ck_assert_int_eq(nbdtab_find("/nonexistent/nbdtab", "nbd0", &entry, &err), -ENOENT);
	ck_assert_str_eq(err.text, "/nonexistent/nbdtab: No such file or directory");
	ck_assert_int_eq(nbdtab_find("/", "nbd0", &entry, &err), -EISDIR);
}
END_TEST

static void clear(void)
{
	nbdtab_entry_clear(&entry);
	nbd_uri_clear(&parsed);
}

int main(void)
{
	Suite *suite = suite_create("nbdtab");
	TCase *tests = tcase_create("nbdtab");
	SRunner *runner;
	int failed;

	log_threshold = LOG_LEVEL_ERROR;
	tcase_add_checked_fixture(tests, NULL, clear);
	tcase_add_test(tests, test_classic);
	tcase_add_test(tests, test_export_like_an_option);
	tcase_add_test(tests, test_nul_and_two_names);
	tcase_add_test(tests, test_unset);
	tcase_add_test(tests, test_timeout_of_zero);
	tcase_add_test(tests, test_places);
	tcase_add_test(tests, test_uri);
	tcase_add_test(tests, test_names);
	tcase_add_test(tests, test_tolerated);
	tcase_add_test(tests, test_other_options);
	tcase_add_test(tests, test_tls);
	tcase_add_test(tests, test_bad_line_fails_alone);
	tcase_add_test(tests, test_bad_values);
	tcase_add_test(tests, test_device_spelling);
	tcase_add_test(tests, test_nul_and_long);
	tcase_add_test(tests, test_find);
	suite_add_tcase(suite, tests);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
