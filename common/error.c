// SPDX-License-Identifier: MIT
/*
 * The error object. Never allocates, so it works when memory is short; a sentence that does not
 * fit is cut. Any thread, each with an object of its own.
 */
#include "error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* For wrapping what nobody keeps: the number of the last fault of this thread. */
static _Thread_local int last_code = EIO;

int error_set(struct error *err, int code, const char *format, ...)
{
	va_list args;

	last_code = code;
	if (!err)
		return -code;
	err->code = code;
	va_start(args, format);
	vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);
	return -code;
}

int error_set_errno(struct error *err, int code, const char *format, ...)
{
	va_list args;

	last_code = code;
	if (!err)
		return -code;
	err->code = code;
	va_start(args, format);
	vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);
	return error_hint(err, ": %s", strerror(code));
}

int error_wrap(struct error *err, const char *format, ...)
{
	char inner[ERROR_TEXT_MAX];
	size_t used;
	va_list args;

	if (!err)
		return -last_code;
	memcpy(inner, err->text, sizeof(inner));
	va_start(args, format);
	vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);
	used = strlen(err->text);
	snprintf(err->text + used, sizeof(err->text) - used, ": %s", inner);
	return -err->code;
}

int error_hint(struct error *err, const char *format, ...)
{
	size_t used;
	va_list args;

	if (!err)
		return -last_code;
	used = strlen(err->text);
	va_start(args, format);
	vsnprintf(err->text + used, sizeof(err->text) - used, format, args);
	va_end(args);
	return -err->code;
}
