/* SPDX-License-Identifier: MIT */
/*
 * What a peer says, made harmless for a terminal: control characters (C0, DEL, C1), characters
 * that turn the reading direction, and bytes that are not UTF-8 become \xNN. Pure functions.
 */
#ifndef HAWSER_COMMON_PRINTABLE_H
#define HAWSER_COMMON_PRINTABLE_H

#include <stddef.h>
#include <stdint.h>

/*
 * Copies what fits, never half a character or half an escape, always terminated (size > 0). A cut
 * is marked by "...". Returns out.
 */
char *printable_copy(char *out, size_t size, const char *text, size_t length);

/* The whole of text, allocated; NULL when there is no memory. */
char *printable_dup(const char *text);

/*
 * Takes one UTF-8 character off [text, text + length), length > 0: its bytes, with *code set, or 0
 * when there is no valid one.
 */
size_t utf8_decode(const char *text, size_t length, uint32_t *code);

#endif
