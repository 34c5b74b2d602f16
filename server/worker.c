// SPDX-License-Identifier: MIT
/*
 * The worker pool: connections take turns, so that one that has queued hundreds of jobs does not
 * hold up the others; threads on demand up to a bound, idle ones end. Must never wait for a
 * connection: a finished job is dropped into the connection's mailbox.
 */
#include "worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "buffer.h"
#include "connection.h"
#include "limits.h"
#include "thread.h"
#include "trace.h"

struct worker_pool {
	pthread_mutex_t lock;
	pthread_cond_t work;            /* a job came, or the pool ends */
	pthread_cond_t ended;           /* a thread ended */
	TAILQ_HEAD(, connection) ready; /* that have jobs: each gets one done in its turn */
	unsigned int threads, threads_max;
	unsigned int idle;
	unsigned int queued;
	bool closing;
};

static void add_job(struct worker_pool *pool, struct job *job)
{
	struct connection *connection = job->connection;

	job->next = NULL;
	if (connection->queue) {
		*connection->queue_tail = job;
	} else {
		connection->queue = job;
		TAILQ_INSERT_TAIL(&pool->ready, connection, ready);
	}
	connection->queue_tail = &job->next;
	pool->queued++;
}

static struct job *take_job(struct worker_pool *pool)
{
	struct connection *connection = TAILQ_FIRST(&pool->ready);
	struct job *job = connection->queue;

	TAILQ_REMOVE(&pool->ready, connection, ready);
	connection->queue = job->next;
	if (connection->queue)
		TAILQ_INSERT_TAIL(&pool->ready, connection, ready);
	pool->queued--;
	return job;
}

/* Waits for work; false when the thread should end. The lock is held. */
static bool wait_for_work(struct worker_pool *pool)
{
	struct timespec until = thread_wait_until(THREAD_IDLE_LIMIT);
	int rc = 0;

	pool->idle++;
	while (!pool->queued && !pool->closing && rc != ETIMEDOUT)
		rc = pthread_cond_timedwait(&pool->work, &pool->lock, &until);
	pool->idle--;
	return pool->queued;
}

/* The job belongs to its connection again when this returns. */
static void run_job(struct job *job)
{
	struct connection *connection = job->connection;
	uint64_t cookie = job->pending ? job->pending->request.cookie : 0;

	trace_job_started(connection->id, cookie, job->offset);
	/* What a client that has gone wrote is written; nobody wants what it asked for. */
	if (job->answers_only && connection->dead)
		job->result = -ECANCELED;
	else
		job->run(job);
	trace_job_ended(connection->id, cookie, job->offset, job->result);
	connection_job_done(job);
}

static void *worker_main(void *argument)
{
	struct worker_pool *pool = argument;

	pthread_mutex_lock(&pool->lock);
	while (pool->queued || wait_for_work(pool)) {
		struct job *job = take_job(pool);

		pthread_mutex_unlock(&pool->lock);
		run_job(job);
		pthread_mutex_lock(&pool->lock);
	}
	thread_end();
	pool->threads--;
	if (!pool->threads)
		buffer_trim();
	pthread_cond_signal(&pool->ended);
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

struct worker_pool *worker_pool_new(unsigned int threads_max)
{
	struct worker_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return NULL;
	pthread_mutex_init(&pool->lock, NULL);
	thread_cond_init(&pool->work);
	pthread_cond_init(&pool->ended, NULL);
	TAILQ_INIT(&pool->ready);
	pool->threads_max = threads_max;
	return pool;
}

void worker_pool_free(struct worker_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->closing = true;
	pthread_cond_broadcast(&pool->work);
	while (pool->threads)
		pthread_cond_wait(&pool->ended, &pool->lock);
	pthread_mutex_unlock(&pool->lock);
	pthread_mutex_destroy(&pool->lock);
	pthread_cond_destroy(&pool->work);
	pthread_cond_destroy(&pool->ended);
	free(pool);
}

void worker_submit(struct worker_pool *pool, struct job *job)
{
	bool alone = false;

	pthread_mutex_lock(&pool->lock);
	add_job(pool, job);
	if (pool->queued <= pool->idle) {
		pthread_cond_signal(&pool->work);
	} else if (pool->threads < pool->threads_max) {
		if (thread_start(worker_main, pool) == 0)
			pool->threads++;
		else
			alone = pool->threads == 0;
	}
	if (alone)
		job = take_job(pool);
	pthread_mutex_unlock(&pool->lock);
	if (alone)
		run_job(job);
}
