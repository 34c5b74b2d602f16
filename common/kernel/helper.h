/* SPDX-License-Identifier: MIT */
/*
 * A helper process for system calls that may hang unkillably (open or fsync of a device whose
 * server is gone): it hangs, the program does not. The work runs in a fork of a perhaps
 * multi-threaded program, so it makes system calls only: no memory, no stdio.
 */
#ifndef HAWSER_COMMON_KERNEL_HELPER_H
#define HAWSER_COMMON_KERNEL_HELPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

struct helper {
	pid_t pid;  /* 0: none */
	int result; /* the helper's answer comes here */
	int hold;   /* closing it ends a helper that has answered */
};

#define HELPER_INIT                                \
	{                                          \
		.pid = 0, .result = -1, .hold = -1 \
	}

/* Starts work; it returns 0 or -errno. What it opened stays open until helper_release(). */
int helper_start(struct helper *helper, int (*work)(const void *context), const void *context,
		 struct error *err);
/* The answer of work in *answer: 0, or -ETIMEDOUT, -EINTR (a blocked termination signal is
 * pending), -ECHILD (the helper died). */
int helper_wait(struct helper *helper, uint64_t deadline, int *answer);
/* Lets the helper end, and forgets it if it cannot. */
void helper_release(struct helper *helper);

/* For children: standard streams to /dev/null, all other descriptors but keep closed. keep is
 * sorted. Async-signal-safe. */
void child_isolate(const int *keep, size_t count);

/* Is SIGINT, SIGTERM or SIGHUP blocked and pending? */
bool termination_pending(void);
/* Sleeps for nanoseconds; -EINTR when a termination is pending. */
int interruptible_sleep(uint64_t nanoseconds);
/* Takes a pending termination away, so that what follows is not interrupted by it but only by
 * another one; the signal, or 0. It is to be given back to termination_return(). */
int termination_take(void);
void termination_return(int signal);

#endif
