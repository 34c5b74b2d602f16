// SPDX-License-Identifier: MIT
/*
 * The thread that opens an image as its clients need it, and the counting of those. What the main
 * loop alone touches, what the thread alone touches, and what crosses under the lock is marked.
 */
#include "access.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "common/clock.h"
#include "common/log.h"
#include "image/epoch.h"
#include "image/lock.h"
#include "thread.h"

/* Others look at an image for a moment only (udev, `qemu-img info`), and two servers that begin to
 * write at once must not both give way. */
enum { LOCK_TRIES = 6, LOCK_REST_MS = 15 };
/* How long freed clusters wait for readers before they are left as leaks. */
enum { SETTLE_TRIES = 200 };
#define SETTLE_REST (2 * CLOCK_MILLISECOND)
/* How often a look is worth while whether an old image can be closed. */
#define RETIRED_REST (5 * CLOCK_MILLISECOND)

enum level {
	LEVEL_REST,  /* open for reading; others may do anything */
	LEVEL_READ,  /* nobody else writes */
	LEVEL_WRITE, /* open for writing */
};

/* An image that was replaced, until nobody can use it any more. */
struct retired {
	struct retired *next;
	struct image *image;
	uint64_t stamp;
};

struct access {
	struct export *export;
	int wake_fd; /* the main loop's */

	/* Main loop. */
	unsigned int readers, writers;
	enum level level;
	bool busy;           /* a change is under way */
	bool raising;        /* to make it writable */
	bool stuck;          /* going back has failed: not again before a client leaves */
	uint64_t attempts;   /* to make it writable, begun */
	struct error failed; /* the last of them, code 0: it has not */

	/* The thread. */
	enum level reached;
	struct retired *retired;
	char said[ERROR_TEXT_MAX]; /* why it was not writable last time */

	pthread_t thread;
	bool started;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	/* Under lock. */
	bool asked, ended, stop;
	enum level wanted, got;
	struct error error;
};

/* ---- The thread ---- */

static void rest_for(uint64_t nanoseconds)
{
	struct timespec time = {.tv_sec = (time_t)(nanoseconds / CLOCK_SECOND),
				.tv_nsec = (long)(nanoseconds % CLOCK_SECOND)};

	nanosleep(&time, NULL);
}

static void close_retired(struct access *access, bool all)
{
	struct retired **link = &access->retired, *retired;

	while ((retired = *link)) {
		if (!all && !epoch_passed(retired->stamp)) {
			link = &retired->next;
			continue;
		}
		*link = retired->next;
		image_close(retired->image);
		free(retired);
	}
}

static int reopen(struct access *access, bool writable, struct error *err)
{
	struct retired *retired = calloc(1, sizeof(*retired));
	int rc;

	if (!retired)
		return error_set(err, ENOMEM, "out of memory");
	rc = export_reopen(access->export, writable, &retired->image, err);
	if (rc) {
		free(retired);
		return rc;
	}
	retired->stamp = epoch_stamp();
	retired->next = access->retired;
	access->retired = retired;
	access->reached = writable ? LEVEL_WRITE : LEVEL_READ;
	return 0;
}

/* Servers that try at the same time do not try again at the same time. */
static uint64_t lock_rest_time(void)
{
	return (LOCK_REST_MS + clock_now() / 1000 % LOCK_REST_MS) * CLOCK_MILLISECOND;
}

static int reopen_patiently(struct access *access, bool writable, struct error *err)
{
	int rc = reopen(access, writable, err);

	for (int i = 1; rc == -EAGAIN && i < LOCK_TRIES; i++) {
		rest_for(lock_rest_time());
		rc = reopen(access, writable, err);
	}
	return rc;
}

static void say_why(struct access *access, const struct error *err)
{
	if (!strcmp(access->said, err->text))
		return;
	memcpy(access->said, err->text, sizeof(access->said));
	log_warning("%s: exporting read-only: %s", access->export->config->file, err->text);
}

static void raise_level(struct access *access, struct error *err)
{
	struct error reading = ERROR_INIT;

	if (reopen_patiently(access, true, err) == 0) {
		access->said[0] = '\0';
		return;
	}
	if (access->reached == LEVEL_REST && reopen_patiently(access, false, &reading) != 0) {
		log_warning("%s: cannot be served now: %s", access->export->config->file,
			    reading.text);
		*err = reading;
		return;
	}
	say_why(access, err);
}

/* Everything is on the disk, and as little as possible waits for readers. */
static void settle(struct access *access)
{
	struct image *image = access->export->image;

	export_flush(access->export);
	for (int i = 0; i < SETTLE_TRIES && image_settle(image) == -EAGAIN; i++)
		rest_for(SETTLE_REST);
}

static void rest_file(struct hostfile *file, void *context)
{
	(void)context;
	lock_rest(file);
}

static void lower_level(struct access *access, enum level wanted, struct error *err)
{
	if (access->reached == LEVEL_WRITE) {
		settle(access);
		if (reopen(access, false, err)) {
			log_warning("%s: stays open for writing: %s", access->export->config->file,
				    err->text);
			return;
		}
	}
	if (wanted == LEVEL_REST) {
		image_visit_files(access->export->image, rest_file, NULL);
		access->reached = LEVEL_REST;
	}
}

/* The lock is held, and not while it works. */
static void change(struct access *access)
{
	struct error err = ERROR_INIT;
	enum level wanted = access->wanted;

	access->asked = false;
	pthread_mutex_unlock(&access->lock);
	if (wanted > access->reached)
		raise_level(access, &err);
	else
		lower_level(access, wanted, &err);
	pthread_mutex_lock(&access->lock);
	access->got = access->reached;
	access->error = err;
	access->ended = true;
	eventfd_write(access->wake_fd, 1);
}

/* Waits for something to do; while old images wait, looks after them. The lock is held. */
static void wait_for_work(struct access *access)
{
	struct timespec until;

	if (!access->retired) {
		pthread_cond_wait(&access->wake, &access->lock);
		return;
	}
	until = thread_wait_until(RETIRED_REST);
	pthread_cond_timedwait(&access->wake, &access->lock, &until);
	pthread_mutex_unlock(&access->lock);
	close_retired(access, false);
	pthread_mutex_lock(&access->lock);
}

static void *access_main(void *argument)
{
	struct access *access = argument;

	pthread_mutex_lock(&access->lock);
	while (!access->stop || access->asked) {
		if (access->asked)
			change(access);
		else
			wait_for_work(access);
	}
	pthread_mutex_unlock(&access->lock);
	return NULL;
}

/* ---- Main loop ---- */

struct access *access_new(struct export *export, int wake_fd)
{
	struct access *access = calloc(1, sizeof(*access));

	if (!access)
		return NULL;
	access->export = export;
	access->wake_fd = wake_fd;
	memcpy(access->said, export->unwritable.text, sizeof(access->said)); /* it was said */
	pthread_mutex_init(&access->lock, NULL);
	thread_cond_init(&access->wake);
	return access;
}

void access_stop(struct access *access)
{
	if (!access || !access->started)
		return;
	pthread_mutex_lock(&access->lock);
	access->stop = true;
	pthread_cond_signal(&access->wake);
	pthread_mutex_unlock(&access->lock);
	pthread_join(access->thread, NULL);
	access->started = false;
}

void access_free(struct access *access)
{
	if (!access)
		return;
	access_stop(access);
	close_retired(access, true);
	pthread_mutex_destroy(&access->lock);
	pthread_cond_destroy(&access->wake);
	free(access);
}

static bool start(struct access *access)
{
	if (!access->started && pthread_create(&access->thread, NULL, access_main, access) == 0)
		access->started = true;
	return access->started;
}

static bool ask(struct access *access, enum level wanted)
{
	if (!start(access))
		return false;
	access->busy = true;
	access->raising = wanted == LEVEL_WRITE;
	pthread_mutex_lock(&access->lock);
	access->wanted = wanted;
	access->asked = true;
	pthread_cond_signal(&access->wake);
	pthread_mutex_unlock(&access->lock);
	return true;
}

static enum access_answer give(struct access *access, struct handshake *handshake)
{
	bool writes = access->level == LEVEL_WRITE;

	handshake->right = writes ? RIGHT_WRITE : RIGHT_READ;
	if (writes)
		access->writers++;
	else
		access->readers++;
	return ACCESS_GIVEN;
}

/* attempt 0: this client waits for none yet. */
enum access_answer access_attach(struct access *access, struct handshake *handshake,
				 struct error *err)
{
	if (!access->busy && access->level == LEVEL_WRITE)
		return give(access, handshake);
	if (access->busy) {
		if (access->raising && !handshake->attempt)
			handshake->attempt = access->attempts;
		return ACCESS_WAIT;
	}
	/* The attempt that was made for it, or while it waited, has failed. */
	if (handshake->attempt && access->attempts >= handshake->attempt) {
		if (access->level == LEVEL_READ)
			return give(access, handshake);
		handshake->attempt = 0; /* when it asks again it is tried again */
		error_set(err, access->failed.code ? access->failed.code : EIO, "%s",
			  access->failed.code ? access->failed.text : "the image is not open");
		return ACCESS_REFUSED;
	}
	if (!ask(access, LEVEL_WRITE)) {
		error_set(err, EAGAIN, "no thread can be started");
		return ACCESS_REFUSED;
	}
	handshake->attempt = ++access->attempts;
	return ACCESS_WAIT;
}

void access_detach(struct access *access, struct handshake *handshake)
{
	switch (handshake->right) {
	case RIGHT_NONE:
		return;
	case RIGHT_READ:
		access->readers--;
		break;
	case RIGHT_WRITE:
		access->writers--;
		break;
	}
	handshake->right = RIGHT_NONE;
	access->stuck = false;
}

bool access_go_on(struct access *access)
{
	bool ended;

	pthread_mutex_lock(&access->lock);
	ended = access->ended;
	access->ended = false;
	if (ended) {
		access->level = access->got;
		access->failed = access->error;
		access->stuck = access->wanted < access->got;
		access->busy = false;
	}
	pthread_mutex_unlock(&access->lock);
	if (ended)
		export_refresh(access->export);
	return ended;
}

void access_settle(struct access *access, bool waiting)
{
	enum level needed = access->writers   ? LEVEL_WRITE
			    : access->readers ? LEVEL_READ
					      : LEVEL_REST;

	if (!access->busy && !waiting && !access->stuck && access->level > needed)
		ask(access, needed);
}
