// SPDX-License-Identifier: MIT
/*
 * The parser of /etc/nbdtab. A line is split into words, then into a device, a place and options;
 * the options come from one table. The parser is pure (a buffer in, an entry out) and meets
 * whatever people and installers leave in such files: blanks anywhere, CRLF, comments behind
 * entries, '=' in values. It must never let one bad line spoil another entry.
 */
#include "nbdtab.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/kernel/device.h"
#include "common/log.h"
#include "common/size.h"

enum {
	TABLE_MAX = 1 << 20, /* a table of people's hand; more is a wrong file */
	BLOCK_MAX = 65536,
	PORT_MAX = 65535,
};

/* A piece of the table's text. */
struct slice {
	const char *at;
	size_t length;
};

/* What the line says beside the entry's own fields. */
struct place {
	struct slice host, export_name;
	int64_t port;
	bool is_unix;
	bool tls; /* also when one of these is there: */
	struct slice ca_file, certificate_file, key_file, tls_hostname, priority;
};

struct line {
	struct nbdtab_entry *entry;
	struct place place;
	struct error *err;
};

enum option_kind {
	OPTION_FLAG,
	OPTION_NUMBER,
	OPTION_NAME,
	OPTION_TEXT,
	OPTION_FULFILLED, /* what it asks for is so without it */
	OPTION_IGNORED,
	OPTION_REFUSED,
};

struct option {
	const char *name;
	enum option_kind kind;
	bool in_place; /* target is in struct place, and has no sense beside a URI */
	size_t target; /* offset of a bool or int64_t */
	uint64_t min, max;
};

#define ENTRY(field) .target = offsetof(struct nbdtab_entry, field)
#define PLACE(field) .in_place = true, .target = offsetof(struct place, field)

static const struct option options[] = {
	{"bs", OPTION_NUMBER, ENTRY(block_size), .min = 512, .max = BLOCK_MAX},
	{"conns", OPTION_NUMBER, ENTRY(connections), .min = 1, .max = DEVICE_SOCKETS_MAX},
	{"timeout", OPTION_NUMBER, ENTRY(timeout), .max = DEVICE_TIMEOUT_MAX},
	{"dead-timeout", OPTION_NUMBER, ENTRY(dead_timeout), .max = DEVICE_TIMEOUT_MAX},
	{"port", OPTION_NUMBER, PLACE(port), .min = 1, .max = PORT_MAX},
	{"unix", OPTION_FLAG, PLACE(is_unix)},
	{"readonly", OPTION_FLAG, ENTRY(read_only)},
	{"no_optgo", OPTION_IGNORED, .target = 0},
	/* No process is in the way of a device that was attached by netlink. */
	{"swap", OPTION_FULFILLED, .target = 0},
	{"name", OPTION_NAME, .target = 0},
	{"persist", OPTION_IGNORED, .target = 0},
	{"preinit", OPTION_REFUSED, .target = 0},
	{"tls", OPTION_FLAG, PLACE(tls)},
	{"certfile", OPTION_TEXT, PLACE(certificate_file)},
	{"keyfile", OPTION_TEXT, PLACE(key_file)},
	{"cacertfile", OPTION_TEXT, PLACE(ca_file)},
	{"tlshostname", OPTION_TEXT, PLACE(tls_hostname)},
	{"priority", OPTION_TEXT, PLACE(priority)},
};

#define SLICE_ARGS(slice) (int)min_of((slice).length, (size_t)200), (slice).at

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

static bool slice_is(struct slice slice, const char *text)
{
	return strlen(text) == slice.length && memcmp(slice.at, text, slice.length) == 0;
}

static bool slice_has_prefix(struct slice slice, const char *prefix)
{
	size_t length = strlen(prefix);

	return slice.length >= length && memcmp(slice.at, prefix, length) == 0;
}

static const char *slice_find(struct slice slice, char c)
{
	return memchr(slice.at, c, slice.length);
}

/* Cuts the text before at off the slice and returns it; at may be NULL: all of it. */
static struct slice slice_cut(struct slice *rest, const char *at)
{
	struct slice head = {rest->at, at ? (size_t)(at - rest->at) : rest->length};
	size_t gone = at ? head.length + 1 : head.length;

	rest->at += gone;
	rest->length -= gone;
	return head;
}

/* The next word of a line: an empty one at the end, or where a comment begins. */
static struct slice next_word(struct slice *rest)
{
	struct slice word;

	while (rest->length && is_blank(*rest->at)) {
		rest->at++;
		rest->length--;
	}
	word = (struct slice){rest->at, 0};
	if (rest->length && *rest->at == '#')
		rest->length = 0;
	while (word.length < rest->length && !is_blank(word.at[word.length]))
		word.length++;
	rest->at += word.length;
	rest->length -= word.length;
	return word;
}

/* The next option: separated by commas, and, as people write a blank after a comma, by blanks. */
static struct slice next_option(struct slice *word, struct slice *rest)
{
	for (;;) {
		struct slice option;

		while (word->length) {
			option = slice_cut(word, slice_find(*word, ','));
			if (option.length)
				return option;
		}
		*word = next_word(rest);
		if (!word->length)
			return *word;
	}
}

/* A device as the other commands spell it, but never a path that must be looked up. */
static bool device_read(struct slice slice, int *index)
{
	char text[DEVICE_PATH_SIZE];

	if (slice.length >= sizeof(text))
		return false;
	memcpy(text, slice.at, slice.length);
	text[slice.length] = '\0';
	return device_spelling(text) && device_parse(text, index, NULL) == 0;
}

/* ---- Making the URI ---- */

static void put_escaped(FILE *out, struct slice text, const char *also_plain)
{
	for (size_t i = 0; i < text.length; i++) {
		unsigned char c = (unsigned char)text.at[i];

		if (c < 0x80 && c && (isalnum(c) || strchr("-._~", c) || strchr(also_plain, c)))
			fputc(c, out);
		else
			fprintf(out, "%%%02X", c);
	}
}

static void put_tcp(FILE *out, const struct place *place)
{
	struct slice host = place->host;
	bool bare_ipv6 = host.at[0] != '[' && slice_find(host, ':');

	fprintf(out, "nbd%s://%s", place->tls ? "s" : "", bare_ipv6 ? "[" : "");
	put_escaped(out, host, ":[]");
	fputs(bare_ipv6 ? "]" : "", out);
	if (place->port != NBDTAB_UNSET)
		fprintf(out, ":%u", (unsigned int)place->port);
	fputc('/', out);
	put_escaped(out, place->export_name, "/");
}

static void put_unix(FILE *out, const struct place *place)
{
	fprintf(out, "nbd%s+unix:///", place->tls ? "s" : "");
	put_escaped(out, place->export_name, "/");
	fputs("?socket=", out);
	put_escaped(out, place->host, "/");
}

/* The files that nbd-client's options name, as parameters of the URI. */
static void put_tls(FILE *out, const struct place *place)
{
	const struct {
		const char *parameter;
		struct slice value;
	} parameters[] = {
		{"x-tls-ca-file", place->ca_file},
		/* As with nbd-client, one of the two may hold both. */
		{"x-tls-certificate-file",
		 place->certificate_file.length ? place->certificate_file : place->key_file},
		{"x-tls-key-file",
		 place->key_file.length ? place->key_file : place->certificate_file},
		{"tls-hostname", place->tls_hostname},
		{"x-tls-priority", place->priority},
	};
	char before = place->is_unix ? '&' : '?';

	for (size_t i = 0; place->tls && i < sizeof(parameters) / sizeof(parameters[0]); i++) {
		if (!parameters[i].value.length)
			continue;
		fprintf(out, "%c%s=", before, parameters[i].parameter);
		put_escaped(out, parameters[i].value, "/:+.");
		before = '&';
	}
}

static int place_to_uri(struct line *line, bool is_uri)
{
	const struct place *place = &line->place;
	size_t length;
	FILE *out = open_memstream(&line->entry->uri, &length);

	if (!out)
		return error_set_errno(line->err, ENOMEM, "line %u", line->entry->line);
	if (is_uri)
		fwrite(place->host.at, 1, place->host.length, out);
	else if (place->is_unix)
		put_unix(out, place);
	else
		put_tcp(out, place);
	if (!is_uri)
		put_tls(out, place);
	if (fclose(out))
		return error_set_errno(line->err, ENOMEM, "line %u", line->entry->line);
	return 0;
}

/* ---- Options ---- */

static const struct option *option_lookup(struct slice name)
{
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		if (slice_is(name, options[i].name))
			return &options[i];
	return NULL;
}

static int list_add(struct line *line, char **list, struct slice name)
{
	char *longer;

	if (asprintf(&longer, "%s%s%.*s", *list ? *list : "", *list ? ", " : "", SLICE_ARGS(name)) <
	    0)
		return error_set_errno(line->err, ENOMEM, "line %u", line->entry->line);
	free(*list);
	*list = longer;
	return 0;
}

static int option_number(struct line *line, const struct option *option, struct slice value,
			 int64_t *target)
{
	char digits[24] = "";
	uint64_t number;

	if (value.length && value.length < sizeof(digits))
		memcpy(digits, value.at, value.length);
	if (size_parse_number(digits, option->max, &number) || number < option->min)
		return error_set(line->err, EINVAL,
				 "line %u: %s=%.*s: it needs a number from %llu to %llu",
				 line->entry->line, option->name, SLICE_ARGS(value),
				 (unsigned long long)option->min, (unsigned long long)option->max);
	*target = (int64_t)number;
	return 0;
}

static int option_name(struct line *line, struct slice value)
{
	struct nbdtab_entry *entry = line->entry;

	if (entry->name)
		return error_set(line->err, EINVAL, "line %u: name= stands there twice",
				 entry->line);
	entry->name = strndup(value.at, value.length);
	if (!entry->name)
		return error_set_errno(line->err, ENOMEM, "line %u", entry->line);
	/* A "-" in front would make it an option on a command line. */
	if (!device_label_valid(entry->name) || entry->name[0] == '-')
		return error_set(line->err, EINVAL,
				 "line %u: name=%.*s: a name has at most %d letters, digits and "
				 "._:@- and is not that of a device",
				 entry->line, SLICE_ARGS(value), DEVICE_LABEL_MAX);
	return 0;
}

static int option_store(struct line *line, const struct option *option, struct slice value)
{
	char *base = option->in_place ? (char *)&line->place : (char *)line->entry;
	struct slice name = {option->name, strlen(option->name)};

	switch (option->kind) {
	case OPTION_FLAG:
		*(bool *)(void *)(base + option->target) = true;
		return 0;
	case OPTION_NUMBER:
		return option_number(line, option, value,
				     (int64_t *)(void *)(base + option->target));
	case OPTION_NAME:
		return option_name(line, value);
	case OPTION_TEXT:
		*(struct slice *)(void *)(base + option->target) = value;
		line->place.tls |= option->target != offsetof(struct place, priority);
		return 0;
	case OPTION_FULFILLED:
		return 0;
	case OPTION_IGNORED:
		return list_add(line, &line->entry->ignored, name);
	case OPTION_REFUSED:
		return list_add(line, &line->entry->refused, name);
	}
	return 0;
}

static int option_apply(struct line *line, struct slice text, bool is_uri)
{
	const char *equals = slice_find(text, '=');
	struct slice name = slice_cut(&text, equals);
	const struct option *option = option_lookup(name);

	if (!option && name.length && name.at[0] == '_')
		return 0;
	if (!option)
		return list_add(line, &line->entry->unknown, name);
	if (option->kind == OPTION_FLAG && equals)
		return error_set(line->err, EINVAL, "line %u: %s takes no value", line->entry->line,
				 option->name);
	if (option->in_place && is_uri)
		return error_set(line->err, EINVAL,
				 "line %u: %s: the URI already says where the export is",
				 line->entry->line, option->name);
	return option_store(line, option, text);
}

/* ---- Lines ---- */

/* Is this word the option field of a URI's entry that leaves the export field out? */
static bool looks_like_options(struct slice word)
{
	struct slice first = slice_cut(&word, slice_find(word, ','));
	struct slice name = slice_cut(&first, slice_find(first, '='));

	return option_lookup(name) || first.length || (name.length && name.at[0] == '_');
}

/* The export field. Sets *word to the first word of the options. */
static int parse_export(struct line *line, bool is_uri, struct slice *word, struct slice *rest)
{
	*word = next_word(rest);
	if (is_uri) {
		if (slice_is(*word, "-"))
			*word = next_word(rest);
		else if (word->length && !looks_like_options(*word))
			return error_set(line->err, EINVAL,
					 "line %u: the URI names the export: write - instead of "
					 "'%.*s'",
					 line->entry->line, SLICE_ARGS(*word));
		return 0;
	}
	if (!word->length)
		return error_set(line->err, EINVAL,
				 "line %u: it needs DEVICE HOST EXPORT, or DEVICE and an NBD URI",
				 line->entry->line);
	line->place.export_name = *word;
	*word = next_word(rest);
	return 0;
}

static int parse_device(struct line *line, struct slice word)
{
	char path[DEVICE_PATH_SIZE];
	int index;

	if (slice_is(word, "-"))
		return 0;
	if (!device_read(word, &index))
		return error_set(line->err, EINVAL,
				 "line %u: '%.*s' is no nbd device: write nbdN, or - to let the "
				 "kernel pick one",
				 line->entry->line, SLICE_ARGS(word));
	line->entry->device = strdup(device_path(index, path));
	if (!line->entry->device)
		return error_set_errno(line->err, ENOMEM, "line %u", line->entry->line);
	return 0;
}

static int check_line(struct line *line)
{
	struct nbdtab_entry *entry = line->entry;

	/* For nbd-client a timeout of 0 is one that is not given. */
	if (!entry->timeout)
		entry->timeout = NBDTAB_UNSET;
	if (!entry->dead_timeout)
		entry->dead_timeout = NBDTAB_UNSET;
	if (!entry->device && !entry->name)
		return error_set(line->err, EINVAL,
				 "line %u: an entry without a device needs a name= option",
				 entry->line);
	if (entry->block_size > 0 && !is_power_of_two((uint64_t)entry->block_size))
		return error_set(line->err, EINVAL, "line %u: bs=%lld is not a power of two",
				 entry->line, (long long)entry->block_size);
	return 0;
}

static bool place_is_uri(struct slice host)
{
	return memmem(host.at, host.length, "://", 3) != NULL;
}

static int parse_line(struct line *line, struct slice text)
{
	struct slice word, option;
	bool is_uri;
	int rc;

	if (slice_find(text, '\0'))
		return error_set(line->err, EINVAL, "line %u: it holds a NUL byte",
				 line->entry->line);
	word = next_word(&text);
	rc = parse_device(line, word);
	if (rc)
		return rc;
	line->place.host = next_word(&text);
	is_uri = place_is_uri(line->place.host);
	if (!line->place.host.length)
		return error_set(line->err, EINVAL, "line %u: it names no host", line->entry->line);
	rc = parse_export(line, is_uri, &word, &text);
	while (!rc && (option = next_option(&word, &text)).length)
		rc = option_apply(line, option, is_uri);
	if (!rc)
		rc = check_line(line);
	return rc ? rc : place_to_uri(line, is_uri);
}

/* Is key this line's device or name? Decided without the parser: the line may be bad. */
static bool line_matches(struct slice text, struct slice key)
{
	struct slice word = next_word(&text), option;
	int index, wanted;

	if (device_read(key, &wanted))
		return device_read(word, &index) && index == wanted;
	/* Only a URI may be followed by the options at once: elsewhere an export comes first, and
	 * it may be called name=x. */
	if (!place_is_uri(next_word(&text)))
		next_word(&text);
	word = next_word(&text);
	while ((option = next_option(&word, &text)).length)
		if (slice_has_prefix(option, "name=") && option.length - 5 == key.length &&
		    memcmp(option.at + 5, key.at, key.length) == 0)
			return true;
	return false;
}

static void entry_reset(struct nbdtab_entry *entry, unsigned int line)
{
	*entry = (struct nbdtab_entry){
		.line = line,
		.block_size = NBDTAB_UNSET,
		.connections = NBDTAB_UNSET,
		.timeout = NBDTAB_UNSET,
		.dead_timeout = NBDTAB_UNSET,
	};
}

int nbdtab_parse(const char *text, size_t length, const char *key, struct nbdtab_entry *entry,
		 struct error *err)
{
	struct slice rest = {text, length}, wanted = {key, strlen(key)};
	struct line line = {.entry = entry, .err = err, .place.port = NBDTAB_UNSET};

	entry_reset(entry, 0);
	for (unsigned int number = 1; rest.length; number++) {
		struct slice content = slice_cut(&rest, slice_find(rest, '\n'));
		int rc;

		if (!wanted.length || !line_matches(content, wanted))
			continue;
		entry_reset(entry, number);
		rc = parse_line(&line, content);
		if (rc)
			nbdtab_entry_clear(entry);
		return rc;
	}
	return error_set(err, ENOENT, "no entry '%s'", key);
}

static int read_table(const char *path, char **text, size_t *length, struct error *err)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	AUTO_FREE char *buffer = NULL;
	ssize_t got;

	if (fd < 0)
		return error_set_errno(err, errno, "%s", path);
	buffer = malloc(TABLE_MAX + 1);
	if (!buffer)
		return error_set_errno(err, ENOMEM, "%s", path);
	*length = 0;
	while ((got = read(fd, buffer + *length, TABLE_MAX + 1 - *length)) > 0)
		*length += (size_t)got;
	if (got < 0)
		return error_set_errno(err, errno, "%s", path);
	if (*length > TABLE_MAX)
		return error_set(err, EFBIG, "%s: larger than 1 MiB, not a table of devices", path);
	*text = take_ptr(buffer);
	return 0;
}

static int apply_policy(const char *path, const struct nbdtab_entry *entry, struct error *err)
{
	if (entry->refused)
		return error_set(err, ENOTSUP,
				 "%s: line %u: %s: not supported yet, and the device would be "
				 "wrong without it",
				 path, entry->line, entry->refused);
	if (entry->unknown)
		log_warning("%s: line %u: ignoring what is not known: %s", path, entry->line,
			    entry->unknown);
	if (entry->ignored)
		log_warning("%s: line %u: without effect yet: %s", path, entry->line,
			    entry->ignored);
	return 0;
}

int nbdtab_find(const char *path, const char *key, struct nbdtab_entry *entry, struct error *err)
{
	AUTO_FREE char *text = NULL;
	size_t length = 0;
	int rc;

	entry_reset(entry, 0);
	rc = read_table(path, &text, &length, err);
	if (rc)
		return rc;
	rc = nbdtab_parse(text, length, key, entry, err);
	if (rc) {
		error_wrap(err, "%s", path);
		return rc;
	}
	rc = apply_policy(path, entry, err);
	if (rc)
		nbdtab_entry_clear(entry);
	return rc;
}

void nbdtab_entry_clear(struct nbdtab_entry *entry)
{
	free(entry->name);
	free(entry->device);
	free(entry->uri);
	free(entry->refused);
	free(entry->ignored);
	free(entry->unknown);
	entry_reset(entry, 0);
}
