// SPDX-License-Identifier: MIT
/*
 * The engine's threads: a queue of connections that have something to do, threads on demand up to
 * a bound, idle ones end and take their buffers with them.
 */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "buffer.h"
#include "common/size.h"
#include "connection.h"
#include "limits.h"
#include "server-internal.h"
#include "thread.h"

/* What splice moves at once; the system grants it to everybody. */
enum { PIPE_SIZE = 1 << 20 };

struct engine {
	pthread_mutex_t lock;
	pthread_cond_t work;
	pthread_cond_t ended;
	TAILQ_HEAD(, connection) ready;
	unsigned int threads, threads_max, idle;
	unsigned int blocked; /* threads that wait for a peer to read */
	bool closing;
	atomic_uint waiting; /* length of ready */
	atomic_uint spinning;
	atomic_uint lively;    /* threads that have something to do all the time */
	unsigned int spin_max; /* threads that may spin at once, and be lively beside that */
};

struct engine *engine_new(unsigned int threads_max)
{
	struct engine *engine = calloc(1, sizeof(*engine));

	if (!engine)
		return NULL;
	pthread_mutex_init(&engine->lock, NULL);
	thread_cond_init(&engine->work);
	pthread_cond_init(&engine->ended, NULL);
	TAILQ_INIT(&engine->ready);
	engine->threads_max = threads_max;
	/* The client needs a processor, too. */
	engine->spin_max = thread_processors() / 2;
	return engine;
}

void engine_free(struct engine *engine)
{
	if (!engine)
		return;
	pthread_mutex_lock(&engine->lock);
	engine->closing = true;
	pthread_cond_broadcast(&engine->work);
	while (engine->threads)
		pthread_cond_wait(&engine->ended, &engine->lock);
	pthread_mutex_unlock(&engine->lock);
	pthread_mutex_destroy(&engine->lock);
	pthread_cond_destroy(&engine->work);
	pthread_cond_destroy(&engine->ended);
	free(engine);
}

bool engine_wanted(const struct engine *engine)
{
	return atomic_load_explicit(&engine->waiting, memory_order_relaxed);
}

void engine_set_lively(struct engine_thread *thread, bool lively)
{
	struct engine *engine = thread->engine;

	if (lively == thread->lively)
		return;
	thread->lively = lively;
	if (lively)
		atomic_fetch_add_explicit(&engine->lively, 1, memory_order_relaxed);
	else
		atomic_fetch_sub_explicit(&engine->lively, 1, memory_order_relaxed);
}

bool engine_spin_begin(struct engine_thread *thread)
{
	struct engine *engine = thread->engine;
	unsigned int others =
		atomic_load_explicit(&engine->lively, memory_order_relaxed) - thread->lively;

	if (others >= engine->spin_max)
		return false;
	if (atomic_fetch_add_explicit(&engine->spinning, 1, memory_order_relaxed) <
	    engine->spin_max)
		return true;
	engine_spin_end(engine);
	return false;
}

void engine_spin_end(struct engine *engine)
{
	atomic_fetch_sub_explicit(&engine->spinning, 1, memory_order_relaxed);
}

static void thread_clear(struct engine_thread *thread)
{
	free(thread->receive);
	free(thread->send.bytes);
	for (int end = 0; end < 2; end++)
		if (thread->pipe[end] >= 0)
			close(thread->pipe[end]);
	if (thread->wake_fd >= 0)
		close(thread->wake_fd);
}

static bool thread_init(struct engine_thread *thread, struct engine *engine)
{
	*thread = (struct engine_thread){.engine = engine, .pipe = {-1, -1}};
	thread->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	thread->receive = aligned_alloc(4096, RECEIVE_BUFFER);
	thread->send.bytes = aligned_alloc(4096, SEND_BUFFER);
	if (thread->wake_fd < 0 || !thread->receive || !thread->send.bytes) {
		thread_clear(thread);
		return false;
	}
	if (pipe2(thread->pipe, O_CLOEXEC) == 0) {
		int size = fcntl(thread->pipe[1], F_SETPIPE_SZ, PIPE_SIZE);

		thread->pipe_size = size > 0 ? (uint32_t)size : 64 << 10;
	}
	return true;
}

/* So many threads there may be now: those that wait for their peer do not count. Lock held. */
static unsigned int threads_limit(const struct engine *engine)
{
	return engine->threads_max + min_of(engine->blocked, (unsigned int)ENGINE_BLOCKED_MAX);
}

/* Waits for a connection; NULL when the thread should end. The lock is held. */
static struct connection *next_connection(struct engine *engine)
{
	struct timespec until = thread_wait_until(THREAD_IDLE_LIMIT);
	struct connection *connection;
	int rc = 0;

	if (engine->threads > threads_limit(engine))
		return NULL;
	engine->idle++;
	while (TAILQ_EMPTY(&engine->ready) && !engine->closing && rc != ETIMEDOUT)
		rc = pthread_cond_timedwait(&engine->work, &engine->lock, &until);
	engine->idle--;
	connection = TAILQ_FIRST(&engine->ready);
	if (connection) {
		TAILQ_REMOVE(&engine->ready, connection, link);
		atomic_fetch_sub(&engine->waiting, 1);
	}
	return connection;
}

static void serve_connections(struct engine *engine, struct engine_thread *thread)
{
	struct connection *connection;

	while ((connection = next_connection(engine))) {
		enum connection_outcome outcome;

		pthread_mutex_unlock(&engine->lock);
		outcome = connection->state == CONNECTION_SECURING
				  ? connection_secure(connection)
				  : connection_serve(connection, thread);
		server_connection_back(connection, outcome);
		pthread_mutex_lock(&engine->lock);
	}
}

/* No memory for a thread's buffers, and no other thread to wait for. The lock is held. */
static void give_up(struct engine *engine)
{
	struct connection *connection;

	while ((connection = TAILQ_FIRST(&engine->ready))) {
		TAILQ_REMOVE(&engine->ready, connection, link);
		atomic_fetch_sub(&engine->waiting, 1);
		server_connection_back(connection, CONNECTION_END);
	}
}

static void *engine_main(void *argument)
{
	struct engine *engine = argument;
	struct engine_thread thread;
	bool equipped = thread_init(&thread, engine);

	pthread_mutex_lock(&engine->lock);
	if (equipped)
		serve_connections(engine, &thread);
	else if (engine->threads == 1)
		give_up(engine);
	thread_end();
	engine->threads--;
	/* Buffers may have come back to the reserve when there was no worker any more. */
	if (!engine->threads)
		buffer_trim();
	pthread_cond_signal(&engine->ended);
	pthread_mutex_unlock(&engine->lock);
	if (equipped)
		thread_clear(&thread);
	return NULL;
}

/* One more thread, if there may be one. 0 or an errno. The lock is held. */
static int add_thread(struct engine *engine)
{
	int rc = 0;

	if (engine->threads < threads_limit(engine)) {
		rc = thread_start(engine_main, engine);
		if (rc == 0)
			engine->threads++;
	}
	return rc;
}

void engine_block_begin(struct engine *engine)
{
	pthread_mutex_lock(&engine->lock);
	engine->blocked++;
	if (atomic_load(&engine->waiting) > engine->idle)
		add_thread(engine);
	pthread_mutex_unlock(&engine->lock);
}

void engine_block_end(struct engine *engine)
{
	pthread_mutex_lock(&engine->lock);
	engine->blocked--;
	pthread_mutex_unlock(&engine->lock);
}

int engine_serve(struct engine *engine, struct connection *connection)
{
	int rc = 0;

	pthread_mutex_lock(&engine->lock);
	if (atomic_load(&engine->waiting) < engine->idle)
		pthread_cond_signal(&engine->work);
	else
		rc = add_thread(engine);
	/* Without a new thread it waits for an old one. */
	if (rc == 0 || engine->threads) {
		TAILQ_INSERT_TAIL(&engine->ready, connection, link);
		atomic_fetch_add(&engine->waiting, 1);
		rc = 0;
	}
	pthread_mutex_unlock(&engine->lock);
	return -rc;
}
