// SPDX-License-Identifier: MIT
/*
 * bench-cipher: what the cipher of encrypted images makes of a processor, beside OpenSSL's own
 * AES-256-XTS: as `openssl speed' uses it, with one initialisation vector and for nothing, in units
 * of a sector and in large ones, and with a vector for each sector, which disks need.
 *
 * The time of the one thread, in interleaved rounds, so that other work disturbs little and all
 * alike. Not a test: it prints, and judges nothing.
 */
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/image/cipher.h"
#include "server/image/tweaks.h"

enum { ROUNDS = 15, AMOUNT = 8 << 20, LARGEST = 1 << 20, LARGE = 16 << 10, WORKS = 5 };

static uint8_t in[LARGEST] __attribute__((aligned(4096)));
static uint8_t out[LARGEST] __attribute__((aligned(4096)));
static uint8_t key[64];
static struct cipher *ours;
static EVP_CIPHER_CTX *theirs;

static void fail(const char *what)
{
	fprintf(stderr, "bench-cipher: %s\n", what);
	exit(EXIT_FAILURE);
}

static void encrypt(size_t length)
{
	if (cipher_encrypt(ours, in, out, length, 1))
		fail("cannot encrypt");
}

static void decrypt(size_t length)
{
	if (cipher_decrypt(ours, in, out, length, 1))
		fail("cannot decrypt");
}

static void in_units(size_t length, size_t unit, bool new_vectors)
{
	for (uint64_t at = 0; at < length; at += unit) {
		uint64_t vector[2] = {at, 0};
		int made;

		if ((new_vectors &&
		     !EVP_CipherInit_ex(theirs, NULL, NULL, NULL, (const uint8_t *)vector, -1)) ||
		    !EVP_CipherUpdate(theirs, out + at, &made, in + at, (int)unit))
			fail("OpenSSL cannot encrypt");
	}
}

static void sectors_alike(size_t length)
{
	in_units(length, CIPHER_SECTOR, false);
}

static void large_units(size_t length)
{
	in_units(length, length < LARGE ? length : LARGE, false);
}

static void sectors(size_t length)
{
	in_units(length, CIPHER_SECTOR, true);
}

static const struct {
	const char *title;
	void (*run)(size_t length);
} works[WORKS] = {
	{"encrypt", encrypt},        {"decrypt", decrypt},       {"speed, 512", sectors_alike},
	{"speed, 16k", large_units}, {"a vector each", sectors},
};

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
	return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static int compare(const void *one, const void *other)
{
	double a = *(const double *)one, b = *(const double *)other;

	return (a > b) - (a < b);
}

static double median(double values[ROUNDS])
{
	qsort(values, ROUNDS, sizeof(*values), compare);
	return values[ROUNDS / 2];
}

/* GB/s of each work, and encrypting against each of OpenSSL's ways. */
static void measure(size_t length)
{
	double rates[WORKS][ROUNDS], ratios[WORKS][ROUNDS];

	for (int round = 0; round < ROUNDS; round++)
		for (int i = 0; i < WORKS; i++) {
			double began = now();

			for (size_t done = 0; done < AMOUNT; done += length)
				works[i].run(length);
			rates[i][round] = AMOUNT / (now() - began) / 1e9;
			ratios[i][round] = rates[0][round] / rates[i][round];
		}
	printf("%6zuk", length >> 10);
	for (int i = 0; i < WORKS; i++)
		printf(i < 2 ? " %14.2f" : " %8.2f (%.2f)", median(rates[i]), median(ratios[i]));
	printf("\n");
}

int main(void)
{
	static const size_t lengths[] = {4 << 10, 64 << 10, 1 << 20};
	EVP_CIPHER *aes = EVP_CIPHER_fetch(NULL, "AES-256-XTS", NULL);
	uint8_t vector[16] = {0};
	struct error err;

	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)(i * i + 3);
	memset(in, 1, sizeof(in));
	memset(out, 1, sizeof(out));
	theirs = EVP_CIPHER_CTX_new();
	if (!theirs || !aes || !EVP_CipherInit_ex(theirs, aes, NULL, key, vector, 1))
		fail("OpenSSL has no AES-256-XTS");
	if (cipher_new("aes", "xts-plain64", key, sizeof(key), &ours, &err))
		fail(err.text);
	printf("AES-256-XTS, %s, GB/s of one thread; in brackets: encrypt against it\n%7s",
	       tweaks_way(0)->name, "");
	for (int i = 0; i < WORKS; i++)
		printf(" %14s", works[i].title);
	printf("\n");
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
		measure(lengths[i]);
	cipher_free(ours);
	EVP_CIPHER_CTX_free(theirs);
	EVP_CIPHER_free(aes);
	return 0;
}
