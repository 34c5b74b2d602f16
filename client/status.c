// SPDX-License-Identifier: MIT
/* hawser status: what is attached, from sysfs and our backend identifiers. Changes nothing and
 * needs no rights; where it has none, foreign mounts are missing. The main thread. */
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "common/cleanup.h"
#include "common/json.h"
#include "common/kernel/device.h"
#include "common/kernel/holders.h"
#include "common/printable.h"
#include "common/size.h"
#include "device-fault.h"

struct status_options {
	bool json;
};

static const struct option_row rows[] = {
	{"json", 'j', NULL, OPTION_FLAG, offsetof(struct status_options, json),
	 "print the table as JSON"},
	{0},
};

/* One attached device with what is known about it. */
struct entry {
	struct device_state state;
	struct device_backend backend;
	struct holders holders;
};

struct table {
	int only; /* or DEVICE_INDEX_ANY */
	struct entry *entries;
	size_t count;
};

static int collect(const struct device_state *state, void *context)
{
	struct table *table = context;
	struct entry *grown;

	if (!state->attached || (table->only >= 0 && state->index != table->only))
		return 0;
	grown = reallocarray(table->entries, table->count + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	table->entries = grown;
	grown = &table->entries[table->count++];
	memset(grown, 0, sizeof(*grown));
	grown->state = *state;
	if (!device_backend_parse(state->backend, &grown->backend))
		snprintf(grown->backend.uri, sizeof(grown->backend.uri), "%.*s", DEVICE_BACKEND_MAX,
			 state->backend);
	return holders_find("", state->index, HOLDERS_USE, NULL, &grown->holders, NULL);
}

static void table_clear(struct table *table)
{
	for (size_t i = 0; i < table->count; i++)
		holders_clear(&table->entries[i].holders);
	free(table->entries);
}

static unsigned int connections_of(const struct entry *entry)
{
	return entry->backend.connections ? entry->backend.connections : entry->state.queues;
}

/* ---- JSON ---- */

static void json_text_or_null(struct json *json, const char *key, const char *text)
{
	json_string(json, key, *text ? text : NULL);
}

static void print_users(struct json *json, const struct holders *holders)
{
	static const char *const kinds[] = {
		[HOLDER_MOUNT] = "mount", [HOLDER_SWAP] = "swap",       [HOLDER_DEVICE] = "device",
		[HOLDER_LOOP] = "loop",   [HOLDER_PROCESS] = "process",
	};
	char device[32];

	json_array_begin(json, "users");
	for (size_t i = 0; i < holders->count; i++) {
		const struct holder *holder = &holders->items[i];

		snprintf(device, sizeof(device), "/dev/%s", holder->device);
		json_object_begin_line(json, NULL);
		json_string(json, "kind", kinds[holder->kind]);
		json_string(json, "device", device);
		json_text_or_null(json, "where", holder->text);
		json_object_end(json);
	}
	json_array_end(json);
}

static void print_json(const struct table *table)
{
	char path[DEVICE_PATH_SIZE];
	struct json json;

	json_init(&json, stdout);
	json_object_begin(&json, NULL);
	json_array_begin(&json, "devices");
	for (size_t i = 0; i < table->count; i++) {
		const struct entry *entry = &table->entries[i];

		json_object_begin(&json, NULL);
		json_string(&json, "device", device_path(entry->state.index, path));
		json_number(&json, "index", (uint64_t)entry->state.index);
		json_number(&json, "size", entry->state.size);
		json_number(&json, "block_size", entry->state.block_size);
		json_bool(&json, "read_only", entry->state.read_only);
		json_number(&json, "partitions", entry->state.partitions);
		json_number(&json, "connections", connections_of(entry));
		json_string(&json, "interface", entry->state.netlink ? "netlink" : "ioctl");
		json_text_or_null(&json, "name", entry->backend.label);
		json_text_or_null(&json, "uri", entry->backend.uri);
		print_users(&json, &entry->holders);
		json_object_end(&json);
	}
	json_array_end(&json);
	json_object_end(&json);
	json_finish(&json);
}

/* ---- For people ---- */

enum { COLUMNS = 8 };
typedef char cells[COLUMNS][DEVICE_BACKEND_MAX * 4 + 1];

static void put_users(const struct holders *holders, char *text, size_t room)
{
	size_t used = 0;

	snprintf(text, room, "-");
	for (size_t i = 0; i < holders->count && used < room; i++) {
		const struct holder *holder = &holders->items[i];
		char shown[sizeof(holder->text) * 4];

		printable_copy(shown, sizeof(shown),
			       holder->kind == HOLDER_SWAP ? "[swap]" : holder->text,
			       holder->kind == HOLDER_SWAP ? 6 : strlen(holder->text));
		used += (size_t)snprintf(text + used, room - used, "%s%s", i ? ", " : "", shown);
	}
}

static void fill_row(const struct entry *entry, cells row)
{
	char size[SIZE_TEXT_MAX];

	snprintf(row[0], sizeof(row[0]), "/dev/nbd%d", entry->state.index);
	snprintf(row[1], sizeof(row[1]), "%s", *entry->backend.label ? entry->backend.label : "-");
	snprintf(row[2], sizeof(row[2]), "%s", size_format(entry->state.size, size));
	snprintf(row[3], sizeof(row[3]), "%s", entry->state.read_only ? "ro" : "rw");
	snprintf(row[4], sizeof(row[4]), "%u", connections_of(entry));
	snprintf(row[5], sizeof(row[5]), "%s", entry->state.netlink ? "netlink" : "ioctl");
	put_users(&entry->holders, row[6], sizeof(row[6]));
	printable_copy(row[7], sizeof(row[7]), *entry->backend.uri ? entry->backend.uri : "-",
		       strlen(*entry->backend.uri ? entry->backend.uri : "-"));
}

static int print_table(const struct table *table, struct error *err)
{
	static const char *const titles[COLUMNS] = {"DEVICE", "NAME",  "SIZE",   "ACCESS",
						    "LINKS",  "USING", "IN USE", "SERVER"};
	AUTO_FREE cells *lines = calloc(table->count + 1, sizeof(*lines));
	size_t widths[COLUMNS] = {0};

	if (!lines)
		return error_set_errno(err, ENOMEM, "cannot make the table");
	for (int column = 0; column < COLUMNS; column++)
		snprintf(lines[0][column], sizeof(lines[0][column]), "%s", titles[column]);
	for (size_t i = 0; i < table->count; i++)
		fill_row(&table->entries[i], lines[i + 1]);
	for (size_t i = 0; i <= table->count; i++)
		for (int column = 0; column < COLUMNS; column++)
			widths[column] = max_of(widths[column], strlen(lines[i][column]));
	for (size_t i = 0; i <= table->count; i++) {
		for (int column = 0; column < COLUMNS - 1; column++)
			printf("%-*s  ", (int)widths[column], lines[i][column]);
		puts(lines[i][COLUMNS - 1]);
	}
	return 0;
}

static int show(const struct table *table, bool as_json, struct error *err)
{
	if (as_json)
		print_json(table);
	else if (table->count)
		return print_table(table, err);
	else
		puts("Nothing is attached.");
	return 0;
}

static int run(int argc, char **argv, struct error *err)
{
	struct status_options options = {0};
	struct table table CLEANUP(table_clear) = {.only = DEVICE_INDEX_ANY};
	struct operands operands;
	int status = command_parse(&command_status, argc, argv, &options, &operands, err), rc;

	if (status != COMMAND_GO_ON)
		return status;
	if (operands.count) {
		status = device_operand(operands.text[0], &table.only, err);
		if (status != COMMAND_OK)
			return status;
	}
	rc = device_each(collect, &table);
	if (rc) {
		error_set_errno(err, -rc, "cannot look at the devices");
		return COMMAND_FAILED;
	}
	if (table.only >= 0 && !table.count) {
		error_set(err, ENOTCONN, "/dev/nbd%d is not attached", table.only);
		return COMMAND_NOT_ATTACHED;
	}
	return show(&table, options.json, err) ? COMMAND_FAILED : COMMAND_OK;
}

const struct command command_status = {
	.name = "status",
	.operands = "[DEVICE|NAME]",
	.summary = "Show the attached devices, their servers, and who uses them",
	.details = "Exits with 3 if the named device is not attached.",
	.operands_max = 1,
	.options = rows,
	.run = run,
};
