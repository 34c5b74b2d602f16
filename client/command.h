/* SPDX-License-Identifier: MIT */
/*
 * A subcommand of hawser, and the exit codes that all of them share. One file per subcommand; the
 * table that joins them is in main.c.
 */
#ifndef HAWSER_CLIENT_COMMAND_H
#define HAWSER_CLIENT_COMMAND_H

#include "common/error.h"
#include "options.h"

/* Exit codes: part of the interface, shown by `hawser help` and in the manual; never renumber. */
enum command_status {
	COMMAND_OK = 0,
	COMMAND_FAILED = 1,       /* anything that has no number of its own */
	COMMAND_USAGE = 2,        /* the command line is wrong */
	COMMAND_NOT_ATTACHED = 3, /* the device is not attached */
	COMMAND_BUSY = 4,         /* the device is in use, mounted or held */
	COMMAND_REFUSED = 5,      /* the server refuses, or has no such export */
	COMMAND_UNREACHABLE = 6,  /* the server cannot be reached, or does not answer */
	COMMAND_NOT_POSSIBLE = 7, /* no permission, or the kernel has no nbd driver */
	COMMAND_PROTOCOL = 8,     /* the server breaks the protocol */
};

/* The answer of command_parse() when the command shall go on. */
enum { COMMAND_GO_ON = -1 };

struct command {
	const char *name;
	const char *operands; /* for the usage line: "URI" */
	const char *summary;  /* one line for the list of commands */
	const char *details;  /* text after the options in the command's help; NULL: none */
	int operands_min, operands_max;
	const struct option_row *options;
	/* argv[0] is the subcommand. Returns a command_status; a sentence in err is printed by
	 * main. Output goes to stdout, only when it is complete. */
	int (*run)(int argc, char **argv, struct error *err);
};

extern const struct command command_attach;
extern const struct command command_detach;
extern const struct command command_info;
extern const struct command command_list;
extern const struct command command_status;
extern const struct command command_top;

/*
 * First line of each run function: parses the options into fields, checks the number of operands,
 * answers --help. COMMAND_GO_ON, or the status to return.
 */
int command_parse(const struct command *command, int argc, char **argv, void *fields,
		  struct operands *operands, struct error *err);

/* Sets a sentence about the command line; returns COMMAND_USAGE. */
int command_usage(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

void command_print_help(const struct command *command);

#endif
