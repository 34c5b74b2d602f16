// SPDX-License-Identifier: MIT
/* server/secret and server/object-secret: where secrets come from, and what is refused. */
#include "server/secret.h"

#include <check.h>
#include <errno.h>
#include <linux/keyctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "server/object-secret.h"

static struct object_set set;
static struct error err;
static char path[] = "/tmp/hawser-secret-XXXXXX";

static void setup(void)
{
	int fd = mkstemp(path);

	ck_assert_int_ge(fd, 0);
	close(fd);
}

static void teardown(void)
{
	object_set_clear(&set);
	unlink(path);
}

static int make(const char *text)
{
	err = (struct error)ERROR_INIT;
	ck_assert_int_eq(object_set_add(&set, text, &err), 0);
	return object_set_create(&set, &err);
}

/* All of the objects together make the secret "s" of these bytes. */
static void is_secret(const void *bytes, size_t length)
{
	const struct secret *secret = object_secret_find(&set, "s", &err);

	ck_assert_msg(secret, "%s", err.text);
	ck_assert_uint_eq(secret->length, length);
	ck_assert_mem_eq(secret->bytes, bytes, length);
	ck_assert_uint_eq(secret->bytes[length], 0);
}

static void fill_file(const void *bytes, size_t length)
{
	FILE *file = fopen(path, "w");

	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fwrite(bytes, 1, length, file), length);
	ck_assert_int_eq(fclose(file), 0);
}

START_TEST(test_data)
{
	ck_assert_int_eq(make("secret,id=s,data=pass,,word=1"), 0);
	is_secret("pass,word=1", 11);
}
END_TEST

START_TEST(test_data_is_wiped)
{
	const char *value;

	ck_assert_int_eq(object_set_add(&set, "secret,id=s,data=password", &err), 0);
	value = keyval_peek(&set.items[0].properties, "data");
	ck_assert_str_eq(value, "password");
	ck_assert_int_eq(object_set_create(&set, &err), 0);
	ck_assert_mem_eq(value, "\0\0\0\0\0\0\0\0", 8);
	is_secret("password", 8);
}
END_TEST

START_TEST(test_file)
{
	static uint8_t large[300000];
	char text[100];

	for (size_t i = 0; i < sizeof(large); i++)
		large[i] = (uint8_t)(i * 7);
	fill_file(large, sizeof(large));
	snprintf(text, sizeof(text), "secret,id=s,file=%s", path);
	ck_assert_int_eq(make(text), 0);
	is_secret(large, sizeof(large));
}
END_TEST

START_TEST(test_file_keeps_newline)
{
	char text[100];

	fill_file("a\n", 2);
	snprintf(text, sizeof(text), "secret,id=s,file=%s", path);
	ck_assert_int_eq(make(text), 0);
	is_secret("a\n", 2);
}
END_TEST

START_TEST(test_file_too_large)
{
	char text[100];

	ck_assert_int_eq(truncate(path, SECRET_SIZE_MAX + 1), 0);
	snprintf(text, sizeof(text), "secret,id=s,file=%s", path);
	ck_assert_int_lt(make(text), 0);
	ck_assert_msg(strstr(err.text, "larger than 8 MiB"), "%s", err.text);
}
END_TEST

START_TEST(test_base64)
{
	static const struct {
		const char *text, *bytes;
	} cases[] = {
		{"YQ==", "a"},
		{"YWI=", "ab"},
		{"YWJj", "abc"},
		{"YWJj\nYWI=\n", "abcab"},
		{"YWJjL0A=", "abc/@"},
		{"", ""},
		{"+/+/", "\xfb\xff\xbf"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		AUTO_SECRET struct secret *got =
			secret_decode_base64(cases[i].text, strlen(cases[i].text), &err);

		ck_assert_msg(got, "%s: %s", cases[i].text, err.text);
		ck_assert_str_eq((const char *)got->bytes, cases[i].bytes);
		ck_assert_uint_eq(got->length, strlen(cases[i].bytes));
	}
}
END_TEST

START_TEST(test_base64_refused)
{
	static const char *const cases[] = {"YQ=",  "YQ",   "Y",    "A===",  "====", "YQ==YQ==",
					    "Y=Q=", "YW J", "!!!!", "YQ\r=", "=",    "YQ\xff="};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ck_assert_msg(!secret_decode_base64(cases[i], strlen(cases[i]), &err), "%s",
			      cases[i]);
		ck_assert_msg(!strstr(err.text, cases[i]) || strlen(cases[i]) < 2, "%s", err.text);
	}
	ck_assert_ptr_null(secret_decode_base64("YQ\0=", 4, &err));
}
END_TEST

/* Key and vector are zeroes; made by: printf 'sesame' | openssl enc -aes-256-cbc -a -K 0 -iv 0 */
#define MASTER "secret,id=m,format=base64,data=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
#define IV     ",iv=AAAAAAAAAAAAAAAAAAAAAA=="
#define SESAME "CHC1KK9xa6bpR+vH3twYVg=="

START_TEST(test_encrypted)
{
	ck_assert_int_eq(object_set_add(&set, MASTER, &err), 0);
	ck_assert_msg(make("secret,id=s,keyid=m,format=base64,data=" SESAME IV) == 0, "%s",
		      err.text);
	is_secret("sesame", 6);
}
END_TEST

static const struct {
	const char *first, *second, *said;
} refused[] = {
	{NULL, "secret,id=s", "Either 'file' or 'data' must be provided"},
	{NULL, "secret,id=s,data=a,file=b", "'file' and 'data' are mutually exclusive"},
	{NULL, "secret,id=s,file=/nowhere/x", "Unable to read /nowhere/x: No such file"},
	{NULL, "secret,id=s,file=/", "Unable to read /: Is a directory"},
	{NULL, "secret,id=s,data=a,format=hex", "'format' does not accept this value; it is raw"},
	{NULL, "secret,id=s,data=a,keyid=x", "No secret with id 'x'"},
	{NULL, "secret,id=s,data=a,keyid=s", "Secret with id 's' has no data"},
	{"iothread,id=i", "secret,id=s,data=a,keyid=i", "Object with id 'i' is not a secret"},
	{"secret,id=m,data=abc", "secret,id=s,data=a,keyid=m", "Key should be 32 bytes in length"},
	{MASTER, "secret,id=s,data=a,keyid=m", "IV is required to decrypt secret"},
	{MASTER, "secret,id=s,data=a,keyid=m,iv=AAAA", "IV should be 16 bytes in length not 3"},
	{MASTER, "secret,id=s,data=a,keyid=m" IV, "Length 1 must be a multiple of block size 16"},
	{MASTER, "secret,id=s,data=,keyid=m" IV, "Length 0 must be a multiple of block size 16"},
	{MASTER, "secret,id=s,format=base64,data=YWFhYWFhYWFhYWFhYWFhYQ==,keyid=m" IV,
	 "Incorrect number of padding bytes (168) found on decrypted data"},
	{NULL, "secret_keyring,id=s", "Parameter 'serial' is missing"},
	{NULL, "secret_keyring,id=s,serial=1x", "Parameter 'serial' expects integer"},
	{NULL, "secret_keyring,id=s,serial=4294967296", "Parameter 'serial' expects integer"},
	{NULL, "secret_keyring,id=s,serial=2147483647", "Unable to read serial key 7fffffff"},
	{NULL, "secret,id=s,data=a,b",
	 "there are data, file, format, keyid, iv, and a comma in a value is doubled"},
};

START_TEST(test_refused)
{
	if (refused[_i].first)
		ck_assert_int_eq(object_set_add(&set, refused[_i].first, &err), 0);
	ck_assert_int_lt(make(refused[_i].second), 0);
	ck_assert_msg(strstr(err.text, refused[_i].said), "%s", err.text);
	ck_assert_int_gt(err.code, 0);
}
END_TEST

START_TEST(test_keyring)
{
	char text[100];
	long serial = syscall(SYS_add_key, "user", "hawser-test", "from the ring", 13,
			      KEY_SPEC_PROCESS_KEYRING);

	if (serial < 0) {
		ck_assert_msg(errno == ENOSYS || errno == EPERM || errno == EACCES, "%s",
			      strerror(errno));
		return; /* containers often have no keyring */
	}
	snprintf(text, sizeof(text), "secret_keyring,id=s,serial=%ld", serial);
	ck_assert_msg(make(text) == 0, "%s", err.text);
	is_secret("from the ring", 13);
}
END_TEST

/* All that is typed for --object, as JSON. */
START_TEST(test_as_json)
{
	ck_assert_int_eq(
		make("{\"qom-type\": \"secret\", \"id\": \"s\", \"data\": \"a,b\\u00e9\"}"), 0);
	is_secret("a,b\xc3\xa9", 5);
}
END_TEST

/* Whatever is wrong with it, the passphrase is in no message. */
static const char *const not_told[] = {
	"{\"qom-type\":\"secret\",\"id\":\"s\",\"data\":\"sesame\"",
	"{\"qom-type\":\"secret\",\"id\":\"s\",\"data\":\"sesame\",\"data\":\"sesame\"}",
	"{\"qom-type\":\"secret\",\"id\":\"s\",\"daat\":\"sesame\"}",
	"{\"id\":\"s\",\"data\":\"sesame\"}",
	"{\"qom-type\":\"secret\",\"data\":\"sesame\"}",
	"{\"qom-type\":\"secret\",\"id\":\"s\",\"data\":-1}",
	" {\"data\":\"sesame\",\"qom-type\":\"secret\",\"id\":\"s\"}",
	"{'data':'sesame','qom-type':'secret','id':'s'}",
	"secret,id=s,data=open,sesame",
	"secret,id=s,data=open,sesame=1",
	"secret,id=s,sesame",
	"secret,id=s,format=sesame,data=x",
	"secret,id=s,data=sesame,format=base64",
	"secret,id=s,data=sesame,file=x",
	"secret,id=s,data=sesame,keyid=k",
	"secret_keyring,id=s,serial=sesame",
};

enum { NOT_TOLD = sizeof(not_told) / sizeof(not_told[0]) };

START_TEST(test_is_not_told)
{
	err = (struct error)ERROR_INIT;
	if (!object_set_add(&set, not_told[_i], &err))
		ck_assert_int_ne(object_set_create(&set, &err), 0);
	ck_assert_msg(*err.text && !strstr(err.text, "sesame"), "%s: %s", not_told[_i], err.text);
}
END_TEST

START_TEST(test_find)
{
	ck_assert_int_eq(object_set_add(&set, "iothread,id=i", &err), 0);
	ck_assert_ptr_null(object_secret_find(&set, "i", &err));
	ck_assert_str_eq(err.text, "Object with id 'i' is not a secret");
	ck_assert_ptr_null(object_secret_find(&set, "x", &err));
	ck_assert_str_eq(err.text, "No secret with id 'x'");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("secret");
	TCase *tests = tcase_create("all");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, test_data);
	tcase_add_test(tests, test_data_is_wiped);
	tcase_add_test(tests, test_file);
	tcase_add_test(tests, test_file_keeps_newline);
	tcase_add_test(tests, test_file_too_large);
	tcase_add_test(tests, test_base64);
	tcase_add_test(tests, test_base64_refused);
	tcase_add_test(tests, test_encrypted);
	tcase_add_loop_test(tests, test_refused, 0, sizeof(refused) / sizeof(refused[0]));
	tcase_add_test(tests, test_keyring);
	tcase_add_test(tests, test_as_json);
	tcase_add_loop_test(tests, test_is_not_told, 0, NOT_TOLD);
	tcase_add_test(tests, test_find);
	suite_add_tcase(suite, tests);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
