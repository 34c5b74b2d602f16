// SPDX-License-Identifier: MIT
/*
 * The list of exports. Scripts compare the output literally, so its form is fixed; what the server
 * calls itself is made harmless for terminals.
 */
#include "list.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/dial.h"
#include "common/printable.h"

/* For all of it: a server that says nothing must not hold a script. */
#define LIST_LIMIT (60 * CLOCK_SECOND)

static void write_flags(FILE *out, uint16_t flags)
{
	fprintf(out, "  flags: 0x%x (", flags);
	for (unsigned int i = 0; i < NBD_FLAG_WORD_ORDER; i++)
		if (flags & (1U << nbd_flag_word_order[i]))
			fprintf(out, " %s", nbd_flag_word(nbd_flag_word_order[i]));
	fputs(" )\n", out);
}

static void write_text(FILE *out, const char *before, const char *text, const char *after)
{
	AUTO_FREE char *shown = printable_dup(text);

	fprintf(out, "%s%s%s\n", before, shown ? shown : "?", after);
}

static void write_export(FILE *out, const struct nbd_export_info *info)
{
	write_text(out, " export: '", info->name, "'");
	if (info->description && *info->description)
		write_text(out, "  description: ", info->description, "");
	if (info->has_size && (info->flags & NBD_FLAG_HAS_FLAGS)) {
		fprintf(out, "  size:  %" PRIu64 "\n", info->size);
		write_flags(out, info->flags);
	}
	if (info->has_block_sizes) {
		fprintf(out, "  min block: %" PRIu32 "\n", info->minimum);
		fprintf(out, "  opt block: %" PRIu32 "\n", info->preferred);
		fprintf(out, "  max block: %" PRIu32 "\n", info->maximum);
	}
	fputs("  transaction size: 32-bit\n", out); /* we ask for no extended headers */
	if (info->context_count)
		fprintf(out, "  available meta contexts: %zu\n", info->context_count);
	for (size_t i = 0; i < info->context_count; i++)
		write_text(out, "   ", info->contexts[i].name, "");
}

void list_write(FILE *out, const struct nbd_export_list *list)
{
	fprintf(out, "exports available: %zu\n", list->count);
	for (size_t i = 0; i < list->count; i++)
		write_export(out, &list->exports[i]);
}

/* What the server does not want to tell about one export is left out; a broken talk is not. */
static int forgive(const struct client_handshake *handshake, int rc)
{
	return client_handshake_alive(handshake) && rc != -ESHUTDOWN ? 0 : rc;
}

static int learn_one(struct client_handshake *handshake, struct nbd_export_info *export_,
		     struct error *err)
{
	struct nbd_export_info more;
	int rc = client_handshake_info(handshake, export_->name, &more, err);

	if (rc)
		return forgive(handshake, rc);
	if (!more.description)
		more.description = take_ptr(export_->description);
	nbd_export_info_clear(export_);
	*export_ = more;
	if (!handshake->structured)
		return 0;
	return forgive(handshake, client_handshake_list_contexts(handshake, export_->name, NULL, 0,
								 export_, err));
}

static int learn(struct client_handshake *handshake, struct nbd_export_list *list,
		 struct error *err)
{
	int rc = client_handshake_structured(handshake, err);

	if (!rc)
		rc = client_handshake_list(handshake, list, err);
	for (size_t i = 0; !rc && i < list->count; i++)
		rc = learn_one(handshake, &list->exports[i], err);
	return rc;
}

/* host: of the server's address; NULL: it has none. */
static int secure(struct client_handshake *handshake, const struct options *options,
		  const char *host, struct error *err)
{
	if (!options->server.tls.creds)
		return 0;
	return client_handshake_tls(handshake, options->server.tls.creds,
				    options->tls_hostname ? options->tls_hostname : host, err);
}

static int talk(const struct options *options, const char *host, int fd, uint64_t deadline,
		struct nbd_export_list *list, struct error *err)
{
	struct client_handshake handshake;
	struct transport transport;
	int rc;

	transport_init_plain(&transport, fd);
	rc = client_handshake_start(&handshake, &transport, deadline, err);
	if (!rc)
		rc = secure(&handshake, options, host, err);
	if (!rc)
		rc = learn(&handshake, list, err);
	client_handshake_abort(&handshake);
	transport_close(&transport, TRANSPORT_CLOSE_CLEAN);
	return rc;
}

/* Everything or nothing reaches the stream. */
static int write_whole(FILE *out, const struct nbd_export_list *list, struct error *err)
{
	AUTO_FREE char *text = NULL;
	size_t length = 0;
	FILE *memory = open_memstream(&text, &length);

	if (!memory)
		return error_set_errno(err, errno, "Cannot show the list");
	list_write(memory, list);
	if (fclose(memory) || fwrite(text, 1, length, out) != length || fflush(out))
		return error_set_errno(err, errno ? errno : EIO, "Cannot show the list");
	return 0;
}

int list_exports(const struct options *options, FILE *out, struct error *err)
{
	const char *host = options->bind ? options->bind : "localhost";
	const char *port = options->port ? options->port : NBD_DEFAULT_PORT;
	uint64_t deadline = clock_now() + LIST_LIMIT;
	struct nbd_export_list list = {0};
	int fd = -1, rc;

	if (options->socket)
		rc = dial_unix(options->socket, deadline, &fd, err);
	else
		rc = dial_tcp(host, port, deadline, &fd, err);
	if (!rc)
		rc = talk(options, options->socket ? NULL : host, fd, deadline, &list, err);
	if (!rc)
		rc = write_whole(out, &list, err);
	nbd_export_list_clear(&list);
	return rc;
}
