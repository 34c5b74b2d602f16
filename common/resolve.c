// SPDX-License-Identifier: MIT
/*
 * See resolve.h. The question belongs to two, who asks and the thread that waits for the answer;
 * who is the last to leave it frees it.
 */
#include "resolve.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"

struct question {
	char *host, *port;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool answered;
	bool given_up; /* nobody waits any more */
	int result, system_code;
	struct addrinfo *addresses;
};

static int ask(const char *host, const char *port, int flags, struct addrinfo **addresses)
{
	struct addrinfo wanted = {
		.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags};

	return getaddrinfo(host, port, &wanted, addresses);
}

static void question_free(struct question *question)
{
	if (question->addresses)
		freeaddrinfo(question->addresses);
	pthread_cond_destroy(&question->changed);
	pthread_mutex_destroy(&question->lock);
	free(question->host);
	free(question->port);
	free(question);
}

static struct question *question_new(const char *host, const char *port)
{
	struct question *question = calloc(1, sizeof(*question));
	pthread_condattr_t monotonic;

	if (!question)
		return NULL;
	pthread_mutex_init(&question->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&question->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	question->host = strdup(host);
	question->port = strdup(port);
	if (question->host && question->port)
		return question;
	question_free(question);
	return NULL;
}

static void *answer(void *argument)
{
	struct question *question = argument;
	struct addrinfo *addresses = NULL;
	int result = ask(question->host, question->port, 0, &addresses), system_code = errno;
	bool alone;

	pthread_mutex_lock(&question->lock);
	question->result = result;
	question->system_code = system_code;
	question->addresses = result ? NULL : addresses;
	question->answered = true;
	alone = question->given_up;
	pthread_cond_signal(&question->changed);
	pthread_mutex_unlock(&question->lock);
	if (alone)
		question_free(question);
	return NULL;
}

/* Signals are for those who were there before. */
static int start_thread(pthread_t *thread, struct question *question)
{
	sigset_t all, before;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(thread, NULL, answer, question);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rc;
}

/* Waits for the answer; false when the deadline came first, and then the question is not ours. */
static bool wait_for_answer(struct question *question, uint64_t deadline)
{
	struct timespec until = {.tv_sec = (time_t)(deadline / CLOCK_SECOND),
				 .tv_nsec = (long)(deadline % CLOCK_SECOND)};
	bool answered;
	int rc = 0;

	pthread_mutex_lock(&question->lock);
	while (!question->answered && rc != ETIMEDOUT)
		rc = deadline == CLOCK_NEVER
			     ? pthread_cond_wait(&question->changed, &question->lock)
			     : pthread_cond_timedwait(&question->changed, &question->lock, &until);
	answered = question->answered;
	question->given_up = !answered;
	pthread_mutex_unlock(&question->lock);
	return answered;
}

int resolve_tcp(const char *host, const char *port, uint64_t deadline, struct addrinfo **addresses,
		int *system_code)
{
	struct question *question;
	pthread_t thread;
	int rc;

	*addresses = NULL;
	*system_code = 0;
	if (!ask(host, port, AI_NUMERICHOST, addresses))
		return 0;
	question = question_new(host, port);
	if (!question || start_thread(&thread, question)) {
		if (question)
			question_free(question);
		return EAI_MEMORY;
	}
	if (!wait_for_answer(question, deadline)) {
		pthread_detach(thread);
		return -ETIMEDOUT;
	}
	pthread_join(thread, NULL);
	*addresses = question->addresses;
	*system_code = question->system_code;
	question->addresses = NULL;
	rc = question->result;
	question_free(question);
	return rc;
}
