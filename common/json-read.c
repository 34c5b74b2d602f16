// SPDX-License-Identifier: MIT
/* A recursive reader of JSON (RFC 8259), as deep as JSON_DEPTH_MAX. Pure functions. */
#include "json-read.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"

struct reader {
	const char *begin, *at, *end;
	unsigned int depth;
	bool no_memory;
};

static bool read_value(struct reader *reader, struct json_value **value);

static void skip_blanks(struct reader *reader)
{
	while (reader->at < reader->end && memchr(" \t\r\n", *reader->at, 4))
		reader->at++;
}

static bool take(struct reader *reader, char wanted)
{
	if (reader->at == reader->end || *reader->at != wanted)
		return false;
	reader->at++;
	return true;
}

static bool take_word(struct reader *reader, const char *word)
{
	size_t length = strlen(word);

	if ((size_t)(reader->end - reader->at) < length || memcmp(reader->at, word, length))
		return false;
	reader->at += length;
	return true;
}

/* ---- Strings ---- */

static bool read_hex(struct reader *reader, uint32_t *code)
{
	*code = 0;
	for (int i = 0; i < 4; i++) {
		static const char digits[] = "0123456789abcdefABCDEF";
		const char *digit = reader->at < reader->end && *reader->at
					    ? strchr(digits, *reader->at)
					    : NULL;
		uint32_t value;

		if (!digit)
			return false;
		value = (uint32_t)(digit - digits);
		*code = *code << 4 | (value < 16 ? value : value - 6);
		reader->at++;
	}
	return true;
}

static char *put_utf8(char *out, uint32_t code)
{
	if (code < 0x80) {
		*out++ = (char)code;
	} else if (code < 0x800) {
		*out++ = (char)(0xc0 | code >> 6);
		*out++ = (char)(0x80 | (code & 0x3f));
	} else if (code < 0x10000) {
		*out++ = (char)(0xe0 | code >> 12);
		*out++ = (char)(0x80 | (code >> 6 & 0x3f));
		*out++ = (char)(0x80 | (code & 0x3f));
	} else {
		*out++ = (char)(0xf0 | code >> 18);
		*out++ = (char)(0x80 | (code >> 12 & 0x3f));
		*out++ = (char)(0x80 | (code >> 6 & 0x3f));
		*out++ = (char)(0x80 | (code & 0x3f));
	}
	return out;
}

/* Behind \u: one character, which may take two of them. What is half a pair is U+FFFD. */
static bool read_unicode(struct reader *reader, uint32_t *code)
{
	uint32_t low;

	if (!read_hex(reader, code) || !*code)
		return false;
	if (*code < 0xd800 || *code > 0xdfff)
		return true;
	if (*code <= 0xdbff && take_word(reader, "\\u")) {
		if (!read_hex(reader, &low) || !low)
			return false;
		if (low >= 0xdc00 && low <= 0xdfff) {
			*code = 0x10000 + ((*code - 0xd800) << 10) + (low - 0xdc00);
			return true;
		}
	}
	*code = 0xfffd;
	return true;
}

static bool read_escape(struct reader *reader, char **out)
{
	static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
	const char *name;
	uint32_t code;

	if (reader->at == reader->end)
		return false;
	if (take(reader, 'u')) {
		if (!read_unicode(reader, &code))
			return false;
		*out = put_utf8(*out, code);
		return true;
	}
	name = *reader->at ? strchr(names, *reader->at) : NULL;
	if (!name)
		return false;
	*(*out)++ = values[name - names];
	reader->at++;
	return true;
}

/* The text behind the opening quote. What is written never takes more room than what was read. */
static bool read_string(struct reader *reader, char **text)
{
	const char *close = reader->at;
	AUTO_FREE char *room = NULL;
	char *out;

	while (close < reader->end && *close != '"')
		close += *close == '\\' && reader->end - close > 1 ? 2 : 1;
	if (close >= reader->end)
		return false;
	room = out = malloc((size_t)(close - reader->at) + 1);
	if (!room) {
		reader->no_memory = true;
		return false;
	}
	while (!take(reader, '"')) {
		if ((unsigned char)*reader->at < 0x20)
			return false;
		if (!take(reader, '\\'))
			*out++ = *reader->at++;
		else if (!read_escape(reader, &out))
			return false;
	}
	*out = '\0';
	*text = take_ptr(room);
	return true;
}

/* ---- Numbers ---- */

static size_t skip_digits(struct reader *reader)
{
	const char *begin = reader->at;

	while (reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9')
		reader->at++;
	return (size_t)(reader->at - begin);
}

/* The fraction and the exponent of a number; false when they are cut short. */
static bool skip_rest(struct reader *reader, bool *scaled)
{
	*scaled = false;
	if (take(reader, '.') && !skip_digits(reader))
		return false;
	if (!take(reader, 'e') && !take(reader, 'E'))
		return true;
	*scaled = true;
	if (!take(reader, '+'))
		take(reader, '-');
	return skip_digits(reader);
}

static uint64_t whole_number(const char *digits, size_t count)
{
	uint64_t number = 0;

	for (size_t i = 0; i < count; i++)
		if (__builtin_mul_overflow(number, 10, &number) ||
		    __builtin_add_overflow(number, (uint64_t)(digits[i] - '0'), &number))
			return UINT64_MAX;
	return number;
}

/* With an exponent: as exact as a double is. */
static uint64_t scaled_number(const char *text, size_t length)
{
	char copy[64];
	double number;

	if (length >= sizeof(copy))
		return 0;
	memcpy(copy, text, length);
	copy[length] = '\0';
	number = strtod(copy, NULL);
	return number >= (double)UINT64_MAX ? UINT64_MAX : (uint64_t)number;
}

static bool read_number(struct reader *reader, struct json_value *value)
{
	bool negative = take(reader, '-'), scaled;
	const char *digits = reader->at;
	size_t count = skip_digits(reader);
	bool whole = reader->at == reader->end || !memchr(".eE", *reader->at, 3);

	if (!count || (count > 1 && *digits == '0') || !skip_rest(reader, &scaled))
		return false;
	value->kind = JSON_NUMBER;
	if (!negative)
		value->number = scaled ? scaled_number(digits, (size_t)(reader->at - digits))
				       : whole_number(digits, count);
	value->exact = whole && !negative && value->number != UINT64_MAX;
	return true;
}

/* ---- Values ---- */

static bool read_key(struct reader *reader, char **key)
{
	skip_blanks(reader);
	if (!take(reader, '"') || !read_string(reader, key))
		return false;
	skip_blanks(reader);
	return take(reader, ':');
}

/* The members behind the opening bracket. */
static bool read_members(struct reader *reader, struct json_value *value, char close)
{
	struct json_value **tail = &value->first;

	skip_blanks(reader);
	if (take(reader, close))
		return true;
	do {
		AUTO_FREE char *key = NULL;

		if (value->kind == JSON_OBJECT && !read_key(reader, &key))
			return false;
		if (!read_value(reader, tail))
			return false;
		(*tail)->key = take_ptr(key);
		tail = &(*tail)->next;
		value->count++;
		skip_blanks(reader);
	} while (take(reader, ','));
	return take(reader, close);
}

static bool read_nested(struct reader *reader, struct json_value *value, char close)
{
	bool good;

	value->kind = close == '}' ? JSON_OBJECT : JSON_ARRAY;
	if (reader->depth == JSON_DEPTH_MAX)
		return false;
	reader->depth++;
	good = read_members(reader, value, close);
	reader->depth--;
	return good;
}

static bool read_into(struct reader *reader, struct json_value *value)
{
	if (take(reader, '{'))
		return read_nested(reader, value, '}');
	if (take(reader, '['))
		return read_nested(reader, value, ']');
	if (take(reader, '"')) {
		value->kind = JSON_STRING;
		return read_string(reader, &value->text);
	}
	if (take_word(reader, "null"))
		return true;
	if (take_word(reader, "false") || take_word(reader, "true")) {
		value->kind = JSON_BOOL;
		value->number = reader->at[-2] == 'u';
		return true;
	}
	return read_number(reader, value);
}

/* On failure *value may be set: whatever has been read. */
static bool read_value(struct reader *reader, struct json_value **value)
{
	*value = calloc(1, sizeof(**value));
	if (!*value) {
		reader->no_memory = true;
		return false;
	}
	skip_blanks(reader);
	return read_into(reader, *value);
}

int json_read(const char *text, size_t length, struct json_value **value, struct error *err)
{
	struct reader reader = {.begin = text, .at = text, .end = text + length};
	bool good = read_value(&reader, value);

	skip_blanks(&reader);
	if (good && reader.at == reader.end)
		return 0;
	json_value_free(*value);
	*value = NULL;
	if (reader.no_memory)
		return error_set(err, ENOMEM, "out of memory");
	return error_set(err, EINVAL, "no JSON at byte %zu", (size_t)(reader.at - reader.begin));
}

void json_value_free(struct json_value *value)
{
	struct json_value *next;

	for (; value; value = next) {
		next = value->next;
		json_value_free(value->first);
		if (value->text) /* maybe a passphrase */
			explicit_bzero(value->text, strlen(value->text));
		free(value->key);
		free(value->text);
		free(value);
	}
}

const struct json_value *json_member(const struct json_value *value, const char *key)
{
	const struct json_value *member = value && value->kind == JSON_OBJECT ? value->first : NULL;

	while (member && strcmp(member->key, key))
		member = member->next;
	return member;
}

const char *json_member_text(const struct json_value *value, const char *key)
{
	const struct json_value *member = json_member(value, key);

	return member ? member->text : NULL;
}

uint64_t json_member_number(const struct json_value *value, const char *key)
{
	const struct json_value *member = json_member(value, key);

	return member ? member->number : 0;
}
