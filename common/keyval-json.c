// SPDX-License-Identifier: MIT
/*
 * JSON into a list of properties. The reader bounds the depth, keyval_set() the number of entries;
 * here the length of a name is bounded.
 */
#include "keyval-json.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "json-read.h"

/* A name with all its dots; what is longer is no property of anything. */
enum { NAME_MAX_LENGTH = 1024 };

struct name {
	char text[NAME_MAX_LENGTH];
	size_t length;
};

static int add_members(struct keyval *list, struct name *name, const struct json_value *value,
		       struct error *err);

static int add_value(struct keyval *list, struct name *name, const struct json_value *value,
		     struct error *err)
{
	char number[32];

	switch (value->kind) {
	case JSON_NULL:
		return keyval_set(list, name->text, "", err);
	case JSON_BOOL:
		return keyval_set(list, name->text, value->number ? "on" : "off", err);
	case JSON_STRING:
		return keyval_set(list, name->text, value->text, err);
	case JSON_NUMBER:
		if (!value->exact)
			return error_set(err, EINVAL,
					 "Parameter '%.200s' expects a non-negative whole number",
					 name->text);
		snprintf(number, sizeof(number), "%" PRIu64, value->number);
		return keyval_set(list, name->text, number, err);
	case JSON_ARRAY:
	case JSON_OBJECT:
		break;
	}
	return add_members(list, name, value, err);
}

/* '=' and ',' cannot be in a name on the command line either. */
static bool key_valid(const char *key)
{
	return *key && !key[strcspn(key, "=,")];
}

static int add_member(struct keyval *list, struct name *name, const struct json_value *member,
		      size_t index, struct error *err)
{
	size_t before = name->length, room = sizeof(name->text) - before;
	const char *dot = before ? "." : "";
	int added, rc;

	if (member->key && !key_valid(member->key))
		return error_set(err, EINVAL, "Invalid parameter '%.200s'", member->key);
	if (member->key)
		added = snprintf(name->text + before, room, "%s%s", dot, member->key);
	else
		added = snprintf(name->text + before, room, "%s%zu", dot, index);
	if (added < 0 || (size_t)added >= room)
		return error_set(err, EINVAL, "the name of a parameter is too long");
	name->length += (size_t)added;
	rc = add_value(list, name, member, err);
	name->length = before;
	name->text[before] = '\0';
	return rc;
}

static int add_members(struct keyval *list, struct name *name, const struct json_value *value,
		       struct error *err)
{
	const struct json_value *member = value->first;
	int rc = 0;

	for (size_t index = 0; member && !rc; member = member->next) {
		/* Which of the two is meant? */
		if (member->key && json_member(value, member->key) != member)
			return error_set(err, EINVAL, "JSON parse error, duplicate key '%.200s'",
					 member->key);
		rc = add_member(list, name, member, index++, err);
	}
	return rc;
}

int keyval_parse_json(struct keyval *list, const char *text, struct error *err)
{
	struct name name = {.length = 0};
	struct json_value *value;
	int rc = json_read(text, strlen(text), &value, err);

	if (rc == -EINVAL)
		return error_wrap(err, "Could not parse the JSON options");
	if (rc)
		return rc;
	if (value->kind == JSON_OBJECT)
		rc = add_members(list, &name, value, err);
	else
		rc = error_set(err, EINVAL, "Invalid JSON object given");
	json_value_free(value);
	return rc;
}
