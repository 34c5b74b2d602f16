// SPDX-License-Identifier: MIT
/*
 * The object throttle-group: from properties to limits. QEMU knows each as x-NAME and as
 * limits.NAME; NAME alone will do here, and bps and iops stand for the totals.
 */
#include "object-throttle.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LIMIT_KEYS(prefix, name) prefix name, prefix name "-max", prefix name "-max-length"
/* clang-format off */
#define KEYS(prefix) \
	LIMIT_KEYS(prefix, "bps-total"), LIMIT_KEYS(prefix, "bps-read"), \
	LIMIT_KEYS(prefix, "bps-write"), LIMIT_KEYS(prefix, "iops-total"), \
	LIMIT_KEYS(prefix, "iops-read"), LIMIT_KEYS(prefix, "iops-write"), prefix "iops-size"

static const char *const throttle_keys[] = {
	KEYS(""), KEYS("x-"), KEYS("limits."), LIMIT_KEYS("", "bps"), LIMIT_KEYS("", "iops"), NULL};
/* clang-format on */

static const char *const kind_names[THROTTLE_KINDS] = {
	[THROTTLE_BPS_TOTAL] = "bps-total", [THROTTLE_BPS_READ] = "bps-read",
	[THROTTLE_BPS_WRITE] = "bps-write", [THROTTLE_IOPS_TOTAL] = "iops-total",
	[THROTTLE_IOPS_READ] = "iops-read", [THROTTLE_IOPS_WRITE] = "iops-write",
};

enum { KEY_MAX = 40 };

/* In whichever spelling it was given. */
static int take_value(struct keyval *properties, const char *name, const char *suffix,
		      uint64_t *value, struct error *err)
{
	static const char *const prefixes[] = {"", "x-", "limits."};
	char key[KEY_MAX];
	int rc = 0;

	for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]) && rc == 0; i++) {
		snprintf(key, sizeof(key), "%s%s%s", prefixes[i], name, suffix);
		rc = keyval_take_size(properties, key, INT64_MAX, value, err);
	}
	return rc;
}

static int take_limit(struct keyval *properties, const char *name, struct throttle_limit *limit,
		      struct error *err)
{
	int rc = take_value(properties, name, "", &limit->rate, err);

	if (rc == 0)
		rc = take_value(properties, name, "-max", &limit->burst, err);
	if (rc == 0)
		rc = take_value(properties, name, "-max-length", &limit->burst_seconds, err);
	return rc;
}

static int throttle_create(struct object *object, struct keyval *properties,
			   const struct object_set *earlier, struct error *err)
{
	struct throttle_limits limits;
	int rc;

	(void)earlier;
	throttle_limits_init(&limits);
	rc = take_limit(properties, "bps", &limits.limit[THROTTLE_BPS_TOTAL], err);
	if (rc == 0)
		rc = take_limit(properties, "iops", &limits.limit[THROTTLE_IOPS_TOTAL], err);
	for (int kind = 0; kind < THROTTLE_KINDS && rc == 0; kind++)
		rc = take_limit(properties, kind_names[kind], &limits.limit[kind], err);
	if (rc == 0)
		rc = take_value(properties, "iops-size", "", &limits.operation_size, err);
	if (rc == 0)
		rc = throttle_limits_check(&limits, err);
	if (rc)
		return rc;
	object->state = throttle_group_new(&limits);
	return object->state ? 0 : error_set(err, ENOMEM, "out of memory");
}

static void throttle_destroy(struct object *object)
{
	throttle_group_free(object->state);
}

const struct object_type object_type_throttle_group = {
	.name = "throttle-group",
	.help = "limits on bytes and operations per second",
	.keys = throttle_keys,
	.create = throttle_create,
	.destroy = throttle_destroy,
};

struct throttle_group *object_throttle_find(const struct object_set *set, const char *id)
{
	const struct object *object = object_find(set, id);

	return object && object->type == &object_type_throttle_group ? object->state : NULL;
}
