// SPDX-License-Identifier: MIT
/* See tls-priority.h. Tables, and a walk over the string. Any thread. */
#include "tls-priority.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum {
	CIPHER_AES_128_GCM = 1 << 0,
	CIPHER_AES_256_GCM = 1 << 1,
	CIPHER_CHACHA20 = 1 << 2,
	CIPHER_AES_128_CCM = 1 << 3,
	CIPHER_AES_256_CCM = 1 << 4,
	/* Only for anonymous elliptic curves, which have nothing better. */
	CIPHER_AES_128_CBC = 1 << 5,
	CIPHER_AES_256_CBC = 1 << 6,

	CIPHERS_NORMAL = (1 << 7) - 1,
	CIPHERS_256 =
		CIPHER_AES_256_GCM | CIPHER_CHACHA20 | CIPHER_AES_256_CCM | CIPHER_AES_256_CBC,
};

enum {
	GROUP_X25519 = 1 << 0,
	GROUP_SECP256R1 = 1 << 1,
	GROUP_SECP384R1 = 1 << 2,
	GROUP_SECP521R1 = 1 << 3,
	GROUP_X448 = 1 << 4,

	GROUPS_ALL = (1 << 5) - 1,
	GROUPS_192 = GROUP_SECP384R1 | GROUP_SECP521R1 | GROUP_X448,
};

/* What there is no choice of, and nothing goes without. */
enum {
	NEEDED_GROUPS = 1 << 0,
	NEEDED_MAC = 1 << 1,
	NEEDED_SIGNATURES = 1 << 2,
	NEEDED_ALWAYS = 1 << 3, /* to take it away is an error by itself */
};

enum {
	EXCHANGES_ALL = TLS_EXCHANGES_X509 | TLS_EXCHANGES_PSK | TLS_EXCHANGES_ANON,
	EXCHANGES_SECRET = TLS_EXCHANGE_PSK, /* without forward secrecy */
};

/* ---- What a string may say ---- */

enum set { SET_VERSION, SET_CIPHER, SET_EXCHANGE, SET_GROUP, SET_NOTHING, SET_OLD, SET_NEEDED };

static const struct item {
	const char *name;
	enum set set;
	unsigned int bits;
} items[] = {
	{"VERS-ALL", SET_VERSION, TLS_VERSION_12 | TLS_VERSION_13},
	{"VERS-TLS-ALL", SET_VERSION, TLS_VERSION_12 | TLS_VERSION_13},
	{"VERS-TLS1.3", SET_VERSION, TLS_VERSION_13},
	{"VERS-TLS1.2", SET_VERSION, TLS_VERSION_12},
	{"VERS-TLS1.1", SET_OLD, 0},
	{"VERS-TLS1.0", SET_OLD, 0},
	{"VERS-SSL3.0", SET_OLD, 0},
	{"VERS-DTLS-ALL", SET_OLD, 0},
	{"VERS-DTLS1.2", SET_OLD, 0},
	{"VERS-DTLS1.0", SET_OLD, 0},
	{"CIPHER-ALL", SET_CIPHER, CIPHERS_NORMAL},
	{"AES-128-GCM", SET_CIPHER, CIPHER_AES_128_GCM},
	{"AES-256-GCM", SET_CIPHER, CIPHER_AES_256_GCM},
	{"CHACHA20-POLY1305", SET_CIPHER, CIPHER_CHACHA20},
	{"AES-128-CCM", SET_CIPHER, CIPHER_AES_128_CCM},
	{"AES-256-CCM", SET_CIPHER, CIPHER_AES_256_CCM},
	{"AES-128-CBC", SET_CIPHER, CIPHER_AES_128_CBC},
	{"AES-256-CBC", SET_CIPHER, CIPHER_AES_256_CBC},
	{"3DES-CBC", SET_OLD, 0},
	{"ARCFOUR-128", SET_OLD, 0},
	{"KX-ALL", SET_EXCHANGE, EXCHANGES_ALL},
	{"ECDHE-ECDSA", SET_EXCHANGE, TLS_EXCHANGE_ECDHE_ECDSA},
	{"ECDHE-RSA", SET_EXCHANGE, TLS_EXCHANGE_ECDHE_RSA},
	{"DHE-RSA", SET_EXCHANGE, TLS_EXCHANGE_DHE_RSA},
	{"DHE-PSK", SET_EXCHANGE, TLS_EXCHANGE_DHE_PSK},
	{"ECDHE-PSK", SET_EXCHANGE, TLS_EXCHANGE_ECDHE_PSK},
	{"PSK", SET_EXCHANGE, TLS_EXCHANGE_PSK},
	{"ANON-DH", SET_EXCHANGE, TLS_EXCHANGE_ANON_DH},
	{"ANON-ECDH", SET_EXCHANGE, TLS_EXCHANGE_ANON_ECDH},
	{"RSA", SET_OLD, 0},
	{"DHE-DSS", SET_OLD, 0},
	{"GROUP-ALL", SET_GROUP, GROUPS_ALL},
	{"CURVE-ALL", SET_GROUP, GROUPS_ALL},
	{"GROUP-X25519", SET_GROUP, GROUP_X25519},
	{"CURVE-X25519", SET_GROUP, GROUP_X25519},
	{"GROUP-SECP256R1", SET_GROUP, GROUP_SECP256R1},
	{"CURVE-SECP256R1", SET_GROUP, GROUP_SECP256R1},
	{"GROUP-SECP384R1", SET_GROUP, GROUP_SECP384R1},
	{"CURVE-SECP384R1", SET_GROUP, GROUP_SECP384R1},
	{"GROUP-SECP521R1", SET_GROUP, GROUP_SECP521R1},
	{"CURVE-SECP521R1", SET_GROUP, GROUP_SECP521R1},
	{"GROUP-X448", SET_GROUP, GROUP_X448},
	{"CURVE-X448", SET_GROUP, GROUP_X448},
	/* The ciphers bring their own integrity, and anonymous curves cannot choose theirs. */
	{"AEAD", SET_NEEDED, NEEDED_MAC},
	{"MAC-ALL", SET_NEEDED, NEEDED_MAC},
	{"SHA1", SET_NOTHING, 0},
	{"SHA256", SET_NOTHING, 0},
	{"SHA384", SET_NOTHING, 0},
	{"MD5", SET_OLD, 0},
	{"COMP-NULL", SET_NEEDED, NEEDED_ALWAYS},
	{"COMP-ALL", SET_OLD, 0},
	{"COMP-DEFLATE", SET_OLD, 0},
	{"CTYPE-X509", SET_NEEDED, NEEDED_ALWAYS},
	{"CTYPE-X.509", SET_NEEDED, NEEDED_ALWAYS},
	{"SIGN-ALL", SET_NEEDED, NEEDED_SIGNATURES},
};

static const struct flag {
	const char *name;
	int level; /* -1: it says what we do anyway */
} flags[] = {
	{"%SERVER_PRECEDENCE", -1}, {"%SAFE_RENEGOTIATION", -1}, {"%NO_TICKETS", -1},
	{"%PROFILE_LOW", 1},        {"%PROFILE_LEGACY", 1},      {"%PROFILE_MEDIUM", 2},
	{"%PROFILE_HIGH", 3},       {"%PROFILE_ULTRA", 3},
};

static const struct keyword {
	const char *name;
	struct tls_priority is;
} keywords[] = {
	{"NORMAL", {3, CIPHERS_NORMAL, EXCHANGES_ALL, 0, 0, -1, false}},
	{"PERFORMANCE", {3, CIPHERS_NORMAL, EXCHANGES_ALL, 0, 0, -1, false}},
	{"@SYSTEM", {3, CIPHERS_NORMAL, EXCHANGES_ALL, 0, 0, -1, false}},
	{"PFS", {3, CIPHERS_NORMAL, EXCHANGES_ALL & ~EXCHANGES_SECRET, 0, 0, -1, false}},
	{"SECURE128", {3, CIPHERS_NORMAL, EXCHANGES_ALL, 0, 0, 2, false}},
	{"SECURE192", {3, CIPHERS_256, EXCHANGES_ALL, GROUPS_192, 0, 3, false}},
	{"SECURE256", {3, CIPHERS_256, EXCHANGES_ALL, GROUPS_192, 0, 3, false}},
	{"NONE", {0, 0, 0, 0, 0, -1, false}},
};

/* ---- Reading ---- */

struct word {
	const char *text;
	size_t length;
};

static bool word_is(struct word word, const char *name)
{
	return strlen(name) == word.length && !memcmp(name, word.text, word.length);
}

static int refuse(struct word word, const char *why, struct error *err)
{
	size_t shown = word.length < 80 ? word.length : 80;

	return error_set(err, EINVAL, "TLS priority '%.*s' %s", (int)shown, word.text, why);
}

static int take_keyword(struct word word, struct tls_priority *priority, struct error *err)
{
	const char *comma = memchr(word.text, ',', word.length);

	/* "@NAME,FALLBACK": the system's policy is that of OpenSSL's configuration. */
	if (word.length && word.text[0] == '@' && comma)
		word.length = (size_t)(comma - word.text);
	for (size_t i = 0; i < sizeof(keywords) / sizeof(keywords[0]); i++)
		if (word_is(word, keywords[i].name)) {
			*priority = keywords[i].is;
			return 0;
		}
	return refuse(word,
		      "is not known here; begin with NORMAL, SECURE128, SECURE256, PFS, NONE "
		      "or @SYSTEM",
		      err);
}

static int take_flag(struct word word, struct tls_priority *priority, struct error *err)
{
	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		if (word_is(word, flags[i].name)) {
			if (flags[i].level >= 0)
				priority->level = flags[i].level;
			return 0;
		}
	return refuse(word, "is not known here", err);
}

static unsigned int *set_of(struct tls_priority *priority, enum set set)
{
	switch (set) {
	case SET_VERSION:
		return &priority->versions;
	case SET_CIPHER:
		return &priority->ciphers;
	case SET_EXCHANGE:
		return &priority->exchanges;
	case SET_GROUP:
		return &priority->groups;
	case SET_NOTHING:
	case SET_OLD:
	case SET_NEEDED:
		break;
	}
	return NULL;
}

static int take_item(struct word word, bool add, struct tls_priority *priority, struct error *err)
{
	struct word name = {word.text + 1, word.length - 1};
	const struct item *item = NULL;
	unsigned int *bits;

	for (size_t i = 0; !item && i < sizeof(items) / sizeof(items[0]); i++)
		if (word_is(name, items[i].name))
			item = &items[i];
	if (!item)
		return refuse(word, "is not known here", err);
	priority->names_version |= !strncmp(item->name, "VERS-", 5);
	if (item->set == SET_OLD && add)
		return refuse(word, "is not offered: it is not safe", err);
	if (item->set == SET_NEEDED && !add && item->bits == NEEDED_ALWAYS)
		return refuse(word, "leaves nothing that could be used", err);
	if (item->set == SET_NEEDED)
		priority->missing =
			add ? priority->missing & ~item->bits : priority->missing | item->bits;
	bits = set_of(priority, item->set);
	if (!bits)
		return 0;
	/* OpenSSL's own choice of groups, made explicit before something is taken from it. */
	if (item->set == SET_GROUP && !add && !*bits && !(priority->missing & NEEDED_GROUPS))
		*bits = GROUPS_ALL;
	*bits = add ? *bits | item->bits : *bits & ~item->bits;
	if (item->set == SET_GROUP)
		priority->missing = *bits ? priority->missing & ~(unsigned int)NEEDED_GROUPS
					  : priority->missing | NEEDED_GROUPS;
	return 0;
}

static int take_word(struct word word, bool first, struct tls_priority *priority, struct error *err)
{
	if (first)
		return take_keyword(word, priority, err);
	if (word.length > 1 && word.text[0] == '+')
		return take_item(word, true, priority, err);
	if (word.length > 1 && (word.text[0] == '-' || word.text[0] == '!'))
		return take_item(word, false, priority, err);
	if (word.length > 1 && word.text[0] == '%')
		return take_flag(word, priority, err);
	return refuse(word, "has no '+', '-', '!' or '%' before it", err);
}

static int check_rest(const char *text, const struct tls_priority *priority, struct error *err)
{
	char ciphers[TLS_PRIORITY_TEXT_MAX], suites[TLS_PRIORITY_TEXT_MAX];
	const char *lacks = NULL;

	tls_priority_ciphers(priority, true, ciphers);
	tls_priority_suites(priority, true, suites);
	if (!*ciphers && !*suites)
		lacks = "cipher for credentials of this kind";
	else if (priority->missing & NEEDED_GROUPS)
		lacks = "group; add one, as in '+GROUP-X25519'";
	else if (priority->missing & NEEDED_MAC)
		lacks = "integrity that its ciphers could use; add '+AEAD'";
	else if (priority->missing & NEEDED_SIGNATURES)
		lacks = "signature; add '+SIGN-ALL'";
	if (!lacks)
		return 0;
	return error_set(err, EINVAL, "TLS priority '%.200s' leaves no %s", text, lacks);
}

int tls_priority_parse(const char *text, unsigned int exchanges, struct tls_priority *priority,
		       struct error *err)
{
	const char *at = text ? text : "NORMAL";
	bool first = true;

	*priority = (struct tls_priority){.level = -1};
	for (;;) {
		struct word word = {at, strcspn(at, ":")};
		int rc = take_word(word, first, priority, err);

		if (rc)
			return rc;
		at += word.length;
		if (!*at++)
			break;
		first = false;
	}
	priority->exchanges &= exchanges;
	/* Anonymous suites went with TLS 1.2. */
	if (!(exchanges & ~(unsigned int)TLS_EXCHANGES_ANON))
		priority->versions &= ~(unsigned int)TLS_VERSION_13;
	return check_rest(text ? text : "NORMAL", priority, err);
}

/* ---- OpenSSL's words ---- */

static const struct row {
	unsigned int cipher;
	unsigned int exchange;
	const char *name;
} rows[] = {
	{CIPHER_AES_128_GCM, TLS_EXCHANGE_ECDHE_ECDSA, "ECDHE-ECDSA-AES128-GCM-SHA256"},
	{CIPHER_AES_128_GCM, TLS_EXCHANGE_ECDHE_RSA, "ECDHE-RSA-AES128-GCM-SHA256"},
	{CIPHER_AES_128_GCM, TLS_EXCHANGE_DHE_RSA, "DHE-RSA-AES128-GCM-SHA256"},
	{CIPHER_AES_128_GCM, TLS_EXCHANGE_DHE_PSK, "DHE-PSK-AES128-GCM-SHA256"},
	{CIPHER_AES_128_GCM, TLS_EXCHANGE_PSK, "PSK-AES128-GCM-SHA256"},
	{CIPHER_AES_128_GCM, TLS_EXCHANGE_ANON_DH, "ADH-AES128-GCM-SHA256"},
	{CIPHER_AES_256_GCM, TLS_EXCHANGE_ECDHE_ECDSA, "ECDHE-ECDSA-AES256-GCM-SHA384"},
	{CIPHER_AES_256_GCM, TLS_EXCHANGE_ECDHE_RSA, "ECDHE-RSA-AES256-GCM-SHA384"},
	{CIPHER_AES_256_GCM, TLS_EXCHANGE_DHE_RSA, "DHE-RSA-AES256-GCM-SHA384"},
	{CIPHER_AES_256_GCM, TLS_EXCHANGE_DHE_PSK, "DHE-PSK-AES256-GCM-SHA384"},
	{CIPHER_AES_256_GCM, TLS_EXCHANGE_PSK, "PSK-AES256-GCM-SHA384"},
	{CIPHER_AES_256_GCM, TLS_EXCHANGE_ANON_DH, "ADH-AES256-GCM-SHA384"},
	{CIPHER_CHACHA20, TLS_EXCHANGE_ECDHE_ECDSA, "ECDHE-ECDSA-CHACHA20-POLY1305"},
	{CIPHER_CHACHA20, TLS_EXCHANGE_ECDHE_RSA, "ECDHE-RSA-CHACHA20-POLY1305"},
	{CIPHER_CHACHA20, TLS_EXCHANGE_DHE_RSA, "DHE-RSA-CHACHA20-POLY1305"},
	{CIPHER_CHACHA20, TLS_EXCHANGE_ECDHE_PSK, "ECDHE-PSK-CHACHA20-POLY1305"},
	{CIPHER_CHACHA20, TLS_EXCHANGE_DHE_PSK, "DHE-PSK-CHACHA20-POLY1305"},
	{CIPHER_CHACHA20, TLS_EXCHANGE_PSK, "PSK-CHACHA20-POLY1305"},
	{CIPHER_AES_128_CCM, TLS_EXCHANGE_ECDHE_ECDSA, "ECDHE-ECDSA-AES128-CCM"},
	{CIPHER_AES_128_CCM, TLS_EXCHANGE_DHE_RSA, "DHE-RSA-AES128-CCM"},
	{CIPHER_AES_128_CCM, TLS_EXCHANGE_DHE_PSK, "DHE-PSK-AES128-CCM"},
	{CIPHER_AES_128_CCM, TLS_EXCHANGE_PSK, "PSK-AES128-CCM"},
	{CIPHER_AES_256_CCM, TLS_EXCHANGE_ECDHE_ECDSA, "ECDHE-ECDSA-AES256-CCM"},
	{CIPHER_AES_256_CCM, TLS_EXCHANGE_DHE_RSA, "DHE-RSA-AES256-CCM"},
	{CIPHER_AES_256_CCM, TLS_EXCHANGE_DHE_PSK, "DHE-PSK-AES256-CCM"},
	{CIPHER_AES_256_CCM, TLS_EXCHANGE_PSK, "PSK-AES256-CCM"},
	{CIPHER_AES_128_CBC, TLS_EXCHANGE_ANON_ECDH, "AECDH-AES128-SHA"},
	{CIPHER_AES_256_CBC, TLS_EXCHANGE_ANON_ECDH, "AECDH-AES256-SHA"},
};

static const struct row suites[] = {
	{CIPHER_AES_128_GCM, 0, "TLS_AES_128_GCM_SHA256"},
	{CIPHER_AES_256_GCM, 0, "TLS_AES_256_GCM_SHA384"},
	{CIPHER_CHACHA20, 0, "TLS_CHACHA20_POLY1305_SHA256"},
	{CIPHER_AES_128_CCM, 0, "TLS_AES_128_CCM_SHA256"},
};

static const struct row groups[] = {
	{GROUP_X25519, 0, "X25519"},   {GROUP_SECP256R1, 0, "P-256"}, {GROUP_SECP384R1, 0, "P-384"},
	{GROUP_SECP521R1, 0, "P-521"}, {GROUP_X448, 0, "X448"},
};

static void append(char text[TLS_PRIORITY_TEXT_MAX], const char *name)
{
	size_t used = strlen(text);

	snprintf(text + used, TLS_PRIORITY_TEXT_MAX - used, "%s%s", used ? ":" : "", name);
}

/* Rows of the wanted ciphers, in the table's order. */
static void append_rows(char text[TLS_PRIORITY_TEXT_MAX], const struct row *table, size_t count,
			unsigned int ciphers, unsigned int exchanges)
{
	for (size_t i = 0; i < count; i++)
		if (table[i].cipher & ciphers &&
		    (!table[i].exchange || table[i].exchange & exchanges))
			append(text, table[i].name);
}

static void build(char text[TLS_PRIORITY_TEXT_MAX], const struct row *table, size_t count,
		  const struct tls_priority *priority, bool aes)
{
	unsigned int first = aes ? 0 : CIPHER_CHACHA20;

	text[0] = '\0';
	append_rows(text, table, count, priority->ciphers & first, priority->exchanges);
	append_rows(text, table, count, priority->ciphers & ~first, priority->exchanges);
}

void tls_priority_ciphers(const struct tls_priority *priority, bool aes,
			  char text[TLS_PRIORITY_TEXT_MAX])
{
	text[0] = '\0';
	if (priority->versions & TLS_VERSION_12)
		build(text, rows, sizeof(rows) / sizeof(rows[0]), priority, aes);
}

void tls_priority_suites(const struct tls_priority *priority, bool aes,
			 char text[TLS_PRIORITY_TEXT_MAX])
{
	text[0] = '\0';
	if (priority->versions & TLS_VERSION_13)
		build(text, suites, sizeof(suites) / sizeof(suites[0]), priority, aes);
}

void tls_priority_groups(const struct tls_priority *priority, char text[TLS_PRIORITY_TEXT_MAX])
{
	text[0] = '\0';
	append_rows(text, groups, sizeof(groups) / sizeof(groups[0]), priority->groups, 0);
}
