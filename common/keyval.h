/* SPDX-License-Identifier: MIT */
/*
 * Properties as QEMU writes them: "driver=qcow2,file.filename=a,,b", a flat list of keys and
 * values, taken one by one by whoever knows them. What nobody took is a mistake of the user, and
 * is named together with the nearest key that would have been known. Reads what users type:
 * bounded, no I/O. One thread.
 */
#ifndef HAWSER_COMMON_KEYVAL_H
#define HAWSER_COMMON_KEYVAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

enum { KEYVAL_ENTRIES_MAX = 1024 };

struct keyval_entry {
	char *key;
	char *value;
	bool taken;
};

/* All zero is an empty list; keyval_clear() frees it. */
struct keyval {
	struct keyval_entry *entries;
	size_t count;
};

/*
 * Adds what text says. A comma in a value is doubled; a key without '=' is "on", but the very
 * first word without '=' is the value of the key `implied` (NULL: there is none). What a later
 * place says holds. 0, -EINVAL or -ENOMEM with err set; then the list is as far as it came.
 */
int keyval_parse(struct keyval *list, const char *text, const char *implied, struct error *err);

/* Adds or replaces one entry. */
int keyval_set(struct keyval *list, const char *key, const char *value, struct error *err);
void keyval_clear(struct keyval *list);

/* The value of key, or NULL when it is not there; it counts as taken. Valid until the next set. */
const char *keyval_take(struct keyval *list, const char *key);
/* As above without taking it. */
const char *keyval_peek(const struct keyval *list, const char *key);

/* Overwrites a value that must not stay in memory; keyval_clear() does so with all of them. */
void keyval_wipe(struct keyval *list, const char *key);

/* Is there a key that begins with prefix, taken or not? */
bool keyval_has_prefix(const struct keyval *list, const char *prefix);

/* on, yes, true, y and their opposites. *value stays as it is when the key is not there. 0, or
 * -EINVAL with err set. */
int keyval_take_bool(struct keyval *list, const char *key, bool *value, struct error *err);

/* A number as size_parse() reads it, at most limit. As keyval_take_bool(). */
int keyval_take_size(struct keyval *list, const char *key, uint64_t limit, uint64_t *value,
		     struct error *err);

/*
 * 0 when all entries were taken; else -EINVAL, and err names the first that was not and the
 * nearest of the count keys in known. A known key without a dot is one of every node: "reda-only"
 * and "file.reda-only" are both near to "read-only".
 */
int keyval_check_taken(const struct keyval *list, const char *const *known, size_t count,
		       struct error *err);

#endif
