// SPDX-License-Identifier: MIT
/* Properties as users type them: each entry of the list, written again, gives the same list. */
#include <stdio.h>

#include "common/keyval.h"
#include "fuzz.h"

static size_t doubled(char *out, const char *value)
{
	size_t length = 0;

	for (; *value; value++) {
		if (*value == ',')
			out[length++] = ',';
		out[length++] = *value;
	}
	out[length] = '\0';
	return length;
}

static void check_again(const struct keyval *list, size_t size)
{
	char *text = malloc(2 * size + 16);

	FUZZ_CHECK(text);
	for (size_t i = 0; i < list->count; i++) {
		const struct keyval_entry *entry = &list->entries[i];
		struct keyval again = {0};
		int length = sprintf(text, "%s=", entry->key);

		FUZZ_CHECK(*entry->key && !strpbrk(entry->key, "=,"));
		doubled(text + length, entry->value);
		FUZZ_CHECK(!keyval_parse(&again, text, NULL, NULL) && again.count == 1);
		FUZZ_CHECK(!strcmp(again.entries[0].value, entry->value));
		keyval_clear(&again);
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const known[] = {"driver", "file.filename", "read-only"};
	struct error err = {.code = 0};
	struct keyval list = {0};
	char *text = fuzz_text(data, size);
	uint64_t number;
	bool truth;

	if (!keyval_parse(&list, text, "driver", &err))
		check_again(&list, size);
	for (size_t i = 0; i < list.count; i++) {
		keyval_take_bool(&list, list.entries[i].key, &truth, &err);
		list.entries[i].taken = false;
		keyval_take_size(&list, list.entries[i].key, 1 << 20, &number, &err);
		list.entries[i].taken = i % 2;
	}
	keyval_check_taken(&list, known, 3, &err);
	keyval_clear(&list);
	free(text);
	return 0;
}
