/* SPDX-License-Identifier: MIT */
/*
 * What the fuzz targets share. A target is one file with LLVMFuzzerTestOneInput(); it links the
 * production libraries and checks what must hold for any input whatever. It must be deterministic
 * and end by itself. Built for libFuzzer (make fuzz) and with driver.c (make check).
 */
#ifndef HAWSER_TESTS_FUZZ_FUZZ_H
#define HAWSER_TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A rule that the code under test broke: says which, and dies so that the input is kept. */
#define FUZZ_CHECK(rule)                                                                   \
	do {                                                                               \
		if (!(rule)) {                                                             \
			fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #rule); \
			abort();                                                           \
		}                                                                          \
	} while (0)

/* xorshift64*: the same numbers everywhere for the same seed. */
struct fuzz_random {
	uint64_t state;
};

static inline uint64_t fuzz_random(struct fuzz_random *random)
{
	random->state ^= random->state >> 12;
	random->state ^= random->state << 25;
	random->state ^= random->state >> 27;
	return random->state * UINT64_C(0x2545f4914f6cdd1d);
}

/* A number below limit. */
static inline size_t fuzz_below(struct fuzz_random *random, size_t limit)
{
	return (size_t)(fuzz_random(random) >> 33) % limit;
}

/* The bytes in an allocation of just their size, so that a sanitizer sees a step beyond it. */
static inline uint8_t *fuzz_exact(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	FUZZ_CHECK(copy);
	if (size)
		memcpy(copy, data, size);
	return copy;
}

/* The bytes as a string; it ends at the first NUL. */
static inline char *fuzz_text(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	FUZZ_CHECK(text);
	if (size)
		memcpy(text, data, size);
	text[size] = '\0';
	return text;
}

/* The text of a part of the input up to the separator (or its end); *data moves behind it. */
static inline char *fuzz_take_text(const uint8_t **data, size_t *size, char separator)
{
	const uint8_t *stop = *size ? memchr(*data, separator, *size) : NULL;
	size_t length = stop ? (size_t)(stop - *data) : *size;
	char *text = fuzz_text(*data, length);

	*data += length + (stop ? 1 : 0);
	*size -= length + (stop ? 1 : 0);
	return text;
}

static inline bool fuzz_same_text(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

#endif
