// SPDX-License-Identifier: MIT
/* See attach-plan.h. */
#include "attach-plan.h"

#include <errno.h>
#include <string.h>

#include "common/nbd-protocol.h"
#include "common/size.h"

/* The largest logical block of any kernel (6.15 and later with huge pages; else a page). */
enum { BLOCK_MAX = 65536 };

/* What the driver acts upon; it has no business with the rest. */
enum {
	KERNEL_FLAGS = NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY | NBD_FLAG_SEND_FLUSH |
		       NBD_FLAG_SEND_FUA | NBD_FLAG_ROTATIONAL | NBD_FLAG_SEND_TRIM |
		       NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_CAN_MULTI_CONN,
};

static int plan_access(const struct attach_wish *wish, const struct nbd_export_info *info,
		       struct attach_plan *plan, struct error *err)
{
	bool server = info->flags & NBD_FLAG_READ_ONLY;

	if (server && wish->read_write)
		return error_set(err, EROFS, "NBD export is read-only");
	plan->read_only = server || wish->read_only;
	plan->degraded = server && !wish->read_only;
	return 0;
}

static void plan_flags(const struct nbd_export_info *info, struct attach_plan *plan)
{
	uint16_t flags = info->flags | NBD_FLAG_HAS_FLAGS;

	if (plan->read_only)
		flags |= NBD_FLAG_READ_ONLY;
	/*
	 * The kernel zeroes up to 4 GiB by one request and cannot be told less. The reference
	 * server zeroes the first 64 MiB of it and reports success; it offers no FAST_ZERO, while
	 * the servers that get it right do. Without the flag the kernel writes zeroes.
	 */
	if (!(flags & NBD_FLAG_SEND_FAST_ZERO))
		flags &= (uint16_t)~NBD_FLAG_SEND_WRITE_ZEROES;
	plan->flags = flags & KERNEL_FLAGS;
}

static int plan_block(const struct attach_wish *wish, const struct nbd_export_info *info,
		      struct attach_plan *plan, struct error *err)
{
	uint32_t minimum = info->has_block_sizes ? info->minimum : 1;
	uint64_t block = wish->block_size;

	if (block && (!is_power_of_two(block) || block < NBD_SECTOR || block > BLOCK_MAX))
		return error_set(err, EINVAL,
				 "a device's block size is a power of two from %d to %d, not %llu",
				 NBD_SECTOR, BLOCK_MAX, (unsigned long long)block);
	if (block && block < minimum)
		return error_set(err, EINVAL,
				 "the server takes no blocks below %u bytes, so the device cannot "
				 "have %llu",
				 minimum, (unsigned long long)block);
	if (!block)
		block = max_of(minimum, (uint32_t)NBD_SECTOR);
	if (block > BLOCK_MAX || !is_power_of_two(block))
		return error_set(err, ENOTSUP,
				 "the server takes no blocks below %u bytes, and no kernel has "
				 "devices with more than %d",
				 minimum, BLOCK_MAX);
	plan->block_size = (uint32_t)block;
	return 0;
}

static int plan_size(const struct nbd_export_info *info, struct attach_plan *plan,
		     struct error *err)
{
	if (!info->size)
		return error_set(err, EINVAL, "the export is empty; there is nothing to attach");
	plan->size = round_down(info->size, plan->block_size);
	plan->lost = info->size - plan->size;
	if (!plan->size)
		return error_set(err, EINVAL,
				 "the export has %llu bytes, less than one block of %u",
				 (unsigned long long)info->size, plan->block_size);
	return 0;
}

int attach_plan_make(const struct attach_wish *wish, const struct nbd_export_info *info,
		     struct attach_plan *plan, struct error *err)
{
	int rc;

	memset(plan, 0, sizeof(*plan));
	plan->max_payload = info->has_block_sizes ? info->maximum : NBD_DEFAULT_PAYLOAD_MAX;
	rc = plan_access(wish, info, plan, err);
	if (!rc)
		rc = plan_block(wish, info, plan, err);
	if (!rc)
		rc = plan_size(info, plan, err);
	if (rc)
		return rc;
	if (wish->connections > 1 && !(info->flags & NBD_FLAG_CAN_MULTI_CONN))
		return error_set(err, ENOTSUP,
				 "the server allows one connection to this export (it does not "
				 "offer CAN_MULTI_CONN); leave --connections out");
	plan_flags(info, plan);
	return 0;
}
