/* SPDX-License-Identifier: MIT */
/*
 * Numbers in bytes of other machines' and programs' making: the protocol and image formats are
 * big-endian, GPT and MBR little-endian. `at` has any alignment and as many bytes as the name
 * says; whether they are there the caller has checked. Pure.
 */
#ifndef HAWSER_COMMON_BYTES_H
#define HAWSER_COMMON_BYTES_H

#include <endian.h>
#include <stdint.h>

static inline uint16_t load_be16(const void *at)
{
	uint16_t value;

	__builtin_memcpy(&value, at, sizeof(value));
	return be16toh(value);
}

static inline uint32_t load_be32(const void *at)
{
	uint32_t value;

	__builtin_memcpy(&value, at, sizeof(value));
	return be32toh(value);
}

static inline uint64_t load_be64(const void *at)
{
	uint64_t value;

	__builtin_memcpy(&value, at, sizeof(value));
	return be64toh(value);
}

static inline void store_be16(void *at, uint16_t value)
{
	value = htobe16(value);
	__builtin_memcpy(at, &value, sizeof(value));
}

static inline void store_be32(void *at, uint32_t value)
{
	value = htobe32(value);
	__builtin_memcpy(at, &value, sizeof(value));
}

static inline void store_be64(void *at, uint64_t value)
{
	value = htobe64(value);
	__builtin_memcpy(at, &value, sizeof(value));
}

static inline uint32_t load_le32(const void *at)
{
	uint32_t value;

	__builtin_memcpy(&value, at, sizeof(value));
	return le32toh(value);
}

static inline uint64_t load_le64(const void *at)
{
	uint64_t value;

	__builtin_memcpy(&value, at, sizeof(value));
	return le64toh(value);
}

static inline void store_le32(void *at, uint32_t value)
{
	value = htole32(value);
	__builtin_memcpy(at, &value, sizeof(value));
}

#endif
