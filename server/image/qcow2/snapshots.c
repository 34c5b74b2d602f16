// SPDX-License-Identifier: MIT
/*
 * Internal snapshots: the table, and the one that --load-snapshot means. While an image is opened.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "qcow2.h"

enum { READ_STEP = 64 << 10 };

/* The table does not say its length: more is read until the last entry is whole. */
static int grow(struct qcow2 *q, struct error *err)
{
	size_t used = q->snapshot_table_length;
	size_t size = used ? used * 2 : READ_STEP;
	uint8_t *table;
	int rc;

	if (size > QCOW2_SNAPSHOT_TABLE_MAX)
		return error_set(err, EFBIG, "Snapshot table is too big");
	table = realloc(q->snapshot_table, size);
	if (!table)
		return error_set(err, ENOMEM, "out of memory");
	q->snapshot_table = table;
	q->snapshot_table_length = size;
	rc = hostfile_read(q->file, table + used, size - used, q->header.snapshots_offset + used);
	if (rc && rc != -ENODATA)
		return error_set_errno(err, -rc, "Could not read snapshots");
	return 0;
}

static int parse_all(struct qcow2 *q, struct error *err)
{
	size_t at = 0;

	for (uint32_t i = 0; i < q->header.snapshots; i++) {
		int64_t used =
			qcow2_parse_snapshot(q->snapshot_table + at, q->snapshot_table_length - at,
					     &q->header, &q->snapshots[i], err);

		if (used < 0)
			return (int)used;
		at = (size_t)min_of((uint64_t)at + (uint64_t)used,
				    (uint64_t)q->snapshot_table_length);
	}
	q->snapshot_table_used = at;
	return 0;
}

int qcow2_snapshots_load(struct qcow2 *q, struct error *err)
{
	int rc;

	if (!q->header.snapshots)
		return 0;
	q->snapshots = calloc(q->header.snapshots, sizeof(*q->snapshots));
	if (!q->snapshots)
		return error_set(err, ENOMEM, "out of memory");
	do {
		rc = grow(q, err);
		if (rc)
			return rc;
		rc = parse_all(q, err);
	} while (rc == -ENODATA);
	return rc;
}

/* ---- Choosing ---- */

static bool is_text(const uint8_t *bytes, size_t length, const char *text)
{
	return strlen(text) == length && memcmp(bytes, text, length) == 0;
}

/* NULL for id or name: any. */
static const struct qcow2_snapshot *find(const struct qcow2 *q, const char *id, const char *name)
{
	for (uint32_t i = 0; i < q->header.snapshots; i++) {
		const struct qcow2_snapshot *snapshot = &q->snapshots[i];

		if ((!id || is_text(snapshot->id, snapshot->id_length, id)) &&
		    (!name || is_text(snapshot->name, snapshot->name_length, name)))
			return snapshot;
	}
	return NULL;
}

/* Takes "snapshot.id=ID,snapshot.name=NAME" apart, in place; a doubled comma is a comma. */
static int take_pairs(char *text, const char **id, const char **name, struct error *err)
{
	const char *whole = text;

	while (*text) {
		char *value = strchr(text, '='), *to, *from;

		if (!value)
			return error_set(err, EINVAL, "Failed in parsing snapshot param `%s'",
					 whole);
		*value++ = '\0';
		for (to = from = value; *from && (*from != ',' || from[1] == ','); from++) {
			from += *from == ',';
			*to++ = *from;
		}
		from += *from == ',';
		*to = '\0';
		if (!strcmp(text, "snapshot.id"))
			*id = value;
		else if (!strcmp(text, "snapshot.name"))
			*name = value;
		else
			return error_set(err, EINVAL, "Invalid parameter '%s'", text);
		text = from;
	}
	return 0;
}

int qcow2_snapshot_find(const struct qcow2 *q, const char *wanted,
			const struct qcow2_snapshot **snapshot, struct error *err)
{
	AUTO_FREE char *text = NULL;
	const char *id = NULL, *name = NULL;
	int rc;

	if (strncmp(wanted, "snapshot.", 9)) {
		*snapshot = find(q, wanted, NULL);
		if (!*snapshot)
			*snapshot = find(q, NULL, wanted);
	} else {
		text = strdup(wanted);
		if (!text)
			return error_set(err, ENOMEM, "out of memory");
		rc = take_pairs(text, &id, &name, err);
		if (rc)
			return rc;
		*snapshot = find(q, id, name);
	}
	if (!*snapshot)
		return error_set(
			err, ENOENT,
			"Failed to load snapshot: Can't find snapshot '%.200s' in the image; "
			"'qemu-img snapshot -l' lists them",
			wanted);
	return 0;
}
