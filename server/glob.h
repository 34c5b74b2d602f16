/* SPDX-License-Identifier: MIT */
/*
 * Patterns as QEMU's rules have them (GLib's g_pattern_match_simple()): '*' stands for any text,
 * '?' for one character, and all else for itself. Brackets and backslashes are not special: the
 * names that rules speak of have backslashes of their own. Pure; no recursion, at most the product
 * of both lengths in steps.
 */
#ifndef HAWSER_SERVER_GLOB_H
#define HAWSER_SERVER_GLOB_H

#include <stdbool.h>

bool glob_matches(const char *pattern, const char *text);

#endif
