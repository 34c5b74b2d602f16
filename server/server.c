// SPDX-License-Identifier: MIT
/*
 * The server's main loop: accepts, negotiates, parks idle connections in one epoll and hands busy
 * ones to the engine; signals, deadlines, drain. It must never block on a disk or on a peer.
 *
 * The loop owns all lists and every connection that no engine thread has. Those (busy ones, and the
 * steps of TLS handshakes) come back through `back`, under `lock`, the only state that other
 * threads touch.
 */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "access.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/size.h"
#include "common/tls.h"
#include "connection.h"
#include "engine.h"
#include "export.h"
#include "farewell.h"
#include "image/loan.h"
#include "limits.h"
#include "server-internal.h"
#include "server-state.h"
#include "thread.h"
#include "trace.h"
#include "worker.h"

enum { EVENTS_AT_ONCE = 64, ACCEPTS_AT_ONCE = 64 };

/* When there are no descriptors left, accepting rests for this long. */
#define ACCEPT_REST CLOCK_SECOND

static int watch(struct server *server, int fd, uint32_t events, void *owner)
{
	struct epoll_event event = {.events = events, .data.ptr = owner};

	return epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

int server_add_listener(struct server *server, int fd, struct error *err)
{
	if (server->listener_count == LISTENERS_MAX)
		return error_set(err, E2BIG, "too many sockets to listen on");
	/* Inherited ones may block, and a client may leave between readiness and accept. */
	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK))
		return error_set_errno(err, errno, "cannot listen");
	server->listeners[server->listener_count++] = fd;
	return 0;
}

/* ---- Connections ---- */

/* The connection is over; the loop owns it and it is in no engine queue. Its memory stays until
 * the events at hand have been looked at: one of them may be its own. */
static void end_connection(struct server *server, struct connection *connection,
			   enum transport_close how)
{
	bool had_slot = connection->has_slot;

	if (server->access)
		access_detach(server->access, &connection->handshake);
	server_watch(server, connection, 0);
	if (connection->export_)
		statistics_leave(&connection->export_->statistics, &connection->statistics);
	TAILQ_REMOVE(&server->all, connection, all);
	server->connections--;
	server_move(server, connection, CONNECTION_ENDED);
	lender_end(connection->lender);
	connection->lender = NULL;
	if (how == TRANSPORT_CLOSE_CLEAN)
		farewell_close(server->farewell, &connection->transport);
	else
		transport_close(&connection->transport, how);
	if (server->accept_after)
		server->accept_after = 1; /* a descriptor is free again */
	if (had_slot)
		server->clients--;
}

static void free_ended(struct server *server)
{
	struct connection *connection;

	while ((connection = TAILQ_FIRST(&server->ended))) {
		TAILQ_REMOVE(&server->ended, connection, link);
		connection_free(connection);
	}
}

static void serve(struct server *server, struct connection *connection)
{
	server_watch(server, connection, 0);
	server_move(server, connection, CONNECTION_BUSY);
	if (server->drain_deadline)
		connection_drain(connection);
	if (engine_serve(server->engine, connection)) {
		log_warning("client %u: dropped: no thread can be started", connection->id);
		end_connection(server, connection, TRANSPORT_CLOSE_DROP);
	}
}

/* Until its next request may begin nothing is received; epoll tells of a client that has gone even
 * so. */
static void throttle(struct server *server, struct connection *connection)
{
	server_move(server, connection, CONNECTION_THROTTLED);
	server_watch(server, connection, EPOLLRDHUP);
}

static void park(struct server *server, struct connection *connection)
{
	if (connection->resume_at) {
		throttle(server, connection);
		return;
	}
	/* What has been decrypted already would never wake it. */
	if (transport_pending(&connection->transport)) {
		serve(server, connection);
		return;
	}
	trace_connection_parked(connection->id, connection->stalled);
	server_move(server, connection,
		    connection->stalled ? CONNECTION_STALLED : CONNECTION_PARKED);
	connection->deadline = clock_now() + STALL_LIMIT;
	server_watch(server, connection, EPOLLIN | EPOLLRDHUP);
}

static uint64_t handshake_deadline(const struct server *server)
{
	return server->config.handshake_limit_ms
		       ? clock_now() + server->config.handshake_limit_ms * CLOCK_MILLISECOND
		       : CLOCK_NEVER;
}

static void negotiation_goes_on(struct server *server, struct connection *connection)
{
	if (connection->state == CONNECTION_WAITING || connection->state == CONNECTION_OPENING) {
		/* Lists are in the order of deadlines. */
		connection->deadline = handshake_deadline(server);
		server_move(server, connection, CONNECTION_NEGOTIATING);
	}
	server_watch(server, connection, connection_negotiation_events(connection));
}

static void negotiation_full(struct server *server, struct connection *connection)
{
	if (connection->state == CONNECTION_WAITING)
		return;
	trace_connection_waits(connection->id);
	server_move(server, connection, CONNECTION_WAITING);
	connection->deadline = clock_now() + SLOT_WAIT;
	/* Only its end is of interest now; more input would spin. */
	server_watch(server, connection, EPOLLRDHUP);
}

/* It asks again when the image has been opened. That takes as long as the disk takes, but not for
 * ever. */
static void negotiation_opening(struct server *server, struct connection *connection)
{
	bool again = connection->state == CONNECTION_OPENING;

	server_move(server, connection, CONNECTION_OPENING);
	if (!again)
		connection->deadline = clock_now() + OPEN_WAIT;
	server_watch(server, connection, EPOLLRDHUP);
}

/* ---- Steps of TLS handshakes, by threads ---- */

/* Without anybody in transmission nothing is begun any more at a drain. */
static bool may_secure(const struct server *server)
{
	return server->securing < server->securing_max &&
	       !(server->drain_deadline && !server->clients);
}

/* Gives as many to threads as there are processors: they wait for nothing, so more threads would
 * only be in the way of each other and of those who read and write. */
static void secure_queued(struct server *server)
{
	struct connection *connection;

	while (may_secure(server) && (connection = TAILQ_FIRST(&server->queued))) {
		server_move(server, connection, CONNECTION_SECURING);
		if (engine_serve(server->engine, connection)) {
			log_warning("client %u: dropped: no thread can be started", connection->id);
			end_connection(server, connection, TRANSPORT_CLOSE_DROP);
		}
	}
}

static void negotiation_secure(struct server *server, struct connection *connection)
{
	server_watch(server, connection, 0);
	server_move(server, connection, CONNECTION_QUEUED);
	secure_queued(server);
}

static void negotiate(struct server *server, struct connection *connection)
{
	enum negotiation outcome = connection_negotiate(connection, server->scratch);

	connection->has_slot = connection->handshake.export_;
	switch (outcome) {
	case NEGOTIATION_GOES_ON:
		negotiation_goes_on(server, connection);
		break;
	case NEGOTIATION_SECURE:
		negotiation_secure(server, connection);
		break;
	case NEGOTIATION_FULL:
		negotiation_full(server, connection);
		break;
	case NEGOTIATION_OPENING:
		negotiation_opening(server, connection);
		break;
	case NEGOTIATION_DONE:
		log_info("client %u: transmission of '%s' begins", connection->id,
			 connection->export_->name);
		statistics_join(&connection->export_->statistics, &connection->statistics,
				connection->id, connection->transport.fd);
		if (connection->held.used)
			serve(server, connection);
		else
			park(server, connection);
		break;
	case NEGOTIATION_CLOSE:
		end_connection(server, connection, TRANSPORT_CLOSE_CLEAN);
		break;
	case NEGOTIATION_DROP:
		end_connection(server, connection, TRANSPORT_CLOSE_DROP);
		break;
	}
}

/* A thread has taken the TLS handshake a step further. */
static void step_done(struct server *server, struct connection *connection)
{
	enum connection_outcome outcome = connection->outcome;

	if (outcome == CONNECTION_END ||
	    (outcome == CONNECTION_SECURED && !connection_admit(connection))) {
		end_connection(server, connection, TRANSPORT_CLOSE_DROP);
		return;
	}
	server_move(server, connection, CONNECTION_NEGOTIATING);
	if (outcome == CONNECTION_SECURED)
		negotiate(server, connection);
	else
		negotiation_goes_on(server, connection);
}

/* Slots are free: those who wait for one try again, oldest first. Each leaves the list. */
static void resume_waiting(struct server *server)
{
	struct connection *connection;

	while ((connection = TAILQ_FIRST(&server->waiting)) && server_slot_free(server))
		negotiate(server, connection);
}

/* ---- An image that is opened as its clients need it ---- */

/* All who wait ask again; some may have to wait once more. */
static void resume_opening(struct server *server)
{
	struct connection *connection, *last = TAILQ_LAST(&server->opening, connection_list);
	bool more = last;

	while (more && (connection = TAILQ_FIRST(&server->opening))) {
		more = connection != last;
		negotiate(server, connection);
	}
}

static void look_after_access(struct server *server)
{
	if (!server->access)
		return;
	if (access_go_on(server->access))
		resume_opening(server);
	access_settle(server->access, !TAILQ_EMPTY(&server->opening));
}

static struct connection *add_connection(struct server *server, int fd)
{
	struct connection *connection = connection_new(server, fd, &server->world);

	if (!connection)
		return NULL;
	TAILQ_INSERT_TAIL(&server->all, connection, all);
	server->connections++;
	connection->deadline = handshake_deadline(server);
	server_enter(server, connection, CONNECTION_NEGOTIATING);
	export_refresh(&server->export_);
	connection->handshake.shutting_down = server->drain_deadline;
	return connection;
}

int server_add_client(struct server *server, int fd, struct error *err)
{
	if (!add_connection(server, fd))
		return error_set(err, ENOMEM, "out of memory");
	return 0;
}

/* ---- Accepting ---- */

static void watch_listeners(struct server *server, bool on)
{
	if (on == server->listening)
		return;
	server->listening = on;
	for (unsigned int i = 0; i < server->listener_count; i++) {
		if (on)
			watch(server, server->listeners[i], EPOLLIN, &server->listeners[i]);
		else
			epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, server->listeners[i], NULL);
	}
}

static bool drop_oldest_negotiation(struct server *server)
{
	struct connection *oldest = TAILQ_FIRST(&server->negotiating);

	if (!oldest)
		oldest = TAILQ_FIRST(&server->queued);
	if (oldest)
		end_connection(server, oldest, TRANSPORT_CLOSE_DROP);
	return oldest;
}

static bool make_descriptor_free(struct server *server)
{
	return farewell_drop_oldest(server->farewell) || drop_oldest_negotiation(server);
}

/* No descriptors: make one free, or rest instead of spinning on a socket that stays readable. */
static void accept_failed(struct server *server, int code)
{
	if (code == EMFILE || code == ENFILE || code == ENOBUFS || code == ENOMEM) {
		if (code == EMFILE && make_descriptor_free(server))
			return;
		log_warning("cannot accept clients for a while: %s", strerror(code));
		watch_listeners(server, false);
		server->accept_after = clock_now() + ACCEPT_REST;
	}
}

static void accept_clients(struct server *server, int listener)
{
	for (int i = 0; i < ACCEPTS_AT_ONCE; i++) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		struct connection *connection;

		if (fd < 0) {
			accept_failed(server, errno);
			return;
		}
		if (server->negotiating_count >= NEGOTIATING_MAX)
			drop_oldest_negotiation(server);
		connection = add_connection(server, fd);
		if (connection)
			negotiate(server, connection);
		else
			close(fd);
	}
}

/* ---- Events ---- */

void server_connection_back(struct connection *connection, enum connection_outcome outcome)
{
	struct server *server = connection->server;

	connection->outcome = outcome;
	pthread_mutex_lock(&server->lock);
	TAILQ_INSERT_TAIL(&server->back, connection, link);
	pthread_mutex_unlock(&server->lock);
	eventfd_write(server->wake_fd, 1);
}

static void take_back(struct server *server)
{
	struct connection_list back = TAILQ_HEAD_INITIALIZER(back);
	struct connection *connection;
	eventfd_t count;

	eventfd_read(server->wake_fd, &count);
	pthread_mutex_lock(&server->lock);
	TAILQ_CONCAT(&back, &server->back, link);
	pthread_mutex_unlock(&server->lock);
	while ((connection = TAILQ_FIRST(&back))) {
		TAILQ_REMOVE(&back, connection, link);
		if (connection->state == CONNECTION_SECURING)
			step_done(server, connection);
		else if (connection->outcome == CONNECTION_END || server->drain_deadline)
			end_connection(server, connection, TRANSPORT_CLOSE_CLEAN);
		else
			park(server, connection);
	}
	secure_queued(server);
}

static void connection_ready(struct server *server, struct connection *connection, uint32_t events)
{
	switch (connection->state) {
	case CONNECTION_NEGOTIATING:
		negotiate(server, connection);
		break;
	case CONNECTION_WAITING:
	case CONNECTION_OPENING:
		if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
			end_connection(server, connection, TRANSPORT_CLOSE_DROP);
		break;
	case CONNECTION_THROTTLED:
		connection->hasty = true;
		serve(server, connection);
		break;
	case CONNECTION_PARKED:
	case CONNECTION_STALLED:
		serve(server, connection);
		break;
	case CONNECTION_QUEUED:
	case CONNECTION_SECURING:
	case CONNECTION_BUSY:
	case CONNECTION_ENDED:
		break;
	}
}

static void begin_drain(struct server *server)
{
	struct connection *connection, *next;

	if (server->drain_deadline)
		return;
	server->drain_deadline = clock_now() + DRAIN_LIMIT;
	trace_server_draining(server->clients);
	if (server->config.stopping)
		server->config.stopping(server->config.stopping_context);
	watch_listeners(server, false);
	for (connection = TAILQ_FIRST(&server->all); connection; connection = next) {
		next = TAILQ_NEXT(connection, all);
		connection->handshake.shutting_down = true;
		if (connection->state == CONNECTION_BUSY)
			connection_drain(connection);
		else if (connection->state == CONNECTION_PARKED ||
			 connection->state == CONNECTION_STALLED ||
			 connection->state == CONNECTION_THROTTLED)
			serve(server, connection); /* it may have sent something just now */
	}
}

static void reload_credentials(struct server *server)
{
	struct error err = ERROR_INIT;

	if (tls_creds_reload(server->config.tls.creds, &err))
		log_warning("the TLS credentials stay as they were: %s", err.text);
	else
		log_info("TLS credentials loaded again");
}

/* The second signal waits for no peer; a further one does not hurry the disk. */
static void signal_received(struct server *server)
{
	struct signalfd_siginfo info;

	if (read(server->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGHUP && server->config.tls.creds) {
		reload_credentials(server);
		return;
	}
	log_info("stopping: %s", strsignal((int)info.ssi_signo));
	if (server->drain_deadline && !server->interrupted)
		server->drain_deadline = 1;
	begin_drain(server);
}

void server_stop(struct server *server)
{
	__atomic_store_n(&server->stop_asked, true, __ATOMIC_SEQ_CST);
	eventfd_write(server->wake_fd, 1);
}

static void handle_event(struct server *server, const struct epoll_event *event)
{
	int *listener = event->data.ptr;

	if (event->data.ptr == &server->signal_fd)
		signal_received(server);
	else if (event->data.ptr == &server->wake_fd)
		take_back(server);
	else if (event->data.ptr == server->farewell)
		farewell_go_on(server->farewell);
	else if (listener >= server->listeners && listener < server->listeners + LISTENERS_MAX)
		accept_clients(server, *listener);
	else
		connection_ready(server, event->data.ptr, event->events);
}

/* ---- Deadlines ---- */

/* All these lists are in the order of their deadlines. */
static uint64_t next_deadline(const struct server *server)
{
	const struct connection *const firsts[] = {
		TAILQ_FIRST(&server->negotiating), TAILQ_FIRST(&server->waiting),
		TAILQ_FIRST(&server->opening), TAILQ_FIRST(&server->stalled)};
	const struct connection *throttled = TAILQ_FIRST(&server->throttled);
	uint64_t deadline = throttled ? throttled->resume_at : CLOCK_NEVER;

	for (size_t i = 0; i < sizeof(firsts) / sizeof(firsts[0]); i++)
		if (firsts[i])
			deadline = min_of(deadline, firsts[i]->deadline);
	deadline = min_of(deadline, farewell_deadline(server->farewell));
	if (server->accept_after)
		deadline = min_of(deadline, server->accept_after);
	if (server->drain_deadline)
		deadline = min_of(deadline, server->drain_deadline);
	return deadline;
}

/* Busy connections did not end in time: cut their peers off, so that their threads come back. */
static void interrupt_busy(struct server *server)
{
	struct connection *connection;

	server->interrupted = true;
	server->drain_deadline = clock_now() + DRAIN_LIMIT;
	TAILQ_FOREACH(connection, &server->all, all)
	if (connection->state == CONNECTION_BUSY)
		transport_interrupt(&connection->transport);
}

static void check_deadlines(struct server *server)
{
	uint64_t now = clock_now();
	struct connection *connection;

	while ((connection = TAILQ_FIRST(&server->negotiating)) && connection->deadline <= now) {
		log_info("client %u: did not finish the handshake in time", connection->id);
		end_connection(server, connection, TRANSPORT_CLOSE_DROP);
	}
	while ((connection = TAILQ_FIRST(&server->waiting)) && connection->deadline <= now) {
		connection->handshake.slot_refused = true;
		connection->deadline = now + SLOT_WAIT;
		negotiate(server, connection);
	}
	while ((connection = TAILQ_FIRST(&server->opening)) && connection->deadline <= now) {
		log_info("client %u: the image could not be opened for it in time", connection->id);
		end_connection(server, connection, TRANSPORT_CLOSE_DROP);
	}
	while ((connection = TAILQ_FIRST(&server->stalled)) && connection->deadline <= now) {
		log_info("client %u: stopped in the middle of a request", connection->id);
		end_connection(server, connection, TRANSPORT_CLOSE_DROP);
	}
	while ((connection = TAILQ_FIRST(&server->throttled)) && connection->resume_at <= now)
		serve(server, connection);
	if (farewell_deadline(server->farewell) <= now)
		farewell_go_on(server->farewell);
	if (server->accept_after && server->accept_after <= now) {
		server->accept_after = 0;
		watch_listeners(server, !server->drain_deadline);
	}
	if (server->drain_deadline && server->drain_deadline <= now && !server->interrupted)
		interrupt_busy(server);
}

/* ---- The loop ---- */

/* Without anybody in transmission there is nothing to drain. */
static void end_negotiations(struct server *server)
{
	struct connection *connection;

	while ((connection = TAILQ_FIRST(&server->all)))
		end_connection(server, connection, TRANSPORT_CLOSE_DROP);
	free_ended(server);
}

/* Has the work ended? */
static bool is_over(struct server *server)
{
	bool nobody_left = server->had_client && !server->clients &&
			   TAILQ_EMPTY(&server->waiting) && !server->config.persistent;

	if (nobody_left || (!server->listener_count && !server->connections) ||
	    __atomic_load_n(&server->stop_asked, __ATOMIC_SEQ_CST))
		begin_drain(server);
	/* A step of TLS ends soon: it waits for nobody. */
	return server->drain_deadline && !server->clients && !server->securing &&
	       farewell_deadline(server->farewell) == CLOCK_NEVER;
}

static int prepare(struct server *server, struct error *err)
{
	struct rlimit files;
	sigset_t signals;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	sigemptyset(&signals);
	if (!server->config.signals_elsewhere) {
		sigaddset(&signals, SIGINT);
		sigaddset(&signals, SIGTERM);
		sigaddset(&signals, SIGHUP);
	}
	server->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (server->signal_fd < 0)
		return error_set_errno(err, errno, "cannot wait for signals");
	server->engine = engine_new(ENGINE_THREADS_MAX);
	server->workers = worker_pool_new(WORKER_THREADS_MAX);
	server->securing_max = min_of(thread_processors(), (unsigned int)ENGINE_THREADS_MAX / 2);
	if (!server->engine || !server->workers)
		return error_set(err, ENOMEM, "out of memory");
	if (watch(server, server->signal_fd, EPOLLIN, &server->signal_fd) ||
	    watch(server, server->wake_fd, EPOLLIN, &server->wake_fd) ||
	    watch(server, farewell_fd(server->farewell), EPOLLIN, server->farewell))
		return error_set_errno(err, errno, "cannot watch descriptors");
	watch_listeners(server, true);
	return 0;
}

static int run_loop(struct server *server)
{
	struct epoll_event events[EVENTS_AT_ONCE];

	while (!is_over(server)) {
		int count = epoll_wait(server->epoll_fd, events, EVENTS_AT_ONCE,
				       clock_poll_timeout(next_deadline(server)));

		if (count < 0 && errno != EINTR)
			return -errno;
		for (int i = 0; i < count; i++)
			handle_event(server, &events[i]);
		check_deadlines(server);
		resume_waiting(server);
		look_after_access(server);
		free_ended(server);
		/* Cut off, and still stuck in the disk: nothing more can be done for them. */
		if (server->interrupted && clock_now() >= server->drain_deadline)
			return -ETIMEDOUT;
	}
	return 0;
}

int server_run(struct server *server, struct error *err)
{
	struct connection *connection, *next;
	int rc = prepare(server, err);

	if (rc)
		return rc;
	for (connection = TAILQ_FIRST(&server->all); connection; connection = next) {
		next = TAILQ_NEXT(connection, all);
		negotiate(server, connection);
	}
	rc = run_loop(server);
	if (rc == -ETIMEDOUT)
		return error_set(err, ETIMEDOUT,
				 "requests are stuck in the disk, stopping without them");
	if (rc)
		return error_set_errno(err, -rc, "cannot wait for clients");
	end_negotiations(server);
	access_stop(server->access);
	/* With --auto-read-only the last flush may have been before, and have failed. */
	rc = server->export_.read_only && !server->export_.flush_error
		     ? 0
		     : export_flush(&server->export_);
	if (rc)
		return error_set_errno(err, -rc, "%s: the last flush failed",
				       server->config.export_.file);
	return 0;
}
