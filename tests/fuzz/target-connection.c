// SPDX-License-Identifier: MIT
/*
 * A whole connection against running servers: handshake, transmission, end. The first two bytes
 * are a plan (which server, how the bytes come in pieces), the rest is what the client sends; then
 * it closes its side, so that every run ends by itself. The bytes go to a real server core with
 * its threads over a Unix socket; the image is memory.
 *
 * The answers of the handshake must be those of the pure machine over the same bytes; those of
 * transmission are read strictly (replies.h). Afterwards nothing outside the export and of what
 * was not written may have changed, and another client must be served.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/clock.h"
#include "fuzz.h"
#include "replies.h"
#include "server/buffer.h"
#include "server/handshake.h"
#include "server/server.h"

enum {
	PLAN_SIZE = 2,
	INPUT_MAX = 8192, /* bounds what a run may read */
	GUARD = 64 << 10, /* of the image, before the export */
	EXPORT = 262157,  /* a size that is no multiple of anything */
	HOLE_AT = 80 << 10,
	HOLE_SIZE = 32 << 10,
	RUN_SECONDS = 15,
};

/* ---- The servers: one writable, one read-only, on the same memory ---- */

struct service {
	struct server *server;
	pthread_t thread;
	struct sockaddr_un address;
	socklen_t address_size;
	int listener;
	bool read_only;
};

static struct service services[2] = {{.read_only = false}, {.read_only = true}};
static int image_fd = -1;
static uint8_t *image; /* mapped, shared with the servers */
static uint8_t pristine[GUARD + EXPORT];

static void fill_pristine(void)
{
	struct fuzz_random random = {.state = 1};

	for (size_t i = 0; i < sizeof(pristine); i++)
		pristine[i] = (uint8_t)(fuzz_random(&random) >> 56);
	memset(pristine + GUARD + HOLE_AT, 0, HOLE_SIZE);
}

static void restore_image(void)
{
	memcpy(image, pristine, sizeof(pristine));
	FUZZ_CHECK(fallocate(image_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, GUARD + HOLE_AT,
			     HOLE_SIZE) == 0);
}

static void make_image(void)
{
	image_fd = memfd_create("fuzz-image", MFD_CLOEXEC);
	FUZZ_CHECK(image_fd >= 0 && ftruncate(image_fd, sizeof(pristine)) == 0);
	image = mmap(NULL, sizeof(pristine), PROT_READ | PROT_WRITE, MAP_SHARED, image_fd, 0);
	FUZZ_CHECK(image != MAP_FAILED);
	fill_pristine();
	restore_image();
}

static void *service_main(void *argument)
{
	struct service *service = argument;
	struct error err = ERROR_INIT;
	int rc = server_run(service->server, &err);

	if (rc)
		fprintf(stderr, "the server ended: %s\n", err.text);
	FUZZ_CHECK(rc == 0);
	return NULL;
}

/* The kernel chooses an abstract name. */
static void service_listen(struct service *service)
{
	service->address = (struct sockaddr_un){.sun_family = AF_UNIX};
	service->address_size = sizeof(service->address);
	service->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	FUZZ_CHECK(bind(service->listener, (struct sockaddr *)&service->address,
			sizeof(sa_family_t)) == 0);
	FUZZ_CHECK(listen(service->listener, 16) == 0);
	FUZZ_CHECK(getsockname(service->listener, (struct sockaddr *)&service->address,
			       &service->address_size) == 0);
}

static void service_start(struct service *service)
{
	char path[64];
	struct server_config config = {
		.export_ = {.file = path,
			    .format = "raw",
			    .name = "",
			    .description = "memory",
			    .offset = GUARD,
			    .access = service->read_only ? IMAGE_READ_ONLY : IMAGE_READ_WRITE},
		.persistent = true,
		.handshake_limit_ms = 10000,
		.signals_elsewhere = true,
	};
	struct error err = ERROR_INIT;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", image_fd);
	service_listen(service);
	if (server_open(&service->server, &config, &err))
		fprintf(stderr, "%s\n", err.text);
	FUZZ_CHECK(service->server);
	FUZZ_CHECK(server_add_listener(service->server, service->listener, &err) == 0);
	FUZZ_CHECK(pthread_create(&service->thread, NULL, service_main, service) == 0);
}

static void stop_services(void)
{
	for (int i = 0; i < 2; i++) {
		server_stop(services[i].server);
		pthread_join(services[i].thread, NULL);
		server_close(services[i].server);
		close(services[i].listener);
	}
}

static void start_services(void)
{
	if (image)
		return;
	signal(SIGPIPE, SIG_IGN);
	make_image();
	service_start(&services[0]);
	service_start(&services[1]);
	atexit(stop_services);
}

static int service_dial(const struct service *service)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	FUZZ_CHECK(fd >= 0);
	FUZZ_CHECK(connect(fd, (const struct sockaddr *)&service->address, service->address_size) ==
		   0);
	return fd;
}

/* ---- One conversation ---- */

struct conversation {
	int fd;
	const uint8_t *out; /* what is to be sent */
	size_t out_size, sent;
	struct outbuf in; /* what came */
	struct fuzz_random pieces;
	bool sending;
};

static void send_some(struct conversation *conversation)
{
	size_t piece = conversation->out_size - conversation->sent;
	ssize_t sent;

	if (conversation->pieces.state && piece > 1)
		piece = 1 + fuzz_below(&conversation->pieces, piece);
	sent = piece ? send(conversation->fd, conversation->out + conversation->sent, piece,
			    MSG_DONTWAIT | MSG_NOSIGNAL)
		     : 0;
	if (sent > 0)
		conversation->sent += (size_t)sent;
	else if (sent == 0 || (errno != EAGAIN && errno != EINTR))
		conversation->sending = false;
	if (!conversation->sending)
		shutdown(conversation->fd, SHUT_WR);
}

/* False at the end of the stream. A server that closes while bytes are under way resets. */
static bool receive_some(struct conversation *conversation)
{
	static uint8_t bytes[64 << 10];
	ssize_t got = recv(conversation->fd, bytes, sizeof(bytes), MSG_DONTWAIT);

	if (got > 0)
		outbuf_add(&conversation->in, bytes, (size_t)got);
	FUZZ_CHECK(!conversation->in.failed);
	return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

static void converse(struct conversation *conversation)
{
	uint64_t deadline = clock_now() + RUN_SECONDS * CLOCK_SECOND;

	conversation->sending = true;
	for (;;) {
		struct pollfd item = {
			.fd = conversation->fd,
			.events = (short)(POLLIN | (conversation->sending ? POLLOUT : 0))};

		int ready = poll(&item, 1, clock_poll_timeout(deadline));

		if (ready < 0 && errno == EINTR) /* libFuzzer's alarm */
			continue;
		if (ready <= 0) {
			fprintf(stderr, "no end after %zu of %zu bytes sent, %zu received\n",
				conversation->sent, conversation->out_size, conversation->in.used);
			abort();
		}
		if (item.revents & POLLOUT)
			send_some(conversation);
		if (item.revents & (POLLIN | POLLHUP | POLLERR) && !receive_some(conversation))
			break;
	}
	close(conversation->fd);
}

/* ---- What must come of it ---- */

static bool slot_always(void *context)
{
	(void)context;
	return true;
}

/* The pure machine over the same bytes says what the handshake answers and where it ends. */
static size_t predict(const struct service *service, const uint8_t *bytes, size_t size,
		      struct outbuf *answers, struct exchange *exchange)
{
	struct export export = {
		.name = "",
		.description = "memory",
		.size = EXPORT,
		.multi_conn = true,
		.read_only = service->read_only,
	};
	struct handshake_world world = {
		.exports = &export, .export_count = 1, .take_slot = slot_always};
	struct outbuf out = {.bytes = NULL};
	struct handshake handshake;
	size_t used = 0, drained;

	handshake_start(&handshake, &world, &out);
	do {
		used += handshake_feed(&handshake, bytes + used, size - used);
		drained = out.used;
		outbuf_add(answers, out.bytes, out.used);
		outbuf_consume(&out, out.used);
	} while (drained > HANDSHAKE_OUTPUT_MAX);
	*exchange = (struct exchange){.structured = handshake.terms.structured,
				      .extended = handshake.terms.extended,
				      .contexts = handshake.terms.contexts,
				      .read_only = service->read_only,
				      .image = pristine + GUARD,
				      .size = EXPORT};
	if (handshake.phase != HANDSHAKE_DONE)
		used = size; /* there is no transmission */
	handshake_clear(&handshake);
	outbuf_clear(&out);
	return used;
}

static void check_image(const struct exchange *exchange)
{
	FUZZ_CHECK(lseek(image_fd, 0, SEEK_END) == sizeof(pristine));
	FUZZ_CHECK(memcmp(image, pristine, GUARD) == 0);
	image_check(exchange, image + GUARD);
}

/* A client that does everything right is served as ever. */
static void check_alive(const struct service *service)
{
	static const uint8_t hello[] = "\0\0\0\3IHAVEOPT\0\0\0\1\0\0\0\0"
				       "\x25\x60\x95\x13\0\0\0\0goodgood\0\0\0\0\0\0\0\0\0\0\2\0"
				       "\x25\x60\x95\x13\0\0\0\2goodbye!\0\0\0\0\0\0\0\0\0\0\0\0";
	struct conversation good = {
		.fd = service_dial(service), .out = hello, .out_size = sizeof(hello) - 1};

	converse(&good);
	FUZZ_CHECK(good.in.used == 18 + 10 + 16 + 512);
	FUZZ_CHECK(load_be64(good.in.bytes + 18) == EXPORT);
	FUZZ_CHECK(memcmp(good.in.bytes + 28, "\x67\x44\x66\x98\0\0\0\0goodgood", 16) == 0);
	FUZZ_CHECK(memcmp(good.in.bytes + 44, image + GUARD, 512) == 0);
	outbuf_clear(&good.in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct service *service;
	struct conversation hostile;
	struct exchange exchange;
	struct outbuf answers = {.bytes = NULL};
	uint8_t *bytes;
	size_t used;

	if (size < PLAN_SIZE || size > INPUT_MAX)
		return 0;
	start_services();
	restore_image();
	service = &services[data[0] & 1];
	bytes = fuzz_exact(data + PLAN_SIZE, size - PLAN_SIZE);
	used = predict(service, bytes, size - PLAN_SIZE, &answers, &exchange);
	requests_plan(&exchange, bytes + used, size - PLAN_SIZE - used);
	hostile = (struct conversation){.fd = service_dial(service),
					.out = bytes,
					.out_size = size - PLAN_SIZE,
					.pieces = {data[1]}};
	converse(&hostile);
	FUZZ_CHECK(hostile.in.used >= answers.used);
	FUZZ_CHECK(memcmp(hostile.in.bytes, answers.bytes, answers.used) == 0);
	replies_check(&exchange, hostile.in.bytes + answers.used, hostile.in.used - answers.used);
	check_image(&exchange);
	check_alive(service);
	FUZZ_CHECK(buffer_in_use() == 0); /* the good client left after the hostile one was freed */
	exchange_clear(&exchange);
	outbuf_clear(&answers);
	outbuf_clear(&hostile.in);
	free(bytes);
	return 0;
}
