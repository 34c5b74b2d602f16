/* SPDX-License-Identifier: MIT */
/*
 * --object throttle-group: limits that exports refer to by id. Main thread.
 */
#ifndef HAWSER_SERVER_OBJECT_THROTTLE_H
#define HAWSER_SERVER_OBJECT_THROTTLE_H

#include "object.h"
#include "throttle.h"

extern const struct object_type object_type_throttle_group;

/* The id of the group that --limit makes. */
#define OBJECT_THROTTLE_OWN "limit"

/* The group called id; it belongs to the set. NULL: there is none, or it is not made yet. */
struct throttle_group *object_throttle_find(const struct object_set *set, const char *id);

#endif
