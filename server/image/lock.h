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

/*
 * The locks of one opening go over to another of the same file, as far as they are wanted there;
 * at no moment is the file without those that both have. When somebody else stands in the way all
 * is as it was. As lock_acquire().
 */
int lock_take_over(struct hostfile *from, struct hostfile *file, unsigned int used,
		   unsigned int unshared, enum node_locking locking, struct error *err);
/* Takes back what another opening took over and did not keep: that one is still open. */
void lock_restore(struct hostfile *file);
/* Keeps no more than the right to read beside others, who may do anything. */
void lock_rest(struct hostfile *file);
/* Gives all up. */
void lock_release(struct hostfile *file);

#endif
