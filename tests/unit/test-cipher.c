// SPDX-License-Identifier: MIT
/* server/image/cipher: the modes that are put together here, against OpenSSL's own. */
#include "server/image/cipher.h"

#include <check.h>
#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH = 21 * CIPHER_SECTOR };

static struct error err;
static uint8_t plain[LENGTH], ours[LENGTH], theirs[LENGTH], key[CIPHER_KEY_MAX];

static void setup(void)
{
	for (size_t i = 0; i < sizeof(plain); i++)
		plain[i] = (uint8_t)(i * 11 + i / 256);
	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)(i * i + 3);
}

static const struct {
	const char *mode;
	size_t key_length;
	const char *openssl; /* what does the same for one sector; NULL: nothing does */
	const char *hash;    /* of ESSIV */
	uint64_t mask;       /* of the sector numbers */
} cases[] = {
	{"xts-plain64", 64, "AES-256-XTS", NULL, UINT64_MAX},
	{"xts-plain64", 32, "AES-128-XTS", NULL, UINT64_MAX},
	{"xts-plain64", 48, NULL, NULL, UINT64_MAX},
	{"xts-plain", 64, "AES-256-XTS", NULL, UINT32_MAX},
	{"xts-essiv:sha256", 64, "AES-256-XTS", "SHA256", UINT64_MAX},
	{"cbc-plain64", 32, "AES-256-CBC", NULL, UINT64_MAX},
	{"cbc-plain64", 24, "AES-192-CBC", NULL, UINT64_MAX},
	{"cbc-plain", 16, "AES-128-CBC", NULL, UINT32_MAX},
	{"cbc-essiv:sha256", 32, "AES-256-CBC", "SHA256", UINT64_MAX},
	{"cbc-essiv:md5", 16, "AES-128-CBC", "MD5", UINT64_MAX},
	{"ctr-plain64", 32, "AES-256-CTR", NULL, UINT64_MAX},
	{"ecb", 32, "AES-256-ECB", NULL, 0},
	{"ecb-plain64", 16, "AES-128-ECB", NULL, 0},
};

static void openssl(const char *name, const uint8_t *with, const uint8_t *iv, const uint8_t *in,
		    uint8_t *out, int length)
{
	EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
	EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, name, NULL);
	int made = 0;

	ck_assert_ptr_nonnull(context);
	ck_assert_ptr_nonnull(cipher);
	ck_assert_int_eq(EVP_EncryptInit_ex(context, cipher, NULL, with, iv), 1);
	EVP_CIPHER_CTX_set_padding(context, 0);
	ck_assert_int_eq(EVP_EncryptUpdate(context, out, &made, in, length), 1);
	ck_assert_int_eq(made, length);
	EVP_CIPHER_free(cipher);
	EVP_CIPHER_CTX_free(context);
}

static void expect(int number, uint64_t sector)
{
	for (size_t at = 0; at < LENGTH; at += CIPHER_SECTOR, sector++) {
		uint8_t iv[16] = {0}, digest[EVP_MAX_MD_SIZE];
		size_t length;

		for (int i = 0; i < 8; i++)
			iv[i] = (uint8_t)((sector & cases[number].mask) >> 8 * i);
		if (cases[number].hash) {
			ck_assert(EVP_Q_digest(NULL, cases[number].hash, NULL, key,
					       cases[number].key_length, digest, &length));
			openssl(length == 32 ? "AES-256-ECB" : "AES-128-ECB", digest, NULL, iv, iv,
				16);
		}
		openssl(cases[number].openssl, key, iv, plain + at, theirs + at, CIPHER_SECTOR);
	}
}

static struct cipher *make(int number)
{
	struct cipher *cipher;

	ck_assert_msg(cipher_new("aes", cases[number].mode, key, cases[number].key_length, &cipher,
				 &err) == 0,
		      "%s", err.text);
	return cipher;
}

START_TEST(test_like_openssl)
{
	static const uint64_t sectors[] = {0, 1, 77, UINT32_MAX - 3, UINT64_C(1) << 40};
	struct cipher *cipher = make(_i);

	for (size_t i = 0; i < sizeof(sectors) / sizeof(sectors[0]); i++) {
		ck_assert_int_eq(cipher_encrypt(cipher, plain, ours, LENGTH, sectors[i]), 0);
		ck_assert(memcmp(plain, ours, LENGTH));
		if (cases[_i].openssl) {
			expect(_i, sectors[i]);
			ck_assert_mem_eq(ours, theirs, LENGTH);
		}
		ck_assert_int_eq(cipher_decrypt(cipher, ours, theirs, LENGTH, sectors[i]), 0);
		ck_assert_mem_eq(theirs, plain, LENGTH);
		/* In place, at an odd address, in pieces. */
		memmove(ours + 1, ours, LENGTH - CIPHER_SECTOR);
		ck_assert_int_eq(
			cipher_decrypt(cipher, ours + 1, ours + 1, 9 * CIPHER_SECTOR, sectors[i]),
			0);
		ck_assert_mem_eq(ours + 1, plain, 9 * CIPHER_SECTOR);
	}
	cipher_free(cipher);
}
END_TEST

START_TEST(test_refused)
{
	static const struct {
		const char *name, *mode, *said;
		size_t key_length;
	} wrong[] = {
		{"serpent", "xts-plain64", "'serpent' is not supported", 64},
		{"twofish", "cbc-plain64", "'twofish' is not supported", 32},
		{"aes", "lrw-benbi", "'aes-lrw-benbi' is not supported", 48},
		{"aes", "xts-benbi", "'aes-xts-benbi' is not supported", 64},
		{"aes", "xts", "'aes-xts' is not supported", 64},
		{"aes", "cbc", "'aes-cbc' is not supported", 32},
		{"aes", "xt-plain64", "'aes-xt-plain64' is not supported", 64},
		{"aes", "xts-essiv:sha1", "is not supported", 64},
		{"aes", "", "is not supported", 64},
		{"aes", "xts-plain64", "key of 576 bits", 72},
		{"aes", "xts-plain64", "key of 128 bits", 16},
		{"aes", "xts-plain64", "key of 264 bits", 33},
		{"aes", "cbc-plain64", "key of 0 bits", 0},
		{"aes", "cbc-plain64", "key of 512 bits", 64},
		{"aes", "cbc-plain64", "key of 160 bits", 20},
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		ck_assert_int_eq(
			cipher_check(wrong[i].name, wrong[i].mode, wrong[i].key_length, &err),
			-ENOTSUP);
		ck_assert_msg(strstr(err.text, wrong[i].said), "%s", err.text);
	}
}
END_TEST

static void *run_one(void *cipher)
{
	uint8_t *out = malloc(LENGTH);

	for (int i = 0; i < 300; i++) {
		bool same = cipher_encrypt(cipher, plain, out, LENGTH, 5) == 0 &&
			    !memcmp(out, theirs, LENGTH) &&
			    cipher_decrypt(cipher, out, out, LENGTH, 5) == 0 &&
			    !memcmp(out, plain, LENGTH);

		if (!same) {
			free(out);
			return cipher;
		}
	}
	free(out);
	return NULL;
}

START_TEST(test_threads)
{
	enum { THREADS = 80 }; /* more than contexts */
	pthread_t threads[THREADS];
	struct cipher *cipher = make(_i);

	ck_assert_int_eq(cipher_encrypt(cipher, plain, theirs, LENGTH, 5), 0);
	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, run_one, cipher), 0);
	for (int i = 0; i < THREADS; i++) {
		void *wrong;

		pthread_join(threads[i], &wrong);
		ck_assert_ptr_null(wrong);
	}
	cipher_free(cipher);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("cipher");
	TCase *tests = tcase_create("all");
	int count = sizeof(cases) / sizeof(cases[0]), failed;
	SRunner *runner;

	tcase_add_checked_fixture(tests, setup, NULL);
	tcase_add_loop_test(tests, test_like_openssl, 0, count);
	tcase_add_test(tests, test_refused);
	tcase_add_loop_test(tests, test_threads, 0, 1);
	suite_add_tcase(suite, tests);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
