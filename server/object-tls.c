// SPDX-License-Identifier: MIT
/*
 * From QEMU's properties to credentials and rules. A folder that is not absolute is looked for
 * where the service manager puts credentials, too; the current folder is put in front of it,
 * because the server changes its folder and may load again.
 */
#include "object-tls.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "authz.h"
#include "common/cleanup.h"
#include "common/path.h"
#include "object-secret.h"

/* ---- Credentials ---- */

static int take_endpoint(struct keyval *properties, enum tls_side *side, struct error *err)
{
	const char *endpoint = keyval_take(properties, "endpoint");

	*side = endpoint && !strcmp(endpoint, "server") ? TLS_SERVER : TLS_CLIENT;
	if (endpoint && *side == TLS_CLIENT && strcmp(endpoint, "client"))
		return error_set(err, EINVAL,
				 "Parameter 'endpoint' does not accept value '%.200s'; it is "
				 "server or client",
				 endpoint);
	return 0;
}

/* Where LoadCredential= and the like put files; of a folder of them systemd makes files in this
 * same folder, with the name of the credential in front of theirs. NULL: there is none. */
static const char *granted_folder(void)
{
	const char *granted = getenv("CREDENTIALS_DIRECTORY");

	return granted && *granted ? granted : NULL;
}

/* A link stays one: it may lead to newer credentials when they are loaded again. */
static char *existing(const char *directory)
{
	AUTO_FREE char *absolute = path_absolute(directory);

	return absolute && access(absolute, F_OK) == 0 ? take_ptr(absolute) : NULL;
}

static char *find_directory(const char *directory)
{
	const char *granted = granted_folder();
	AUTO_FREE char *path = NULL;
	char *found = NULL;

	if (granted && directory[0] != '/' && asprintf(&path, "%s/%s", granted, directory) >= 0)
		found = existing(path);
	return found ? found : existing(directory);
}

static int take_directory(struct keyval *properties, char **directory, struct error *err)
{
	const char *text = keyval_take(properties, "dir"), *granted = granted_folder();

	if (!text && !granted)
		return error_set(err, EINVAL, "Missing 'dir' property value");
	/* Never the current folder instead: nobody has said that its keys are good. */
	*directory = text ? find_directory(text) : existing(granted);
	if (*directory)
		return 0;
	error_set_errno(err, errno, "Unable to access credentials %.300s", text ? text : granted);
	return text ? -err->code
		    : error_hint(err, "; set 'dir', or CREDENTIALS_DIRECTORY to where they are");
}

/* Old spellings of QEMU: the object is complete when it is made. */
static int take_loaded(struct keyval *properties, struct error *err)
{
	bool loaded = true;

	return keyval_take_bool(properties, "loaded", &loaded, err);
}

static int make_creds(struct object *object, struct tls_config *config, struct error *err)
{
	struct tls_creds *creds;
	int rc = tls_creds_new(&creds, config, err);

	object->state = creds;
	return rc;
}

static int x509_create(struct object *object, struct keyval *properties,
		       const struct object_set *earlier, struct error *err)
{
	struct tls_config config = {.kind = TLS_X509, .verify_peer = true, .sanity_check = true};
	const char *password = keyval_take(properties, "passwordid");
	const struct secret *secret = NULL;
	AUTO_FREE char *directory = NULL;

	config.priority = keyval_take(properties, "priority");
	if (take_endpoint(properties, &config.side, err) < 0 || take_loaded(properties, err) < 0 ||
	    keyval_take_bool(properties, "verify-peer", &config.verify_peer, err) < 0 ||
	    keyval_take_bool(properties, "sanity-check", &config.sanity_check, err) < 0 ||
	    take_directory(properties, &directory, err) < 0)
		return -err->code;
	if (password) {
		secret = object_secret_find(earlier, password, err);
		if (!secret)
			return -err->code;
		config.password = (const char *)secret->bytes;
	}
	config.directory = directory;
	return make_creds(object, &config, err);
}

static int psk_create(struct object *object, struct keyval *properties,
		      const struct object_set *earlier, struct error *err)
{
	struct tls_config config = {.kind = TLS_PSK};
	AUTO_FREE char *directory = NULL;
	bool ignored;

	(void)earlier;
	config.priority = keyval_take(properties, "priority");
	config.user = keyval_take(properties, "username");
	if (take_endpoint(properties, &config.side, err) < 0 || take_loaded(properties, err) < 0 ||
	    keyval_take_bool(properties, "verify-peer", &ignored, err) < 0 ||
	    take_directory(properties, &directory, err) < 0)
		return -err->code;
	if (config.side == TLS_SERVER && config.user)
		return error_set(err, EINVAL, "username should not be set when endpoint is server");
	config.directory = directory;
	return make_creds(object, &config, err);
}

static int anon_create(struct object *object, struct keyval *properties,
		       const struct object_set *earlier, struct error *err)
{
	struct tls_config config = {.kind = TLS_ANON};
	bool ignored;

	(void)earlier;
	config.priority = keyval_take(properties, "priority");
	keyval_take(properties, "dir"); /* held parameters of Diffie-Hellman once */
	if (take_endpoint(properties, &config.side, err) < 0 || take_loaded(properties, err) < 0 ||
	    keyval_take_bool(properties, "verify-peer", &ignored, err) < 0)
		return -err->code;
	return make_creds(object, &config, err);
}

static void creds_destroy(struct object *object)
{
	tls_creds_free(object->state);
	object->state = NULL;
}

static const char *const x509_keys[] = {"dir",        "endpoint", "verify-peer", "sanity-check",
					"passwordid", "priority", "loaded",      NULL};
static const char *const psk_keys[] = {"dir",      "endpoint", "verify-peer", "username",
				       "priority", "loaded",   NULL};
static const char *const anon_keys[] = {"dir",      "endpoint", "verify-peer",
					"priority", "loaded",   NULL};

const struct object_type object_type_tls_x509 = {
	.name = "tls-creds-x509",
	.help = "certificates for TLS",
	.keys = x509_keys,
	.create = x509_create,
	.destroy = creds_destroy,
};

const struct object_type object_type_tls_psk = {
	.name = "tls-creds-psk",
	.help = "pre-shared keys for TLS",
	.keys = psk_keys,
	.create = psk_create,
	.destroy = creds_destroy,
};

const struct object_type object_type_tls_anon = {
	.name = "tls-creds-anon",
	.help = "TLS without proof of who the peer is",
	.keys = anon_keys,
	.create = anon_create,
	.destroy = creds_destroy,
};

struct tls_creds *object_tls_creds(const struct object_set *set, const char *id, enum tls_side side,
				   struct error *err)
{
	const struct object *object = object_find(set, id);
	const char *wanted = side == TLS_SERVER ? "server" : "client";

	if (!object)
		error_set(err, ENOENT, "Failed to get TLS creds: No TLS credentials with id '%s'",
			  id);
	else if (object->type->destroy != creds_destroy)
		error_set(err, EINVAL,
			  "Failed to get TLS creds: Object with id '%s' is not TLS credentials",
			  id);
	else if (tls_creds_side(object->state) != side)
		error_set(
			err, EINVAL,
			"Failed to get TLS creds: Expected TLS credentials for a %s endpoint; add "
			"endpoint=%s to the object '%s'",
			wanted, wanted, id);
	else
		return object->state;
	return NULL;
}

bool object_tls_asks_names(struct object_set *set, const char *id)
{
	const struct object *object = object_find(set, id);
	bool verify = true;

	if (object->type == &object_type_tls_psk)
		return true; /* whatever verify-peer says */
	if (object->type != &object_type_tls_x509)
		return false;
	keyval_take_bool(&set->items[object - set->items].properties, "verify-peer", &verify, NULL);
	return verify;
}

/* ---- Rules ---- */

static int simple_create(struct object *object, struct keyval *properties,
			 const struct object_set *earlier, struct error *err)
{
	const char *identity = keyval_take(properties, "identity");

	(void)earlier;
	if (!identity)
		return error_set(err, EINVAL, "Parameter 'identity' is missing");
	object->state = authz_new_simple(identity);
	return object->state ? 0 : error_set(err, ENOMEM, "out of memory");
}

static int list_create(struct object *object, struct keyval *properties,
		       const struct object_set *earlier, struct error *err)
{
	struct authz *authz;
	int rc = authz_new_list(&authz, properties, err);

	(void)earlier;
	object->state = authz;
	return rc;
}

static int list_file_create(struct object *object, struct keyval *properties,
			    const struct object_set *earlier, struct error *err)
{
	const char *path = keyval_take(properties, "filename");
	struct authz *authz;
	bool refresh = true;
	int rc;

	(void)earlier;
	if (!path)
		return error_set(err, EINVAL, "Parameter 'filename' is missing");
	if (keyval_take_bool(properties, "refresh", &refresh, err) < 0)
		return -EINVAL;
	rc = authz_new_file(&authz, path, refresh, err);
	object->state = authz;
	return rc;
}

static void authz_destroy(struct object *object)
{
	authz_free(object->state);
	object->state = NULL;
}

static const char *const simple_keys[] = {"identity", NULL};
static const char *const list_keys[] = {"policy", "rules.0.match", "rules.0.policy",
					"rules.0.format", NULL};
static const char *const list_file_keys[] = {"filename", "refresh", NULL};

const struct object_type object_type_authz_simple = {
	.name = "authz-simple",
	.help = "one name that may come in",
	.keys = simple_keys,
	.create = simple_create,
	.destroy = authz_destroy,
};

const struct object_type object_type_authz_list = {
	.name = "authz-list",
	.help = "rules about who may come in",
	.keys = list_keys,
	.create = list_create,
	.destroy = authz_destroy,
};

const struct object_type object_type_authz_list_file = {
	.name = "authz-list-file",
	.help = "the same rules in a file",
	.keys = list_file_keys,
	.create = list_file_create,
	.destroy = authz_destroy,
};

struct authz *object_authz(const struct object_set *set, const char *id, struct error *err)
{
	const struct object *object = object_find(set, id);

	if (!object)
		error_set(err, ENOENT,
			  "object '%s' not found; --tls-authz names one of the type "
			  "authz-simple, authz-list or authz-list-file",
			  id);
	else if (object->type->destroy != authz_destroy)
		error_set(err, EINVAL, "object '%s' holds no rules about who may come in", id);
	else
		return object->state;
	return NULL;
}
