// SPDX-License-Identifier: MIT
/*
 * Messages for people. Control characters of whatever a peer or an image named are shown as '?',
 * so that nobody's terminal takes orders from the network.
 */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum log_level log_threshold = LOG_LEVEL_WARNING;
static const char *program = "hawser";

void log_init(const char *argv0)
{
	const char *slash = strrchr(argv0, '/');

	program = slash ? slash + 1 : argv0;
}

const char *log_program(void)
{
	return program;
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
	size_t used;
	va_list args;

	if (!log_wants(level))
		return;
	used = (size_t)snprintf(line, sizeof(line) / 4, "%s: %s", program, word[level]);
	va_start(args, format);
	vsnprintf(line + used, sizeof(line) - 1 - used, format, args);
	va_end(args);
	neutralise(line);
	used = strlen(line);
	line[used++] = '\n';
	ssize_t nowhere_left_to_complain = write(STDERR_FILENO, line, used);

	(void)nowhere_left_to_complain;
	errno = saved;
}
