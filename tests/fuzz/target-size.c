// SPDX-License-Identifier: MIT
/* Numbers as people type them: eight bytes of limit, then the text. */
#include <ctype.h>
#include <errno.h>

#include "common/nbd-protocol.h"
#include "common/size.h"
#include "fuzz.h"

/* The value of digits in C's bases, computed in another way; false when it is above 64 bits. */
static bool digits_value(const char **text, uint64_t *value)
{
	unsigned int base = 10;
	unsigned __int128 sum = 0;

	if (**text == '0' && (text[0][1] == 'x' || text[0][1] == 'X') &&
	    isxdigit((unsigned char)text[0][2])) {
		base = 16;
		*text += 2;
	} else if (**text == '0') {
		base = 8;
	}
	for (;; ++*text) {
		unsigned char c = (unsigned char)tolower((unsigned char)**text);
		unsigned int digit = isdigit(c)    ? (unsigned int)c - '0'
				     : isxdigit(c) ? (unsigned int)c - 'a' + 10
						   : 99;

		if (digit >= base)
			break;
		if (sum <= UINT64_MAX)
			sum = sum * base + digit;
	}
	*value = (uint64_t)sum;
	return sum <= UINT64_MAX;
}

static void check_number(const char *text, uint64_t limit)
{
	uint64_t value, expected;
	int rc = size_parse_number(text, limit, &value);

	if (rc) {
		FUZZ_CHECK(rc == -EINVAL || rc == -ERANGE);
		return;
	}
	FUZZ_CHECK(isdigit((unsigned char)*text));
	FUZZ_CHECK(digits_value(&text, &expected) && value == expected && value <= limit);
	FUZZ_CHECK(*text == '\0');
}

static const char units[] = "KMGTPE";

static void check_size(const char *text, uint64_t limit)
{
	uint64_t value, expected;
	int rc = size_parse(text, limit, &value);
	char shown[SIZE_TEXT_MAX];
	const char *unit;

	if (rc) {
		FUZZ_CHECK(rc == -EINVAL || rc == -ERANGE);
		return;
	}
	FUZZ_CHECK(digits_value(&text, &expected) && value <= limit);
	unit = *text ? strchr(units, toupper((unsigned char)*text)) : NULL;
	if (unit) {
		unsigned int shift = 10 * (unsigned int)(unit - units + 1);

		FUZZ_CHECK((unsigned __int128)expected << shift == value);
		text++;
	} else {
		FUZZ_CHECK(value == expected);
	}
	FUZZ_CHECK(!*text || !strcmp(text, "B") || (unit && !strcmp(text, "iB")));
	FUZZ_CHECK(size_format(value, shown) == shown && strlen(shown) < SIZE_TEXT_MAX - 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char shown[SIZE_TEXT_MAX];
	uint64_t limit;
	char *text;

	if (size < 8)
		return 0;
	limit = load_be64(data);
	text = fuzz_text(data + 8, size - 8);
	check_number(text, limit);
	check_size(text, limit);
	size_format(limit, shown);
	FUZZ_CHECK(strchr(shown, 'B'));
	free(text);
	return 0;
}
