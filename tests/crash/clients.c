// SPDX-License-Identifier: MIT
/*
 * The clients. The first half of the disk is shared: there clients write side by side in the same
 * clusters; behind it each has a stretch of its own.
 */
#include "clients.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/client-handshake.h"
#include "common/clock.h"
#include "common/nbd-protocol.h"
#include "common/transport.h"
#include "history.h"
#include "record.h"
#include "server/image/image.h"
#include "server/server.h"

enum {
	CLIENTS = 4,
	SECTOR = FEATURES_SECTOR,
	COUNT_MAX = 400, /* sectors of one operation */
	IN_FLIGHT = 4,
};

enum kind { KIND_WRITE, KIND_ZERO, KIND_ZERO_NO_HOLE, KIND_DISCARD, KIND_FLUSH, KINDS };

struct operation {
	enum kind kind;
	struct history_change change;
	uint64_t begun;
	bool open;
};

struct client {
	const struct disk *disk;
	struct image *image; /* NULL: through the server */
	struct transport transport;
	unsigned int number, seed, operations;
	uint32_t version;
	struct operation flight[IN_FLIGHT];
	uint8_t bytes[COUNT_MAX * SECTOR];
	char failure[1200];
};

static unsigned int chance(struct client *client, unsigned int below)
{
	return (unsigned int)rand_r(&client->seed) / 16 % below;
}

/* ---- What to do ---- */

/* Sectors that belong to this client. */
static void choose_sectors(struct client *client, struct history_change *change)
{
	uint64_t shared = client->disk->sectors / 2;
	uint64_t stretch = (client->disk->sectors - shared) / CLIENTS;
	static const unsigned int lengths[] = {1, 4, 8, 16, 64, 128};

	if (chance(client, 2)) { /* pieces of 8 sectors in turns */
		change->first =
			chance(client, (unsigned int)(shared / (8 * CLIENTS))) * 8 * CLIENTS +
			client->number * 8;
		change->count = 1 + chance(client, 8);
		change->first += chance(client, (unsigned int)(9 - change->count));
		return;
	}
	change->count =
		chance(client, 3) ? lengths[chance(client, 6)] : 1 + chance(client, COUNT_MAX);
	change->first = shared + client->number * stretch +
			chance(client, (unsigned int)(stretch - change->count));
	if (chance(client, 2)) /* whole clusters of many a size */
		change->first = shared + (change->first - shared) / 128 * 128;
	if (change->first < shared + client->number * stretch)
		change->first = shared + client->number * stretch;
	if (client->number == CLIENTS - 1 && chance(client, 8) == 0) /* the ragged end */
		change->first = client->disk->sectors - change->count;
}

static bool overlaps(const struct client *client, const struct history_change *change)
{
	for (int i = 0; i < IN_FLIGHT; i++) {
		const struct operation *other = &client->flight[i];

		if (other->open && other->kind != KIND_FLUSH &&
		    other->change.first < change->first + change->count &&
		    change->first < other->change.first + other->change.count)
			return true;
	}
	return false;
}

/* Chooses an operation; false: none this time. */
static bool choose(struct client *client, struct operation *operation)
{
	static const enum kind kinds[] = {KIND_WRITE, KIND_WRITE,        KIND_WRITE,   KIND_WRITE,
					  KIND_WRITE, KIND_WRITE,        KIND_ZERO,    KIND_DISCARD,
					  KIND_ZERO,  KIND_ZERO_NO_HOLE, KIND_DISCARD, KIND_FLUSH};
	struct history_change *change = &operation->change;

	*operation = (struct operation){.kind = kinds[chance(client, 12)]};
	if (operation->kind == KIND_FLUSH)
		return true;
	choose_sectors(client, change);
	change->maybe = operation->kind == KIND_DISCARD;
	change->fua = chance(client, 12) == 0;
	if (operation->kind == KIND_WRITE)
		change->version = VERSION_CLIENTS + ++client->version * CLIENTS + client->number;
	return !overlaps(client, change) && history_has_room(change->first, change->count);
}

static void make_bytes(struct client *client, const struct history_change *change)
{
	for (uint64_t i = 0; i < change->count; i++)
		history_content(client->bytes + i * SECTOR, change->first + i, change->version);
}

static void begin(struct client *client, struct operation *operation)
{
	operation->open = true;
	if (operation->kind == KIND_FLUSH)
		operation->begun = record_tick();
	else
		history_begin(&operation->change);
	if (operation->kind == KIND_WRITE)
		make_bytes(client, &operation->change);
}

static void end(struct client *client, struct operation *operation, int rc)
{
	operation->open = false;
	if (rc)
		snprintf(client->failure, sizeof(client->failure), "client %u: %s", client->number,
			 strerror(-rc));
	else if (operation->kind == KIND_FLUSH)
		history_flushed(operation->begun);
	else
		history_end(&operation->change);
}

/* ---- By functions ---- */

static int flush(struct image *image)
{
	int rc = image_flush(image);

	if (rc == 0)
		record_flush_ended();
	return rc;
}

static int perform(struct client *client, const struct operation *operation)
{
	static const unsigned int zero_flags[] = {ZERO_MAY_UNMAP, ZERO_MAY_STAY_HOLE};
	uint64_t offset = operation->change.first * SECTOR;
	uint64_t length = operation->change.count * SECTOR;
	int rc = 0;

	switch (operation->kind) {
	case KIND_WRITE:
		rc = image_write(client->image, client->bytes, offset, length);
		break;
	case KIND_ZERO:
	case KIND_ZERO_NO_HOLE:
		rc = image_zero(
			client->image, offset, length,
			operation->kind == KIND_ZERO ? zero_flags[operation->change.first % 2] : 0);
		break;
	case KIND_DISCARD:
		rc = image_discard(client->image, offset, length);
		break;
	case KIND_FLUSH:
	case KINDS:
		break;
	}
	if (rc == 0 && (operation->kind == KIND_FLUSH || operation->change.fua))
		rc = flush(client->image);
	return rc;
}

static void *work_on_image(void *argument)
{
	struct client *client = argument;
	struct operation *operation = &client->flight[0];

	for (unsigned int i = 0; i < client->operations && !*client->failure; i++) {
		if (!choose(client, operation))
			continue;
		begin(client, operation);
		end(client, operation, perform(client, operation));
	}
	return NULL;
}

static int run_on_image(struct client *clients, const struct disk *disk)
{
	struct image_options options = disk_options(disk);
	struct error err = ERROR_INIT;
	pthread_t threads[CLIENTS];
	struct image *image;

	options.discard = DISCARD_UNMAP;
	if (image_open(disk->path, &options, &image, &err)) {
		printf("# %s\n", err.text);
		return -1;
	}
	for (int i = 0; i < CLIENTS; i++) {
		clients[i].image = image;
		pthread_create(&threads[i], NULL, work_on_image, &clients[i]);
	}
	for (int i = 0; i < CLIENTS; i++)
		pthread_join(threads[i], NULL);
	image_close(image);
	return 0;
}

/* ---- Through a server ---- */

static int send_request(struct client *client, unsigned int slot)
{
	static const uint16_t commands[KINDS] = {
		[KIND_WRITE] = NBD_CMD_WRITE,
		[KIND_ZERO] = NBD_CMD_WRITE_ZEROES,
		[KIND_ZERO_NO_HOLE] = NBD_CMD_WRITE_ZEROES,
		[KIND_DISCARD] = NBD_CMD_TRIM,
		[KIND_FLUSH] = NBD_CMD_FLUSH,
	};
	const struct operation *operation = &client->flight[slot];
	uint16_t flags = operation->change.fua ? NBD_CMD_FLAG_FUA : 0;
	uint8_t header[28];
	int rc;

	if (operation->kind == KIND_ZERO_NO_HOLE)
		flags |= NBD_CMD_FLAG_NO_HOLE;
	store_be32(header, NBD_REQUEST_MAGIC);
	store_be16(header + 4, flags);
	store_be16(header + 6, commands[operation->kind]);
	store_be64(header + 8, slot);
	store_be64(header + 16, operation->change.first * SECTOR);
	store_be32(header + 24, (uint32_t)operation->change.count * SECTOR);
	rc = transport_write_full(&client->transport, header, sizeof(header), CLOCK_NEVER);
	if (rc == 0 && operation->kind == KIND_WRITE)
		rc = transport_write_full(&client->transport, client->bytes,
					  operation->change.count * SECTOR, CLOCK_NEVER);
	return rc;
}

static int take_reply(struct client *client)
{
	uint8_t reply[16];
	int rc = transport_read_full(&client->transport, reply, sizeof(reply), CLOCK_NEVER);
	uint64_t slot = load_be64(reply + 8);

	if (rc == 0 && (load_be32(reply) != NBD_SIMPLE_REPLY_MAGIC || slot >= IN_FLIGHT ||
			!client->flight[slot].open))
		rc = -EPROTO;
	if (rc == 0)
		end(client, &client->flight[slot], -(int)load_be32(reply + 4));
	return rc;
}

/* Some requests at once, then their replies. */
static int batch(struct client *client)
{
	unsigned int sent = 0, wanted = 1 + chance(client, IN_FLIGHT);
	int rc = 0;

	for (unsigned int slot = 0; slot < wanted && rc == 0; slot++) {
		if (!choose(client, &client->flight[slot]))
			continue;
		begin(client, &client->flight[slot]);
		rc = send_request(client, slot);
		sent++;
	}
	while (sent-- && rc == 0)
		rc = take_reply(client);
	return rc;
}

static void *work_on_server(void *argument)
{
	struct client *client = argument;
	struct client_handshake handshake;
	struct nbd_export_info info;
	struct error err = ERROR_INIT;
	int rc = client_handshake_start(&handshake, &client->transport, CLOCK_NEVER, &err);

	if (rc == 0) {
		rc = client_handshake_go(&handshake, "", &info, &err);
		nbd_export_info_clear(&info);
	}
	for (unsigned int i = 0; i < client->operations && rc == 0 && !*client->failure; i += 2)
		rc = batch(client);
	if (rc && !*client->failure)
		snprintf(client->failure, sizeof(client->failure), "client %u: %s %s",
			 client->number, strerror(-rc), err.text);
	transport_close(&client->transport, TRANSPORT_CLOSE_CLEAN);
	return NULL;
}

static int add_client(struct server *server, struct client *client, struct error *err)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		return error_set_errno(err, errno, "no pair of sockets");
	transport_init_plain(&client->transport, ends[0]);
	return server_add_client(server, ends[1], err);
}

/* The calling thread serves until all clients have gone. */
static int run_on_server(struct client *clients, const struct disk *disk)
{
	const struct server_config config = {
		.export_ = {.file = disk->path,
			    .format = "qcow2",
			    .name = "",
			    .discard = DISCARD_UNMAP,
			    .access = IMAGE_READ_WRITE,
			    .key_secret = disk_options(disk).key_secret},
		.persistent = true,
		.signals_elsewhere = true,
	};
	struct error err = ERROR_INIT;
	pthread_t threads[CLIENTS];
	struct server *server;
	int rc, started = 0;

	signal(SIGPIPE, SIG_IGN);
	rc = server_open(&server, &config, &err);
	for (; started < CLIENTS && rc == 0; started++) {
		rc = add_client(server, &clients[started], &err);
		if (rc == 0)
			pthread_create(&threads[started], NULL, work_on_server, &clients[started]);
	}
	if (rc == 0)
		rc = server_run(server, &err);
	for (int i = 0; i < started && rc == 0; i++)
		pthread_join(threads[i], NULL);
	if (rc)
		printf("# %s\n", err.text);
	else
		server_close(server);
	return rc;
}

int clients_run(const struct disk *disk, unsigned int operations, unsigned int seed)
{
	static struct client clients[CLIENTS];
	int rc;

	for (unsigned int i = 0; i < CLIENTS; i++)
		clients[i] = (struct client){
			.disk = disk, .number = i, .seed = seed * 31 + i, .operations = operations};
	rc = features_has(disk->row, AXIS_WAY, "server") ? run_on_server(clients, disk)
							 : run_on_image(clients, disk);
	for (int i = 0; i < CLIENTS && rc == 0; i++)
		if (*clients[i].failure) {
			printf("# %s\n", clients[i].failure);
			rc = -1;
		}
	return rc;
}
