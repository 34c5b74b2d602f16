/* SPDX-License-Identifier: MIT */
/*
 * What --object makes: things with a name that other options refer to (keys, credentials, limits).
 * One table holds the types; each type has a file of its own. Objects are described while the
 * command line is read and made afterwards, in their order, so that one may refer to those before
 * it. Main thread.
 */
#ifndef HAWSER_SERVER_OBJECT_H
#define HAWSER_SERVER_OBJECT_H

#include <stdio.h>

#include "common/error.h"
#include "common/keyval.h"

struct object;
struct object_set;

struct object_type {
	const char *name;
	const char *help;        /* one line for --object help */
	const char *const *keys; /* its properties; NULL ends the list */
	bool confidential;       /* what is typed may be secret, so no message repeats it */
	/* Makes object->state out of the properties that it takes. 0 or -errno with err set. */
	int (*create)(struct object *object, struct keyval *properties,
		      const struct object_set *earlier, struct error *err);
	/* Frees object->state. NULL: there is nothing to free. */
	void (*destroy)(struct object *object);
};

struct object {
	const struct object_type *type;
	const char *option; /* which made it, for messages; NULL: --object */
	const char *id;
	void *state; /* the type's own; NULL until created */
	struct keyval properties;
};

enum { OBJECTS_MAX = 64 };

/* All zero is an empty set. */
struct object_set {
	struct object items[OBJECTS_MAX];
	size_t count;
};

/* Notes "TYPE,id=ID,...", or the same as JSON: {"qom-type": "TYPE", ..}; nothing is opened yet. 0
 * or -EINVAL, -ENOMEM with err set. */
int object_set_add(struct object_set *set, const char *text, struct error *err);

/* Makes all that were noted. 0 or -errno with err set. */
int object_set_create(struct object_set *set, struct error *err);
void object_set_clear(struct object_set *set);

/* The object of that name, made or not yet; NULL when there is none. */
const struct object *object_find(const struct object_set *set, const char *id);

/* The types, as --object help shows them. */
void object_print_types(FILE *out);

#endif
