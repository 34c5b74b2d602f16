// SPDX-License-Identifier: MIT
/* See authz.h. */
#include "authz.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/json-read.h"
#include "common/log.h"
#include "common/path.h"
#include "glob.h"

enum { RULES_MAX = 4096, FILE_MAX = 1 << 20 };

struct rule {
	char *match;
	bool glob;
	bool allow;
};

struct authz {
	struct rule *rules;
	size_t count;
	bool allow; /* whom no rule matches */
	/* A file that is watched; else NULL. */
	char *path;
	struct stat loaded; /* what it was then; all zero: it could not be read */
};

static int no_memory(struct error *err)
{
	return error_set(err, ENOMEM, "out of memory");
}

/* A word of two; NULL is the first. -1: neither. */
static int word_of(const char *text, const char *no, const char *yes)
{
	if (!text || !strcmp(text, no))
		return 0;
	return strcmp(text, yes) ? -1 : 1;
}

static int set_policy(struct authz *authz, const char *policy, struct error *err)
{
	int allow = word_of(policy, "deny", "allow");

	if (allow < 0)
		return error_set(err, EINVAL, "the policy is 'allow' or 'deny', not '%.100s'",
				 policy);
	authz->allow = allow;
	return 0;
}

static int add_rule(struct authz *authz, const char *match, const char *policy, const char *format,
		    struct error *err)
{
	int allow = word_of(policy, "deny", "allow"), glob = word_of(format, "exact", "glob");
	struct rule *grown;

	if (!match || !policy)
		return error_set(err, EINVAL, "a rule needs 'match' and 'policy'");
	if (allow < 0)
		return error_set(err, EINVAL, "a rule's policy is 'allow' or 'deny', not '%.100s'",
				 policy);
	if (glob < 0)
		return error_set(err, EINVAL, "a rule's format is 'exact' or 'glob', not '%.100s'",
				 format);
	if (authz->count == RULES_MAX)
		return error_set(err, EINVAL, "more than %d rules", RULES_MAX);
	grown = reallocarray(authz->rules, authz->count + 1, sizeof(*grown));
	if (!grown)
		return no_memory(err);
	authz->rules = grown;
	grown[authz->count] = (struct rule){.match = strdup(match), .glob = glob, .allow = allow};
	if (!grown[authz->count].match)
		return no_memory(err);
	authz->count++;
	return 0;
}

struct authz *authz_new_simple(const char *identity)
{
	struct authz *authz = calloc(1, sizeof(*authz));

	if (authz && add_rule(authz, identity, "allow", NULL, NULL) < 0) {
		authz_free(authz);
		return NULL;
	}
	return authz;
}

/* Rules are counted from 0, without a gap: what stands behind one is a rule that nobody would ask.
 */
static int check_gap(const struct keyval *properties, unsigned int count, struct error *err)
{
	for (size_t i = 0; i < properties->count; i++) {
		const char *key = properties->entries[i].key;

		if (!strncmp(key, "rules.", 6) && isdigit((unsigned char)key[6]) &&
		    strtoul(key + 6, NULL, 10) > count)
			return error_set(err, EINVAL,
					 "Parameter 'rules.%u' is missing before '%.100s'", count,
					 key);
	}
	return 0;
}

static int take_rules(struct authz *authz, struct keyval *properties, struct error *err)
{
	int rc = set_policy(authz, keyval_take(properties, "policy"), err);
	unsigned int i;

	for (i = 0; !rc; i++) {
		char prefix[20], match[32], policy[32], format[32];

		snprintf(prefix, sizeof(prefix), "rules.%u.", i);
		snprintf(match, sizeof(match), "%smatch", prefix);
		snprintf(policy, sizeof(policy), "%spolicy", prefix);
		snprintf(format, sizeof(format), "%sformat", prefix);
		if (!keyval_has_prefix(properties, prefix))
			break;
		rc = add_rule(authz, keyval_take(properties, match),
			      keyval_take(properties, policy), keyval_take(properties, format),
			      err);
		if (rc)
			error_wrap(err, "rule %u", i);
	}
	return rc ? rc : check_gap(properties, i, err);
}

int authz_new_list(struct authz **out, struct keyval *properties, struct error *err)
{
	struct authz *authz = calloc(1, sizeof(*authz));
	int rc = authz ? take_rules(authz, properties, err) : no_memory(err);

	*out = authz;
	if (rc) {
		authz_free(authz);
		*out = NULL;
	}
	return rc;
}

/* ---- From a file ---- */

struct member {
	const char *name;
	enum json_kind kind; /* a text or a list */
};

static int no_member(const char *key, const struct member *known, size_t count, struct error *err)
{
	error_set(err, EINVAL, "unknown member '%.100s'; there are", key);
	for (size_t i = 0; i < count; i++)
		error_hint(err, "%s %s", i ? "," : "", known[i].name);
	return -EINVAL;
}

/* What a slip of the pen made of "format" or "policy" must not open the door. */
static int check_members(const struct json_value *object, const struct member *known, size_t count,
			 struct error *err)
{
	for (const struct json_value *at = object->first; at; at = at->next) {
		size_t i = 0;

		while (i < count && strcmp(known[i].name, at->key))
			i++;
		if (i == count)
			return no_member(at->key, known, count, err);
		if (at->kind != known[i].kind)
			return error_set(err, EINVAL, "the member '%s' is not a %s", at->key,
					 known[i].kind == JSON_STRING ? "text" : "list");
		if (json_member(object, at->key) != at)
			return error_set(err, EINVAL, "the member '%s' is there twice", at->key);
	}
	return 0;
}

static int read_rule(struct authz *authz, const struct json_value *rule, struct error *err)
{
	static const struct member members[] = {
		{"match", JSON_STRING}, {"policy", JSON_STRING}, {"format", JSON_STRING}};

	if (rule->kind != JSON_OBJECT)
		return error_set(err, EINVAL, "it is not an object with 'match' and 'policy'");
	if (check_members(rule, members, 3, err) < 0)
		return -EINVAL;
	return add_rule(authz, json_member_text(rule, "match"), json_member_text(rule, "policy"),
			json_member_text(rule, "format"), err);
}

static int read_json(struct authz *authz, const struct json_value *value, struct error *err)
{
	static const struct member members[] = {{"policy", JSON_STRING}, {"rules", JSON_ARRAY}};
	const struct json_value *rules = json_member(value, "rules");
	unsigned int number = 0;
	int rc;

	if (value->kind != JSON_OBJECT)
		return error_set(err, EINVAL,
				 "it is not an object with 'policy' and a list of 'rules'");
	rc = check_members(value, members, 2, err);
	if (!rc)
		rc = set_policy(authz, json_member_text(value, "policy"), err);
	for (const struct json_value *rule = rules ? rules->first : NULL; !rc && rule;
	     rule = rule->next, number++) {
		rc = read_rule(authz, rule, err);
		if (rc)
			error_wrap(err, "rule %u", number);
	}
	return rc;
}

int authz_new_json(struct authz **out, const char *text, size_t length, struct error *err)
{
	struct authz *authz = calloc(1, sizeof(*authz));
	struct json_value *value = NULL;
	int rc = authz ? json_read(text, length, &value, err) : no_memory(err);

	if (!rc)
		rc = read_json(authz, value, err);
	json_value_free(value);
	*out = authz;
	if (rc) {
		authz_free(authz);
		*out = NULL;
	}
	return rc;
}

static int load_file(struct authz **out, const char *path, struct stat *status, struct error *err)
{
	AUTO_FILE FILE *file = fopen(path, "re");
	AUTO_FREE char *text = NULL;
	size_t length;

	if (!file || fstat(fileno(file), status) < 0)
		return error_set_errno(err, errno, "Cannot read %s", path);
	if (!S_ISREG(status->st_mode) || status->st_size > FILE_MAX)
		return error_set(err, EINVAL, "%s is no file of rules", path);
	text = malloc((size_t)status->st_size + 1);
	if (!text)
		return no_memory(err);
	length = fread(text, 1, (size_t)status->st_size, file);
	return authz_new_json(out, text, length, err) ? error_wrap(err, "%s", path) : 0;
}

int authz_new_file(struct authz **out, const char *path, bool refresh, struct error *err)
{
	/* The process may change its folder before it reads the file again. A link may move. */
	AUTO_FREE char *absolute = path_absolute(path);
	struct stat status;
	int rc;

	*out = NULL;
	if (!absolute)
		return error_set_errno(err, errno, "Cannot read %s", path);
	rc = load_file(out, absolute, &status, err);
	if (rc || !refresh)
		return rc;
	(*out)->path = take_ptr(absolute);
	(*out)->loaded = status;
	return 0;
}

static void clear_rules(struct authz *authz)
{
	for (size_t i = 0; i < authz->count; i++)
		free(authz->rules[i].match);
	free(authz->rules);
	authz->rules = NULL;
	authz->count = 0;
	authz->allow = false;
}

static bool same_time(const struct timespec *one, const struct timespec *other)
{
	return one->tv_sec == other->tv_sec && one->tv_nsec == other->tv_nsec;
}

/* Who writes may set the time of the data, but not that of the change. */
static bool same_file(const struct stat *one, const struct stat *other)
{
	return one->st_dev == other->st_dev && one->st_ino == other->st_ino &&
	       one->st_size == other->st_size && same_time(&one->st_mtim, &other->st_mtim) &&
	       same_time(&one->st_ctim, &other->st_ctim);
}

/* Rules that cannot be read allow nobody: a half-written file must not open the door. It is tried
 * again for the next one who comes, because what failed may have been the reading. */
static void refresh(struct authz *authz)
{
	struct authz *fresh = NULL;
	struct error err = ERROR_INIT;
	struct stat status = {0};

	if (stat(authz->path, &status) == 0 && same_file(&status, &authz->loaded))
		return;
	clear_rules(authz);
	authz->loaded = (struct stat){0};
	if (load_file(&fresh, authz->path, &status, &err)) {
		log_warning("nobody is authorized until this is mended: %s", err.text);
	} else {
		authz->rules = take_ptr(fresh->rules);
		authz->count = fresh->count;
		authz->allow = fresh->allow;
		authz->loaded = status;
		fresh->count = 0;
		authz_free(fresh);
	}
}

bool authz_allows(struct authz *authz, const char *identity)
{
	if (authz->path)
		refresh(authz);
	for (size_t i = 0; i < authz->count; i++) {
		const struct rule *rule = &authz->rules[i];

		if (rule->glob ? glob_matches(rule->match, identity)
			       : !strcmp(rule->match, identity))
			return rule->allow;
	}
	return authz->allow;
}

void authz_free(struct authz *authz)
{
	if (!authz)
		return;
	clear_rules(authz);
	free(authz->path);
	free(authz);
}
