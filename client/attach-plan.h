/* SPDX-License-Identifier: MIT */
/*
 * What of an export becomes a device: access, size, block size, flags. Pure functions: the user's
 * wish and the server's word in, the plan out; everything that can be refused is refused here,
 * before a device is touched.
 */
#ifndef HAWSER_CLIENT_ATTACH_PLAN_H
#define HAWSER_CLIENT_ATTACH_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "common/client-handshake.h"
#include "common/error.h"

struct attach_wish {
	bool read_only;      /* even where the server lets us write */
	bool read_write;     /* fail where it does not */
	uint64_t block_size; /* 0: 512, or the server's minimum */
	uint64_t connections;
};

struct attach_plan {
	uint64_t size; /* of the device */
	uint64_t lost; /* bytes of the export behind it that no block holds */
	uint32_t block_size;
	uint32_t max_payload;
	uint16_t flags; /* for the kernel */
	bool read_only;
	bool degraded; /* read-only because the server is, not because it was asked for */
};

/* 0, or a negative errno with a sentence: EROFS, EINVAL, ENOTSUP. */
int attach_plan_make(const struct attach_wish *wish, const struct nbd_export_info *info,
		     struct attach_plan *plan, struct error *err);

#endif
