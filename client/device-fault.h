/* SPDX-License-Identifier: MIT */
/* What the commands that touch devices share: exit codes, and finding the device. */
#ifndef HAWSER_CLIENT_DEVICE_FAULT_H
#define HAWSER_CLIENT_DEVICE_FAULT_H

#include "common/error.h"

/* The command_status for a -errno of common/kernel. */
int device_fault(int code);

/* DEVICE, or the NAME of an attach: COMMAND_OK with *index, else a command_status with err set. */
int device_operand(const char *text, int *index, struct error *err);

#endif
