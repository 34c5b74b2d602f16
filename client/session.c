// SPDX-License-Identifier: MIT
/* The beginning and the end of a conversation with a server. The main thread. */
#include "session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "common/clock.h"
#include "common/dial.h"
#include "common/log.h"
#include "common/printable.h"
#include "credentials.h"

static int read_uri(struct session *session, const char *text, struct error *err)
{
	if (nbd_uri_parse(text, &session->uri, err))
		return COMMAND_USAGE;
	session->server = nbd_uri_server(&session->uri);
	if (!session->server) {
		error_set_errno(err, ENOMEM, "cannot keep the URI");
		return COMMAND_FAILED;
	}
	if (session->uri.unknown)
		log_warning("ignoring what the URI says of %s: no such parameter",
			    session->uri.unknown);
	return COMMAND_OK;
}

static int secure(struct session *session, struct tls_creds *creds, struct error *err)
{
	int rc;

	if (!creds)
		return 0;
	rc = client_handshake_tls(&session->handshake, creds, credentials_host(&session->uri), err);
	if (rc == -ECONNABORTED)
		credentials_explain_failure(&session->uri, err);
	return rc;
}

static int talk(struct session *session, struct tls_creds *creds, uint64_t deadline,
		struct error *err)
{
	int fd, rc;

	if (dial_uri(&session->uri, deadline, &fd, err))
		return COMMAND_UNREACHABLE;
	transport_init_plain(&session->transport, fd);
	rc = client_handshake_start(&session->handshake, &session->transport, deadline, err);
	if (!rc)
		rc = secure(session, creds, err);
	return rc ? session_fault(session, rc, err) : COMMAND_OK;
}

int session_open(struct session *session, const char *text, uint64_t timeout, struct error *err)
{
	uint64_t deadline = timeout ? clock_now() + timeout * CLOCK_SECOND : CLOCK_NEVER;
	struct tls_creds *creds = NULL;
	int status, rc;

	*session = (struct session)SESSION_INIT;
	status = read_uri(session, text, err);
	if (status != COMMAND_OK)
		return status;
	/* Keys first: no server is bothered for nothing. */
	rc = session->uri.tls ? credentials_load(&session->uri, &creds, err) : 0;
	if (rc)
		return rc == -EINVAL ? COMMAND_USAGE : COMMAND_FAILED;
	status = talk(session, creds, deadline, err);
	tls_creds_free(creds);
	return status;
}

static const struct {
	int code;
	enum command_status status;
} statuses[] = {
	{ENOENT, COMMAND_REFUSED},        {ENOKEY, COMMAND_REFUSED},
	{EACCES, COMMAND_REFUSED},        {EOPNOTSUPP, COMMAND_REFUSED},
	{EINVAL, COMMAND_REFUSED},        {E2BIG, COMMAND_REFUSED},
	{EKEYREJECTED, COMMAND_REFUSED},  {ECONNABORTED, COMMAND_REFUSED},
	{ESHUTDOWN, COMMAND_REFUSED},     {ECONNRESET, COMMAND_UNREACHABLE},
	{ETIMEDOUT, COMMAND_UNREACHABLE}, {EPROTO, COMMAND_PROTOCOL},
};

/* What the URI could have said. Servers of TLS 1.3 miss a certificate only after the handshake. */
static void explain(const struct nbd_uri *uri, int code, struct error *err)
{
	if (code == -ENOKEY && !uri->tls)
		error_hint(err, "; write nbds%s://", uri->kind == NBD_URI_UNIX ? "+unix" : "");
	if (code == -ECONNABORTED && uri->tls && err && strstr(err->text, "certificate required"))
		credentials_explain_certificate(uri, "the server wants", err);
}

int session_fault(const struct session *session, int code, struct error *err)
{
	explain(&session->uri, code, err);
	if (session->server)
		error_wrap(err, "%s", session->server);
	for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++)
		if (statuses[i].code == -code)
			return statuses[i].status;
	return COMMAND_FAILED;
}

void session_close(struct session *session)
{
	client_handshake_abort(&session->handshake);
	transport_close(&session->transport, TRANSPORT_CLOSE_CLEAN);
	nbd_uri_clear(&session->uri);
	free(session->server);
	session->server = NULL;
}
