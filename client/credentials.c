// SPDX-License-Identifier: MIT
/* See credentials.h. Paths are those of libnbd, so that its users' files serve here, too. */
#include "credentials.h"

#include <errno.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "common/cleanup.h"

static const char system_folder[] = "/etc/pki/libnbd";
static const char *const home_folders[] = {".pki/libnbd", ".config/pki/libnbd"};

static bool has_authority(const char *folder)
{
	AUTO_FREE char *path = NULL;

	return asprintf(&path, "%s/ca-cert.pem", folder) >= 0 && access(path, R_OK) == 0;
}

/* Where certificates are when the URI names none; NULL: nowhere, trust the system's. */
static char *default_folder(void)
{
	const char *home = geteuid() ? getenv("HOME") : NULL;

	for (size_t i = 0; home && i < sizeof(home_folders) / sizeof(home_folders[0]); i++) {
		char *folder = NULL;

		if (asprintf(&folder, "%s/%s", home, home_folders[i]) < 0)
			return NULL;
		if (has_authority(folder))
			return folder;
		free(folder);
	}
	return has_authority(system_folder) ? strdup(system_folder) : NULL;
}

static const char *login_name(void)
{
	const struct passwd *entry = getpwuid(geteuid());

	return entry ? entry->pw_name : "root";
}

static int choose_kind(const struct nbd_uri *uri, struct tls_config *config, struct error *err)
{
	const char *type = uri->tls_type;
	bool files = uri->tls_certificates || uri->tls_ca_file || uri->tls_certificate_file;

	if (uri->tls_psk_file && files)
		return error_set(err, EINVAL,
				 "the URI names both certificates and pre-shared keys");
	config->kind = uri->tls_psk_file ? TLS_PSK : TLS_X509;
	if (!type || !strcasecmp(type, config->kind == TLS_PSK ? "psk" : "x509"))
		return 0;
	if (!strcasecmp(type, "psk"))
		return error_set(err, EINVAL, "tls-type=psk in the URI needs tls-psk-file=FILE");
	if (strcasecmp(type, "anon") || uri->tls_psk_file || files)
		return error_set(err, EINVAL,
				 "tls-type='%.100s' in the URI is not one of x509, psk and anon, "
				 "or does not fit the files that it names",
				 type);
	config->kind = TLS_ANON;
	return 0;
}

/* A name is all that tells one server of the authorities of the whole world from another, and the
 * path of a socket is none. Who names an authority has said whom to trust. */
static int check_name(const struct nbd_uri *uri, const struct tls_config *config, struct error *err)
{
	const char *host = credentials_host(uri);

	if (host && tls_check_host(host, err))
		return error_wrap(err, uri->tls_hostname ? "tls-hostname in the URI"
							 : "the host in the URI");
	if (host || config->kind != TLS_X509 || !config->verify_peer || config->directory ||
	    config->ca_file)
		return 0;
	return error_set(err, EINVAL,
			 "over a Unix socket any server with a certificate of the system's "
			 "authorities would be trusted; name your own authority by "
			 "tls-certificates=FOLDER, or the server by tls-hostname=NAME");
}

int credentials_load(const struct nbd_uri *uri, struct tls_creds **creds, struct error *err)
{
	AUTO_FREE char *folder = NULL;
	struct tls_config config = {
		.side = TLS_CLIENT,
		.directory = uri->tls_certificates,
		.ca_file = uri->tls_ca_file,
		.certificate_file = uri->tls_certificate_file,
		.key_file = uri->tls_key_file ? uri->tls_key_file : uri->tls_certificate_file,
		.psk_file = uri->tls_psk_file,
		.verify_peer = uri->tls_verify_peer != NBD_URI_VERIFY_OFF,
		.sanity_check = true,
		/* The authority of servers need not be that of clients. */
		.any_issuer = true,
		.user = uri->user ? uri->user : login_name(),
		.priority = uri->tls_priority,
	};
	int rc = choose_kind(uri, &config, err);

	if (rc)
		return rc;
	if (config.kind == TLS_X509 && !config.directory && !config.ca_file)
		config.directory = folder = default_folder();
	rc = check_name(uri, &config, err);
	if (rc)
		return rc;
	rc = tls_creds_new(creds, &config, err);
	return rc == -EINVAL ? -ENOKEY : rc;
}

const char *credentials_host(const struct nbd_uri *uri)
{
	if (uri->tls_verify_peer == NBD_URI_VERIFY_OFF)
		return NULL;
	if (uri->tls_hostname)
		return uri->tls_hostname;
	return uri->kind == NBD_URI_TCP ? uri->host : NULL;
}

/* ---- When the server does not want them ---- */

void credentials_explain_failure(const struct nbd_uri *uri, struct error *err)
{
	if (uri->tls_psk_file)
		error_hint(err,
			   "; the key was that of the user '%.100s' in %s: is it the one that the "
			   "server has?",
			   uri->user ? uri->user : login_name(), uri->tls_psk_file);
	/* Servers of TLS 1.2 say no more than that when they miss a certificate. */
	else if (err && strstr(err->text, "handshake failure"))
		credentials_explain_certificate(uri, "perhaps the server wants", err);
}

void credentials_explain_certificate(const struct nbd_uri *uri, const char *wants,
				     struct error *err)
{
	AUTO_FREE char *by_default = NULL;
	AUTO_FREE char *path = NULL;
	const char *folder = uri->tls_certificates;

	if (uri->tls_certificate_file || uri->tls_psk_file ||
	    (uri->tls_type && !strcasecmp(uri->tls_type, "anon")))
		return;
	if (!folder && !uri->tls_ca_file)
		folder = by_default = default_folder();
	if (!folder)
		error_hint(err,
			   "; %s a client certificate: name the folder of client-cert.pem by "
			   "tls-certificates=FOLDER",
			   wants);
	else if (asprintf(&path, "%s/client-cert.pem", folder) >= 0 && access(path, F_OK) < 0)
		error_hint(err, "; %s a client certificate, and there is no %s", wants, path);
}
