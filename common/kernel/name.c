// SPDX-License-Identifier: MIT
/*
 * Names: how a device is spelled, and what our backend identifier says about an attach. Only
 * device_parse() looks at the file system (for links in /dev). Any thread.
 */
#include "device.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"

enum { INDEX_MAX = (1 << 20) - 1 }; /* minor numbers have 20 bits */

static int index_read(const char *digits, size_t length, int *index)
{
	char copy[8];
	uint64_t value;

	if (!length || length >= sizeof(copy) || (digits[0] == '0' && length > 1))
		return -EINVAL;
	memcpy(copy, digits, length);
	copy[length] = '\0';
	if (size_parse_number(copy, INDEX_MAX, &value))
		return -EINVAL;
	*index = (int)value;
	return 0;
}

static const char *skip_directory(const char *text)
{
	return strncmp(text, "/dev/", 5) ? text : text + 5;
}

/* Takes "nbd12p3" apart: digits of the index, then what follows. */
static bool split(const char *name, const char **digits, size_t *count, const char **rest)
{
	*digits = strncmp(name, "nbd", 3) ? name : name + 3;
	*count = strspn(*digits, "0123456789");
	*rest = *digits + *count;
	return *count > 0;
}

bool device_spelling(const char *text)
{
	const char *digits, *rest;
	size_t count;

	return split(skip_directory(text), &digits, &count, &rest) && !*rest;
}

static bool is_partition(const char *rest)
{
	return rest[0] == 'p' && isdigit((unsigned char)rest[1]) &&
	       !rest[1 + strspn(rest + 1, "0123456789")];
}

bool device_is_partition(const char *text)
{
	const char *name = skip_directory(text), *digits, *rest;
	size_t count;

	return split(name, &digits, &count, &rest) && digits != name && is_partition(rest);
}

static int parse_plain(const char *text, int *index, struct error *err)
{
	const char *name = skip_directory(text), *digits, *rest;
	size_t count;

	if (!split(name, &digits, &count, &rest) || index_read(digits, count, index))
		return error_set(err, EINVAL,
				 "'%s' is not an nbd device; use /dev/nbdN, for example /dev/nbd0",
				 text);
	if (!*rest)
		return 0;
	if (device_is_partition(text))
		return error_set(err, EINVAL, "'%s' is a partition; name its disk, /dev/nbd%.*s",
				 text, (int)count, digits);
	return error_set(err, EINVAL,
			 "'%s' is not an nbd device; use /dev/nbdN, for example /dev/nbd0", text);
}

int device_parse(const char *text, int *index, struct error *err)
{
	AUTO_FREE char *target = NULL;

	/* A link (/dev/disk/by-...) stands for what it points to; a missing node for itself. */
	if (text[0] == '/' && !device_spelling(text)) {
		target = realpath(text, NULL);
		if (target && !strncmp(target, "/dev/nbd", 8))
			return parse_plain(target, index, err);
	}
	return parse_plain(text, index, err);
}

const char *device_path(int index, char path[DEVICE_PATH_SIZE])
{
	snprintf(path, DEVICE_PATH_SIZE, "/dev/nbd%d", index);
	return path;
}

bool device_label_valid(const char *label)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				      "0123456789._:@-";
	size_t length = strlen(label);

	return length && length <= DEVICE_LABEL_MAX && strspn(label, allowed) == length &&
	       !device_spelling(label) && !device_is_partition(label) && strcmp(label, ".") &&
	       strcmp(label, "..");
}

/* ';' parts the fields, so it is written as in a URI. Cuts at room. */
static size_t put_uri(char *at, size_t room, const char *uri)
{
	size_t used = 0;

	for (; *uri; uri++) {
		bool escape = *uri == ';' || !isprint((unsigned char)*uri);
		size_t need = escape ? 3 : 1;

		if (used + need > room)
			break;
		if (escape)
			snprintf(at + used, 4, "%%%02X", (unsigned char)*uri);
		else
			at[used] = *uri;
		used += need;
	}
	return used;
}

void device_backend_build(char backend[DEVICE_BACKEND_MAX + 1], const char *label, const char *uri,
			  unsigned int connections)
{
	char tail[16];
	int tail_length, used;

	tail_length = snprintf(tail, sizeof(tail), ";n=%u", connections);
	used = snprintf(backend, DEVICE_BACKEND_MAX + 1, "v1;%.*s;", DEVICE_LABEL_MAX,
			label ? label : "");
	used += (int)put_uri(backend + used, (size_t)(DEVICE_BACKEND_MAX - used - tail_length),
			     uri ? uri : "");
	memcpy(backend + used, tail, (size_t)tail_length + 1);
}

static size_t take_field(const char **cursor, char *out, size_t room)
{
	size_t length = strcspn(*cursor, ";");

	snprintf(out, room, "%.*s", (int)length, *cursor);
	*cursor += length;
	if (**cursor == ';')
		++*cursor;
	return length;
}

bool device_backend_parse(const char *backend, struct device_backend *out)
{
	const char *cursor = backend;
	char field[DEVICE_BACKEND_MAX + 1];
	uint64_t value;

	memset(out, 0, sizeof(*out));
	take_field(&cursor, field, sizeof(field));
	if (strcmp(field, "v1"))
		return false;
	take_field(&cursor, out->label, sizeof(out->label));
	take_field(&cursor, out->uri, sizeof(out->uri));
	while (*cursor) {
		take_field(&cursor, field, sizeof(field));
		if (!strncmp(field, "n=", 2) && !size_parse_number(field + 2, 1 << 16, &value))
			out->connections = (unsigned int)value;
	}
	return true;
}

struct search {
	const char *label;
	int index;
};

static int match_label(const struct device_state *state, void *context)
{
	struct search *search = context;
	struct device_backend backend;

	if (!state->attached || !device_backend_parse(state->backend, &backend) ||
	    strcmp(backend.label, search->label))
		return 0;
	search->index = state->index;
	return 1;
}

int device_find_label(const char *label, int *index)
{
	struct search search = {.label = label};

	if (!*label || device_each(match_label, &search) != 1)
		return -ENOENT;
	*index = search.index;
	return 0;
}
