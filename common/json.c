// SPDX-License-Identifier: MIT
/* JSON to a stream. One thread; errors of the stream are kept by stdio until json_finish(). */
#include "json.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "printable.h"

void json_init(struct json *json, FILE *out)
{
	*json = (struct json){.out = out};
}

int json_finish(struct json *json)
{
	fputc('\n', json->out);
	return fflush(json->out) || ferror(json->out) ? -EIO : 0;
}

static void put_text(FILE *out, const char *text)
{
	size_t length = strlen(text);

	fputc('"', out);
	while (length) {
		uint32_t code = 0;
		size_t bytes = utf8_decode(text, length, &code);

		if (!bytes)
			fputs("\\ufffd", out);
		else if (code == '"' || code == '\\')
			fprintf(out, "\\%c", (int)code);
		/* DEL and C1 are legal in JSON, but not harmless on a terminal. */
		else if (code < 0x20 || (code >= 0x7f && code < 0xa0))
			fprintf(out, "\\u%04x", (unsigned int)code);
		else
			fwrite(text, 1, bytes, out);
		text += bytes ? bytes : 1;
		length -= bytes ? bytes : 1;
	}
	fputc('"', out);
}

static void new_line(struct json *json)
{
	if (json->line_depth) {
		fputc(' ', json->out);
		return;
	}
	fprintf(json->out, "\n%*s", (int)(2 * json->depth), "");
}

/* What stands before each value: comma, line, key. */
static void begin_value(struct json *json, const char *key)
{
	if (json->filled)
		fputc(',', json->out);
	if (json->depth)
		new_line(json);
	json->filled = true;
	if (key) {
		put_text(json->out, key);
		fputs(": ", json->out);
	}
}

static void begin(struct json *json, const char *key, char bracket)
{
	begin_value(json, key);
	fputc(bracket, json->out);
	json->depth++;
	json->filled = false;
}

static void end(struct json *json, char bracket)
{
	bool filled = json->filled;

	json->depth--;
	if (filled)
		new_line(json);
	if (json->line_depth > json->depth)
		json->line_depth = 0;
	fputc(bracket, json->out);
	json->filled = true;
}

void json_object_begin(struct json *json, const char *key)
{
	begin(json, key, '{');
}

void json_object_begin_line(struct json *json, const char *key)
{
	begin(json, key, '{');
	if (!json->line_depth)
		json->line_depth = json->depth;
}

void json_object_end(struct json *json)
{
	end(json, '}');
}

void json_array_begin(struct json *json, const char *key)
{
	begin(json, key, '[');
}

void json_array_end(struct json *json)
{
	end(json, ']');
}

void json_string(struct json *json, const char *key, const char *text)
{
	begin_value(json, key);
	if (text)
		put_text(json->out, text);
	else
		fputs("null", json->out);
}

void json_number(struct json *json, const char *key, uint64_t value)
{
	begin_value(json, key);
	fprintf(json->out, "%" PRIu64, value);
}

void json_bool(struct json *json, const char *key, bool value)
{
	begin_value(json, key);
	fputs(value ? "true" : "false", json->out);
}

void json_null(struct json *json, const char *key)
{
	json_string(json, key, NULL);
}
