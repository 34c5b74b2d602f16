// SPDX-License-Identifier: MIT
/* hawser detach: the device or name, then the verb of common/kernel. The main thread. */
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "command.h"
#include "common/json.h"
#include "common/kernel/device.h"
#include "device-fault.h"

enum { TIMEOUT_SECONDS = 30 };

struct detach_options {
	bool force;
	uint64_t timeout;
	bool ioctl;
	bool netlink;
	bool json;
};

#define FIELD(field) offsetof(struct detach_options, field)

static const struct option_row rows[] = {
	{"force", 'f', NULL, OPTION_FLAG, FIELD(force),
	 "also when mounted or held, and when it cannot be flushed: data is lost"},
	{"timeout", 't', "SECONDS", OPTION_SECONDS, FIELD(timeout),
	 "time for the flush, and for the driver to let go (30)"},
	{"netlink", 0, NULL, OPTION_FLAG, FIELD(netlink),
	 "use the netlink interface, and fail where there is none"},
	{"ioctl", 0, NULL, OPTION_FLAG, FIELD(ioctl), "use the ioctls"},
	{"json", 'j', NULL, OPTION_FLAG, FIELD(json), "print the result as JSON"},
	{0},
};

static void print_result(int index, bool as_json)
{
	char path[DEVICE_PATH_SIZE];
	struct json json;

	device_path(index, path);
	if (!as_json) {
		printf("%s disconnected\n", path);
		return;
	}
	json_init(&json, stdout);
	json_object_begin(&json, NULL);
	json_string(&json, "device", path);
	json_number(&json, "index", (uint64_t)index);
	json_bool(&json, "detached", true);
	json_object_end(&json);
	json_finish(&json);
}

static int detach(const struct detach_options *options, int index, struct error *err)
{
	struct device_detach wish = {.force = options->force,
				     .seconds = (uint32_t)options->timeout};
	enum device_choice choice = options->ioctl     ? DEVICE_CHOICE_IOCTL
				    : options->netlink ? DEVICE_CHOICE_NETLINK
						       : DEVICE_CHOICE_AUTO;
	const struct device_interface *interface;
	struct device_state state;
	int rc = device_state_read(index, &state, err);

	/* No module is loaded only to find nothing attached. */
	if (!rc && !state.attached)
		rc = error_set(err, ENOTCONN, "/dev/nbd%d is not attached", index);
	if (!rc)
		rc = device_interface_choose(choice, &interface, NULL, err);
	if (!rc)
		rc = device_detach(interface, index, &wish, err);
	if (rc)
		return device_fault(rc);
	print_result(index, options->json);
	return COMMAND_OK;
}

static int run(int argc, char **argv, struct error *err)
{
	struct detach_options options = {.timeout = TIMEOUT_SECONDS};
	struct operands operands;
	int status = command_parse(&command_detach, argc, argv, &options, &operands, err), index;

	if (status != COMMAND_GO_ON)
		return status;
	if (options.ioctl && options.netlink)
		return command_usage(err, "--ioctl and --netlink exclude each other");
	if (options.timeout < 1 || options.timeout > DEVICE_TIMEOUT_MAX)
		return command_usage(err, "--timeout is 1 to %d seconds", DEVICE_TIMEOUT_MAX);
	status = device_operand(operands.text[0], &index, err);
	return status == COMMAND_OK ? detach(&options, index, err) : status;
}

const struct command command_detach = {
	.name = "detach",
	.operands = "DEVICE|NAME",
	.summary = "Flush a device and detach it, unless something uses it",
	.details = "Exits with 3 if the device is not attached, with 4 if it is mounted or held;\n"
		   "then every user is named.",
	.operands_min = 1,
	.operands_max = 1,
	.options = rows,
	.run = run,
};
