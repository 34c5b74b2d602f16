// SPDX-License-Identifier: MIT
/* See device-fault.h. The main thread. */
#include "device-fault.h"

#include <errno.h>
#include <stddef.h>

#include "command.h"
#include "common/kernel/device.h"

static const struct {
	int code;
	enum command_status status;
} statuses[] = {
	{EBUSY, COMMAND_BUSY},
	{ENOTCONN, COMMAND_NOT_ATTACHED},
	{EPERM, COMMAND_NOT_POSSIBLE},
	{EACCES, COMMAND_NOT_POSSIBLE},
	{ENODEV, COMMAND_NOT_POSSIBLE},
	{ENOENT, COMMAND_NOT_POSSIBLE},
	{EPROTONOSUPPORT, COMMAND_NOT_POSSIBLE},
};

int device_fault(int code)
{
	for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++)
		if (statuses[i].code == -code)
			return statuses[i].status;
	return COMMAND_FAILED;
}

int device_operand(const char *text, int *index, struct error *err)
{
	if (!device_label_valid(text))
		return device_parse(text, index, err) ? COMMAND_USAGE : COMMAND_OK;
	if (!device_find_label(text, index))
		return COMMAND_OK;
	error_set(err, ENOTCONN, "nothing is attached under the name '%s'", text);
	return COMMAND_NOT_ATTACHED;
}
