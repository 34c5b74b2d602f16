/* SPDX-License-Identifier: MIT */
/*
 * Reads JSON into a tree. The text may come from anybody: depth is bounded, every byte is checked,
 * and asking for what is not there is answered with nothing, not with a fault. Pure functions.
 */
#ifndef HAWSER_COMMON_JSON_READ_H
#define HAWSER_COMMON_JSON_READ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

enum { JSON_DEPTH_MAX = 32 };

enum json_kind { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json_value {
	enum json_kind kind;
	char *key;       /* in an object, else NULL; UTF-8 as it came */
	char *text;      /* of a string, without U+0000 */
	uint64_t number; /* a bool is 0 or 1; fractions are cut, what is negative is 0, what is too
			  * large is UINT64_MAX */
	bool exact;      /* of a number: that is what it says */
	struct json_value *first, *next; /* members */
	size_t count;
};

/* One value and nothing behind it but blanks. 0; -EINVAL, -ENOMEM with err set. */
int json_read(const char *text, size_t length, struct json_value **value, struct error *err);
void json_value_free(struct json_value *value);

/* value may be NULL or of another kind everywhere: then there is no such member. */
const struct json_value *json_member(const struct json_value *value, const char *key);
/* NULL when the member is no string. */
const char *json_member_text(const struct json_value *value, const char *key);
/* 0 when the member is no number or bool. */
uint64_t json_member_number(const struct json_value *value, const char *key);

#endif
