// SPDX-License-Identifier: MIT
/*
 * The detach as a whole. The driver's own disconnect neither syncs nor looks at mounts, so: claim
 * the device exclusively (from then on nobody can mount it), look for users, flush, disconnect,
 * drop the claim, wait. Claim and flush may hang on a dead server and run in helpers; a
 * disconnect frees them. Any thread; see device.h.
 */
#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/size.h"
#include "helper.h"
#include "holders.h"
#include "interface.h"
#include "ready.h"

enum {
	DETACH_SECONDS = 30,
	OPENERS_SECONDS = 3, /* udev and blkid look at a device and leave */
	FORCED_SECONDS = 2,
};
#define OPENERS_STEP (50 * CLOCK_MILLISECOND)
/* For OPENERS_SECONDS, too. */
enum { LOCK_TRIES = 60 };

/* In the helper: the claim ends with it. The lock keeps udev from probing the device (it opens,
 * finds the lock and leaves), which else could have it open whenever somebody looks. Who has
 * locked it is seen as an opener. */
static int claim_work(const void *path)
{
	const struct timespec pause = {.tv_nsec = OPENERS_STEP};
	int node = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);

	if (node < 0)
		return -errno;
	for (int tries = 0; tries < LOCK_TRIES && flock(node, LOCK_EX | LOCK_NB); tries++)
		nanosleep(&pause, NULL);
	return 0;
}

static int flush_work(const void *path)
{
	int node = open(path, O_RDONLY | O_CLOEXEC);

	if (node < 0 || fsync(node) || ioctl(node, BLKFLSBUF))
		return -errno;
	return 0;
}

/* Runs work on the device; its answer, or why there is none. */
static int in_helper(struct helper *helper, int (*work)(const void *), const char *path,
		     uint64_t deadline, struct error *err)
{
	int answer = 0, rc = helper_start(helper, work, path, err);

	if (!rc)
		rc = helper_wait(helper, deadline, &answer);
	return rc ? rc : answer;
}

static int refuse_users(int index, unsigned int kinds, const struct holders_ignored *own,
			const char *consequence, struct error *err)
{
	struct holders holders;
	char text[700];
	int rc = holders_find("", index, kinds, own, &holders, err);

	if (rc || !holders.count)
		return rc;
	error_set(err, EBUSY, "%s%s", holders_describe(&holders, text, sizeof(text)), consequence);
	holders_clear(&holders);
	return -EBUSY;
}

static const char keep_hint[] = "; unmount or stop it first, or use --force and lose what it "
				"has not written";

/* Processes that only look come and go; others are refused. */
static int refuse_openers(int index, const struct holders_ignored *own, struct error *err)
{
	uint64_t deadline = clock_now() + OPENERS_SECONDS * CLOCK_SECOND;
	int rc;

	while ((rc = refuse_users(index, HOLDERS_OPEN, own, keep_hint, err)) == -EBUSY &&
	       clock_now() < deadline)
		if (interruptible_sleep(OPENERS_STEP))
			return error_set(err, EINTR, "interrupted");
	return rc;
}

static int explain_claim(int rc, int index, const char *path, struct error *err)
{
	int found;

	if (rc == -EBUSY) {
		found = refuse_users(index, HOLDERS_USE | HOLDERS_OPEN, NULL, keep_hint, err);
		return found ? found
			     : error_set(err, EBUSY,
					 "%s is in use by something that cannot be seen from here "
					 "(another mount namespace?)%s",
					 path, keep_hint);
	}
	if (rc == -ETIMEDOUT)
		return error_set(err, ETIMEDOUT,
				 "%s does not answer; use --force to detach it and lose what is "
				 "not written",
				 path);
	if (rc == -EINTR)
		return error_set(err, EINTR, "interrupted");
	return error_set_errno(err, -rc, "cannot claim %s", path);
}

/* An exclusive open waits out openers that hold it for a moment (udev). */
static int claim(struct helper *helper, int index, const char *path, uint64_t deadline,
		 struct error *err)
{
	uint64_t patience = min_of(deadline, clock_now() + OPENERS_SECONDS * CLOCK_SECOND);
	int rc;

	for (;;) {
		rc = in_helper(helper, claim_work, path, deadline, err);
		if (!rc)
			return 0;
		helper_release(helper);
		if (rc != -EBUSY || clock_now() >= patience)
			return explain_claim(rc, index, path, err);
		rc = refuse_users(index, HOLDERS_USE, NULL, keep_hint, err);
		if (rc)
			return rc;
		if (interruptible_sleep(OPENERS_STEP))
			return error_set(err, EINTR, "interrupted");
	}
}

static int flush(const char *path, uint64_t deadline, struct error *err)
{
	struct helper helper CLEANUP(helper_release) = HELPER_INIT;
	int rc = in_helper(&helper, flush_work, path, deadline, err);

	if (!rc)
		return 0;
	if (rc == -ETIMEDOUT)
		return error_set(err, ETIMEDOUT,
				 "the flush of %s does not end; wait for the server, or use "
				 "--force and lose what is not written",
				 path);
	if (rc == -EINTR)
		return error_set(err, EINTR, "interrupted");
	if (rc == -EPERM || rc == -EACCES) {
		char what[64];

		snprintf(what, sizeof(what), "cannot flush %s", path);
		return interface_error(err, -rc, what, "");
	}
	return error_set_errno(err, -rc,
			       "cannot flush %s (--force detaches it and loses what is not "
			       "written)",
			       path);
}

static int secure(struct helper *helper, const struct device_state *state, const char *path,
		  uint64_t deadline, struct error *err)
{
	/* A device attached by ioctl is open in the process that keeps it. */
	struct holders_ignored own = {{0, state->netlink ? 0 : state->pid}};
	int rc = refuse_users(state->index, HOLDERS_USE, NULL, keep_hint, err);

	if (!rc)
		rc = claim(helper, state->index, path, deadline, err);
	own.pids[0] = helper->pid;
	if (!rc)
		rc = refuse_openers(state->index, &own, err);
	return rc ? rc : flush(path, deadline, err);
}

/* The link is cut; does the driver let go? */
static int await_gone(int index, const char *path, bool force, uint64_t deadline, struct error *err)
{
	int rc = gone_wait(index, deadline, err);

	if (!rc)
		udev_settle(deadline);
	if (rc == -EINTR)
		return error_set(err, EINTR, "interrupted while waiting for %s to vanish", path);
	if (rc != -ETIMEDOUT)
		return rc;
	rc = refuse_users(index, HOLDERS_USE | HOLDERS_OPEN, NULL,
			  ": the connection is closed, but the device stays busy until that ends",
			  err);
	if (rc)
		return rc;
	return error_set(err, EBUSY, "%s is disconnected, but the driver has not let go of it%s",
			 path, force ? "" : "; somebody may have opened it meanwhile");
}

int device_detach(const struct device_interface *interface, int index,
		  const struct device_detach *detach, struct error *err)
{
	uint64_t wait = (detach->seconds ? detach->seconds : DETACH_SECONDS) * CLOCK_SECOND;
	struct helper helper CLEANUP(helper_release) = HELPER_INIT;
	char path[DEVICE_PATH_SIZE];
	struct device_state state;
	int rc = device_state_read(index, &state, err);

	device_path(index, path);
	if (rc)
		return rc;
	if (!state.exists)
		return error_set(err, ENOTCONN, "%s is not attached (it does not exist)", path);
	if (!state.attached)
		return error_set(err, ENOTCONN, "%s is not attached", path);
	rc = secure(&helper, &state, path, clock_now() + wait, err);
	if (rc && (!detach->force || rc == -EINTR))
		return rc;
	/* By force: what can be saved in a moment is saved. */
	if (rc)
		flush(path, clock_now() + FORCED_SECONDS * CLOCK_SECOND, NULL);
	rc = interface->disconnect(index, err);
	helper_release(&helper);
	if (rc)
		return rc;
	if (detach->force)
		wait = min_of(wait, FORCED_SECONDS * CLOCK_SECOND);
	return await_gone(index, path, detach->force, clock_now() + wait, err);
}
