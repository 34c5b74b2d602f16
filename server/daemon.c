// SPDX-License-Identifier: MIT
/* Forking and pid files. Knows nothing of servers. */
#include "daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/cleanup.h"
#include "common/log.h"

/* What the child says when it is ready. */
#define READY_MESSAGE 'R'

int daemon_keep_stdio(struct error *err)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd < 0)
		return error_set_errno(err, errno, "Cannot open /dev/null");
	close(fd);
	return 0;
}

/* The child has said why it failed, unless it was killed. */
static void wait_for(pid_t child, int pipe)
{
	char message = 0;
	int status = 0;
	ssize_t got;

	do
		got = read(pipe, &message, 1);
	while (got < 0 && errno == EINTR);
	if (got == 1 && message == READY_MESSAGE)
		_exit(0);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		continue;
	if (WIFSIGNALED(status))
		log_error("the server ended before it was ready: %s", strsignal(WTERMSIG(status)));
	_exit(1);
}

int daemon_fork(struct daemon *daemon, struct error *err)
{
	int ends[2];
	pid_t child;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_set_errno(err, errno, "Cannot make a pipe");
	child = fork();
	if (child < 0) {
		close(ends[0]);
		close(ends[1]);
		return error_set_errno(err, errno, "Failed to fork");
	}
	if (child > 0) {
		close(ends[1]);
		wait_for(child, ends[0]);
	}
	close(ends[0]);
	setsid();
	daemon->pipe = ends[1];
	return 0;
}

int daemon_ready(struct daemon *daemon, bool keep_stderr, struct error *err)
{
	static const char message = READY_MESSAGE;
	AUTO_CLOSE int null = -1;

	if (daemon->pipe < 0)
		return 0;
	if (chdir("/") < 0)
		return error_set_errno(err, errno, "Cannot change to /");
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
	    (!keep_stderr && dup2(null, STDERR_FILENO) < 0))
		return error_set_errno(err, errno, "Cannot leave the standard streams");
	/* A parent that was killed meanwhile does not need the answer. */
	if (write(daemon->pipe, &message, 1) < 0 && errno != EPIPE)
		return error_set_errno(err, errno, "Cannot report readiness");
	daemon_clear(daemon);
	return 0;
}

void daemon_clear(struct daemon *daemon)
{
	if (daemon->pipe >= 0)
		close(daemon->pipe);
	daemon->pipe = -1;
}

/* ---- Pid file ---- */

/* The folder is kept open: a daemon's relative path means nothing any more later. */
static int open_folder(struct pid_file *file, const char *path)
{
	const char *slash = strrchr(path, '/');
	AUTO_FREE char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");

	file->name = strdup(slash ? slash + 1 : path);
	if (!folder || !file->name)
		return -ENOMEM;
	file->folder = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return file->folder < 0 ? -errno : 0;
}

static bool is_ours(const struct pid_file *file)
{
	struct stat named, opened;

	return fstatat(file->folder, file->name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	       fstat(file->fd, &opened) == 0 && named.st_dev == opened.st_dev &&
	       named.st_ino == opened.st_ino;
}

/* An open-file lock: other threads' descriptors do not lose it, and a living holder shows. */
static int open_locked(struct pid_file *file)
{
	struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	for (;;) {
		file->fd = openat(file->folder, file->name,
				  O_CREAT | O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
		if (file->fd < 0)
			return -errno;
		if (fcntl(file->fd, F_OFD_SETLK, &whole) < 0)
			return errno == EACCES ? -EAGAIN : -errno;
		/* Its last holder may have removed it between our open and our lock. */
		if (is_ours(file))
			return 0;
		close(take_fd(&file->fd));
	}
}

static int write_number(const struct pid_file *file)
{
	char text[24];
	int length = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
	ssize_t put;

	if (ftruncate(file->fd, 0) < 0 || fchmod(file->fd, 0600) < 0)
		return -errno;
	put = pwrite(file->fd, text, (size_t)length, 0);
	return put == length ? 0 : put < 0 ? -errno : -ENOSPC;
}

static void forget(struct pid_file *file)
{
	cleanup_close(&file->fd);
	cleanup_close(&file->folder);
	free(take_ptr(file->name));
}

int pid_file_create(struct pid_file *file, const char *path, struct error *err)
{
	int rc = open_folder(file, path);

	if (!rc)
		rc = open_locked(file);
	if (rc == -EAGAIN) {
		forget(file);
		return error_set(err, EAGAIN,
				 "Cannot lock pid file '%s': a running server holds it", path);
	}
	if (!rc) {
		rc = write_number(file);
		if (rc)
			unlinkat(file->folder, file->name, 0);
	}
	if (rc) {
		forget(file);
		return error_set_errno(err, -rc, "Could not create '%s'", path);
	}
	return 0;
}

void pid_file_remove(struct pid_file *file)
{
	if (file->fd >= 0 && is_ours(file))
		unlinkat(file->folder, file->name, 0);
	forget(file);
}
