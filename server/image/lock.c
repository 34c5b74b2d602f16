// SPDX-License-Identifier: MIT
/*
 * Image locks. Never waits, never takes an exclusive lock, never removes another's. Used while
 * an image is opened, by the thread that opens it.
 */
#include "lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>

#include "common/log.h"
#include "hostfile.h"
#include "server/trace.h"

enum { PERMISSIONS = 4, BYTE_USED = 100, BYTE_UNSHARED = 200 };

static const char *const permission_name[PERMISSIONS] = {"consistent read", "write",
							 "write unchanged", "resize"};

static struct flock one_byte(short type, int byte)
{
	return (struct flock){
		.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1, .l_pid = 0};
}

static int take(struct hostfile *file, int base, unsigned int permissions)
{
	for (int p = 0; p < PERMISSIONS; p++) {
		struct flock lock = one_byte(F_RDLCK, base + p);

		if (permissions & (1u << p) && fcntl(file->fd, F_OFD_SETLK, &lock))
			return -errno;
	}
	return 0;
}

static void drop_all(struct hostfile *file)
{
	struct flock all = one_byte(F_UNLCK, BYTE_USED);

	all.l_len = BYTE_UNSHARED - BYTE_USED + PERMISSIONS;
	fcntl(file->fd, F_OFD_SETLK, &all);
}

/* The first of permissions that somebody else has locked at base, or -1. */
static int find_conflict(struct hostfile *file, int base, unsigned int permissions)
{
	for (int p = 0; p < PERMISSIONS; p++) {
		struct flock probe = one_byte(F_WRLCK, base + p);

		if (permissions & (1u << p) && fcntl(file->fd, F_OFD_GETLK, &probe) == 0 &&
		    probe.l_type != F_UNLCK)
			return p;
	}
	return -1;
}

static int refuse(struct hostfile *file, const char *kind, int permission, struct error *err)
{
	drop_all(file);
	return error_set(err, EAGAIN,
			 "Failed to get %s\"%s\" lock\nIs another process using the image [%s]?",
			 kind, permission_name[permission], file->path);
}

static int no_locks(struct hostfile *file, enum node_locking locking, struct error *err)
{
	drop_all(file);
	if (locking == NODE_LOCKING_ON)
		return error_set(err, ENOLCK,
				 "'%s': this file system has no locks, which locking=on demands",
				 file->path);
	log_warning("%s: this file system has no locks, other writers are not noticed", file->path);
	return 0;
}

static int acquire(struct hostfile *file, unsigned int used, unsigned int unshared,
		   enum node_locking locking, struct error *err)
{
	int rc, blocked;

	if (locking == NODE_LOCKING_OFF)
		return 0;
	rc = take(file, BYTE_USED, used);
	if (rc == 0)
		rc = take(file, BYTE_UNSHARED, unshared);
	if (rc == -EAGAIN || rc == -EACCES)
		return refuse(file, "", 0, err);
	if (rc)
		return no_locks(file, locking, err);
	blocked = find_conflict(file, BYTE_UNSHARED, used);
	if (blocked >= 0)
		return refuse(file, "", blocked, err);
	blocked = find_conflict(file, BYTE_USED, unshared);
	if (blocked >= 0)
		return refuse(file, "shared ", blocked, err);
	return 0;
}

int lock_acquire(struct hostfile *file, unsigned int used, unsigned int unshared,
		 enum node_locking locking, struct error *err)
{
	int rc = acquire(file, used, unshared, locking, err);

	trace_image_locked(file->path, used, unshared, rc);
	return rc;
}
