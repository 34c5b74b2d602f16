// SPDX-License-Identifier: MIT
/*
 * Certificates: what we show, whom we trust, what is revoked. Any thread.
 */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "tls-internal.h"
#include "tls-priority.h"

/* A password that was given, or none: nobody is asked on a terminal. */
static int give_password(char *buffer, int size, int writing, void *password)
{
	size_t length = password ? strlen(password) : 0;

	(void)writing;
	if (!length || length > (size_t)size)
		return -1;
	memcpy(buffer, password, length);
	return (int)length;
}

static int check_readable(const char *path, struct error *err)
{
	return access(path, R_OK)
		       ? error_set_errno(err, errno, "Unable to access credentials %s", path)
		       : 0;
}

/* Is there such a file? A link that leads nowhere, or a folder that we may not look into, is no
 * reason to do without it. */
static int look_for(const char *path, bool *there, struct error *err)
{
	struct stat status;

	*there = lstat(path, &status) == 0;
	if (*there || errno == ENOENT)
		return 0;
	return error_set_errno(err, errno, "Unable to access credentials %s", path);
}

/* ---- What is wrong with a file ---- */

#define NOTHING "it holds no whole "

/* OpenSSL's words tell what it looked for, not what a person has to do. */
static const struct cause {
	int library, reason;
	const char *said; /* NOTHING: and what it should hold follows */
} causes[] = {
	{ERR_LIB_PEM, PEM_R_BAD_PASSWORD_READ,
	 "it is encrypted; give its password (passwordid=), or decrypt it"},
	{ERR_LIB_PEM, PEM_R_BAD_DECRYPT, "the password is wrong"},
	{ERR_LIB_PKCS12, PKCS12_R_PKCS12_CIPHERFINAL_ERROR, "the password is wrong"},
	{ERR_LIB_PEM, PEM_R_NO_START_LINE, NOTHING},
	{ERR_LIB_PEM, PEM_R_BAD_END_LINE, NOTHING},
	{ERR_LIB_OSSL_DECODER, ERR_R_UNSUPPORTED, NOTHING},
	{ERR_LIB_X509, X509_R_NO_CERTIFICATE_OR_CRL_FOUND, NOTHING},
	{ERR_LIB_X509, X509_R_NO_CERTIFICATE_FOUND, NOTHING},
	{ERR_LIB_X509, X509_R_NO_CRL_FOUND, NOTHING},
	{ERR_LIB_SSL, SSL_R_EE_KEY_TOO_SMALL, "its key is too small"},
	{ERR_LIB_SSL, SSL_R_CA_KEY_TOO_SMALL, "the key of its authority is too small"},
	{ERR_LIB_SSL, SSL_R_CA_MD_TOO_WEAK, "it is signed by too weak a digest"},
};

static bool is_about_strength(unsigned long cause)
{
	int reason = ERR_GET_REASON(cause);

	return ERR_GET_LIB(cause) == ERR_LIB_SSL &&
	       (reason == SSL_R_EE_KEY_TOO_SMALL || reason == SSL_R_CA_KEY_TOO_SMALL ||
		reason == SSL_R_CA_MD_TOO_WEAK);
}

/* Who set the level that is not reached. */
static void name_level(const struct tls_config *config, struct error *err)
{
	struct tls_priority priority;

	if (!tls_priority_parse(config->priority, TLS_EXCHANGES_X509, &priority, NULL) &&
	    priority.level >= 0)
		error_hint(err, " for the TLS priority '%.100s'", config->priority);
	else
		error_hint(err, " for the security level that OpenSSL's configuration demands");
}

/* A file of the credentials that should hold `noun` does not load. */
static int bad_file(const struct tls_config *config, const char *path, const char *noun,
		    struct error *err)
{
	unsigned long cause = tls_cause();
	const char *said = tls_cause_text(cause), *what = "";

	for (size_t i = 0; i < sizeof(causes) / sizeof(causes[0]); i++)
		if (ERR_GET_LIB(cause) == causes[i].library &&
		    ERR_GET_REASON(cause) == causes[i].reason) {
			said = causes[i].said;
			what = !strcmp(said, NOTHING) ? noun : "";
		}
	error_set(err, EINVAL, "Unable to import the %s %s: %s%s", noun, path, said, what);
	if (is_about_strength(cause))
		name_level(config, err);
	return -EINVAL;
}

/* ---- Authorities ---- */

/* Without a list for one of the authorities its certificates are taken as not revoked. */
static int tolerate_missing_list(int ok, X509_STORE_CTX *verification)
{
	if (!ok && X509_STORE_CTX_get_error(verification) == X509_V_ERR_UNABLE_TO_GET_CRL) {
		X509_STORE_CTX_set_error(verification, X509_V_OK);
		return 1;
	}
	return ok;
}

static int load_revoked(SSL_CTX *context, const struct tls_config *config, const char *path,
			struct error *err)
{
	X509_STORE *store = SSL_CTX_get_cert_store(context);
	X509_LOOKUP *lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());
	int rc = check_readable(path, err);

	if (rc)
		return rc;
	if (!lookup || X509_load_crl_file(lookup, path, X509_FILETYPE_PEM) <= 0)
		return bad_file(config, path, "revocation list", err);
	X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context),
				    X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
	X509_STORE_set_verify_cb(store, tolerate_missing_list);
	return 0;
}

static int load_authorities(SSL_CTX *context, const struct tls_config *config, const char *path,
			    struct error *err)
{
	int rc = check_readable(path, err);

	if (rc)
		return rc;
	if (SSL_CTX_load_verify_file(context, path) != 1)
		return bad_file(config, path, "CA certificate", err);
	/* What the file holds is trusted, also when it is no root. */
	X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context), X509_V_FLAG_PARTIAL_CHAIN);
	if (config->side == TLS_SERVER && config->verify_peer) {
		STACK_OF(X509_NAME) *asked = SSL_load_client_CA_file(path);

		if (asked)
			SSL_CTX_set_client_CA_list(context, asked);
	}
	return 0;
}

static int load_revoked_if_any(SSL_CTX *context, const struct tls_config *config, struct error *err)
{
	AUTO_FREE char *path = tls_config_path(config, NULL, "ca-crl.pem");
	bool there = false;
	int rc = path ? look_for(path, &there, err) : 0;

	return rc || !there ? rc : load_revoked(context, config, path, err);
}

/* Whom to trust; *found says that there is a list of authorities. */
static int load_trust(SSL_CTX *context, const struct tls_config *config, bool *found,
		      struct error *err)
{
	AUTO_FREE char *authorities = tls_config_path(config, config->ca_file, "ca-cert.pem");
	int rc = 0;

	*found = authorities && config->verify_peer;
	if (authorities && !*found)
		rc = look_for(authorities, found, err);
	if (rc)
		return rc;
	if (*found)
		rc = load_authorities(context, config, authorities, err);
	else if (config->verify_peer && SSL_CTX_set_default_verify_paths(context) != 1)
		rc = tls_error(err, EINVAL, "Unable to use the system's CA certificates");
	return rc || !*found ? rc : load_revoked_if_any(context, config, err);
}

bool tls_x509_revokes(const SSL_CTX *context)
{
	unsigned long flags = X509_VERIFY_PARAM_get_flags(SSL_CTX_get0_param((SSL_CTX *)context));

	return flags & X509_V_FLAG_CRL_CHECK;
}

/* OpenSSL takes a name that begins with a dot for all names that end so: ".com". */
int tls_check_host(const char *host, struct error *err)
{
	const char *why = NULL;

	if (!*host)
		why = "is empty";
	else if (*host == '.')
		why = "begins with a dot, and so stands for many servers";
	else if (strlen(host) > TLSEXT_MAXLEN_host_name)
		why = "is too long for a certificate";
	if (!why)
		return 0;
	return error_set(err, EINVAL, "the name '%.80s' %s; give the whole name of one server",
			 host, why);
}

/* ---- Our own certificate ---- */

static int load_key(SSL_CTX *context, const struct tls_config *config, const char *path,
		    const char *certificate, struct error *err)
{
	int rc = check_readable(path, err);

	if (rc)
		return rc;
	SSL_CTX_set_default_passwd_cb_userdata(context, (void *)config->password);
	rc = SSL_CTX_use_PrivateKey_file(context, path, SSL_FILETYPE_PEM);
	SSL_CTX_set_default_passwd_cb_userdata(context, NULL);
	if (rc == 1)
		return 0;
	if (ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_VALUES_MISMATCH)
		return tls_error(err, EINVAL, "The private key %s does not belong to %s", path,
				 certificate);
	return bad_file(config, path, "private key", err);
}

static int load_certificate(SSL_CTX *context, const struct tls_config *config, struct error *err)
{
	bool server = config->side == TLS_SERVER;
	AUTO_FREE char *path = tls_config_path(config, config->certificate_file,
					       server ? "server-cert.pem" : "client-cert.pem");
	AUTO_FREE char *key = tls_config_path(config, config->key_file,
					      server ? "server-key.pem" : "client-key.pem");
	bool wanted = server || config->certificate_file;
	int rc = 0;

	/* A client needs none where the server asks for none. */
	if (!wanted && path)
		rc = look_for(path, &wanted, err);
	if (rc || !wanted)
		return rc;
	if (!path || !key)
		return error_set(err, EINVAL, "a server needs a certificate and its key");
	rc = check_readable(path, err);
	if (rc)
		return rc;
	/* Any file may be encrypted, and OpenSSL by itself would ask on the terminal. */
	SSL_CTX_set_default_passwd_cb(context, give_password);
	if (SSL_CTX_use_certificate_chain_file(context, path) != 1)
		return bad_file(config, path, "certificate", err);
	return load_key(context, config, key, path, err);
}

/*
 * What is sent with our certificate is found once, here, instead of in each handshake, and without
 * a root: who trusts it has it, and to decode it costs a peer nearly as much as a signature. A file
 * that brings a chain is sent as it is.
 */
static void complete_chain(SSL_CTX *context)
{
	STACK_OF(X509) *chain = NULL;

	SSL_CTX_set_mode(context, SSL_MODE_NO_AUTO_CHAIN);
	SSL_CTX_get0_chain_certs(context, &chain);
	if (SSL_CTX_get0_certificate(context) && sk_X509_num(chain) <= 0)
		SSL_CTX_build_cert_chain(context, SSL_BUILD_CHAIN_FLAG_NO_ROOT |
							  SSL_BUILD_CHAIN_FLAG_IGNORE_ERROR |
							  SSL_BUILD_CHAIN_FLAG_CLEAR_ERROR);
	ERR_clear_error();
}

/* ---- Sanity ---- */

/* The way out, for the end of a sentence; authorities: the path of ca-cert.pem. */
static void advise(const struct tls_config *config, int code, struct error *err)
{
	AUTO_FREE char *authorities = tls_config_path(config, config->ca_file, "ca-cert.pem");

	switch (code) {
	case X509_V_ERR_CERT_HAS_EXPIRED:
		error_hint(err, "; renew it");
		break;
	case X509_V_ERR_INVALID_PURPOSE:
		error_hint(err, "; its extended key usage must include %s",
			   config->side == TLS_SERVER ? "serverAuth" : "clientAuth");
		break;
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
		error_hint(err, "; add its authority to %s",
			   authorities ? authorities : "ca-cert.pem");
		break;
	default:
		break;
	}
}

static int bad_list(const struct tls_config *config, bool expired, struct error *err)
{
	AUTO_FREE char *path = tls_config_path(config, NULL, "ca-crl.pem");

	return error_set(err, EINVAL,
			 "the revocation list %s %s, and while it is so nobody is accepted; renew "
			 "it, or look at the clock",
			 path ? path : "ca-crl.pem", expired ? "has expired" : "is not yet valid");
}

/* depth: 0 for the certificate itself, more for its authorities. */
static int bad_certificate(const struct tls_config *config, int code, int depth, struct error *err)
{
	bool server = config->side == TLS_SERVER;
	AUTO_FREE char *path = tls_config_path(config, config->certificate_file,
					       server ? "server-cert.pem" : "client-cert.pem");

	if (code == X509_V_ERR_CRL_HAS_EXPIRED || code == X509_V_ERR_CRL_NOT_YET_VALID)
		return bad_list(config, code == X509_V_ERR_CRL_HAS_EXPIRED, err);
	error_set(err, EINVAL, "%sour own %s certificate %s is of no use: %s",
		  depth > 0 ? "an authority of " : "", server ? "server" : "client",
		  path ? path : "", X509_verify_cert_error_string(code));
	advise(config, code, err);
	return -EINVAL;
}

/* Would a peer that trusts the same authorities take our certificate? */
static int check_chain(SSL_CTX *context, const struct tls_config *config, X509 *certificate,
		       struct error *err)
{
	STACK_OF(X509) *chain = NULL;
	X509_STORE_CTX *verification = X509_STORE_CTX_new();
	int rc = 0;

	SSL_CTX_get0_chain_certs(context, &chain);
	if (!verification || !X509_STORE_CTX_init(verification, SSL_CTX_get_cert_store(context),
						  certificate, chain)) {
		rc = error_set(err, ENOMEM, "out of memory");
	} else {
		X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(verification);

		X509_VERIFY_PARAM_set_flags(
			param, X509_VERIFY_PARAM_get_flags(SSL_CTX_get0_param(context)));
		X509_STORE_CTX_set_purpose(verification, config->side == TLS_SERVER
								 ? X509_PURPOSE_SSL_SERVER
								 : X509_PURPOSE_SSL_CLIENT);
		if (X509_verify_cert(verification) != 1)
			rc = bad_certificate(config, X509_STORE_CTX_get_error(verification),
					     X509_STORE_CTX_get_error_depth(verification), err);
	}
	X509_STORE_CTX_free(verification);
	ERR_clear_error();
	return rc;
}

static int check_sanity(SSL_CTX *context, const struct tls_config *config, bool authorities,
			struct error *err)
{
	X509 *certificate = SSL_CTX_get0_certificate(context);

	if (!certificate || !config->sanity_check)
		return 0;
	if (authorities && !config->any_issuer)
		return check_chain(context, config, certificate, err);
	if (X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0)
		return bad_certificate(config, X509_V_ERR_CERT_NOT_YET_VALID, 0, err);
	if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0)
		return bad_certificate(config, X509_V_ERR_CERT_HAS_EXPIRED, 0, err);
	return 0;
}

int tls_x509_load(SSL_CTX *context, const struct tls_config *config, struct error *err)
{
	bool authorities = false;
	int mode = SSL_VERIFY_NONE;
	int rc = load_trust(context, config, &authorities, err);

	if (!rc)
		rc = load_certificate(context, config, err);
	if (!rc)
		rc = check_sanity(context, config, authorities, err);
	if (!rc)
		complete_chain(context);
	if (config->verify_peer)
		mode = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
	SSL_CTX_set_verify(context, mode, NULL);
	return rc;
}
