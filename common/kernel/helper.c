// SPDX-License-Identifier: MIT
/* See helper.h. */
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/size.h"

enum { POLL_STEP_MS = 50, REAP_SECONDS = 3 };

static const int terminations[] = {SIGINT, SIGTERM, SIGHUP};
enum { TERMINATIONS = sizeof(terminations) / sizeof(terminations[0]) };

bool termination_pending(void)
{
	sigset_t pending;

	sigpending(&pending);
	for (size_t i = 0; i < TERMINATIONS; i++)
		if (sigismember(&pending, terminations[i]))
			return true;
	return false;
}

int termination_take(void)
{
	struct timespec now = {0};
	sigset_t wanted;
	int signal = 0;

	sigemptyset(&wanted);
	for (size_t i = 0; i < TERMINATIONS; i++)
		sigaddset(&wanted, terminations[i]);
	/* Only those that are pending, thus blocked: others have their way with the program. */
	if (termination_pending())
		signal = sigtimedwait(&wanted, NULL, &now);
	return signal > 0 ? signal : 0;
}

void termination_return(int signal)
{
	if (signal)
		kill(getpid(), signal);
}

int interruptible_sleep(uint64_t nanoseconds)
{
	struct timespec time = {.tv_sec = (time_t)(nanoseconds / CLOCK_SECOND),
				.tv_nsec = (long)(nanoseconds % CLOCK_SECOND)};

	if (termination_pending())
		return -EINTR;
	nanosleep(&time, NULL);
	return termination_pending() ? -EINTR : 0;
}

void child_isolate(const int *keep, size_t count)
{
	unsigned int from = 3;
	int null = open("/dev/null", O_RDWR);

	for (int fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
	for (size_t i = 0; i < count; i++) {
		if ((unsigned int)keep[i] > from)
			close_range(from, (unsigned int)keep[i] - 1, 0);
		from = (unsigned int)keep[i] + 1;
	}
	close_range(from, ~0U, 0);
}

/* A pipe whose ends are above the standard streams, which child_isolate() replaces. */
static int high_pipe(int ends[2])
{
	int low[2];

	if (pipe2(low, O_CLOEXEC))
		return -errno;
	for (int i = 0; i < 2; i++) {
		ends[i] = fcntl(low[i], F_DUPFD_CLOEXEC, 3);
		close(low[i]);
	}
	return ends[0] < 0 || ends[1] < 0 ? -EMFILE : 0;
}

static void __attribute__((noreturn))
helper_main(int result, int hold, int (*work)(const void *context), const void *context)
{
	int keep[2] = {min_of(result, hold), max_of(result, hold)};
	int answer;
	char byte;

	child_isolate(keep, 2);
	answer = work(context);
	if (write(result, &answer, sizeof(answer)) == (ssize_t)sizeof(answer))
		while (read(hold, &byte, 1) < 0 && errno == EINTR)
			;
	_exit(0);
}

int helper_start(struct helper *helper, int (*work)(const void *context), const void *context,
		 struct error *err)
{
	AUTO_CLOSE int result_end = -1;
	AUTO_CLOSE int hold_end = -1;
	int ends[2];
	int rc;

	rc = high_pipe(ends);
	if (rc)
		return error_set_errno(err, -rc, "cannot make a pipe");
	helper->result = ends[0];
	result_end = ends[1];
	rc = high_pipe(ends);
	if (rc) {
		helper_release(helper);
		return error_set_errno(err, -rc, "cannot make a pipe");
	}
	hold_end = ends[0];
	helper->hold = ends[1];
	helper->pid = fork();
	if (helper->pid == 0)
		helper_main(result_end, hold_end, work, context);
	if (helper->pid < 0) {
		rc = errno;
		helper->pid = 0;
		helper_release(helper);
		return error_set_errno(err, rc, "cannot start a helper process");
	}
	return 0;
}

int helper_wait(struct helper *helper, uint64_t deadline, int *answer)
{
	struct pollfd poll_fd = {.fd = helper->result, .events = POLLIN};
	int left;

	for (;;) {
		if (termination_pending())
			return -EINTR;
		left = clock_poll_timeout(deadline);
		if (left < 0 || left > POLL_STEP_MS)
			left = left == 0 ? 0 : POLL_STEP_MS;
		if (poll(&poll_fd, 1, left) > 0)
			break;
		if (clock_now() >= deadline)
			return -ETIMEDOUT;
	}
	return read(helper->result, answer, sizeof(*answer)) == (ssize_t)sizeof(*answer) ? 0
											 : -ECHILD;
}

void helper_release(struct helper *helper)
{
	uint64_t deadline = clock_now() + REAP_SECONDS * CLOCK_SECOND;
	struct timespec pause = {.tv_nsec = CLOCK_MILLISECOND};

	cleanup_close(&helper->hold);
	cleanup_close(&helper->result);
	/* One that still hangs in the kernel is left to init. */
	if (helper->pid > 0) {
		kill(helper->pid, SIGKILL);
		while (waitpid(helper->pid, NULL, WNOHANG) == 0 && clock_now() < deadline)
			nanosleep(&pause, NULL);
	}
	helper->pid = 0;
}
