/* SPDX-License-Identifier: MIT */
/*
 * The image locks that QEMU takes, so that hawserd and a running virtual machine see each other:
 * single-byte shared OFD locks, byte 100 + p says "I use permission p", byte 200 + p says "nobody
 * else may use p". They belong to the open file and vanish with it.
 */
#ifndef HAWSER_SERVER_IMAGE_LOCK_H
#define HAWSER_SERVER_IMAGE_LOCK_H

#include "common/error.h"
#include "description.h"

struct hostfile;

enum image_permission {
	PERMISSION_CONSISTENT_READ = 1 << 0,
	PERMISSION_WRITE = 1 << 1,
	PERMISSION_WRITE_UNCHANGED = 1 << 2,
	PERMISSION_RESIZE = 1 << 3,
};

/*
 * Takes the locks for the permissions used and for those not shared with others, or none.
 * 0, or -EAGAIN with err set when another process stands in the way. A file system without locks
 * is served without them, with a warning; when they were asked for (NODE_LOCKING_ON), that is
 * -ENOLCK.
 */
int lock_acquire(struct hostfile *file, unsigned int used, unsigned int unshared,
		 enum node_locking locking, struct error *err);

#endif
