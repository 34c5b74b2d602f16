// SPDX-License-Identifier: MIT
/*
 * The client's side of the handshake against a server that says anything. The first two bytes are
 * a plan (which options the client sends, how the bytes come in pieces), the rest is what the
 * server says; it comes from memory, through a transport of the target's own.
 */
#include <errno.h>
#include <sys/socket.h>

#include "common/client-handshake.h"
#include "common/clock.h"
#include "fuzz.h"

enum { PLAN_SIZE = 2, SENT_MAX = 64 << 10 };

/* ---- A transport whose peer is the input ---- */

struct peer {
	const uint8_t *bytes;
	size_t size, taken, sent;
	struct fuzz_random random;
};

static ssize_t peer_recv(struct transport *transport, void *buffer, size_t length, int flags)
{
	struct peer *peer = transport->layer;
	size_t left = peer->size - peer->taken;

	(void)flags;
	if (length > left)
		length = left;
	if (length > 1 && peer->random.state)
		length = 1 + fuzz_below(&peer->random, length);
	if (length)
		memcpy(buffer, peer->bytes + peer->taken, length);
	peer->taken += length;
	return (ssize_t)length;
}

static ssize_t peer_send(struct transport *transport, const struct iovec *iov, int count, int flags)
{
	struct peer *peer = transport->layer;
	size_t sent = 0;

	(void)flags;
	for (int i = 0; i < count; i++)
		sent += iov[i].iov_len;
	peer->sent += sent;
	FUZZ_CHECK(peer->sent <= SENT_MAX);
	return (ssize_t)sent;
}

static size_t peer_pending(const struct transport *transport)
{
	(void)transport;
	return 0;
}

static void peer_close(struct transport *transport, enum transport_close how)
{
	(void)transport, (void)how;
}

static const struct transport_ops peer_ops = {
	.name = "memory",
	.recv = peer_recv,
	.send = peer_send,
	.pending = peer_pending,
	.close = peer_close,
};

/* ---- What the client makes of it ---- */

/* The errors of the header's table. */
static void check_result(int rc, const struct error *err, const struct client_handshake *handshake)
{
	static const int known[] = {ENOENT, ENOKEY, EACCES, EOPNOTSUPP, EINVAL,   ESHUTDOWN,
				    EPROTO, E2BIG,  EFBIG,  ECONNRESET, ETIMEDOUT};
	bool found = false;

	if (rc == 0)
		return;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		found |= rc == -known[i];
	FUZZ_CHECK(found);
	FUZZ_CHECK(err->code == -rc && err->text[0]);
	/* A size that we cannot use is told by a server that has let us in. */
	FUZZ_CHECK(handshake->phase != CLIENT_HANDSHAKE_TRANSMISSION || rc == -EFBIG);
	if (rc == -EPROTO || rc == -ECONNRESET)
		FUZZ_CHECK(!client_handshake_alive(handshake));
}

static void check_text(const char *text)
{
	if (text)
		FUZZ_CHECK(strlen(text) <= NBD_STRING_MAX);
}

static void check_info(const struct nbd_export_info *info)
{
	check_text(info->name);
	check_text(info->description);
	FUZZ_CHECK(!info->has_size || info->size <= INT64_MAX);
	if (info->has_block_sizes) {
		FUZZ_CHECK(info->minimum && info->minimum <= 65536);
		FUZZ_CHECK(!(info->minimum & (info->minimum - 1)));
		FUZZ_CHECK(info->preferred >= 512 && info->preferred >= info->minimum);
		FUZZ_CHECK(info->maximum >= info->preferred);
	}
	for (size_t i = 0; i < info->context_count; i++)
		check_text(info->contexts[i].name);
}

struct talk {
	struct peer peer;
	struct transport transport;
	struct client_handshake handshake;
	struct error err;
	int rc; /* of the last step */
};

static void ask_list(struct talk *talk)
{
	struct nbd_export_list list;

	talk->rc = client_handshake_list(&talk->handshake, &list, &talk->err);
	for (size_t i = 0; i < list.count; i++)
		check_info(&list.exports[i]);
	FUZZ_CHECK(talk->rc == 0 || list.count == 0);
	nbd_export_list_clear(&list);
}

static void ask_info(struct talk *talk, bool enter, bool contexts)
{
	static const char *const queries[] = {"base:allocation", "qemu:"};
	struct nbd_export_info info;
	int rc = 0;

	nbd_export_info_init(&info);
	if (contexts) {
		rc = (enter ? client_handshake_set_contexts : client_handshake_list_contexts)(
			&talk->handshake, "disk", queries, enter ? 1 : 2, &info, &talk->err);
		check_result(rc, &talk->err, &talk->handshake);
		check_info(&info);
		nbd_export_info_clear(&info);
	}
	talk->rc = (enter ? client_handshake_go : client_handshake_info)(&talk->handshake, "disk",
									 &info, &talk->err);
	check_info(&info);
	FUZZ_CHECK(talk->rc || info.has_size);
	FUZZ_CHECK(talk->rc || enter == (talk->handshake.phase == CLIENT_HANDSHAKE_TRANSMISSION));
	nbd_export_info_clear(&info);
}

/* The steps of plan, over so many bytes of what the server says. */
static void talk(struct talk *talk, const uint8_t *plan, const uint8_t *bytes, size_t size)
{
	*talk = (struct talk){.peer = {.bytes = bytes, .size = size, .random = {plan[1]}}};
	talk->transport = (struct transport){.ops = &peer_ops, .layer = &talk->peer};
	talk->rc =
		client_handshake_start(&talk->handshake, &talk->transport, CLOCK_NEVER, &talk->err);
	check_result(talk->rc, &talk->err, &talk->handshake);
	if (!talk->rc && plan[0] & 1) {
		talk->rc = client_handshake_structured(&talk->handshake, &talk->err);
		check_result(talk->rc, &talk->err, &talk->handshake);
	}
	if (!talk->rc && plan[0] & 2) {
		ask_list(talk);
		check_result(talk->rc, &talk->err, &talk->handshake);
	}
	if (!talk->rc) {
		ask_info(talk, plan[0] & 4, plan[0] & 8);
		check_result(talk->rc, &talk->err, &talk->handshake);
	}
}

/* Who enters an export has taken the handshake to its last byte and not one more (the next belongs
 * to the kernel): without what follows nothing changes, with one byte less it cannot succeed. */
static void check_last_byte(const struct talk *before, const uint8_t *plan, const uint8_t *bytes)
{
	struct talk again;
	size_t taken = before->peer.taken;

	talk(&again, plan, bytes, taken);
	FUZZ_CHECK(again.rc == 0 && again.peer.taken == taken);
	client_handshake_abort(&again.handshake);
	talk(&again, plan, bytes, taken - 1);
	FUZZ_CHECK(again.rc == -ECONNRESET || again.rc == -ENOENT); /* EXPORT_NAME's refusal */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct talk first;

	if (size < PLAN_SIZE)
		return 0;
	talk(&first, data, data + PLAN_SIZE, size - PLAN_SIZE);
	if (!first.rc && first.handshake.phase == CLIENT_HANDSHAKE_TRANSMISSION)
		check_last_byte(&first, data, data + PLAN_SIZE);
	client_handshake_abort(&first.handshake);
	FUZZ_CHECK(first.handshake.phase == CLIENT_HANDSHAKE_OVER);
	return 0;
}
