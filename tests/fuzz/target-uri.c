// SPDX-License-Identifier: MIT
/* URIs: what parses can be written, and what was written means the same. */
#include <errno.h>

#include "common/uri.h"
#include "fuzz.h"

static bool is_empty(const struct nbd_uri *uri)
{
	return !uri->host && !uri->port && !uri->socket && !uri->user && !uri->export_ &&
	       !uri->tls_type && !uri->tls_hostname && !uri->tls_certificates &&
	       !uri->tls_psk_file && !uri->unknown;
}

static void check_parsed(const struct nbd_uri *uri)
{
	FUZZ_CHECK(uri->export_);
	if (uri->kind == NBD_URI_TCP) {
		FUZZ_CHECK(uri->host && *uri->host && uri->port);
		FUZZ_CHECK(strtoul(uri->port, NULL, 10) >= 1);
		FUZZ_CHECK(strtoul(uri->port, NULL, 10) <= 65535);
	} else {
		FUZZ_CHECK(uri->socket && *uri->socket);
	}
}

static void check_round_trip(const struct nbd_uri *uri)
{
	struct nbd_uri again = NBD_URI_INIT;
	char *text = nbd_uri_format(uri), *second, *server = nbd_uri_server(uri);

	FUZZ_CHECK(text && server);
	FUZZ_CHECK(nbd_uri_parse(text, &again, NULL) == 0);
	FUZZ_CHECK(again.kind == uri->kind && again.tls == uri->tls);
	FUZZ_CHECK(fuzz_same_text(again.host, uri->host));
	FUZZ_CHECK(fuzz_same_text(again.port, uri->port));
	FUZZ_CHECK(fuzz_same_text(again.socket, uri->socket));
	FUZZ_CHECK(fuzz_same_text(again.user, uri->user));
	FUZZ_CHECK(fuzz_same_text(again.export_, uri->export_));
	FUZZ_CHECK(!again.unknown);
	second = nbd_uri_format(&again);
	FUZZ_CHECK(fuzz_same_text(text, second));
	free(text);
	free(second);
	free(server);
	nbd_uri_clear(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct nbd_uri uri = NBD_URI_INIT;
	struct error err = ERROR_INIT;
	char *text = fuzz_text(data, size);
	int rc = nbd_uri_parse(text, &uri, &err);

	if (rc == 0) {
		check_parsed(&uri);
		check_round_trip(&uri);
	} else {
		FUZZ_CHECK(rc == -EINVAL || rc == -ENOTSUP);
		FUZZ_CHECK(err.code == -rc && err.text[0]);
		FUZZ_CHECK(is_empty(&uri));
	}
	nbd_uri_clear(&uri);
	free(text);
	return 0;
}
