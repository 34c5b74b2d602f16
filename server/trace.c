// SPDX-License-Identifier: MIT
/*
 * Trace points: the option's grammar, which is that of QEMU, and the lines. Must never stop a
 * request: where a line cannot be written, tracing ends with a message.
 */
#include "trace.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/keyval.h"
#include "common/log.h"
#include "common/size.h"
#include "image/image.h"

enum {
	LINE_SIZE = 1024, /* far below what a pipe takes whole */
	EVENTS_FILE_MAX = 1 << 20,
};

_Atomic uint64_t trace_active;

static int trace_fd = STDERR_FILENO;
static const char *trace_path; /* NULL: standard error */

static const char *const names[] = {
#define TRACE_EVENT(name, format, parameters, values)              #name,
#define TRACE_EVENT_SHOWN(name, format, parameters, values, shown) #name,
#include "trace-events.h"
};

/* ---- Lines ---- */

/* For the text of map_answered. */
static const char *extent_name(int result, int kind)
{
	static const char *const kinds[] = {
		[EXTENT_FILE] = "file", [EXTENT_ZERO] = "zero", [EXTENT_OPAQUE] = "opaque"};

	return result ? "none" : kinds[kind];
}

/* Names of exports and files are others' words. */
static void neutralise(char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)text[i] < ' ' || text[i] == 127)
			text[i] = '?';
}

/* One for all threads; the first failure speaks. */
static void give_up(int code)
{
	if (atomic_exchange(&trace_active, 0))
		log_error("tracing ends: cannot write to %s: %s",
			  trace_path ? trace_path : "standard error", strerror(code));
}

/* A line is one write. The rest of one that was cut short (a disk or a pipe that is nearly full)
 * follows at once. */
static void write_line(const char *line, size_t length)
{
	while (length) {
		ssize_t put = write(trace_fd, line, length);

		if (put < 0 && errno == EAGAIN) { /* somebody made it so; as slow as its reader */
			poll(&(struct pollfd){.fd = trace_fd, .events = POLLOUT}, 1, -1);
			continue;
		}
		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0) {
			give_up(put < 0 ? errno : EIO);
			return;
		}
		line += put;
		length -= (size_t)put;
	}
}

/* A file gets the time since the machine's start and the thread; standard error the prefix of
 * QEMU's log, because other messages are there, too. */
static int begin_line(char *line, size_t size, enum trace_event event)
{
	struct timespec now;

	if (trace_path) {
		uint64_t time = clock_now() / CLOCK_MICROSECOND;

		return snprintf(line, size, "%" PRIu64 ".%06" PRIu64 " %d %s ", time / 1000000,
				time % 1000000, gettid(), names[event]);
	}
	clock_gettime(CLOCK_REALTIME, &now);
	return snprintf(line, size, "%d@%lld.%06ld:%s ", getpid(), (long long)now.tv_sec,
			now.tv_nsec / 1000, names[event]);
}

static void __attribute__((cold, format(printf, 2, 3)))
write_event(enum trace_event event, const char *format, ...)
{
	int saved = errno;
	char line[LINE_SIZE];
	size_t used = (size_t)begin_line(line, sizeof(line), event);
	va_list args;
	int more;

	va_start(args, format);
	more = vsnprintf(line + used, sizeof(line) - used - 1, format, args);
	va_end(args);
	if (more > 0)
		used += min_of((size_t)more, sizeof(line) - used - 2);
	neutralise(line, used);
	line[used++] = '\n';
	write_line(line, used);
	errno = saved;
}

#define TRACE_EVENT(name, format, parameters, values) \
	TRACE_EVENT_SHOWN(name, format, parameters, values, values)
#define TRACE_EVENT_SHOWN(name, format, parameters, values, shown)     \
	void trace_show_##name parameters                              \
	{                                                              \
		write_event(TRACE_##name, format, TRACE_UNPACK shown); \
	}
#include "trace-events.h"

/* ---- Patterns ---- */

/* '*' stands for any letters, '?' for one. Linear but for one way back, to the last '*'. */
static bool pattern_matches(const char *pattern, size_t length, const char *name)
{
	const char *end = pattern + length, *star = NULL, *retry = NULL;

	while (*name) {
		if (pattern < end && *pattern == '*') {
			star = ++pattern;
			retry = name;
		} else if (pattern < end && (*pattern == '?' || *pattern == *name)) {
			pattern++;
			name++;
		} else if (star) {
			pattern = star;
			name = ++retry;
		} else {
			return false;
		}
	}
	while (pattern < end && *pattern == '*')
		pattern++;
	return pattern == end;
}

void trace_setup_rule(struct trace_setup *setup, const char *rule, size_t length)
{
	bool off = length && *rule == '-';
	uint64_t found = 0;

	rule += off;
	length -= off;
	for (unsigned int event = 0; event < TRACE_EVENTS; event++)
		if (pattern_matches(rule, length, names[event]))
			found |= UINT64_C(1) << event;
	if (!found)
		log_warning("trace event '%.*s' does not exist; '-T help' lists them",
			    (int)min_of(length, (size_t)200), rule);
	if (off)
		setup->active &= ~found;
	else
		setup->active |= found;
}

/* ---- The option ---- */

static void add_line(struct trace_setup *setup, const char *line, size_t length)
{
	static const char blanks[] = " \t\r";

	while (length && strchr(blanks, line[length - 1]))
		length--;
	while (length && strchr(blanks, *line)) {
		line++;
		length--;
	}
	if (length && *line != '#')
		trace_setup_rule(setup, line, length);
}

/* The whole of a file that is not too long to be a list of events; NULL with err set. */
static char *read_list(const char *path, size_t *length, struct error *err)
{
	AUTO_FREE char *text = malloc(EVENTS_FILE_MAX + 1);
	FILE *file = fopen(path, "re");
	bool failed;

	if (!file || !text) {
		error_set_errno(err, errno, "Could not open '%s'", path);
		if (file)
			fclose(file);
		return NULL;
	}
	errno = 0;
	*length = fread(text, 1, EVENTS_FILE_MAX + 1, file);
	failed = ferror(file);
	if (failed)
		error_set_errno(err, errno ? errno : EIO, "Could not read '%s'", path);
	fclose(file);
	if (failed)
		return NULL;
	if (*length > EVENTS_FILE_MAX || memchr(text, '\0', *length)) {
		error_set(err, EINVAL, "'%s' is no list of trace events", path);
		return NULL;
	}
	return take_ptr(text);
}

static int add_events(struct trace_setup *setup, const char *path, struct error *err)
{
	size_t left;
	AUTO_FREE char *text = read_list(path, &left, err);

	if (!text)
		return err ? -err->code : -EIO;
	for (const char *at = text; left;) {
		const char *end = memchr(at, '\n', left);
		size_t length = end ? (size_t)(end - at) : left, step = length + (end != NULL);

		add_line(setup, at, length);
		at += step;
		left -= step;
	}
	return 0;
}

static int apply(struct trace_setup *setup, struct keyval *list, struct error *err)
{
	static const char *const known[] = {"enable", "events", "file"};
	const char *enable = keyval_take(list, "enable"), *events = keyval_take(list, "events");
	const char *file = keyval_take(list, "file");
	int rc = keyval_check_taken(list, known, sizeof(known) / sizeof(known[0]), err);

	if (rc)
		return rc;
	if (enable)
		trace_setup_rule(setup, enable, strlen(enable));
	if (events)
		rc = add_events(setup, events, err);
	if (rc || !file)
		return rc;
	free(setup->file);
	setup->file = strdup(file);
	return setup->file ? 0 : error_set(err, ENOMEM, "out of memory");
}

int trace_setup_add(struct trace_setup *setup, const char *text, struct error *err)
{
	struct keyval list = {0};
	int rc = keyval_parse(&list, text, "enable", err);

	if (rc == 0)
		rc = apply(setup, &list, err);
	keyval_clear(&list);
	return rc;
}

void trace_setup_clear(struct trace_setup *setup)
{
	free(setup->file);
	*setup = (struct trace_setup){0};
}

bool trace_asks_help(const char *text)
{
	return !strcmp(text, "help") || !strcmp(text, "?") || !strcmp(text, "enable=help") ||
	       !strcmp(text, "enable=?");
}

void trace_print_events(FILE *out)
{
	for (unsigned int event = 0; event < TRACE_EVENTS; event++)
		fprintf(out, "%s\n", names[event]);
}

int trace_begin(const struct trace_setup *setup, struct error *err)
{
	if (setup->file) {
		trace_fd =
			open(setup->file,
			     O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOCTTY, 0666);
		if (trace_fd < 0)
			return error_set_errno(err, errno, "Could not open trace file '%s'",
					       setup->file);
		trace_path = strdup(setup->file); /* outlives the setup */
		if (!trace_path)
			return error_set(err, ENOMEM, "out of memory");
	}
	atomic_store(&trace_active, setup->active);
	return 0;
}
