// SPDX-License-Identifier: MIT
/*
 * Image locks. Never waits, never takes an exclusive lock, never removes another's. Used while
 * an image is opened or changes hands, by the thread that does so.
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

/* All from the permission first on. */
static void drop_from(struct hostfile *file, int first)
{
	struct flock all = one_byte(F_UNLCK, BYTE_USED + first);

	all.l_len = BYTE_UNSHARED - BYTE_USED + PERMISSIONS - first;
	fcntl(file->fd, F_OFD_SETLK, &all);
}

static void drop_all(struct hostfile *file)
{
	drop_from(file, 0);
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

static int check(struct hostfile *file, unsigned int used, unsigned int unshared, struct error *err)
{
	int blocked;

	blocked = find_conflict(file, BYTE_UNSHARED, used);
	if (blocked >= 0)
		return refuse(file, "", blocked, err);
	blocked = find_conflict(file, BYTE_USED, unshared);
	if (blocked >= 0)
		return refuse(file, "shared ", blocked, err);
	file->locks_used = used;
	file->locks_unshared = unshared;
	return 0;
}

static int take_over(struct hostfile *from, struct hostfile *file, unsigned int used,
		     unsigned int unshared, enum node_locking locking, struct error *err)
{
	int rc;

	if (locking == NODE_LOCKING_OFF)
		return 0;
	rc = take(file, BYTE_USED, used);
	if (rc == 0)
		rc = take(file, BYTE_UNSHARED, unshared);
	if (rc == -EAGAIN || rc == -EACCES) {
		drop_all(file);
		return refuse(file, "", 0, err);
	}
	if (rc)
		return no_locks(file, locking, err);
	/* Only what others hold must be seen. */
	if (from)
		drop_all(from);
	rc = check(file, used, unshared, err);
	if (rc && from)
		lock_restore(from);
	if (rc)
		drop_all(file);
	return rc;
}

int lock_take_over(struct hostfile *from, struct hostfile *file, unsigned int used,
		   unsigned int unshared, enum node_locking locking, struct error *err)
{
	int rc = take_over(from, file, used, unshared, locking, err);

	trace_image_locked(file->path, used, unshared, rc);
	return rc;
}

int lock_acquire(struct hostfile *file, unsigned int used, unsigned int unshared,
		 enum node_locking locking, struct error *err)
{
	return lock_take_over(NULL, file, used, unshared, locking, err);
}

void lock_restore(struct hostfile *file)
{
	if (take(file, BYTE_USED, file->locks_used) ||
	    take(file, BYTE_UNSHARED, file->locks_unshared))
		log_warning("%s: its locks were lost", file->path);
}

void lock_rest(struct hostfile *file)
{
	drop_from(file, 1);
	file->locks_used &= PERMISSION_CONSISTENT_READ;
	file->locks_unshared = 0;
}

void lock_release(struct hostfile *file)
{
	drop_all(file);
	file->locks_used = file->locks_unshared = 0;
}
