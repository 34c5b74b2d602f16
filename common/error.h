/* SPDX-License-Identifier: MIT */
/*
 * The error object: one sentence that names the object, what went wrong and the way out. It is
 * made once, where the fault is known, wrapped on the way up and printed only at the top. The
 * data path does not use it: it carries a negative errno.
 *
 * The object lives on the caller's stack and needs no release. A NULL object is allowed
 * everywhere: the caller only wants the number.
 */
#ifndef HAWSER_COMMON_ERROR_H
#define HAWSER_COMMON_ERROR_H

#include <stdarg.h>

enum { ERROR_TEXT_MAX = 1024 };

struct error {
	int code; /* positive errno; 0 = no error */
	char text[ERROR_TEXT_MAX];
};

#define ERROR_INIT        \
	{                 \
		.code = 0 \
	}

/*
 * Sets number and sentence; returns -code, so that `return error_set(err, EINVAL, ...)` is one
 * line. code must be positive.
 */
int error_set(struct error *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* As error_set(), and appends ": " and the system's text for code. */
int error_set_errno(struct error *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "context: " before the sentence, keeps the number; returns -code. */
int error_wrap(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Appends text to the sentence (a hint: "; use --read-only"); returns -code. */
int error_hint(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
