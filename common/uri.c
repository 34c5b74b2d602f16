// SPDX-License-Identifier: MIT
/*
 * Reads and writes NBD URIs (C36, C37) and the plain forms that people type. Pure: text in,
 * struct out. Every refusal shows the form that would have worked where it can be guessed.
 */
#include "uri.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cleanup.h"
#include "nbd-protocol.h"
#include "size.h"

/* A part of the text that is being parsed. */
struct span {
	const char *text;
	size_t length;
};

struct scheme {
	const char *name;
	enum nbd_uri_kind kind;
	bool tls;
};

static const struct scheme schemes[] = {
	{"nbd", NBD_URI_TCP, false},
	{"nbds", NBD_URI_TCP, true},
	{"nbd+unix", NBD_URI_UNIX, false},
	{"nbds+unix", NBD_URI_UNIX, true},
};

static const char forms[] = "nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH";

static struct span span_of(const char *text)
{
	return (struct span){text, strlen(text)};
}

/* Cuts span at the first of the separators: returns what is before it, leaves what is after it
 * (text NULL when there is no separator). */
static struct span span_cut(struct span *rest, const char *separators)
{
	struct span head = {rest->text, 0};

	while (head.length < rest->length && !strchr(separators, rest->text[head.length]))
		head.length++;
	if (head.length == rest->length)
		*rest = (struct span){NULL, 0};
	else
		*rest = (struct span){rest->text + head.length + 1, rest->length - head.length - 1};
	return head;
}

static bool span_is(struct span span, const char *text)
{
	return span.length == strlen(text) && strncasecmp(span.text, text, span.length) == 0;
}

static const char *span_find(struct span span, char wanted)
{
	return span.length ? memchr(span.text, wanted, span.length) : NULL;
}

static int no_memory(struct error *err)
{
	return error_set_errno(err, ENOMEM, "cannot read the URI");
}

static int hex_digit(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	digit = (char)tolower((unsigned char)digit);
	return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* Replaces *out by the text that span stands for (%XX); a NUL cannot be part of it. */
static int span_decode(struct span span, char **out, struct error *err)
{
	AUTO_FREE char *text = malloc(span.length + 1);
	size_t length = 0;

	if (!text)
		return no_memory(err);
	for (size_t i = 0; i < span.length; i++) {
		int high, low;

		text[length++] = span.text[i];
		if (span.text[i] != '%')
			continue;
		high = i + 2 < span.length ? hex_digit(span.text[i + 1]) : -1;
		low = i + 2 < span.length ? hex_digit(span.text[i + 2]) : -1;
		if (high < 0 || low < 0)
			return error_set(
				err, EINVAL,
				"a %% in the URI is not followed by two hexadecimal digits; "
				"write a plain %% as %%25");
		if (high == 0 && low == 0)
			return error_set(err, EINVAL, "the URI contains %%00, a null byte");
		text[length - 1] = (char)(high << 4 | low);
		i += 2;
	}
	text[length] = '\0';
	free(*out);
	*out = take_ptr(text);
	return 0;
}

/* ---- Host and port ---- */

static int parse_port(struct span span, char **port, struct error *err)
{
	unsigned int number = 0;
	char text[8];

	if (span.length == 0)
		span = span_of(NBD_DEFAULT_PORT);
	for (size_t i = 0; i < span.length; i++) {
		if (!isdigit((unsigned char)span.text[i]) || number > UINT16_MAX)
			number = UINT16_MAX + 1;
		else
			number = number * 10 + (unsigned int)(span.text[i] - '0');
	}
	if (number == 0 || number > UINT16_MAX)
		return error_set(err, EINVAL, "the port '%.*s' is not a number from 1 to 65535",
				 (int)min_of(span.length, (size_t)64), span.text);
	snprintf(text, sizeof(text), "%u", number);
	free(*port);
	*port = strdup(text);
	return *port ? 0 : no_memory(err);
}

static int check_host(const char *host, struct error *err)
{
	if (!host[0])
		return error_set(err, EINVAL, "the name of the server is empty");
	for (const char *at = host; *at; at++)
		if ((unsigned char)*at <= ' ' || *at == 0x7f || strchr("/[]<>\"\\^`{|}", *at))
			return error_set(err, EINVAL,
					 "the name of the server contains a character that no name "
					 "or address has");
	return 0;
}

static int parse_host_port(struct span span, struct nbd_uri *uri, struct error *err)
{
	struct span host, port = {NULL, 0};
	const char *colon, *bracket;
	int rc;

	if (span.length && span.text[0] == '[') {
		bracket = span_find(span, ']');
		if (!bracket)
			return error_set(err, EINVAL, "the address lacks its closing bracket ]");
		host = (struct span){span.text + 1, (size_t)(bracket - span.text) - 1};
		port = (struct span){bracket + 1, span.length - host.length - 2};
		if (port.length && port.text[0] != ':')
			return error_set(err, EINVAL,
					 "only a :PORT may follow the address in brackets");
		if (port.length)
			port = (struct span){port.text + 1, port.length - 1};
	} else {
		colon = span_find(span, ':');
		if (colon && memrchr(span.text, ':', span.length) != colon)
			return error_set(err, EINVAL,
					 "an IPv6 address is written in brackets, as in "
					 "[2001:db8::1] or [2001:db8::1]:10809");
		host = span_cut(&span, ":");
		port = span;
	}
	rc = span_decode(host, &uri->host, err);
	if (!rc)
		rc = check_host(uri->host, err);
	return rc ? rc : parse_port(port, &uri->port, err);
}

/* ---- Query parameters ---- */

struct parameter {
	const char *name;
	size_t offset; /* of the char * in struct nbd_uri */
};

static const struct parameter parameters[] = {
	{"socket", offsetof(struct nbd_uri, socket)},
	{"tls-type", offsetof(struct nbd_uri, tls_type)},
	{"tls-hostname", offsetof(struct nbd_uri, tls_hostname)},
	{"tls-certificates", offsetof(struct nbd_uri, tls_certificates)},
	{"tls-psk-file", offsetof(struct nbd_uri, tls_psk_file)},
	{"tls-username", offsetof(struct nbd_uri, user)},
	{"x-tls-ca-file", offsetof(struct nbd_uri, tls_ca_file)},
	{"x-tls-certificate-file", offsetof(struct nbd_uri, tls_certificate_file)},
	{"x-tls-key-file", offsetof(struct nbd_uri, tls_key_file)},
	{"x-tls-priority", offsetof(struct nbd_uri, tls_priority)},
};

static int parse_verify(struct span value, struct nbd_uri *uri, struct error *err)
{
	static const char *const words[][2] = {
		{"0", "1"}, {"false", "true"}, {"off", "on"}, {"no", "yes"}};
	AUTO_FREE char *word = NULL;
	int rc;

	if (uri->tls_verify_peer != NBD_URI_VERIFY_DEFAULT)
		return error_set(err, EINVAL, "tls-verify-peer= is in the URI twice");
	rc = span_decode(value, &word, err);
	if (rc)
		return rc;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (!strcasecmp(word, words[i][0]))
			uri->tls_verify_peer = NBD_URI_VERIFY_OFF;
		else if (!strcasecmp(word, words[i][1]))
			uri->tls_verify_peer = NBD_URI_VERIFY_ON;
		else
			continue;
		return 0;
	}
	return error_set(err, EINVAL, "tls-verify-peer in the URI is 0 or 1");
}

static int note_unknown(const char *name, struct nbd_uri *uri, struct error *err)
{
	char *list = NULL;

	if (asprintf(&list, "%s%s%s", uri->unknown ? uri->unknown : "", uri->unknown ? ", " : "",
		     name) < 0)
		return no_memory(err);
	free(uri->unknown);
	uri->unknown = list;
	return 0;
}

/* x- parameters are everybody's to experiment with (C37); those that would be about TLS are ours,
 * and a slip of the pen there is told. */
static bool is_experiment(const char *name)
{
	return strncasecmp(name, "x-", 2) == 0 && strncasecmp(name, "x-tls", 5) != 0;
}

static int parse_parameter(struct span pair, struct nbd_uri *uri, struct error *err)
{
	AUTO_FREE char *name = NULL;
	struct span value = pair;
	int rc = span_decode(span_cut(&value, "="), &name, err);

	if (rc || !*name)
		return rc;
	if (!strcasecmp(name, "tls-verify-peer"))
		return parse_verify(value, uri, err);
	for (size_t i = 0; i < sizeof(parameters) / sizeof(parameters[0]); i++) {
		char **field = (char **)((char *)uri + parameters[i].offset);

		if (strcasecmp(name, parameters[i].name) != 0)
			continue;
		if (*field)
			return error_set(err, EINVAL, "%s= is in the URI twice",
					 parameters[i].name);
		return span_decode(value, field, err);
	}
	return is_experiment(name) ? 0 : note_unknown(name, uri, err);
}

static int parse_query(struct span query, struct nbd_uri *uri, struct error *err)
{
	while (query.text) {
		struct span pair = span_cut(&query, "&;");
		int rc = parse_parameter(pair, uri, err);

		if (rc)
			return rc;
	}
	return 0;
}

/* ---- The forms ---- */

static int parse_export(struct span path, struct nbd_uri *uri, struct error *err)
{
	struct nbd_string name;
	int rc;

	if (path.length && path.text[0] == '/')
		path = (struct span){path.text + 1, path.length - 1};
	rc = span_decode(path, &uri->export_, err);
	if (rc)
		return rc;
	name.text = uri->export_;
	name.length = (uint32_t)min_of(strlen(uri->export_), (size_t)UINT32_MAX);
	if (!nbd_string_valid(name))
		return error_set(err, EINVAL,
				 "the export name in the URI is not UTF-8 text of at most %d bytes",
				 NBD_STRING_MAX);
	return 0;
}

static int parse_user(struct span *authority, struct nbd_uri *uri, struct error *err)
{
	const char *at = span_find(*authority, '@');
	struct span user;

	if (!at)
		return 0;
	user = (struct span){authority->text, (size_t)(at - authority->text)};
	*authority = (struct span){at + 1, authority->length - user.length - 1};
	if (span_find(user, ':'))
		return error_set(err, EINVAL,
				 "a password has no place in an NBD URI; only USER@ may be there");
	if (uri->user)
		return error_set(err, EINVAL,
				 "the URI names the user twice, by USER@ and tls-username=");
	return span_decode(user, &uri->user, err);
}

static int check_unix(struct span authority, struct nbd_uri *uri, struct error *err)
{
	if (!uri->socket || !uri->socket[0]) {
		/* nbd+unix:///run/x.sock: the path was put where the export goes. */
		bool path = strchr(uri->export_, '/') && strlen(uri->export_) < 200;

		return error_set(err, EINVAL,
				 "the URI lacks the path of the socket; write "
				 "nbd%s+unix:///%s?socket=%s%s",
				 uri->tls ? "s" : "", path ? "" : "EXPORT", path ? "/" : "PATH",
				 path ? uri->export_ : "");
	}
	if (authority.length)
		return error_set(err, EINVAL,
				 "a nbd+unix URI has no host: write three slashes, "
				 "nbd+unix:///EXPORT?socket=PATH");
	return 0;
}

static int check_tcp(struct span authority, struct nbd_uri *uri, struct error *err)
{
	if (uri->socket)
		return error_set(err, EINVAL,
				 "socket= belongs to the unix form; write "
				 "nbd%s+unix:///EXPORT?socket=PATH",
				 uri->tls ? "s" : "");
	/* nbd:///EXPORT and nbd://:PORT/EXPORT mean this host. */
	if (authority.length == 0 || authority.text[0] == ':') {
		uri->host = strdup("localhost");
		if (authority.length)
			authority = (struct span){authority.text + 1, authority.length - 1};
		return uri->host ? parse_port(authority, &uri->port, err) : no_memory(err);
	}
	return parse_host_port(authority, uri, err);
}

/* Who speaks of keys means encryption; going on without would be the worst answer. (The user is
 * known from the parameters as yet; that of USER@ may stand in a URI without TLS.) */
static int check_clear(const struct nbd_uri *uri, struct error *err)
{
	if (uri->tls ||
	    !(uri->tls_type || uri->tls_hostname || uri->tls_certificates || uri->tls_psk_file ||
	      uri->tls_ca_file || uri->tls_certificate_file || uri->tls_key_file ||
	      uri->tls_priority || uri->tls_verify_peer != NBD_URI_VERIFY_DEFAULT || uri->user))
		return 0;
	return error_set(err, EINVAL,
			 "the URI has tls parameters, but nbd%s:// is not encrypted; write "
			 "nbds%s://",
			 uri->kind == NBD_URI_UNIX ? "+unix" : "",
			 uri->kind == NBD_URI_UNIX ? "+unix" : "");
}

static int parse_scheme(struct span name, struct nbd_uri *uri, struct error *err)
{
	for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
		if (span_is(name, schemes[i].name)) {
			uri->kind = schemes[i].kind;
			uri->tls = schemes[i].tls;
			return 0;
		}
	if (span_is(name, "nbd+vsock") || span_is(name, "nbds+vsock"))
		return error_set(err, ENOTSUP,
				 "nbd+vsock (sockets between virtual machines) is not supported; "
				 "write %s",
				 forms);
	return error_set(err, EINVAL, "'%.*s://' is not an NBD URI; write %s",
			 (int)min_of(name.length, (size_t)64), name.text, forms);
}

static int parse_uri(struct span scheme, const char *text, struct nbd_uri *uri, struct error *err)
{
	struct span query, path, authority;
	int rc = parse_scheme(scheme, uri, err);

	if (rc)
		return rc;
	if (strchr(text, '#'))
		return error_set(err, EINVAL, "an NBD URI has no #fragment; write # as %%23");
	query = span_of(text);
	path = span_cut(&query, "?");
	authority = path;
	span_cut(&authority, "/");
	/* authority is now what follows the slash, if there is one. */
	if (authority.text) {
		size_t length = (size_t)(authority.text - path.text) - 1;

		authority = (struct span){path.text, length};
		path = (struct span){path.text + length, path.length - length};
	} else {
		authority = path;
		path = (struct span){"", 0};
	}
	if ((rc = parse_export(path, uri, err)) || (rc = parse_query(query, uri, err)) ||
	    (rc = check_clear(uri, err)) || (rc = parse_user(&authority, uri, err)))
		return rc;
	return uri->kind == NBD_URI_UNIX ? check_unix(authority, uri, err)
					 : check_tcp(authority, uri, err);
}

/* "nbd:HOST:PORT:exportname=..." and "nbd:unix:PATH:...": QEMU's own old form. */
static int refuse_old_form(struct error *err)
{
	return error_set(err, EINVAL, "this is QEMU's old way to name an NBD server; write %s",
			 forms);
}

/* "nbd+unix:/PATH" and its kind: the two slashes were forgotten. */
static bool lacks_slashes(const char *text)
{
	for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
		size_t length = strlen(schemes[i].name);

		if (strncasecmp(text, schemes[i].name, length) == 0 && text[length] == ':' &&
		    !isdigit((unsigned char)text[length + 1]))
			return true;
	}
	return false;
}

static int parse_plain(const char *text, struct nbd_uri *uri, struct error *err)
{
	uri->export_ = strdup("");
	if (!uri->export_)
		return no_memory(err);
	if (text[0] == '/' || text[0] == '.') {
		uri->kind = NBD_URI_UNIX;
		uri->socket = strdup(text);
		return uri->socket ? 0 : no_memory(err);
	}
	uri->kind = NBD_URI_TCP;
	if (strncasecmp(text, "nbd:", 4) == 0 && !isdigit((unsigned char)text[4]))
		return refuse_old_form(err);
	if (lacks_slashes(text))
		return error_set(err, EINVAL, "'%.200s' lacks the // of a URI; write %s", text,
				 forms);
	if (strchr(text, '/'))
		return error_set(err, EINVAL,
				 "'%.200s' is neither host:port nor the path of a socket; write "
				 "nbd://%.200s, or ./%.200s for a socket",
				 text, text, text);
	return parse_host_port(span_of(text), uri, err);
}

static int parse_any(const char *text, struct nbd_uri *uri, struct error *err)
{
	const char *colon = strstr(text, "://");

	if (!text[0])
		return error_set(err, EINVAL, "the URI is empty; write %s", forms);
	if (colon && text[0] != '/' && text[0] != '.')
		return parse_uri((struct span){text, (size_t)(colon - text)}, colon + 3, uri, err);
	return parse_plain(text, uri, err);
}

int nbd_uri_parse(const char *text, struct nbd_uri *uri, struct error *err)
{
	int rc;

	*uri = (struct nbd_uri)NBD_URI_INIT;
	rc = parse_any(text, uri, err);
	if (rc)
		nbd_uri_clear(uri);
	return rc;
}

void nbd_uri_clear(struct nbd_uri *uri)
{
	free(uri->host);
	free(uri->port);
	free(uri->socket);
	free(uri->user);
	free(uri->export_);
	free(uri->tls_type);
	free(uri->tls_hostname);
	free(uri->tls_certificates);
	free(uri->tls_psk_file);
	free(uri->tls_ca_file);
	free(uri->tls_certificate_file);
	free(uri->tls_key_file);
	free(uri->tls_priority);
	free(uri->unknown);
	*uri = (struct nbd_uri)NBD_URI_INIT;
}

/* ---- Back to text ---- */

static void encode(FILE *out, const char *text, const char *plain)
{
	for (; *text; text++) {
		unsigned char byte = (unsigned char)*text;

		if (isalnum(byte) || strchr("-._~", byte) || strchr(plain, byte))
			fputc(byte, out);
		else
			fprintf(out, "%%%02X", byte);
	}
}

static void format_tcp(FILE *out, const struct nbd_uri *uri, bool encoded)
{
	bool brackets = strchr(uri->host, ':') != NULL;

	if (brackets)
		fputc('[', out);
	if (encoded)
		encode(out, uri->host, brackets ? ":" : "");
	else
		fputs(uri->host, out);
	if (brackets)
		fputc(']', out);
	if (!encoded || strcmp(uri->port, NBD_DEFAULT_PORT) != 0)
		fprintf(out, ":%s", uri->port);
}

char *nbd_uri_format(const struct nbd_uri *uri)
{
	char *text = NULL;
	size_t length;
	FILE *out = open_memstream(&text, &length);

	if (!out)
		return NULL;
	fprintf(out, "nbd%s%s://", uri->tls ? "s" : "", uri->kind == NBD_URI_UNIX ? "+unix" : "");
	if (uri->user) {
		encode(out, uri->user, "");
		fputc('@', out);
	}
	if (uri->kind == NBD_URI_TCP)
		format_tcp(out, uri, true);
	fputc('/', out);
	encode(out, uri->export_, "/:@!$'()*,=");
	if (uri->kind == NBD_URI_UNIX) {
		fputs("?socket=", out);
		encode(out, uri->socket, "/:@!,");
	}
	if (fclose(out)) {
		free(text);
		return NULL;
	}
	return text;
}

char *nbd_uri_server(const struct nbd_uri *uri)
{
	char *text = NULL;
	size_t length;
	FILE *out;

	if (uri->kind == NBD_URI_UNIX)
		return strdup(uri->socket);
	out = open_memstream(&text, &length);
	if (!out)
		return NULL;
	format_tcp(out, uri, false);
	if (fclose(out)) {
		free(text);
		return NULL;
	}
	return text;
}
