// SPDX-License-Identifier: MIT
/* See glob.h. */
#include "glob.h"

#include <stddef.h>

/* Behind one character of UTF-8; what is no UTF-8 is skipped byte by byte. */
static const char *next_character(const char *text)
{
	do
		text++;
	while ((*text & 0xc0) == 0x80);
	return text;
}

bool glob_matches(const char *pattern, const char *text)
{
	/* The last star, and where the text that it stands for ends so far. Only the last is ever
	 * tried again: what stands before it matched at the earliest place, which is never worse.
	 */
	const char *star = NULL, *end = NULL;

	while (*text) {
		if (*pattern == '*') {
			star = ++pattern;
			end = text;
		} else if (*pattern == '?') {
			pattern++;
			text = next_character(text);
		} else if (*pattern == *text) {
			pattern++;
			text++;
		} else if (star) {
			pattern = star;
			text = end = next_character(end);
		} else {
			return false;
		}
	}
	while (*pattern == '*')
		pattern++;
	return !*pattern;
}
