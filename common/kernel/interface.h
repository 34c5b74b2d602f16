/* SPDX-License-Identifier: MIT */
/* Inside common/kernel: the two implementations, and what they share. */
#ifndef HAWSER_COMMON_KERNEL_INTERFACE_H
#define HAWSER_COMMON_KERNEL_INTERFACE_H

#include "device.h"

extern const struct device_interface device_netlink;
extern const struct device_interface device_ioctl;

/* Is the netlink family there, and may we see it? 0, -ENOENT (no family), or another -errno. */
int netlink_available(struct error *err);

/* Loads nbd.ko where /sys/module/nbd is missing. */
int module_load(struct error *err);

/* Without CAP_SYS_ADMIN nothing here works: -EPERM with the way out. */
int module_check_rights(struct error *err);

/* A sentence for an errno of CONNECT and friends that users meet often; returns -code. */
int interface_error(struct error *err, int code, const char *what, const char *detail);

#endif
