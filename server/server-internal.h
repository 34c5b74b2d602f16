/* SPDX-License-Identifier: MIT */
/* What the parts of the running server (engine, connection) ask of server.c. */
#ifndef HAWSER_SERVER_SERVER_INTERNAL_H
#define HAWSER_SERVER_SERVER_INTERNAL_H

#include "connection.h"
#include "server.h"

struct worker_pool;

/* An engine thread gives a connection back: to be parked, or over. */
void server_connection_back(struct connection *connection, enum connection_outcome outcome);

/* What clients must have; creds NULL: no TLS. Main loop. */
const struct server_tls *server_tls(const struct server *server);
struct worker_pool *server_workers(struct server *server);
struct engine *server_engine(struct server *server);
struct export *server_exports(struct server *server, size_t *count);

#endif
