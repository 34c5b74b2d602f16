// SPDX-License-Identifier: MIT
/*
 * The JSON writer and its neighbour for terminals. The first byte asks for a shape, the rest is a
 * text that a peer might send; a small reader of JSON checks what was written.
 */
#include "common/json.h"
#include "common/printable.h"
#include "fuzz.h"

struct reader {
	const char *at, *end;
};

static char next(struct reader *reader)
{
	FUZZ_CHECK(reader->at < reader->end);
	return *reader->at++;
}

static void skip_blanks(struct reader *reader)
{
	while (reader->at < reader->end && (*reader->at == ' ' || *reader->at == '\n'))
		reader->at++;
}

static void read_escape(struct reader *reader)
{
	char kind = next(reader);

	if (kind == 'u')
		for (int i = 0; i < 4; i++)
			FUZZ_CHECK(strchr("0123456789abcdef", next(reader)));
	else
		FUZZ_CHECK(kind == '"' || kind == '\\');
}

/* Strings are UTF-8 without anything that moves a cursor. */
static void read_string(struct reader *reader)
{
	FUZZ_CHECK(next(reader) == '"');
	for (;;) {
		uint32_t code = 0;
		size_t count;

		FUZZ_CHECK(reader->at < reader->end);
		count = utf8_decode(reader->at, (size_t)(reader->end - reader->at), &code);
		FUZZ_CHECK(count);
		FUZZ_CHECK(code >= 0x20 && !(code >= 0x7f && code < 0xa0));
		reader->at += count;
		if (code == '"')
			return;
		if (code == '\\')
			read_escape(reader);
	}
}

static void read_value(struct reader *reader);

static void read_members(struct reader *reader, char close, bool keys)
{
	skip_blanks(reader);
	if (*reader->at == close) {
		reader->at++;
		return;
	}
	for (;;) {
		char after;

		skip_blanks(reader);
		if (keys) {
			read_string(reader);
			FUZZ_CHECK(next(reader) == ':');
			skip_blanks(reader);
		}
		read_value(reader);
		skip_blanks(reader);
		after = next(reader);
		if (after == close)
			return;
		FUZZ_CHECK(after == ',');
	}
}

static void read_word(struct reader *reader, const char *word)
{
	while (*word)
		FUZZ_CHECK(next(reader) == *word++);
}

static void read_value(struct reader *reader)
{
	switch (*reader->at) {
	case '{':
		reader->at++;
		read_members(reader, '}', true);
		break;
	case '[':
		reader->at++;
		read_members(reader, ']', false);
		break;
	case '"':
		read_string(reader);
		break;
	case 'n':
		read_word(reader, "null");
		break;
	case 't':
		read_word(reader, "true");
		break;
	case 'f':
		read_word(reader, "false");
		break;
	default:
		FUZZ_CHECK(strtoull(reader->at, (char **)&reader->at, 10) || reader->at[-1] == '0');
	}
}

static void put_members(struct json *json, uint8_t shape, const char *text, bool keys)
{
	json_string(json, keys ? text : NULL, text);
	if (shape & 4)
		json_number(json, keys ? "n" : NULL, UINT64_MAX >> (shape & 63));
	if (shape & 8)
		json_bool(json, keys ? "b" : NULL, shape & 16);
	if (shape & 32)
		json_null(json, keys ? "z" : NULL);
}

static void put_document(struct json *json, uint8_t shape, const char *text)
{
	json_object_begin(json, NULL);
	if (shape & 1)
		put_members(json, shape, text, true);
	json_array_begin(json, "rows");
	if (shape & 2) {
		json_object_begin_line(json, NULL);
		put_members(json, shape, text, true);
		json_array_begin(json, "empty");
		json_array_end(json);
		json_object_end(json);
	}
	if (shape & 64)
		put_members(json, shape, text, false);
	json_array_end(json);
	json_object_end(json);
}

static void check_printable(const char *text, size_t size, uint8_t room)
{
	char *whole = printable_dup(text), *cut = malloc(room + 1u);

	FUZZ_CHECK(whole && cut);
	FUZZ_CHECK(printable_copy(cut, room + 1u, text, size) == cut);
	FUZZ_CHECK(strlen(cut) <= room);
	FUZZ_CHECK(room < 3 || strlen(cut) >= 3 || strlen(whole) < 3 || strlen(text) < size);
	for (const char *at = whole; *at;) {
		uint32_t code = 0;
		size_t count = utf8_decode(at, strlen(at), &code);

		FUZZ_CHECK(count && code >= 0x20 && !(code >= 0x7f && code < 0xa0));
		at += count;
	}
	free(whole);
	free(cut);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *written = NULL, *text;
	size_t length = 0;
	struct reader reader;
	struct json json;
	FILE *out;

	if (size < 1)
		return 0;
	text = fuzz_text(data + 1, size - 1);
	out = open_memstream(&written, &length);
	FUZZ_CHECK(out);
	json_init(&json, out);
	put_document(&json, data[0], text);
	FUZZ_CHECK(json_finish(&json) == 0);
	fclose(out);
	reader = (struct reader){written, written + length};
	read_value(&reader);
	FUZZ_CHECK(next(&reader) == '\n' && reader.at == reader.end);
	check_printable(text, size - 1, data[0]);
	free(written);
	free(text);
	return 0;
}
