// SPDX-License-Identifier: MIT
/*
 * Messages for people. Control characters of whatever a peer or an image named are shown as '?',
 * so that nobody's terminal takes orders from the network.
 */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

enum log_level log_threshold = LOG_LEVEL_WARNING;
static const char *program = "hawser";
static atomic_bool system_too;

void log_init(const char *argv0)
{
	const char *slash = strrchr(argv0, '/');

	program = slash ? slash + 1 : argv0;
}

const char *log_program(void)
{
	return program;
}

void log_to_system(void)
{
	/* Without LOG_NDELAY: there is no socket before there is something to say. */
	openlog(program, LOG_PID, LOG_DAEMON);
	atomic_store(&system_too, true);
}

static void neutralise(char *text)
{
	for (; *text; text++)
		if (((unsigned char)*text < ' ' && *text != '\n' && *text != '\t') || *text == 127)
			*text = '?';
}

void log_write(enum log_level level, const char *format, ...)
{
	static const char *const word[] = {
		[LOG_LEVEL_ERROR] = "",
		[LOG_LEVEL_WARNING] = "warning: ",
		[LOG_LEVEL_INFO] = "",
		[LOG_LEVEL_DEBUG] = "debug: ",
	};
	int saved = errno;
	char line[1400];
	size_t used, name;
	va_list args;

	if (!log_wants(level))
		return;
	name = (size_t)snprintf(line, sizeof(line) / 8, "%.100s: ", program);
	used = name + (size_t)snprintf(line + name, sizeof(line) / 8, "%s", word[level]);
	va_start(args, format);
	vsnprintf(line + used, sizeof(line) - 1 - used, format, args);
	va_end(args);
	neutralise(line);
	if (level <= LOG_LEVEL_WARNING && atomic_load(&system_too))
		syslog(level == LOG_LEVEL_ERROR ? LOG_ERR : LOG_WARNING, "%s", line + name);
	used = strlen(line);
	line[used++] = '\n';
	ssize_t nowhere_left_to_complain = write(STDERR_FILENO, line, used);

	(void)nowhere_left_to_complain;
	errno = saved;
}
