// SPDX-License-Identifier: MIT
/*
 * Lists of properties. A handful of entries is the rule, so they are searched one by one.
 */
#include "keyval.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "size.h"

static struct keyval_entry *find(const struct keyval *list, const char *key)
{
	for (size_t i = 0; i < list->count; i++)
		if (!strcmp(list->entries[i].key, key))
			return &list->entries[i];
	return NULL;
}

/* A value may be a passphrase. */
static void wipe(struct keyval_entry *entry)
{
	explicit_bzero(entry->value, strlen(entry->value));
}

static int replace(struct keyval_entry *entry, const char *value, struct error *err)
{
	char *copy = strdup(value);

	if (!copy)
		return error_set(err, ENOMEM, "out of memory");
	wipe(entry);
	free(entry->value);
	entry->value = copy;
	entry->taken = false;
	return 0;
}

int keyval_set(struct keyval *list, const char *key, const char *value, struct error *err)
{
	struct keyval_entry *entry = find(list, key), *grown;
	AUTO_FREE char *key_copy = NULL;
	AUTO_FREE char *value_copy = NULL;

	if (entry)
		return replace(entry, value, err);
	if (list->count == KEYVAL_ENTRIES_MAX)
		return error_set(err, EINVAL, "more than %d properties", KEYVAL_ENTRIES_MAX);
	key_copy = strdup(key);
	value_copy = strdup(value);
	grown = reallocarray(list->entries, list->count + 1, sizeof(*grown));
	if (grown)
		list->entries = grown;
	if (!key_copy || !value_copy || !grown)
		return error_set(err, ENOMEM, "out of memory");
	grown[list->count++] =
		(struct keyval_entry){.key = take_ptr(key_copy), .value = take_ptr(value_copy)};
	return 0;
}

void keyval_clear(struct keyval *list)
{
	for (size_t i = 0; i < list->count; i++) {
		wipe(&list->entries[i]);
		free(list->entries[i].key);
		free(list->entries[i].value);
	}
	free(list->entries);
	*list = (struct keyval){0};
}

/* ---- Text ---- */

/* Copies a value up to its comma into out, doubled commas as one; returns what follows it. */
static const char *copy_value(const char *text, char *out)
{
	while (*text && (*text != ',' || text[1] == ',')) {
		text += *text == ',';
		*out++ = *text++;
	}
	*out = '\0';
	return *text ? text + 1 : text;
}

/* The next "key=value" of text into key and value, each as large as text. */
static const char *next_pair(const char *text, const char *implied, char *key, char *value)
{
	size_t length = strcspn(text, "=,");

	if (text[length] != '=' && implied) {
		strcpy(key, implied);
		return copy_value(text, value);
	}
	memcpy(key, text, length);
	key[length] = '\0';
	if (text[length] == '=')
		return copy_value(text + length + 1, value);
	strcpy(value, "on");
	return text[length] ? text + length + 1 : text + length;
}

int keyval_parse(struct keyval *list, const char *text, const char *implied, struct error *err)
{
	size_t room = strlen(text) + (implied ? strlen(implied) : 0) + sizeof("on");
	AUTO_FREE char *key = malloc(room);
	AUTO_FREE char *value = malloc(room);
	int rc = 0;

	if (!key || !value)
		return error_set(err, ENOMEM, "out of memory");
	for (; !rc && *text; implied = NULL) {
		text = next_pair(text, implied, key, value);
		if (!*key)
			return error_set(err, EINVAL, "a property has no name before its value");
		rc = keyval_set(list, key, value, err);
		explicit_bzero(value, strlen(value));
	}
	return rc;
}

/* ---- Taking ---- */

const char *keyval_peek(const struct keyval *list, const char *key)
{
	const struct keyval_entry *entry = find(list, key);

	return entry ? entry->value : NULL;
}

const char *keyval_take(struct keyval *list, const char *key)
{
	struct keyval_entry *entry = find(list, key);

	if (!entry)
		return NULL;
	entry->taken = true;
	return entry->value;
}

void keyval_wipe(struct keyval *list, const char *key)
{
	struct keyval_entry *entry = find(list, key);

	if (entry)
		wipe(entry);
}

bool keyval_has_prefix(const struct keyval *list, const char *prefix)
{
	for (size_t i = 0; i < list->count; i++)
		if (!strncmp(list->entries[i].key, prefix, strlen(prefix)))
			return true;
	return false;
}

int keyval_take_bool(struct keyval *list, const char *key, bool *value, struct error *err)
{
	static const char *const words[][2] = {
		{"off", "on"}, {"no", "yes"}, {"false", "true"}, {"n", "y"}};
	const char *text = keyval_take(list, key);

	if (!text)
		return 0;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		for (int truth = 0; truth < 2; truth++)
			if (!strcmp(text, words[i][truth])) {
				*value = truth;
				return 0;
			}
	return error_set(err, EINVAL, "Parameter '%s' expects 'on' or 'off', not '%.100s'", key,
			 text);
}

int keyval_take_size(struct keyval *list, const char *key, uint64_t limit, uint64_t *value,
		     struct error *err)
{
	const char *text = keyval_take(list, key);
	int rc;

	if (!text)
		return 0;
	rc = size_parse(text, limit, value);
	if (rc == -ERANGE)
		return error_set(err, EINVAL, "Parameter '%s': %.100s is more than %llu", key, text,
				 (unsigned long long)limit);
	if (rc)
		return error_set(err, EINVAL,
				 "Parameter '%s' expects a number, with k, M, G or T behind it if "
				 "need be, not '%.100s'",
				 key, text);
	return 0;
}

/* ---- What nobody took ---- */

/* Steps of inserting, removing or changing one letter that lead from one to the other; words of
 * more than KEY_MAX letters are not compared. */
enum { KEY_MAX = 64 };

static unsigned int distance(const char *one, const char *other)
{
	size_t length = strlen(other);
	unsigned int row[KEY_MAX + 1];

	if (length > KEY_MAX || strlen(one) > KEY_MAX)
		return KEY_MAX;
	for (size_t j = 0; j <= length; j++)
		row[j] = (unsigned int)j;
	for (size_t i = 0; one[i]; i++) {
		unsigned int diagonal = row[0];

		row[0] = (unsigned int)i + 1;
		for (size_t j = 0; j < length; j++) {
			unsigned int changed = diagonal + (one[i] != other[j]);

			diagonal = row[j + 1];
			row[j + 1] = min_of(row[j], diagonal) + 1;
			row[j + 1] = min_of(row[j + 1], changed);
		}
	}
	return row[length];
}

/* The known key that is fewer than *steps away, NULL for none; lowers *steps. */
static const char *nearest(const char *key, const char *const *known, size_t count,
			   unsigned int *steps)
{
	const char *found = NULL;

	for (size_t i = 0; i < count; i++) {
		unsigned int away = distance(key, known[i]);

		if (away < *steps) {
			*steps = away;
			found = known[i];
		}
	}
	return found;
}

enum { SHORT_LIST = 6 };

/* A short list of what there is helps where no word is near. */
static int say_known(const char *key, const char *const *known, size_t count, struct error *err)
{
	char list[200] = "";

	error_set(err, EINVAL, "Invalid parameter '%.200s'", key);
	for (size_t i = 0; i < count && count <= SHORT_LIST; i++)
		snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s",
			 i ? ", " : "; there are ", known[i]);
	error_hint(err, "%s", list);
	return -EINVAL;
}

/* file.driver.x: what follows the last dot is compared first, then the whole. */
static int say_unknown(const char *key, const char *const *known, size_t count, struct error *err)
{
	const char *dot = strrchr(key, '.'), *last = dot ? dot + 1 : key;
	unsigned int steps = (unsigned int)strlen(last) / 2 + 1;
	const char *meant = nearest(last, known, count, &steps);
	const char *whole = nearest(key, known, count, &steps);
	int parent = whole ? 0 : (int)(last - key);

	if (!steps) /* a good word in a wrong place */
		return error_set(err, EINVAL, "Invalid parameter '%.200s': it means nothing here",
				 key);
	if (!whole && !meant)
		return say_known(key, known, count, err);
	return error_set(err, EINVAL, "Invalid parameter '%.200s'; did you mean '%.*s%s'?", key,
			 min_of(parent, 200), key, whole ? whole : meant);
}

int keyval_check_taken(const struct keyval *list, const char *const *known, size_t count,
		       struct error *err)
{
	for (size_t i = 0; i < list->count; i++)
		if (!list->entries[i].taken)
			return say_unknown(list->entries[i].key, known, count, err);
	return 0;
}
