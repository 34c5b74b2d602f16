// SPDX-License-Identifier: MIT
/* hawser top: what a server of this machine is doing, for people and for programs. Asks only the
 * server's control socket; changes nothing. The main thread. */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "command.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "top.h"

struct top_options {
	bool json;
	bool openmetrics;
	bool once;
	uint64_t interval;
};

static const struct option_row top_options[] = {
	{"once", 0, NULL, OPTION_FLAG, offsetof(struct top_options, once),
	 "measure for one interval, print, and end"},
	{"interval", 'n', "SECONDS", OPTION_SECONDS, offsetof(struct top_options, interval),
	 "time between two looks (1)"},
	{"json", 'j', NULL, OPTION_FLAG, offsetof(struct top_options, json),
	 "print the server's counters as one JSON object"},
	{"openmetrics", 0, NULL, OPTION_FLAG, offsetof(struct top_options, openmetrics),
	 "print them as OpenMetrics text"},
	{0},
};

/* As the server tells it, once it is sure that it is what it should be. */
static int print_answer(const struct top_server *server, const char *request, bool is_json,
			struct error *err)
{
	AUTO_FREE char *answer = NULL;
	struct top_sample sample = {0};
	size_t length;
	int status = top_server_ask(server, request, &answer, &length, err);

	if (status != COMMAND_OK)
		return status;
	if (is_json && top_sample_read(answer, length, &sample, err))
		return COMMAND_PROTOCOL;
	top_sample_clear(&sample);
	fwrite(answer, 1, length, stdout);
	return COMMAND_OK;
}

static int take_sample(const struct top_server *server, struct top_sample *sample,
		       struct error *err)
{
	AUTO_FREE char *answer = NULL;
	size_t length;
	int status = top_server_ask(server, "stats json", &answer, &length, err);

	if (status != COMMAND_OK)
		return status;
	return top_sample_read(answer, length, sample, err) ? COMMAND_PROTOCOL : COMMAND_OK;
}

static void wait_interval(uint64_t seconds)
{
	struct timespec left = {.tv_sec = (time_t)seconds};

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		continue;
}

static int print_once(const struct top_server *server, uint64_t interval, struct error *err)
{
	struct top_sample before CLEANUP(top_sample_clear) = {0};
	struct top_sample now CLEANUP(top_sample_clear) = {0};
	struct top_history history = {0};
	struct top_look look = top_screen_look();
	int status = take_sample(server, &before, err);

	if (status != COMMAND_OK)
		return status;
	wait_interval(interval);
	status = take_sample(server, &now, err);
	if (status != COMMAND_OK)
		return status;
	look.live = false;
	look.rows = 0;
	top_view_draw(stdout, &look, &now, &before, &history);
	return COMMAND_OK;
}

static int show(const struct top_server *server, const struct top_options *options,
		struct error *err)
{
	if (options->json)
		return print_answer(server, "stats json", true, err);
	if (options->openmetrics)
		return print_answer(server, "stats openmetrics", false, err);
	if (options->once || !top_screen_look().live)
		return print_once(server, options->interval, err);
	return top_screen_run(server, options->interval, err);
}

static int run(int argc, char **argv, struct error *err)
{
	struct top_options options = {.interval = 1};
	struct top_server server CLEANUP(top_server_clear) = TOP_SERVER_INIT;
	struct operands operands;
	int status = command_parse(&command_top, argc, argv, &options, &operands, err);

	if (status != COMMAND_GO_ON)
		return status;
	if (options.json && options.openmetrics)
		return command_usage(err, "top: --json and --openmetrics exclude each other");
	if (!options.interval)
		return command_usage(err, "top: --interval is at least 1");
	status = top_server_find(operands.count ? operands.text[0] : NULL, &server, err);
	return status == COMMAND_OK ? show(&server, &options, err) : status;
}

const struct command command_top = {
	.name = "top",
	.operands = "[URI|SOCKET|PID]",
	.summary = "Show what a server on this machine is doing, refreshing",
	.details = "Without an operand: the only server that runs here.\n"
		   "Keys: q ends, space refreshes. Without a terminal: as with --once.",
	.operands_max = 1,
	.options = top_options,
	.run = run,
};
