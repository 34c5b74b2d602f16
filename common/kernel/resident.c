// SPDX-License-Identifier: MIT
/* See resident.h. */
#include "resident.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "helper.h"

static void ignore_politeness(void)
{
	static const int ignored[] = {SIGPIPE, SIGINT, SIGTERM, SIGHUP};
	sigset_t none;

	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		signal(ignored[i], SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* No qsort() here: it may allocate. */
static void sort(int *values, size_t count)
{
	for (size_t i = 1; i < count; i++)
		for (size_t j = i; j && values[j - 1] > values[j]; j--) {
			int swap = values[j];

			values[j] = values[j - 1];
			values[j - 1] = swap;
		}
}

static void __attribute__((noreturn)) resident_main(const struct resident *resident, void *context)
{
	int keep[RESIDENT_KEEP_MAX];

	setsid();
	ignore_politeness();
	prctl(PR_SET_NAME, resident->name);
	memcpy(keep, resident->keep, resident->count * sizeof(*keep));
	sort(keep, resident->count);
	child_isolate(keep, resident->count);
	if (chdir("/"))
		_exit(1);
	resident->work(context);
	_exit(0);
}

/* Forks twice, so that the resident is init's child and leaves nobody a zombie. */
int resident_start(const struct resident *resident, void *context)
{
	int status;
	pid_t pid = fork();

	if (pid < 0)
		return -errno;
	if (pid == 0) {
		pid = fork();
		if (pid == 0)
			resident_main(resident, context);
		_exit(pid < 0 ? 1 : 0);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR) /* ECHILD: our caller wants no news of children */
			return errno == ECHILD ? 0 : -errno;
	return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : -EAGAIN;
}
