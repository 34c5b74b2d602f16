/* SPDX-License-Identifier: MIT */
/*
 * Sizes and offsets: checked arithmetic and the reading and showing of numbers. Pure functions.
 */
#ifndef HAWSER_COMMON_SIZE_H
#define HAWSER_COMMON_SIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* True when a + b (a * b) does not fit; *sum (*product) is then unspecified. */
#define size_add_overflows(a, b, sum)     __builtin_add_overflow(a, b, sum)
#define size_mul_overflows(a, b, product) __builtin_mul_overflow(a, b, product)

/* Is [offset, offset + length) inside [0, size)? Never overflows. An empty range at size is. */
static inline bool range_inside(uint64_t offset, uint64_t length, uint64_t size)
{
	return offset <= size && length <= size - offset;
}

static inline uint64_t round_down(uint64_t value, uint64_t power_of_two)
{
	return value & ~(power_of_two - 1);
}

/* value must be at most UINT64_MAX - power_of_two + 1. */
static inline uint64_t round_up(uint64_t value, uint64_t power_of_two)
{
	return round_down(value + power_of_two - 1, power_of_two);
}

static inline bool is_power_of_two(uint64_t value)
{
	return value && !(value & (value - 1));
}

#define min_of(a, b)                  \
	({                            \
		__auto_type a_ = (a); \
		__auto_type b_ = (b); \
		a_ < b_ ? a_ : b_;    \
	})
#define max_of(a, b)                  \
	({                            \
		__auto_type a_ = (a); \
		__auto_type b_ = (b); \
		a_ > b_ ? a_ : b_;    \
	})

/*
 * A whole unsigned number in C's bases (10, 0x, 0), nothing around it, no sign, no suffix.
 * Returns 0, -EINVAL (not a number) or -ERANGE (more than limit).
 */
int size_parse_number(const char *text, uint64_t limit, uint64_t *value);

/* As above with an optional suffix k K M G T P E (powers of 1024) and an optional "iB" or "B". */
int size_parse(const char *text, uint64_t limit, uint64_t *value);

enum { SIZE_TEXT_MAX = 24 };
/* "512", "1.5 MiB", "64 GiB": at most one decimal, exact where it can be. Returns text. */
const char *size_format(uint64_t value, char text[SIZE_TEXT_MAX]);

#endif
