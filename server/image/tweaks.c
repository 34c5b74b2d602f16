// SPDX-License-Identifier: MIT
/*
 * Tweaks in vectors, as wide as the processor has them. A chain of 32 doublings takes longer than
 * AES takes for the sector, so there are several beside each other: those of two sectors (AVX2), or
 * of one sector's first eight blocks, which then go on by eight blocks a step (AVX-512).
 *
 * Bytes from elsewhere may begin anywhere; firsts and tweaks are aligned.
 */
#include "tweaks.h"

#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

enum { POLYNOMIAL = 0x87 }; /* of the field: what is left of a bit that leaves at the top */

/* Blocks as 64 bits twice, the lower half first, in the byte order of the processor. */
typedef uint64_t block __attribute__((vector_size(16), may_alias));
typedef int32_t quarters __attribute__((vector_size(16)));

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define UPPERS(at)  (at) + 2, (at) + 2, (at) + 0, (at) + 0
#define TO_LE(pair) ((block){__builtin_bswap64(pair[0]), __builtin_bswap64(pair[1])})
#else
#define UPPERS(at)  (at) + 3, (at) + 3, (at) + 1, (at) + 1
#define TO_LE(pair) (pair)
#endif

/* The sign of each half, in all bits of the other half. */
#define SIGNS(type, value, ...) (__builtin_shuffle((type)(value), (type){__VA_ARGS__}) >> 31)

static block double_block(block tweak)
{
	block carry = (block)SIGNS(quarters, tweak, UPPERS(0)) & (block){POLYNOMIAL, 1};

	return (tweak + tweak) ^ carry;
}

static void combine(uint8_t *out, const uint8_t *in, block with)
{
	block value;

	memcpy(&value, in, sizeof(value));
	value ^= with;
	memcpy(out, &value, sizeof(value));
}

/* ---- Any processor ---- */

static void begin_plain(const uint8_t *firsts, size_t sectors, uint8_t *tweaks, const uint8_t *in,
			uint8_t *out)
{
	for (size_t i = 0; i < sectors; i++, firsts += TWEAKS_BLOCK) {
		block tweak = TO_LE((*(const block *)firsts));

		for (int j = 0; j < TWEAKS_BLOCKS; j++) {
			block bytes = TO_LE(tweak);

			*(block *)tweaks = bytes;
			combine(out, in, bytes);
			tweaks += TWEAKS_BLOCK;
			in += TWEAKS_BLOCK;
			out += TWEAKS_BLOCK;
			tweak = double_block(tweak);
		}
	}
}

static void apply_plain(const uint8_t *tweaks, size_t length, uint8_t *bytes)
{
	for (size_t i = 0; i < length; i += TWEAKS_BLOCK)
		combine(bytes + i, bytes + i, *(const block *)(tweaks + i));
}

#ifdef __x86_64__

/* ---- AVX2 ---- */

#define AVX2 __attribute__((target("avx2")))

typedef uint64_t pair __attribute__((vector_size(32), may_alias));
typedef int32_t eighths __attribute__((vector_size(32)));

AVX2 static void begin_pairs(const uint8_t *firsts, size_t sectors, uint8_t *tweaks,
			     const uint8_t *in, uint8_t *out)
{
	for (; sectors; sectors -= 2) {
		pair tweak;

		memcpy(&tweak, firsts, sizeof(tweak));
		for (int i = 0; i < TWEAKS_BLOCKS; i++) {
			block one = {tweak[0], tweak[1]}, other = {tweak[2], tweak[3]};
			pair carry = (pair)SIGNS(eighths, tweak, UPPERS(0), UPPERS(4)) &
				     (pair){POLYNOMIAL, 1, POLYNOMIAL, 1};

			*(block *)tweaks = one;
			*(block *)(tweaks + TWEAKS_SECTOR) = other;
			combine(out, in, one);
			combine(out + TWEAKS_SECTOR, in + TWEAKS_SECTOR, other);
			tweak = (tweak + tweak) ^ carry;
			tweaks += TWEAKS_BLOCK;
			in += TWEAKS_BLOCK;
			out += TWEAKS_BLOCK;
		}
		firsts += 2 * TWEAKS_BLOCK;
		tweaks += TWEAKS_SECTOR;
		in += TWEAKS_SECTOR;
		out += TWEAKS_SECTOR;
	}
}

/* Not for AVX2 itself: a jump from there to begin_plain() would leave the upper halves of the
 * registers in use, which makes OpenSSL's AES slow. */
static void begin_avx2(const uint8_t *firsts, size_t sectors, uint8_t *tweaks, const uint8_t *in,
		       uint8_t *out)
{
	size_t even = sectors & ~(size_t)1, bytes = even * TWEAKS_SECTOR;

	begin_pairs(firsts, even, tweaks, in, out);
	begin_plain(firsts + even * TWEAKS_BLOCK, sectors - even, tweaks + bytes, in + bytes,
		    out + bytes);
}

AVX2 static void apply_avx2(const uint8_t *tweaks, size_t length, uint8_t *bytes)
{
	for (size_t i = 0; i < length; i += sizeof(pair)) {
		pair value;

		memcpy(&value, bytes + i, sizeof(value));
		value ^= *(const pair *)(tweaks + i);
		memcpy(bytes + i, &value, sizeof(value));
	}
}

/* ---- AVX-512, which multiplies in the field ---- */

#define AVX512 __attribute__((target("avx512f,avx512bw,vpclmulqdq")))
#define INLINE static inline __attribute__((always_inline))

/* Four blocks: tweak times x to the powers from .. from + 3. */
AVX512 INLINE __m512i powers(__m512i tweak, int from)
{
	const __m512i up = _mm512_set_epi64(from + 3, from + 3, from + 2, from + 2, from + 1,
					    from + 1, from, from);
	const __m512i down = _mm512_sub_epi64(_mm512_set1_epi64(64), up);
	/* What leaves a half at its top: from the lower to the upper one, and from that, reduced,
	 * to the lower one. */
	__m512i left = _mm512_srlv_epi64(_mm512_shuffle_epi32(tweak, _MM_PERM_BADC), down);
	__m512i reduced =
		_mm512_clmulepi64_epi128(left, _mm512_maskz_set1_epi64(0x55, POLYNOMIAL), 0x00);

	return _mm512_xor_si512(_mm512_sllv_epi64(tweak, up),
				_mm512_xor_si512(reduced, _mm512_maskz_mov_epi64(0xaa, left)));
}

/* Times x to the power of 8: the whole byte at the top is reduced. */
AVX512 INLINE __m512i eight_on(__m512i tweaks)
{
	__m512i reduced = _mm512_clmulepi64_epi128(_mm512_bsrli_epi128(tweaks, 15),
						   _mm512_maskz_set1_epi64(0x55, POLYNOMIAL), 0x00);

	return _mm512_xor_si512(_mm512_bslli_epi128(tweaks, 1), reduced);
}

AVX512 static void begin_avx512(const uint8_t *firsts, size_t sectors, uint8_t *tweaks,
				const uint8_t *in, uint8_t *out)
{
	enum { WIDTH = sizeof(__m512i), STEP = 2 * WIDTH };

	for (size_t i = 0; i < sectors; i++, firsts += TWEAKS_BLOCK) {
		__m512i first = _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)firsts));
		__m512i low = powers(first, 0), high = powers(first, 4);

		for (int j = 0; j < TWEAKS_SECTOR; j += STEP) {
			_mm512_store_si512(tweaks, low);
			_mm512_store_si512(tweaks + WIDTH, high);
			_mm512_storeu_si512(out, _mm512_xor_si512(low, _mm512_loadu_si512(in)));
			_mm512_storeu_si512(out + WIDTH,
					    _mm512_xor_si512(high, _mm512_loadu_si512(in + WIDTH)));
			low = eight_on(low);
			high = eight_on(high);
			tweaks += STEP;
			in += STEP;
			out += STEP;
		}
	}
}

AVX512 static void apply_avx512(const uint8_t *tweaks, size_t length, uint8_t *bytes)
{
	for (size_t i = 0; i < length; i += sizeof(__m512i))
		_mm512_storeu_si512(bytes + i, _mm512_xor_si512(_mm512_load_si512(tweaks + i),
								_mm512_loadu_si512(bytes + i)));
}

#endif

/* ---- Which of them ---- */

const struct tweaks_way *tweaks_way(size_t number)
{
	static const struct tweaks_way ways[] = {
#ifdef __x86_64__
		{"AVX-512", begin_avx512, apply_avx512},
		{"AVX2", begin_avx2, apply_avx2},
#endif
		{"plain", begin_plain, apply_plain},
	};
	size_t first = 0;

#ifdef __x86_64__
	if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
	    !__builtin_cpu_supports("vpclmulqdq"))
		first++;
	if (first && !__builtin_cpu_supports("avx2"))
		first++;
#endif
	return number < sizeof(ways) / sizeof(ways[0]) - first ? &ways[first + number] : NULL;
}
