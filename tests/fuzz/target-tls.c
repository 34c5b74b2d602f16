// SPDX-License-Identifier: MIT
/*
 * What people write about TLS: files of keys, priority strings, rules of authorization, objects of
 * all these kinds. The first byte chooses. A table of keys, written again, is the same; a priority
 * never lets anonymous ciphers in where nobody asked for them; rules answer the same twice; an
 * object is what its type says, or nothing.
 */
#include "common/tls-priority.h"
#include "common/tls-psk.h"
#include "fuzz.h"
#include "server/authz.h"
#include "server/object-tls.h"
#include "server/object.h"

static void check_keys(const char *text, size_t size)
{
	struct error err = ERROR_INIT;
	struct tls_psk table, again;
	size_t used = 0, room = 16;
	char *written;

	if (tls_psk_parse(text, size, &table, &err)) {
		FUZZ_CHECK(err.code && *err.text && !table.entries && !table.count);
		return;
	}
	FUZZ_CHECK(!table.skipped == !table.flaw.why);
	for (size_t i = 0; i < table.count; i++)
		room += 2 * (strlen(table.entries[i].user) + table.entries[i].key_length) + 4;
	written = malloc(room);
	FUZZ_CHECK(written);
	for (size_t i = 0; i < table.count; i++) {
		const struct tls_psk_entry *entry = &table.entries[i];

		FUZZ_CHECK(strlen(entry->user) <= TLS_PSK_USER_MAX && entry->key_length);
		FUZZ_CHECK(entry->key_length <= TLS_PSK_KEY_MAX);
		FUZZ_CHECK(!strcmp(tls_psk_find(&table, entry->user)->user, entry->user));
		written[used++] = '#';
		for (const char *at = entry->user; *at; at++)
			used += (size_t)sprintf(written + used, "%02x", (unsigned char)*at);
		written[used++] = ':';
		for (size_t byte = 0; byte < entry->key_length; byte++)
			used += (size_t)sprintf(written + used, "%02X", entry->key[byte]);
		written[used++] = '\n';
	}
	if (!tls_psk_parse(written, used, &again, NULL)) {
		FUZZ_CHECK(again.count == table.count && !again.skipped);
		for (size_t i = 0; i < table.count; i++) {
			FUZZ_CHECK(!strcmp(again.entries[i].user, table.entries[i].user));
			FUZZ_CHECK(again.entries[i].key_length == table.entries[i].key_length);
			FUZZ_CHECK(!memcmp(again.entries[i].key, table.entries[i].key,
					   table.entries[i].key_length));
		}
		tls_psk_clear(&again);
	} else {
		FUZZ_CHECK(false);
	}
	free(written);
	tls_psk_clear(&table);
}

static void check_priority(const char *text)
{
	static const unsigned int kinds[] = {TLS_EXCHANGES_X509, TLS_EXCHANGES_PSK,
					     TLS_EXCHANGES_ANON};
	char ciphers[TLS_PRIORITY_TEXT_MAX], suites[TLS_PRIORITY_TEXT_MAX];

	for (size_t i = 0; i < 3; i++) {
		struct error err = ERROR_INIT;
		struct tls_priority priority;

		if (tls_priority_parse(text, kinds[i], &priority, &err)) {
			FUZZ_CHECK(err.code && *err.text);
			continue;
		}
		tls_priority_ciphers(&priority, i == 1, ciphers);
		tls_priority_suites(&priority, i == 1, suites);
		FUZZ_CHECK(*ciphers || *suites);
		FUZZ_CHECK(!(priority.exchanges & ~kinds[i]));
		FUZZ_CHECK(kinds[i] == TLS_EXCHANGES_ANON || (!strstr(ciphers, "ADH")));
		FUZZ_CHECK(kinds[i] != TLS_EXCHANGES_ANON || !*suites);
		FUZZ_CHECK(strlen(ciphers) < TLS_PRIORITY_TEXT_MAX - 64); /* nothing was cut */
		tls_priority_groups(&priority, suites);
		FUZZ_CHECK(strlen(suites) < 64);
	}
}

static void check_rules(const char *text, size_t size)
{
	static const char *const names[] = {"CN=laptop", "C=GB,O=Home,CN=laptop", ""};
	struct error err = ERROR_INIT;
	struct authz *authz = NULL;

	if (authz_new_json(&authz, text, size, &err)) {
		FUZZ_CHECK(err.code && *err.text && !authz);
		return;
	}
	for (size_t i = 0; i < 3; i++)
		FUZZ_CHECK(authz_allows(authz, names[i]) == authz_allows(authz, names[i]));
	authz_free(authz);
}

/* Options of the types that need no file; what else they name stays within this folder. */
static bool is_wanted(const char *text)
{
	static const char *const types[] = {"tls-creds-", "authz-list,", "authz-simple,",
					    "{\"qom-type\":\"authz-list\","};

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (!strncmp(text, types[i], strlen(types[i])))
			return true;
	return false;
}

static void check_objects(char *text)
{
	struct object_set *set = calloc(1, sizeof(*set));
	struct error err = ERROR_INIT;
	int rc = 0;

	FUZZ_CHECK(set);
	for (char *at = text; *at; at++)
		*at = *at == '/' ? '.' : *at;
	for (char *line = strtok(text, "\n"); line && !rc; line = strtok(NULL, "\n"))
		if (is_wanted(line))
			rc = object_set_add(set, line, &err);
	if (!rc)
		rc = object_set_create(set, &err);
	FUZZ_CHECK(!rc || (err.code && *err.text));
	for (size_t i = 0; !rc && i < set->count; i++) {
		const char *id = set->items[i].id;
		bool creds = !strncmp(set->items[i].type->name, "tls-", 4);
		struct error why = ERROR_INIT;
		struct authz *authz = object_authz(set, id, &why);
		bool server = object_tls_creds(set, id, TLS_SERVER, &why);
		bool client = object_tls_creds(set, id, TLS_CLIENT, &why);

		FUZZ_CHECK(object_find(set, id) == &set->items[i]);
		FUZZ_CHECK(creds ? server != client && !authz : !server && !client && authz);
		if (authz)
			FUZZ_CHECK(authz_allows(authz, "x") == authz_allows(authz, "x"));
	}
	object_set_clear(set);
	free(set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *exact;
	char *text;

	if (!size)
		return 0;
	exact = fuzz_exact(data + 1, size - 1);
	text = fuzz_text(data + 1, size - 1);
	switch (*data % 4) {
	case 0:
		check_keys((const char *)exact, size - 1);
		break;
	case 1:
		check_priority(text);
		break;
	case 2:
		check_rules((const char *)exact, size - 1);
		break;
	case 3:
		check_objects(text);
		break;
	}
	free(exact);
	free(text);
	return 0;
}
