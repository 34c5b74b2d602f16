// SPDX-License-Identifier: MIT
/* See tls-psk.h. Any thread. */
#include "tls-psk.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int digit_value(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	digit = (char)tolower((unsigned char)digit);
	return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* Decodes pairs of digits; the number of bytes, or 0 when that is not what text is. */
static size_t decode_hex(const char *text, size_t length, uint8_t *out, size_t room)
{
	if (!length || length % 2 || length / 2 > room)
		return 0;
	for (size_t i = 0; i < length; i += 2) {
		int high = digit_value(text[i]), low = digit_value(text[i + 1]);

		if (high < 0 || low < 0)
			return 0;
		out[i / 2] = (uint8_t)(high << 4 | low);
	}
	return length / 2;
}

static void skip_line(struct tls_psk *table, size_t line, const char *why)
{
	if (!table->skipped++)
		table->flaw = (struct tls_psk_flaw){line, why};
}

/* The user of a line, decoded into name; 0 when it cannot be one. */
static size_t read_user(const char *text, size_t length, char name[TLS_PSK_USER_MAX + 1])
{
	if (length && text[0] == '#') {
		length = decode_hex(text + 1, length - 1, (uint8_t *)name, TLS_PSK_USER_MAX);
	} else {
		if (length > TLS_PSK_USER_MAX)
			return 0;
		memcpy(name, text, length);
	}
	name[length] = '\0';
	return strlen(name) == length ? length : 0;
}

static int add_entry(struct tls_psk *table, const char *user, const uint8_t *key, size_t length,
		     struct error *err)
{
	struct tls_psk_entry *grown, *next;

	if (table->count == TLS_PSK_ENTRIES_MAX)
		return error_set(err, E2BIG, "more than %d users", TLS_PSK_ENTRIES_MAX);
	/* Room for the next power of two. */
	if ((table->count & (table->count - 1)) == 0) {
		grown = reallocarray(table->entries, table->count ? 2 * table->count : 1,
				     sizeof(*grown));
		if (!grown)
			return error_set(err, ENOMEM, "out of memory");
		table->entries = grown;
	}
	next = &table->entries[table->count];
	*next = (struct tls_psk_entry){.user = strdup(user), .key = malloc(length)};
	if (!next->user || !next->key) {
		free(next->user);
		free(next->key);
		return error_set(err, ENOMEM, "out of memory");
	}
	memcpy(next->key, key, length);
	next->key_length = length;
	table->count++;
	return 0;
}

/* A user in hexadecimal digits begins as a comment does. */
static bool is_comment(const char *text, size_t length)
{
	return text[0] == '#' &&
	       (length == 1 || isspace((unsigned char)text[1]) || !memchr(text, ':', length));
}

static const char *key_fault(size_t digits)
{
	if (!digits)
		return "it has no key behind the colon";
	if (digits > 2 * TLS_PSK_KEY_MAX)
		return "its key has more than 1024 digits (512 bytes)";
	if (digits % 2)
		return "its key has an odd number of digits";
	return "its key does not consist of hexadecimal digits";
}

static int read_line(struct tls_psk *table, const char *text, size_t length, size_t line,
		     struct error *err)
{
	uint8_t key[TLS_PSK_KEY_MAX];
	char user[TLS_PSK_USER_MAX + 1];
	const char *colon;
	size_t digits, key_length;
	int rc = 0;

	while (length && isspace((unsigned char)text[length - 1]))
		length--;
	if (!length || is_comment(text, length))
		return 0;
	/* psktool allows a colon in a name, and no key has one. */
	colon = memrchr(text, ':', length);
	if (!colon) {
		skip_line(table, line, "it has not the form USER:HEXKEY");
		return 0;
	}
	if (!read_user(text, (size_t)(colon - text), user)) {
		skip_line(table, line, "its user is empty, not text, or longer than 128 bytes");
		return 0;
	}
	digits = length - (size_t)(colon - text) - 1;
	key_length = decode_hex(colon + 1, digits, key, sizeof(key));
	if (key_length)
		rc = add_entry(table, user, key, key_length, err);
	else
		skip_line(table, line, key_fault(digits));
	explicit_bzero(key, sizeof(key));
	return rc;
}

int tls_psk_parse(const char *text, size_t length, struct tls_psk *table, struct error *err)
{
	size_t line = 1;
	int rc = 0;

	*table = (struct tls_psk){0};
	while (!rc && length) {
		const char *end = memchr(text, '\n', length);
		size_t taken = end ? (size_t)(end - text) : length;

		rc = read_line(table, text, taken, line++, err);
		taken += end != NULL;
		text += taken;
		length -= taken;
	}
	if (rc)
		tls_psk_clear(table);
	return rc;
}

const struct tls_psk_entry *tls_psk_find(const struct tls_psk *table, const char *user)
{
	for (size_t i = 0; i < table->count; i++)
		if (!strcmp(table->entries[i].user, user))
			return &table->entries[i];
	return NULL;
}

static void clear_entry(struct tls_psk_entry *entry)
{
	explicit_bzero(entry->key, entry->key_length);
	free(entry->key);
	free(entry->user);
}

bool tls_psk_keep(struct tls_psk *table, const char *user)
{
	const struct tls_psk_entry *found = tls_psk_find(table, user);
	struct tls_psk_entry kept;

	if (!found)
		return false;
	kept = *found;
	for (size_t i = 0; i < table->count; i++)
		if (&table->entries[i] != found)
			clear_entry(&table->entries[i]);
	table->entries[0] = kept;
	table->count = 1;
	return true;
}

void tls_psk_clear(struct tls_psk *table)
{
	for (size_t i = 0; i < table->count; i++)
		clear_entry(&table->entries[i]);
	free(table->entries);
	*table = (struct tls_psk){0};
}
