// SPDX-License-Identifier: MIT
/* Numbers as people type and read them. Pure functions, any thread. */
#include "size.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* strtoull() would take blanks and a minus sign. */
static int parse_digits(const char *text, const char **end, uint64_t *value)
{
	char *stop;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	*value = strtoull(text, &stop, 0);
	*end = stop;
	return errno ? -ERANGE : 0;
}

int size_parse_number(const char *text, uint64_t limit, uint64_t *value)
{
	const char *end;
	int rc = parse_digits(text, &end, value);

	if (rc)
		return rc;
	if (*end)
		return -EINVAL;
	return *value > limit ? -ERANGE : 0;
}

int size_parse(const char *text, uint64_t limit, uint64_t *value)
{
	static const char suffixes[] = "KMGTPE";
	const char *end, *suffix;
	int rc = parse_digits(text, &end, value);

	if (rc)
		return rc;
	if (*end && (suffix = strchr(suffixes, toupper((unsigned char)*end)))) {
		unsigned int shift = 10 * (unsigned int)(suffix - suffixes + 1);

		if (*value > UINT64_MAX >> shift)
			return -ERANGE;
		*value <<= shift;
		end++;
		if (strcmp(end, "iB") == 0)
			end += 2;
	}
	if (strcmp(end, "B") == 0)
		end++;
	if (*end)
		return -EINVAL;
	return *value > limit ? -ERANGE : 0;
}

const char *size_format(uint64_t value, char text[SIZE_TEXT_MAX])
{
	static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	unsigned int step = 0;
	uint64_t scale = 1;

	/* What would be shown as 1024.0 is shown as 1 of the next unit. */
	while (step < 6 && value / scale + (value % scale >= scale - scale / 20) >= 1024) {
		scale <<= 10;
		step++;
	}
	if (value % scale == 0)
		snprintf(text, SIZE_TEXT_MAX, "%llu %s", (unsigned long long)(value / scale),
			 unit[step]);
	else
		snprintf(text, SIZE_TEXT_MAX, "%.1f %s", (double)value / (double)scale, unit[step]);
	return text;
}
