/* SPDX-License-Identifier: MIT */
/*
 * Options of a subcommand as a table: the same rows drive the parsing, the help text, and the list
 * of words that completion and the tests of the manual read.
 */
#ifndef HAWSER_CLIENT_OPTIONS_H
#define HAWSER_CLIENT_OPTIONS_H

#include <stddef.h>

#include "common/error.h"

enum option_kind {
	OPTION_FLAG,    /* bool */
	OPTION_STRING,  /* const char *, points into argv */
	OPTION_SIZE,    /* uint64_t, with a suffix (size_parse) */
	OPTION_NUMBER,  /* uint64_t, plain */
	OPTION_SECONDS, /* uint64_t, whole seconds */
};

/* One option; a table ends with a row without a name. */
struct option_row {
	const char *name;  /* without the dashes */
	char letter;       /* 0: none */
	const char *value; /* name of the value in the help, NULL for a flag */
	enum option_kind kind;
	size_t offset; /* of the field in the command's options struct */
	const char *help;
};

/* What is left after the options; points into argv. */
struct operands {
	int count;
	char **text;
};

/*
 * Parses argv[1..] (argv[0] is the subcommand) into the struct at fields; options and operands mix
 * freely, "--" ends the options. 0; 1 when --help was asked for; or -EINVAL with err set.
 */
int options_parse(const struct option_row *rows, int argc, char **argv, void *fields,
		  struct operands *operands, struct error *err);

/* The help lines of the rows, at most 80 columns wide, on stdout. */
void options_print_help(const struct option_row *rows);

#endif
