// SPDX-License-Identifier: MIT
/*
 * The table of object types, and the life of objects.
 */
#include "object.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "common/keyval-json.h"
#include "object-secret.h"
#include "object-throttle.h"
#include "object-tls.h"

/* QEMU's threads for I/O: ours are a pool that all exports share, so there is nothing to make. */
static const char *const iothread_keys[] = {
	"poll-max-ns",     "poll-grow",       "poll-shrink", "aio-max-batch",
	"thread-pool-min", "thread-pool-max", NULL};

static int iothread_create(struct object *object, struct keyval *properties,
			   const struct object_set *earlier, struct error *err)
{
	uint64_t ignored;

	(void)object;
	(void)earlier;
	for (const char *const *key = iothread_keys; *key; key++)
		if (keyval_take_size(properties, *key, INT64_MAX, &ignored, err) < 0)
			return -EINVAL;
	return 0;
}

static const struct object_type type_iothread = {
	.name = "iothread",
	.help = "accepted: hawserd's threads are shared by all",
	.keys = iothread_keys,
	.create = iothread_create,
};

static const struct object_type *const types[] = {
	&object_type_secret,     &object_type_secret_keyring,  &object_type_tls_x509,
	&object_type_tls_psk,    &object_type_tls_anon,        &object_type_authz_simple,
	&object_type_authz_list, &object_type_authz_list_file, &object_type_throttle_group,
	&type_iothread,
};

enum { TYPES = sizeof(types) / sizeof(types[0]) };

void object_print_types(FILE *out)
{
	fprintf(out, "List of user creatable objects:\n");
	for (size_t i = 0; i < TYPES; i++)
		fprintf(out, "  %-18s %s\n", types[i]->name, types[i]->help);
}

/* Could it be the name of a type? Else it may be anything, such as half of an object that holds a
 * passphrase, and is not shown. */
static bool is_word(const char *name)
{
	size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz"
				     "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");

	return length && !name[length];
}

static const struct object_type *type_find(const char *name, struct error *err)
{
	for (size_t i = 0; i < TYPES; i++)
		if (!strcmp(types[i]->name, name))
			return types[i];
	if (is_word(name))
		error_set(err, EINVAL, "Invalid parameter '%.200s'; --object help lists the types",
			  name);
	else
		error_set(err, EINVAL,
			  "Parameter 'qom-type' is not the name of a type; --object help lists "
			  "them, and JSON begins with '{'");
	return NULL;
}

const struct object *object_find(const struct object_set *set, const char *id)
{
	for (size_t i = 0; i < set->count; i++)
		if (!strcmp(set->items[i].id, id))
			return &set->items[i];
	return NULL;
}

/* Letters, digits, '-', '.' and '_', a letter first: QEMU's rule. */
static bool id_valid(const char *id)
{
	if (!isalpha((unsigned char)*id))
		return false;
	while (isalnum((unsigned char)*id) || (*id && strchr("-._", *id)))
		id++;
	return !*id;
}

static int check(struct object *object, const struct object_set *set, struct error *err)
{
	const char *type = keyval_take(&object->properties, "qom-type");

	object->id = keyval_take(&object->properties, "id");
	if (!type)
		return error_set(err, EINVAL, "Parameter 'qom-type' is missing");
	object->type = type_find(type, err);
	if (!object->type)
		return -EINVAL;
	if (!object->id)
		return error_set(err, EINVAL, "Parameter 'id' is missing");
	if (!id_valid(object->id))
		return error_set(err, EINVAL, "Parameter 'id' expects an identifier, not '%.200s'",
				 object->id);
	if (object_find(set, object->id))
		return error_set(err, EINVAL,
				 "attempt to add duplicate property '%.200s' to object (type "
				 "'container')",
				 object->id);
	return 0;
}

static int parse(struct keyval *properties, const char *text, struct error *err)
{
	return *text == '{' ? keyval_parse_json(properties, text, err)
			    : keyval_parse(properties, text, "qom-type", err);
}

int object_set_add(struct object_set *set, const char *text, struct error *err)
{
	struct object object = {0};
	int rc;

	if (set->count == OBJECTS_MAX)
		return error_set(err, EINVAL, "more than %d objects", OBJECTS_MAX);
	rc = parse(&object.properties, text, err);
	if (!rc)
		rc = check(&object, set, err);
	if (rc) {
		keyval_clear(&object.properties);
		return rc;
	}
	set->items[set->count++] = object;
	return 0;
}

/* After a comma that is not doubled, the rest of a passphrase looks like the name of a property. */
static int say_unknown_only(const struct object_type *type, struct error *err)
{
	error_set(err, EINVAL, "one of its properties is unknown; there are");
	for (const char *const *key = type->keys; *key; key++)
		error_hint(err, "%s %s", key == type->keys ? "" : ",", *key);
	return error_hint(err, ", and a comma in a value is doubled");
}

static int check_taken(const struct object *object, struct error *err)
{
	const struct object_type *type = object->type;
	size_t keys = 0;

	while (type->keys[keys])
		keys++;
	if (!type->confidential)
		return keyval_check_taken(&object->properties, type->keys, keys, err);
	return keyval_check_taken(&object->properties, type->keys, keys, NULL)
		       ? say_unknown_only(type, err)
		       : 0;
}

static int create(struct object *object, const struct object_set *earlier, struct error *err)
{
	const struct object_type *type = object->type;
	int rc = type->create(object, &object->properties, earlier, err);

	if (!rc)
		rc = check_taken(object, err);
	if (rc && object->option)
		return error_wrap(err, "%s", object->option);
	return rc ? error_wrap(err, "object '%s' (%s)", object->id, type->name) : 0;
}

int object_set_create(struct object_set *set, struct error *err)
{
	for (size_t i = 0; i < set->count; i++) {
		int rc = create(&set->items[i], set, err);

		if (rc)
			return rc;
	}
	return 0;
}

void object_set_clear(struct object_set *set)
{
	while (set->count) {
		struct object *object = &set->items[--set->count];

		if (object->type->destroy && object->state)
			object->type->destroy(object);
		keyval_clear(&object->properties);
	}
}
