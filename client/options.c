// SPDX-License-Identifier: MIT
/* Options of a subcommand: parsing and help from one table. The main thread, at the start. */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "common/size.h"

enum {
	ROWS_MAX = 40,
	/* getopt's value of row i is LONG_BASE + i, whichever way the option was written. */
	LONG_BASE = 0x100,
	HELP_COLUMN = 26,
	HELP_WIDTH = 80,
};

static const struct option_row help_row = {"help", 'h', NULL, OPTION_FLAG, 0, "show this help"};

/* The tables that getopt_long() wants. */
struct getopt_tables {
	struct option longs[ROWS_MAX + 2];
	char letters[2 * ROWS_MAX + 4];
};

static void add_row(struct getopt_tables *tables, int index, const struct option_row *row)
{
	char *at = tables->letters + strlen(tables->letters);

	tables->longs[index] = (struct option){
		row->name, row->value ? required_argument : no_argument, NULL, LONG_BASE + index};
	if (!row->letter)
		return;
	*at++ = row->letter;
	if (row->value)
		*at++ = ':';
	*at = '\0';
}

static int count_rows(const struct option_row *rows)
{
	int count = 0;

	while (rows && rows[count].name && count < ROWS_MAX)
		count++;
	return count;
}

static void build_tables(const struct option_row *rows, int count, struct getopt_tables *tables)
{
	memset(tables, 0, sizeof(*tables));
	strcpy(tables->letters, ":");
	for (int i = 0; i < count; i++)
		add_row(tables, i, &rows[i]);
	add_row(tables, count, &help_row);
}

static const struct option_row *row_of(const struct option_row *rows, int count, int found)
{
	if (found >= LONG_BASE)
		return found == LONG_BASE + count ? &help_row : &rows[found - LONG_BASE];
	for (int i = 0; i < count; i++)
		if (rows[i].letter == found)
			return &rows[i];
	return found == help_row.letter ? &help_row : NULL;
}

static int store_number(const struct option_row *row, const char *text, uint64_t *field,
			struct error *err)
{
	int rc;

	if (row->kind == OPTION_SIZE)
		rc = size_parse(text, UINT64_MAX, field);
	else
		rc = size_parse_number(text, row->kind == OPTION_SECONDS ? UINT32_MAX : UINT64_MAX,
				       field);
	if (!rc)
		return 0;
	return error_set(err, EINVAL, "--%s: '%s' is %s", row->name, text,
			 rc == -ERANGE                 ? "too big"
			 : row->kind == OPTION_SIZE    ? "not a size (as in 4096, 64k, 1G)"
			 : row->kind == OPTION_SECONDS ? "not a number of seconds"
						       : "not a number");
}

static int store(const struct option_row *row, const char *text, void *fields, struct error *err)
{
	void *field = (char *)fields + row->offset;

	switch (row->kind) {
	case OPTION_FLAG:
		*(bool *)field = true;
		return 0;
	case OPTION_STRING:
		*(const char **)field = text;
		return 0;
	case OPTION_SIZE:
	case OPTION_NUMBER:
	case OPTION_SECONDS:
		return store_number(row, text, field, err);
	}
	return 0;
}

static int refuse(const struct option_row *rows, int count, int found, char **argv,
		  struct error *err)
{
	const struct option_row *row = optopt ? row_of(rows, count, optopt) : NULL;

	if (found == ':' && row)
		return error_set(err, EINVAL, "option --%s needs a value: %s", row->name,
				 row->value);
	if (row)
		return error_set(err, EINVAL, "option --%s takes no value", row->name);
	if (optopt)
		return error_set(err, EINVAL, "there is no option '-%c'", optopt);
	return error_set(err, EINVAL, "there is no option '%s', or it is cut too short",
			 argv[optind - 1]);
}

int options_parse(const struct option_row *rows, int argc, char **argv, void *fields,
		  struct operands *operands, struct error *err)
{
	int count = count_rows(rows);
	struct getopt_tables tables;
	int found, rc;

	build_tables(rows, count, &tables);
	opterr = 0;
	optind = 0;
	while ((found = getopt_long(argc, argv, tables.letters, tables.longs, NULL)) != -1) {
		const struct option_row *row;

		if (found == '?' || found == ':')
			return refuse(rows, count, found, argv, err);
		row = row_of(rows, count, found);
		if (row == &help_row)
			return 1;
		rc = store(row, optarg, fields, err);
		if (rc)
			return rc;
	}
	operands->count = argc - optind;
	operands->text = argv + optind;
	return 0;
}

/* ---- Help ---- */

/* Words of text from column on, wrapped; the cursor stands in column. */
static void print_wrapped(const char *text, int column)
{
	int at = column;

	while (*text) {
		int length = (int)strcspn(text, " ");

		if (at > column && at + 1 + length > HELP_WIDTH) {
			printf("\n%*s", column, "");
			at = column;
		}
		at += printf("%s%.*s", at > column ? " " : "", length, text);
		text += length;
		text += strspn(text, " ");
	}
	putchar('\n');
}

static void print_row(const struct option_row *row)
{
	char letter[8] = "    ";
	int width;

	if (row->letter)
		snprintf(letter, sizeof(letter), "-%c, ", row->letter);
	width = printf("  %s--%s%s%s", letter, row->name, row->value ? "=" : "",
		       row->value ? row->value : "");
	if (width + 2 > HELP_COLUMN) {
		putchar('\n');
		width = 0;
	}
	printf("%*s", HELP_COLUMN - width, "");
	print_wrapped(row->help, HELP_COLUMN);
}

void options_print_help(const struct option_row *rows)
{
	for (; rows && rows->name; rows++)
		print_row(rows);
	print_row(&help_row);
}
