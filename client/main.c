// SPDX-License-Identifier: MIT
/*
 * hawser: moors an NBD export to a Linux block device. This file has the table of subcommands and
 * sends the command line to one of them; it prints the only error message of a run.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "common/cleanup.h"
#include "common/log.h"

static int run_help(int argc, char **argv, struct error *err);

struct help_options {
	bool words;
};

static const struct option_row help_options[] = {
	{"words", 0, NULL, OPTION_FLAG, offsetof(struct help_options, words),
	 "list all commands and options, one a line, for completion"},
	{0},
};

static const struct command command_help = {
	.name = "help",
	.operands = "[COMMAND]",
	.summary = "Show what the commands are, or what one of them does",
	.operands_max = 1,
	.options = help_options,
	.run = run_help,
};

/* In the order in which they are shown. */
static const struct command *const commands[] = {
	&command_attach, &command_detach, &command_status, &command_list,
	&command_info,   &command_top,    &command_help,
};
enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

/* The spellings of qemu-nbd and nbd-client: one option, which stands for a subcommand. */
static const struct {
	const char *letter, *name, *command, *option;
} short_forms[] = {
	{"-c", "--connect", "attach", "--device"},
	{"-d", "--disconnect", "detach", NULL},
};

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < COMMANDS; i++)
		if (strcmp(commands[i]->name, name) == 0)
			return commands[i];
	return NULL;
}

static void print_help(void)
{
	puts("Usage: hawser COMMAND [OPTION...] [OPERAND...]\n"
	     "       hawser -c DEVICE URI    the same as hawser attach --device=DEVICE URI\n"
	     "       hawser -d DEVICE        the same as hawser detach DEVICE\n"
	     "       hawser -h | -V          this help, the version\n"
	     "\n"
	     "Moors an NBD export to a Linux block device.\n"
	     "\n"
	     "Commands:");
	for (size_t i = 0; i < COMMANDS; i++)
		printf("  %-8s  %s\n", commands[i]->name, commands[i]->summary);
	puts("\n"
	     "A URI is nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH;\n"
	     "HOST[:PORT] and the path of a socket mean the default export there.\n"
	     "\n"
	     "Exit codes:\n"
	     "  0 done           3 not attached           6 server not reachable\n"
	     "  1 failed         4 device in use          7 no permission, or no driver\n"
	     "  2 wrong usage    5 refused by the server  8 server breaks the protocol\n"
	     "\n"
	     "'hawser help COMMAND' shows the options of a command.");
}

static void print_words(void)
{
	for (size_t i = 0; i < COMMANDS; i++) {
		const struct option_row *row = commands[i]->options;

		printf("%s\n", commands[i]->name);
		for (; row && row->name; row++) {
			printf("%s --%s%s\n", commands[i]->name, row->name, row->value ? "=" : "");
			if (row->letter)
				printf("%s -%c\n", commands[i]->name, row->letter);
		}
	}
}

static int run_help(int argc, char **argv, struct error *err)
{
	struct help_options options = {0};
	const struct command *command;
	struct operands operands;
	int status = command_parse(&command_help, argc, argv, &options, &operands, err);

	if (status != COMMAND_GO_ON)
		return status;
	if (options.words) {
		print_words();
	} else if (operands.count == 0) {
		print_help();
	} else {
		command = find_command(operands.text[0]);
		if (!command)
			return command_usage(err, "there is no command '%s'", operands.text[0]);
		command_print_help(command);
	}
	return COMMAND_OK;
}

/* ---- Dispatch ---- */

/* -c DEV URI... becomes attach --device DEV URI... 1: *argc and *argv are rewritten. */
static int expand_short_form(int *argc, char ***argv, char **room, struct error *err)
{
	for (size_t i = 0; i < sizeof(short_forms) / sizeof(short_forms[0]); i++) {
		int count = 0;

		if (strcmp((*argv)[0], short_forms[i].letter) != 0 &&
		    strcmp((*argv)[0], short_forms[i].name) != 0)
			continue;
		if (*argc < 2)
			return command_usage(err, "%s needs a device, as in %s /dev/nbd0",
					     (*argv)[0], (*argv)[0]);
		room[count++] = (char *)short_forms[i].command;
		if (short_forms[i].option)
			room[count++] = (char *)short_forms[i].option;
		memcpy(room + count, *argv + 1, (size_t)*argc * sizeof(*room));
		*argc += count - 1;
		*argv = room;
		break;
	}
	return COMMAND_GO_ON;
}

static int dispatch(int argc, char **argv, char **room, struct error *err)
{
	const struct command *command;
	int status;

	if (strcmp(argv[0], "-h") == 0 || strcmp(argv[0], "--help") == 0) {
		print_help();
		return COMMAND_OK;
	}
	if (strcmp(argv[0], "-V") == 0 || strcmp(argv[0], "--version") == 0) {
		puts("hawser " HAWSER_VERSION);
		return COMMAND_OK;
	}
	status = expand_short_form(&argc, &argv, room, err);
	if (status != COMMAND_GO_ON)
		return status;
	command = find_command(argv[0]);
	if (!command)
		return command_usage(err, "there is no %s '%s'",
				     argv[0][0] == '-' ? "option" : "command", argv[0]);
	return command->run(argc, argv, err);
}

/* A socket must not get the number of a closed stdout. */
static void open_standard_fds(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

int main(int argc, char **argv)
{
	struct error err = ERROR_INIT;
	AUTO_FREE char **room = calloc((size_t)argc + 2, sizeof(*room));
	int status;

	open_standard_fds();
	log_init(argc ? argv[0] : "hawser");
	if (!room)
		return COMMAND_FAILED;
	if (argc < 2)
		status = command_usage(&err, "which command?");
	else
		status = dispatch(argc - 1, argv + 1, room, &err);
	if (fflush(stdout) || ferror(stdout)) {
		log_error("cannot write the output: %m");
		return status ? status : COMMAND_FAILED;
	}
	if (status != COMMAND_OK && err.text[0])
		log_error("%s", err.text);
	if (status == COMMAND_USAGE)
		fprintf(stderr, "Try 'hawser help' for more information.\n");
	return status;
}
