// SPDX-License-Identifier: MIT
/*
 * hawser list: what a server has to offer. Asks by LIST and INFO and leaves by ABORT; it never
 * enters an export, because that may be the one client that the server waits for.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "common/printable.h"
#include "common/size.h"
#include "output.h"
#include "session.h"

struct list_options {
	bool json;
	uint64_t timeout;
};

static const struct option_row list_options[] = {
	{"json", 'j', NULL, OPTION_FLAG, offsetof(struct list_options, json),
	 "write JSON for scripts, with the keys of nbdinfo"},
	{"timeout", 't', "SECONDS", OPTION_SECONDS, offsetof(struct list_options, timeout),
	 "give up on a server that does not answer (30; 0 waits for ever)"},
	{0},
};

/* What the listing knows of a server; survives a reconnection. */
struct listing {
	struct session session;
	const char *uri;
	uint64_t timeout;
	struct nbd_export_list list;
};

static void listing_clear(struct listing *listing)
{
	nbd_export_list_clear(&listing->list);
	session_close(&listing->session);
}

static int open_session(struct listing *listing, struct error *err)
{
	struct session *session = &listing->session;
	int status = session_open(session, listing->uri, listing->timeout, err);
	int rc;

	if (status != COMMAND_OK)
		return status;
	rc = client_handshake_structured(&session->handshake, err);
	return rc ? session_fault(session, rc, err) : COMMAND_OK;
}

static void ask_contexts(struct client_handshake *handshake, struct nbd_export_info *info)
{
	/* Not every server has them; the listing is worth having without. */
	if (client_handshake_alive(handshake))
		client_handshake_list_contexts(handshake, info->name, NULL, 0, info, NULL);
}

/* Size, flags and contexts of one entry. The description of LIST stays where INFO has none. */
static int ask_export(struct client_handshake *handshake, struct nbd_export_info *entry,
		      struct error *err)
{
	struct nbd_export_info info;
	int rc = client_handshake_info(handshake, entry->name, &info, err);

	if (rc)
		return rc;
	if (!info.description)
		info.description = take_ptr(entry->description);
	/* The name by which the export is entered, whatever else the server calls it. */
	free(info.name);
	info.name = take_ptr(entry->name);
	nbd_export_info_clear(entry);
	*entry = info;
	ask_contexts(handshake, entry);
	return 0;
}

/*
 * Servers may allow only so many options on a connection (nbdkit: 32). When one hangs up in the
 * middle, a new connection goes on where it stopped, as long as that leads anywhere.
 */
static void ask_all(struct listing *listing)
{
	struct session *session = &listing->session;
	bool progress = true;

	for (size_t i = 0; i < listing->list.count;) {
		struct nbd_export_info *entry = &listing->list.exports[i];
		struct error err = ERROR_INIT;
		char name[200];
		int rc = ask_export(&session->handshake, entry, &err);

		if (rc && !client_handshake_alive(&session->handshake) && progress) {
			progress = false;
			session_close(session);
			if (open_session(listing, &err) == COMMAND_OK)
				continue;
		}
		if (rc)
			log_warning("no details of %s: %s",
				    output_name(entry->name, name, sizeof(name)), err.text);
		if (rc && !client_handshake_alive(&session->handshake))
			return;
		progress = true;
		i++;
	}
}

/* ---- Output ---- */

static void print_json(const struct listing *listing, struct json *json)
{
	json_object_begin(json, NULL);
	output_json_protocol(json, &listing->session.handshake);
	json_array_begin(json, "exports");
	for (size_t i = 0; i < listing->list.count; i++)
		output_json_export(json, &listing->list.exports[i], &listing->session.uri);
	json_array_end(json);
	json_object_end(json);
}

/* A name beyond NAME_COLUMN_MAX does not push the columns of the others away. */
enum { CELL_MAX = 200, NAME_COLUMN_MAX = 40 };

/* The cells of one row, all printable. */
struct row {
	char name[CELL_MAX];
	char size[SIZE_TEXT_MAX];
	char flags[OUTPUT_FLAGS_MAX];
};

static void fill_row(const struct nbd_export_info *info, struct row *row)
{
	char name[CELL_MAX];

	snprintf(row->name, sizeof(row->name), "%s", output_name(info->name, name, sizeof(name)));
	strcpy(row->size, "?");
	strcpy(row->flags, "?");
	if (!info->has_size)
		return;
	size_format(info->size, row->size);
	output_flags(info->flags, row->flags);
}

static void print_cell(const char *text, int width)
{
	printf("%s%*s  ", text, max_of(width - output_width(text), 0), "");
}

static void print_table(const struct nbd_export_list *list)
{
	int name = output_width("NAME"), size = output_width("SIZE"), flags = output_width("FLAGS");
	AUTO_FREE char *description = NULL;
	struct row row;
	int width;

	for (size_t i = 0; i < list->count; i++) {
		fill_row(&list->exports[i], &row);
		width = output_width(row.name);
		name = max_of(name, width <= NAME_COLUMN_MAX ? width : 0);
		size = max_of(size, output_width(row.size));
		flags = max_of(flags, output_width(row.flags));
	}
	print_cell("NAME", name);
	print_cell("SIZE", size);
	print_cell("FLAGS", flags);
	puts("DESCRIPTION");
	for (size_t i = 0; i < list->count; i++) {
		const char *text = list->exports[i].description;

		fill_row(&list->exports[i], &row);
		print_cell(row.name, name);
		print_cell(row.size, size);
		print_cell(row.flags, flags);
		free(description);
		description = text ? printable_dup(text) : NULL;
		puts(description ? description : "-");
	}
}

static void print_listing(const struct listing *listing, bool as_json)
{
	struct json json;

	if (as_json) {
		json_init(&json, stdout);
		print_json(listing, &json);
		json_finish(&json);
	} else if (listing->list.count == 0) {
		printf("%s lists no exports.\n", listing->session.server);
	} else {
		print_table(&listing->list);
	}
}

static int ask_server(struct listing *listing, struct error *err)
{
	struct session *session = &listing->session;
	int status = open_session(listing, err);
	int rc;

	if (status != COMMAND_OK)
		return status;
	if (session->uri.export_[0])
		log_warning("list shows all exports of the server; for one of them: hawser info %s",
			    listing->uri);
	rc = client_handshake_list(&session->handshake, &listing->list, err);
	if (rc == -EACCES || rc == -EOPNOTSUPP)
		error_hint(err, "; an export can be asked for by its name: hawser info URI");
	if (rc)
		return session_fault(session, rc, err);
	ask_all(listing);
	return COMMAND_OK;
}

static int run_list(int argc, char **argv, struct error *err)
{
	struct list_options options = {.timeout = SESSION_TIMEOUT_SECONDS};
	__attribute__((cleanup(listing_clear))) struct listing listing = {.session = SESSION_INIT};
	struct operands operands;
	int status = command_parse(&command_list, argc, argv, &options, &operands, err);

	if (status != COMMAND_GO_ON)
		return status;
	listing.uri = operands.text[0];
	listing.timeout = options.timeout;
	status = ask_server(&listing, err);
	if (status == COMMAND_OK)
		print_listing(&listing, options.json);
	return status;
}

const struct command command_list = {
	.name = "list",
	.operands = "URI",
	.summary = "List the exports of a server",
	.details = "Takes no client slot of the server: it asks, and leaves.",
	.operands_min = 1,
	.operands_max = 1,
	.options = list_options,
	.run = run_list,
};
