// SPDX-License-Identifier: MIT
/*
 * The option --trace: patterns against a slow matcher, and the whole option without files, which
 * are not the fuzzer's to choose.
 */
#include <stdlib.h>

#include "common/log.h"
#include "fuzz.h"
#include "server/trace.h"

enum { PATTERN_MAX = 12 }; /* the slow matcher is exponential */

static const char *const names[] = {
#define TRACE_EVENT(name, format, parameters, values)              #name,
#define TRACE_EVENT_SHOWN(name, format, parameters, values, shown) #name,
#include "server/trace-events.h"
};

static bool slow_match(const char *pattern, size_t length, const char *name)
{
	if (!length)
		return !*name;
	if (*pattern == '*')
		return slow_match(pattern + 1, length - 1, name) ||
		       (*name && slow_match(pattern, length, name + 1));
	return *name && (*pattern == '?' || *pattern == *name) &&
	       slow_match(pattern + 1, length - 1, name + 1);
}

static void check_pattern(const char *pattern, size_t length)
{
	struct trace_setup setup = {0};
	bool off = length && *pattern == '-';
	uint64_t before;

	setup.active = before = off ? UINT64_MAX >> (64 - TRACE_EVENTS) : 0;
	trace_setup_rule(&setup, pattern, length);
	FUZZ_CHECK(setup.file == NULL);
	for (unsigned int event = 0; event < TRACE_EVENTS && length <= PATTERN_MAX; event++)
		FUZZ_CHECK(((setup.active ^ before) >> event & 1) ==
			   slow_match(pattern + off, length - off, names[event]));
}

static void check_option(const char *text)
{
	struct trace_setup setup = {0};
	struct error err = ERROR_INIT;

	if (strstr(text, "events"))
		return;
	if (trace_setup_add(&setup, text, &err))
		FUZZ_CHECK(*err.text);
	FUZZ_CHECK(setup.active >> TRACE_EVENTS == 0);
	trace_asks_help(text);
	trace_setup_clear(&setup);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	log_threshold = LOG_LEVEL_ERROR;
	FUZZ_CHECK(text);
	memcpy(text, data, size);
	text[size] = '\0';
	check_pattern(text, size);
	check_option(text);
	free(text);
	return 0;
}
