// SPDX-License-Identifier: MIT
/* Peers' text made harmless for a terminal. Pure functions, any thread. */
#include "printable.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t utf8_decode(const char *text, size_t length, uint32_t *code)
{
	static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
	const unsigned char *at = (const unsigned char *)text;
	size_t size;

	if (at[0] < 0x80) {
		*code = at[0];
		return 1;
	}
	size = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
	if (at[0] < 0xc2 || at[0] > 0xf4 || size > length)
		return 0;
	*code = at[0] & (0x7fu >> size);
	for (size_t i = 1; i < size; i++) {
		if ((at[i] & 0xc0) != 0x80)
			return 0;
		*code = *code << 6 | (at[i] & 0x3fu);
	}
	/* Overlong forms, surrogates, and what is above Unicode. */
	if (*code < smallest[size] || (*code >= 0xd800 && *code <= 0xdfff) || *code > 0x10ffff)
		return 0;
	return size;
}

/* Characters that move the cursor, change the terminal, or turn the reading direction. */
static bool is_harmful(uint32_t code)
{
	static const uint32_t ranges[][2] = {
		{0x00, 0x1f},     {0x7f, 0x9f},     {0x061c, 0x061c},
		{0x200b, 0x200f}, {0x2028, 0x202e}, {0x2060, 0x206f},
		{0xfeff, 0xfeff}, {0xfff0, 0xfffb}, {0xe0000, 0xe0fff},
	};

	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++)
		if (code >= ranges[i][0] && code <= ranges[i][1])
			return true;
	return false;
}

char *printable_copy(char *out, size_t size, const char *text, size_t length)
{
	char *at = out, *end = out + size - 1;
	/* Where to put the mark of a cut: the last place that leaves room for it. */
	char *cut = out;

	while (length) {
		uint32_t code = 0;
		size_t bytes = utf8_decode(text, length, &code);
		bool plain = bytes && !is_harmful(code);
		size_t taken = bytes ? bytes : 1;
		size_t needed = plain ? bytes : 4 * taken;

		if ((size_t)(end - at) < needed) {
			snprintf(cut, (size_t)(end - cut) + 1, "...");
			return out;
		}
		for (size_t i = 0; !plain && i < taken; i++)
			snprintf(at + 4 * i, 5, "\\x%02x", (unsigned char)text[i]);
		if (plain)
			memcpy(at, text, bytes);
		at += needed;
		if (end - at >= 3)
			cut = at;
		text += taken;
		length -= taken;
	}
	*at = '\0';
	return out;
}

char *printable_dup(const char *text)
{
	size_t length = strlen(text);
	char *out = malloc(4 * length + 1);

	return out ? printable_copy(out, 4 * length + 1, text, length) : NULL;
}
