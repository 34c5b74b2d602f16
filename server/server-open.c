// SPDX-License-Identifier: MIT
/*
 * A server's beginning and end: the export, and what the main loop needs. Starts no thread and
 * binds nothing. The thread that opens.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "access.h"
#include "buffer.h"
#include "common/cleanup.h"
#include "engine.h"
#include "farewell.h"
#include "server-internal.h"
#include "server-state.h"
#include "worker.h"

static bool take_slot(void *context)
{
	struct server *server = context;

	if (!server_slot_free(server))
		return false;
	server->clients++;
	server->had_client = true;
	return true;
}

int server_open(struct server **out, const struct server_config *config, struct error *err)
{
	struct server *server = calloc(1, sizeof(*server));
	int rc;

	*out = NULL;
	if (!server)
		return error_set(err, ENOMEM, "out of memory");
	server->config = *config;
	server->epoll_fd = server->signal_fd = server->wake_fd = -1;
	TAILQ_INIT(&server->all);
	TAILQ_INIT(&server->negotiating);
	TAILQ_INIT(&server->queued);
	TAILQ_INIT(&server->waiting);
	TAILQ_INIT(&server->opening);
	TAILQ_INIT(&server->stalled);
	TAILQ_INIT(&server->throttled);
	TAILQ_INIT(&server->ended);
	TAILQ_INIT(&server->back);
	pthread_mutex_init(&server->lock, NULL);
	rc = export_open(&server->export_, &server->config.export_, err);
	if (rc) {
		free(server);
		return rc;
	}
	server->export_.multi_conn = config->max_clients != 1;
	server->world = (struct handshake_world){.tls = config->tls.creds,
						 .exports = &server->export_,
						 .export_count = 1,
						 .take_slot = take_slot,
						 .context = server};
	server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (server->export_.dynamic)
		server->world.access = server->access =
			access_new(&server->export_, server->wake_fd);
	server->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	server->farewell = farewell_new();
	server->scratch = malloc(NEGOTIATION_SCRATCH);
	if (server->wake_fd < 0 || server->epoll_fd < 0 || !server->scratch || !server->farewell ||
	    (server->export_.dynamic && !server->access)) {
		server_close(server);
		return error_set(err, ENOMEM, "out of memory or descriptors");
	}
	*out = server;
	return 0;
}

uint64_t server_size(const struct server *server)
{
	return server->export_.size;
}

bool server_read_only(const struct server *server)
{
	return server->export_.dynamic ? (bool)server->export_.unwritable.code
				       : server->export_.read_only;
}

const struct server_tls *server_tls(const struct server *server)
{
	return &server->config.tls;
}

struct worker_pool *server_workers(struct server *server)
{
	return server->workers;
}

struct engine *server_engine(struct server *server)
{
	return server->engine;
}

struct export *server_exports(struct server *server, size_t *count)
{
	*count = server->world.export_count;
	return server->world.exports;
}

void server_close(struct server *server)
{
	int *fds[] = {&server->epoll_fd, &server->signal_fd, &server->wake_fd};

	engine_free(server->engine);
	worker_pool_free(server->workers);
	farewell_free(server->farewell);
	access_free(server->access);
	export_close(&server->export_);
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		cleanup_close(fds[i]);
	pthread_mutex_destroy(&server->lock);
	buffer_trim();
	free(server->scratch);
	free(server);
}
