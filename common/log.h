/* SPDX-License-Identifier: MIT */
/*
 * Messages for people, on stderr, one write(2) a line, prefixed with the program's name as it was
 * invoked. Any thread. Debug messages cost one branch when they are off. Keeps errno.
 */
#ifndef HAWSER_COMMON_LOG_H
#define HAWSER_COMMON_LOG_H

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

extern enum log_level log_threshold; /* written once at start, before there are threads */

/* argv0 names the program in every line (its last path component; the string is not copied). */
void log_init(const char *argv0);
const char *log_program(void);
/* From now on errors and warnings go to syslog(3), too: for a daemon, whose stderr leads nowhere.
 * Where there is no system log they are lost, without harm. A full one makes the caller wait. */
void log_to_system(void);
/* Is it worth making the message? */
static inline bool log_wants(enum log_level level)
{
	return level <= log_threshold;
}
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)   log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)                                           \
	do {                                                    \
		if (log_wants(LOG_LEVEL_INFO))                  \
			log_write(LOG_LEVEL_INFO, __VA_ARGS__); \
	} while (0)
#define log_debug(...)                                           \
	do {                                                     \
		if (log_wants(LOG_LEVEL_DEBUG))                  \
			log_write(LOG_LEVEL_DEBUG, __VA_ARGS__); \
	} while (0)

#endif
