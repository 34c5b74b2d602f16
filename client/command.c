// SPDX-License-Identifier: MIT
/* What all subcommands share: their first line and their help. The main thread. */
#include "command.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

int command_usage(struct error *err, const char *format, ...)
{
	char text[ERROR_TEXT_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	error_set(err, EINVAL, "%s", text);
	return COMMAND_USAGE;
}

int command_parse(const struct command *command, int argc, char **argv, void *fields,
		  struct operands *operands, struct error *err)
{
	int rc = options_parse(command->options, argc, argv, fields, operands, err);

	if (rc < 0)
		return COMMAND_USAGE;
	if (rc > 0) {
		command_print_help(command);
		return COMMAND_OK;
	}
	if (operands->count < command->operands_min)
		return command_usage(err, "%s: %s is missing", command->name, command->operands);
	if (operands->count > command->operands_max)
		return command_usage(err, "%s: '%s' is one operand too many", command->name,
				     operands->text[command->operands_max]);
	return COMMAND_GO_ON;
}

void command_print_help(const struct command *command)
{
	printf("Usage: hawser %s [OPTION...] %s\n%s.\n\nOptions:\n", command->name,
	       command->operands, command->summary);
	options_print_help(command->options);
	if (command->details)
		printf("\n%s\n", command->details);
}
