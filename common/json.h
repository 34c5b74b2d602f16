/* SPDX-License-Identifier: MIT */
/*
 * Writes JSON to a stream: objects, arrays and values, with the commas and the indentation in one
 * place. Text is always valid UTF-8 afterwards: bytes that are not become U+FFFD. Output that must
 * not appear half-done is written to a memory stream (open_memstream) first.
 */
#ifndef HAWSER_COMMON_JSON_H
#define HAWSER_COMMON_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct json {
	FILE *out;
	unsigned int depth;
	unsigned int line_depth; /* depth from which everything stays on one line; 0 = none */
	bool filled;             /* the open object or array has a member already */
};

void json_init(struct json *json, FILE *out);
/* Ends the text with a newline. 0, or -EIO when the stream could not take it. */
int json_finish(struct json *json);

/* key is NULL inside an array and at the top. */
void json_object_begin(struct json *json, const char *key);
/* The object stays on one line: for rows of tables. */
void json_object_begin_line(struct json *json, const char *key);
void json_object_end(struct json *json);
void json_array_begin(struct json *json, const char *key);
void json_array_end(struct json *json);

/* A NULL text is null. */
void json_string(struct json *json, const char *key, const char *text);
void json_number(struct json *json, const char *key, uint64_t value);
void json_bool(struct json *json, const char *key, bool value);
void json_null(struct json *json, const char *key);

#endif
