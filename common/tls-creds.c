// SPDX-License-Identifier: MIT
/*
 * Credentials: a configuration that we own, and the OpenSSL context that was made of it. A reload
 * makes a new context; connections of the old one keep it alive. Pre-shared keys live and die
 * with their context.
 */
#include <errno.h>
#include <openssl/dh.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>

#include "cleanup.h"
#include "log.h"
#include "tls-internal.h"
#include "tls-priority.h"

enum {
	KEYS_FILE_MAX = 16 << 20,
	/* What one read takes from the socket: several records. */
	READ_AHEAD = 64 << 10,
};

/* ---- Errors ---- */

/* "PEM lib" and the like: the fault was noted by what was called. */
static bool passes_on(unsigned long code)
{
	int reason = ERR_GET_REASON(code);

	return !ERR_SYSTEM_ERROR(code) && reason & ERR_RFLAG_COMMON &&
	       (reason & ~ERR_RFLAG_COMMON) < ERR_LIB_USER;
}

unsigned long tls_cause(void)
{
	unsigned long code, cause = 0;

	while ((code = ERR_get_error()))
		if (!cause || !passes_on(code))
			cause = code;
	return cause;
}

const char *tls_cause_text(unsigned long cause)
{
	const char *reason = cause ? ERR_reason_error_string(cause) : NULL;

	if (!reason && cause && ERR_SYSTEM_ERROR(cause))
		reason = strerror(ERR_GET_REASON(cause));
	return reason ? reason : "no reason given";
}

const char *tls_reason(void)
{
	return tls_cause_text(tls_cause());
}

int tls_error(struct error *err, int code, const char *format, ...)
{
	const char *reason = tls_reason();
	char text[ERROR_TEXT_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return error_set(err, code, "%s: %s", text, reason);
}

/* ---- The configuration ---- */

char *tls_config_path(const struct tls_config *config, const char *named, const char *name)
{
	char *path = NULL;

	if (named)
		return strdup(named);
	if (!config->directory || asprintf(&path, "%s/%s", config->directory, name) < 0)
		return NULL;
	return path;
}

static const char **config_strings(struct tls_config *config, size_t index)
{
	const char **const strings[] = {
		&config->directory, &config->ca_file,  &config->certificate_file,
		&config->key_file,  &config->psk_file, &config->password,
		&config->user,      &config->priority,
	};

	return index < sizeof(strings) / sizeof(strings[0]) ? strings[index] : NULL;
}

static void config_clear(struct tls_config *config)
{
	const char **string;

	if (config->password)
		explicit_bzero((char *)config->password, strlen(config->password));
	for (size_t i = 0; (string = config_strings(config, i)); i++) {
		free((char *)*string);
		*string = NULL;
	}
}

static int config_copy(struct tls_config *copy, const struct tls_config *config, struct error *err)
{
	const char **string;
	bool complete = true;

	*copy = *config;
	for (size_t i = 0; (string = config_strings(copy, i)); i++) {
		const char *original = *string;

		*string = original ? strdup(original) : NULL;
		complete = complete && (!original || *string);
	}
	if (complete)
		return 0;
	config_clear(copy);
	return error_set(err, ENOMEM, "out of memory");
}

/* ---- Pre-shared keys ---- */

_Static_assert(TLS_PSK_KEY_MAX <= PSK_MAX_PSK_LEN && TLS_PSK_USER_MAX <= PSK_MAX_IDENTITY_LEN,
	       "OpenSSL takes what a table holds");

static int keys_index = -1;
static pthread_once_t keys_once = PTHREAD_ONCE_INIT;

static void free_keys(void *parent, void *keys, CRYPTO_EX_DATA *data, int index, long number,
		      void *pointer)
{
	(void)parent, (void)data, (void)index, (void)number, (void)pointer;
	if (keys)
		tls_psk_clear(keys);
	free(keys);
}

static void make_keys_index(void)
{
	keys_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_keys);
}

static const struct tls_psk *keys_of(SSL *ssl)
{
	return SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), keys_index);
}

static unsigned int copy_key(const struct tls_psk_entry *entry, unsigned char *key,
			     unsigned int room)
{
	if (!entry || entry->key_length > room)
		return 0;
	memcpy(key, entry->key, entry->key_length);
	return (unsigned int)entry->key_length;
}

static unsigned int find_client_key(SSL *ssl, const char *user, unsigned char *key,
				    unsigned int room)
{
	const struct tls_psk_entry *entry = user ? tls_psk_find(keys_of(ssl), user) : NULL;

	if (entry)
		tls_note_user(ssl, entry->user);
	return copy_key(entry, key, room);
}

/* The table of a client has one entry: the user's. */
static unsigned int give_client_key(SSL *ssl, const char *hint, char *user, unsigned int user_room,
				    unsigned char *key, unsigned int room)
{
	const struct tls_psk *keys = keys_of(ssl);

	(void)hint;
	if (!keys->count || strlen(keys->entries[0].user) >= user_room)
		return 0;
	strcpy(user, keys->entries[0].user);
	return copy_key(&keys->entries[0], key, room);
}

static int read_file(const char *path, char **text, size_t *length, struct error *err)
{
	AUTO_FILE FILE *file = fopen(path, "re");
	struct stat status;

	*text = NULL;
	if (!file || fstat(fileno(file), &status) < 0)
		return error_set_errno(err, errno, "Unable to access credentials %s", path);
	if (!S_ISREG(status.st_mode) || status.st_size > KEYS_FILE_MAX)
		return error_set(err, EINVAL, "%s is no file of keys", path);
	*length = (size_t)status.st_size;
	*text = malloc(*length + 1);
	if (!*text)
		return error_set(err, ENOMEM, "out of memory");
	*length = fread(*text, 1, *length, file);
	return 0;
}

enum { FLAW_MAX = 160 };

/* Which lines were skipped, for the end of a sentence; "" when none was. */
static const char *describe_flaw(const struct tls_psk *keys, char text[FLAW_MAX])
{
	const struct tls_psk_flaw *flaw = &keys->flaw;

	text[0] = '\0';
	if (keys->skipped == 1)
		snprintf(text, FLAW_MAX, "; line %zu is skipped: %s", flaw->line, flaw->why);
	else if (keys->skipped)
		snprintf(text, FLAW_MAX, "; %zu lines are skipped, the first is line %zu: %s",
			 keys->skipped, flaw->line, flaw->why);
	return text;
}

/* A client keeps its own key only. */
static int choose_keys(struct tls_psk *keys, const struct tls_config *config, const char *path,
		       struct error *err)
{
	const char *user = config->user ? config->user : "qemu";
	char flaw[FLAW_MAX];

	describe_flaw(keys, flaw);
	if (config->side == TLS_SERVER && !keys->count)
		return error_set(err, EINVAL, "%s holds not one key%s", path, flaw);
	if (config->side == TLS_CLIENT && !tls_psk_keep(keys, user))
		return error_set(err, ENOENT, "%s has no key of the user '%.100s'%s", path, user,
				 flaw);
	if (*flaw)
		log_warning("not all of %s are keys%s", path, flaw);
	return 0;
}

static int load_keys(SSL_CTX *context, const struct tls_config *config, struct error *err)
{
	AUTO_FREE char *path = tls_config_path(config, config->psk_file, "keys.psk");
	AUTO_FREE char *text = NULL;
	struct tls_psk *keys = calloc(1, sizeof(*keys));
	size_t length = 0;
	int rc;

	/* From here on the keys are the context's. */
	if (!path || !keys || SSL_CTX_set_ex_data(context, keys_index, keys) != 1) {
		free(keys);
		return error_set(err, ENOMEM, "out of memory");
	}
	rc = read_file(path, &text, &length, err);
	if (!rc && tls_psk_parse(text, length, keys, err) < 0)
		rc = error_wrap(err, "%s", path);
	if (text)
		explicit_bzero(text, length);
	if (!rc)
		rc = choose_keys(keys, config, path, err);
	if (config->side == TLS_SERVER)
		SSL_CTX_set_psk_server_callback(context, find_client_key);
	else
		SSL_CTX_set_psk_client_callback(context, give_client_key);
	/* A server that would rather show a certificate is not the one who has the key: no
	 * certificate is trusted. */
	if (config->side == TLS_CLIENT)
		SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
	return rc;
}

/* ---- The context ---- */

static bool has_aes(void)
{
#if defined(__x86_64__) || defined(__i386__)
	return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
#elif defined(__aarch64__)
	return getauxval(AT_HWCAP) & (1 << 3); /* HWCAP_AES */
#else
	return false;
#endif
}

static int set_versions(SSL_CTX *context, const struct tls_priority *priority)
{
	bool old = priority->versions & TLS_VERSION_12, new = priority->versions &TLS_VERSION_13;

	return SSL_CTX_set_min_proto_version(context, old ? TLS1_2_VERSION : TLS1_3_VERSION) == 1 &&
	       SSL_CTX_set_max_proto_version(context, new ? TLS1_3_VERSION : TLS1_2_VERSION) == 1;
}

/* Where the string names no version, OpenSSL's configuration may be stricter than we are. */
static int obey_minimum(SSL_CTX *context, struct tls_priority *priority, struct error *err)
{
	if (priority->names_version || SSL_CTX_get_min_proto_version(context) != TLS1_3_VERSION)
		return 0;
	priority->versions &= ~(unsigned int)TLS_VERSION_12;
	if (priority->versions)
		return 0;
	return error_set(err, EINVAL,
			 "OpenSSL's configuration demands TLS 1.3 (MinProtocol), and anonymous TLS "
			 "ended with 1.2; name it in the priority, as in NORMAL:+VERS-TLS1.2");
}

static int set_priority(SSL_CTX *context, const struct tls_config *config, struct error *err)
{
	static const unsigned int exchanges[] = {
		[TLS_X509] = TLS_EXCHANGES_X509,
		[TLS_PSK] = TLS_EXCHANGES_PSK,
		[TLS_ANON] = TLS_EXCHANGES_ANON,
	};
	char text[TLS_PRIORITY_TEXT_MAX];
	struct tls_priority priority;
	int rc = tls_priority_parse(config->priority, exchanges[config->kind], &priority, err);
	int ok;

	if (!rc)
		rc = obey_minimum(context, &priority, err);
	if (rc)
		return rc;
	/* OpenSSL takes nobody for anonymous above level 0. */
	if (config->kind == TLS_ANON)
		SSL_CTX_set_security_level(context, 0);
	else if (priority.level >= 0)
		SSL_CTX_set_security_level(context, priority.level);
	ok = set_versions(context, &priority);
	tls_priority_suites(&priority, has_aes(), text);
	ok = ok && SSL_CTX_set_ciphersuites(context, text) == 1;
	tls_priority_ciphers(&priority, has_aes(), text);
	/* An empty list of the old ciphers is refused, though TLS 1.3 needs none. */
	ok = ok && (!*text || SSL_CTX_set_cipher_list(context, text) == 1);
	tls_priority_groups(&priority, text);
	ok = ok && (!*text || SSL_CTX_set1_groups_list(context, text) == 1);
	return ok ? 0
		  : tls_error(err, EINVAL, "OpenSSL does not take the TLS priority '%.200s'",
			      config->priority ? config->priority : "NORMAL");
}

static void set_manners(SSL_CTX *context)
{
	SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
					     SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE);
	/* The system's configuration may offer keys to the kernel, TLS 1.3 or not; we choose. */
	SSL_CTX_clear_options(context, SSL_OP_ENABLE_KTLS);
	SSL_CTX_set_num_tickets(context, 0);
	SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE |
					  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
					  SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_read_ahead(context, 1);
	SSL_CTX_set_default_read_buffer_len(context, READ_AHEAD);
	SSL_CTX_set_dh_auto(context, 1);
}

/*
 * OpenSSL's own choice of a group follows the security level where no certificate says how much is
 * wanted: that is 0 for anonymous peers, and may be 1 for keys, which would do with 1024 bits. From
 * level 3 on its choice is larger than ours.
 */
static int set_finite_group(SSL_CTX *context, struct error *err)
{
	EVP_PKEY_CTX *generator;
	EVP_PKEY *group = NULL;
	int ok;

	if (SSL_CTX_get_security_level(context) >= 3)
		return 0;
	generator = EVP_PKEY_CTX_new_from_name(NULL, "DH", NULL);
	ok = generator && EVP_PKEY_paramgen_init(generator) == 1 &&
	     EVP_PKEY_CTX_set_dh_nid(generator, NID_ffdhe2048) == 1 &&
	     EVP_PKEY_paramgen(generator, &group) == 1 &&
	     SSL_CTX_set0_tmp_dh_pkey(context, group) == 1;
	EVP_PKEY_CTX_free(generator);
	if (ok) {
		SSL_CTX_set_dh_auto(context, 0);
		return 0;
	}
	EVP_PKEY_free(group);
	return tls_error(err, EINVAL, "OpenSSL lacks what TLS without certificates needs");
}

static int make_context(SSL_CTX **made, const struct tls_config *config, struct error *err)
{
	SSL_CTX *context;
	int rc;

	ERR_clear_error();
	pthread_once(&keys_once, make_keys_index);
	context =
		SSL_CTX_new(config->side == TLS_SERVER ? TLS_server_method() : TLS_client_method());
	if (!context)
		return tls_error(err, ENOMEM, "Cannot begin with TLS");
	set_manners(context);
	rc = set_priority(context, config, err);
	if (!rc && config->kind == TLS_X509)
		rc = tls_x509_load(context, config, err);
	if (!rc && config->kind == TLS_PSK)
		rc = load_keys(context, config, err);
	if (!rc && config->kind != TLS_X509 && config->side == TLS_SERVER)
		rc = set_finite_group(context, err);
	if (rc) {
		SSL_CTX_free(context);
		return rc;
	}
	*made = context;
	return 0;
}

int tls_creds_new(struct tls_creds **out, const struct tls_config *config, struct error *err)
{
	struct tls_creds *creds = calloc(1, sizeof(*creds));
	int rc;

	*out = NULL;
	if (!creds)
		return error_set(err, ENOMEM, "out of memory");
	rc = config_copy(&creds->config, config, err);
	if (!rc)
		rc = make_context(&creds->context, &creds->config, err);
	if (rc) {
		tls_creds_free(creds);
		return rc;
	}
	creds->kernel = config->side == TLS_SERVER && tls_kernel_has_it();
	*out = creds;
	return 0;
}

/* Where certificates were revoked, no file that went away makes them good again. */
static int check_successor(const struct tls_creds *creds, const SSL_CTX *fresh, struct error *err)
{
	AUTO_FREE char *path = NULL;

	if (!tls_x509_revokes(creds->context) || tls_x509_revokes(fresh))
		return 0;
	path = tls_config_path(&creds->config, NULL, "ca-crl.pem");
	return error_set(
		err, ENOENT,
		"the revocation list %s is gone, and without it revoked certificates would "
		"be accepted; put it back, or start again to do without",
		path ? path : "ca-crl.pem");
}

int tls_creds_reload(struct tls_creds *creds, struct error *err)
{
	SSL_CTX *fresh;
	int rc = make_context(&fresh, &creds->config, err);

	if (rc)
		return rc;
	rc = check_successor(creds, fresh, err);
	if (rc) {
		SSL_CTX_free(fresh);
		return rc;
	}
	SSL_CTX_free(creds->context);
	creds->context = fresh;
	creds->kernel = creds->config.side == TLS_SERVER && tls_kernel_has_it();
	return 0;
}

void tls_creds_free(struct tls_creds *creds)
{
	if (!creds)
		return;
	SSL_CTX_free(creds->context);
	config_clear(&creds->config);
	free(creds);
}

enum tls_kind tls_creds_kind(const struct tls_creds *creds)
{
	return creds->config.kind;
}

enum tls_side tls_creds_side(const struct tls_creds *creds)
{
	return creds->config.side;
}
