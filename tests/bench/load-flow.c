// SPDX-License-Identifier: MIT
/*
 * The moving part of the load generator: keeps depth requests in flight on each connection of one
 * thread. Built to cost less than any server: all requests of a round leave in one send, replies
 * come through one large buffer that stays in the cache, data is looked at only with --verify.
 * Never waits for one direction while the other could move, so a server that blocks in its own
 * send cannot lock up with it. Everything here belongs to the one thread that runs it.
 */
#include "load.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/nbd-protocol.h"
#include "common/size.h"

enum {
	FLOW_BUFFER = 256 * 1024,
	FLOW_HEADER_MAX = 32, /* structured header and the fixed part of a hole */
	FLOW_IOV_MAX = 1024,  /* what one sendmsg takes */
};
/* A server that says nothing for so long has failed. */
#define FLOW_TIMEOUT_MS 30000

struct slot {
	uint64_t offset;
	uint64_t began;
	uint32_t generation;
	uint32_t covered; /* bytes of a read that have come */
	bool busy;
	bool is_read;
	bool failed;
};

struct flow {
	struct load_session *session;
	unsigned int number; /* among all connections */
	unsigned int in_flight;
	uint64_t issued;
	struct slot *slots;
	uint32_t *free_slots; /* depth - in_flight of them */
	/* What waits to be sent. */
	uint8_t *requests;
	struct iovec *iov;
	int iov_first, iov_count;
	/* The reply that is being read. */
	uint8_t partial[FLOW_HEADER_MAX];
	uint32_t partial_length;
	uint32_t payload_left;
	uint64_t payload_offset;
	struct slot *payload_slot;
	bool payload_is_data;
	bool payload_is_last;
};

/* What the flows of a thread share. */
struct flow_group {
	struct load_share *share;
	struct flow *flows;
	struct pollfd *polls;
	uint8_t *buffer;   /* for replies */
	uint8_t *data;     /* --verify: what each slot writes */
	uint8_t *expected; /* --verify: what a read should have brought */
	uint64_t left;     /* requests that may still be issued */
	uint64_t now;
};

/* ---- Where the next request goes ---- */

/* Visits every number below count once before it repeats one: so a cold read is really cold. */
static uint64_t scatter(uint64_t counter, uint64_t seed, uint64_t count)
{
	unsigned int bits = count > 1 ? 64 - (unsigned int)__builtin_clzll(count - 1) : 1;
	uint64_t mask = bits == 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1;
	unsigned int shift = bits / 2 + 1;
	uint64_t value = (counter + seed * UINT64_C(0x9e3779b97f4a7c15)) & mask;

	do {
		value = (value * UINT64_C(0xd1342543de82ef95)) & mask;
		value ^= value >> shift;
		value = (value * UINT64_C(0xaf251af3b0f025b5) + 1) & mask;
		value ^= value >> shift;
	} while (value >= count);
	return value;
}

static uint64_t next_offset(const struct flow *flow, const struct load_options *options)
{
	uint64_t blocks = flow->session->size / options->block_size;
	uint64_t hot = options->hot_bytes / options->block_size;
	uint64_t counter = flow->issued * options->connections + flow->number;

	if (options->sequential)
		return (blocks / options->connections * flow->number + flow->issued) % blocks *
		       options->block_size;
	if (hot && hot < blocks) {
		if (scatter(counter, options->seed + 1, UINT64_C(1) << 20) % 100 <
		    options->hot_percent)
			return scatter(counter, options->seed, hot) * options->block_size;
		return (hot + scatter(counter, options->seed, blocks - hot)) * options->block_size;
	}
	return scatter(counter, options->seed, blocks) * options->block_size;
}

static bool next_is_read(const struct flow *flow, const struct load_options *options)
{
	if (options->operation != LOAD_MIXED)
		return options->operation == LOAD_READ;
	return scatter(flow->issued, options->seed + 2, UINT64_C(1) << 20) % 100 <
	       options->read_percent;
}

/* ---- Sending ---- */

static void add_iov(struct flow *flow, void *base, size_t length)
{
	struct iovec *last = flow->iov_count ? &flow->iov[flow->iov_count - 1] : NULL;

	if (last && (uint8_t *)last->iov_base + last->iov_len == base)
		last->iov_len += length;
	else
		flow->iov[flow->iov_count++] = (struct iovec){.iov_base = base, .iov_len = length};
}

static void issue_request(struct flow_group *group, struct flow *flow, uint8_t *at)
{
	const struct load_options *options = group->share->options;
	uint32_t index = flow->free_slots[options->depth - flow->in_flight - 1];
	struct slot *slot = &flow->slots[index];
	struct nbd_request request = {.length = options->block_size};

	slot->offset = next_offset(flow, options);
	slot->is_read = next_is_read(flow, options);
	slot->began = group->now;
	slot->generation++;
	slot->covered = 0;
	slot->failed = false;
	slot->busy = true;
	flow->in_flight++;
	flow->issued++;
	request.type = slot->is_read ? NBD_CMD_READ : NBD_CMD_WRITE;
	request.offset = slot->offset;
	request.cookie = (uint64_t)slot->generation << 32 | index;
	add_iov(flow, at, nbd_request_build(at, false, &request));
	if (slot->is_read)
		return;
	if (options->verify) {
		uint8_t *data = group->data + (size_t)index * options->block_size;

		load_pattern_fill(data, slot->offset, options->block_size);
		add_iov(flow, data, options->block_size);
	} else {
		add_iov(flow, (void *)group->share->block, options->block_size);
	}
}

/* One round: as many requests as there are free slots. Only when the round before has left. */
static void issue_round(struct flow_group *group, struct flow *flow)
{
	uint8_t *at = flow->requests;

	flow->iov_first = flow->iov_count = 0;
	while (flow->in_flight < group->share->options->depth && group->left &&
	       flow->iov_count + 2 <= FLOW_IOV_MAX) {
		issue_request(group, flow, at);
		at += sizeof(struct nbd_request_wire);
		group->left--;
	}
}

/* 0 when all has left or the socket is full, else -errno. */
static int send_round(struct flow *flow)
{
	while (flow->iov_first < flow->iov_count) {
		struct iovec *iov = &flow->iov[flow->iov_first];
		ssize_t sent = transport_send(&flow->session->transport, iov,
					      flow->iov_count - flow->iov_first, MSG_DONTWAIT);

		if (sent == -EAGAIN)
			return 0;
		if (sent < 0)
			return (int)sent;
		while (sent && (size_t)sent >= iov->iov_len) {
			sent -= (ssize_t)iov->iov_len;
			iov++;
			flow->iov_first++;
		}
		if (sent) {
			iov->iov_base = (uint8_t *)iov->iov_base + sent;
			iov->iov_len -= (size_t)sent;
		}
	}
	return 0;
}

/* ---- Replies ---- */

static void finish_request(struct flow_group *group, struct flow *flow, struct slot *slot)
{
	struct load_result *result = &group->share->result;
	uint32_t block = group->share->options->block_size;

	if (slot->is_read && !slot->failed && slot->covered != block)
		slot->failed = true;
	if (slot->failed)
		result->errors++;
	else
		result->bytes += block;
	result->operations++;
	load_latency_add(result, group->now - slot->began);
	slot->busy = false;
	flow->in_flight--;
	flow->free_slots[group->share->options->depth - flow->in_flight - 1] =
		(uint32_t)(slot - flow->slots);
}

static void take_data(struct flow_group *group, struct flow *flow, const uint8_t *at, uint32_t take)
{
	if (!flow->payload_is_data)
		return;
	group->share->result.wire_bytes += take;
	flow->payload_slot->covered += take;
	if (group->share->options->verify) {
		load_pattern_fill(group->expected, flow->payload_offset, take);
		if (memcmp(group->expected, at, take))
			flow->payload_slot->failed = true;
	}
	flow->payload_offset += take;
}

/* at: the cookie, as we sent it (servers do not turn its bytes). */
static struct slot *find_slot(struct flow_group *group, struct flow *flow, const uint8_t *at)
{
	uint64_t cookie;
	uint32_t index;

	memcpy(&cookie, at, sizeof(cookie));
	index = (uint32_t)cookie;
	if (index >= group->share->options->depth || !flow->slots[index].busy ||
	    flow->slots[index].generation != cookie >> 32)
		return NULL;
	return &flow->slots[index];
}

/* May so many bytes at offset be part of this read's answer? */
static bool fits_read(const struct flow_group *group, const struct slot *slot, uint64_t offset,
		      uint32_t length)
{
	uint32_t block = group->share->options->block_size;

	return slot->is_read && offset >= slot->offset &&
	       range_inside(offset - slot->offset, length, block) &&
	       length <= block - slot->covered;
}

static int parse_simple(struct flow_group *group, struct flow *flow, const uint8_t *at)
{
	struct slot *slot = find_slot(group, flow, at + 8);

	if (!slot)
		return -EPROTO;
	slot->failed = load_be32(at + 4) != NBD_SUCCESS;
	flow->payload_slot = slot;
	flow->payload_is_last = true;
	flow->payload_is_data = slot->is_read && !slot->failed;
	flow->payload_left = flow->payload_is_data ? group->share->options->block_size : 0;
	flow->payload_offset = slot->offset;
	return sizeof(struct nbd_simple_reply_wire);
}

static int parse_chunk_body(struct flow_group *group, struct flow *flow, const uint8_t *at,
			    uint16_t type, uint32_t length)
{
	struct slot *slot = flow->payload_slot;
	uint64_t offset =
		type == NBD_REPLY_OFFSET_DATA || type == NBD_REPLY_OFFSET_HOLE ? load_be64(at) : 0;

	switch (type) {
	case NBD_REPLY_OFFSET_DATA:
		if (length < 8 || !fits_read(group, slot, offset, length - 8))
			return -EPROTO;
		flow->payload_is_data = true;
		flow->payload_offset = offset;
		flow->payload_left = length - 8;
		return 8;
	case NBD_REPLY_OFFSET_HOLE:
		if (length != 12 || !fits_read(group, slot, offset, load_be32(at + 8)))
			return -EPROTO;
		slot->covered += load_be32(at + 8);
		/* The pattern has no zeroes. */
		slot->failed |= group->share->options->verify;
		flow->payload_left = 0;
		return 12;
	case NBD_REPLY_NONE:
		return length ? -EPROTO : 0;
	default:
		slot->failed = true;
		return type & 0x8000 ? 0 : -EPROTO;
	}
}

static int parse_chunk(struct flow_group *group, struct flow *flow, const uint8_t *at, size_t have)
{
	uint16_t type = load_be16(at + 6);
	size_t fixed = type == NBD_REPLY_OFFSET_DATA ? 8 : type == NBD_REPLY_OFFSET_HOLE ? 12 : 0;
	struct slot *slot = find_slot(group, flow, at + 8);
	int body;

	if (!slot)
		return -EPROTO;
	if (have < sizeof(struct nbd_chunk_wire) + fixed)
		return 0;
	flow->payload_slot = slot;
	flow->payload_is_last = load_be16(at + 4) & NBD_REPLY_FLAG_DONE;
	flow->payload_is_data = false;
	flow->payload_left = load_be32(at + 16);
	body = parse_chunk_body(group, flow, at + sizeof(struct nbd_chunk_wire), type,
				flow->payload_left);
	return body < 0 ? body : body + (int)sizeof(struct nbd_chunk_wire);
}

/* The header at at: the bytes it takes, 0 when more must come first, or -errno. */
static int parse_header(struct flow_group *group, struct flow *flow, const uint8_t *at, size_t have)
{
	if (have < sizeof(struct nbd_simple_reply_wire))
		return 0;
	if (load_be32(at) == NBD_SIMPLE_REPLY_MAGIC)
		return parse_simple(group, flow, at);
	if (load_be32(at) != NBD_STRUCTURED_REPLY_MAGIC)
		return -EPROTO;
	return have < sizeof(struct nbd_chunk_wire) ? 0 : parse_chunk(group, flow, at, have);
}

static int parse_replies(struct flow_group *group, struct flow *flow, const uint8_t *at,
			 size_t have)
{
	while (have) {
		uint32_t take;

		if (!flow->payload_slot) {
			int used = parse_header(group, flow, at, have);

			if (used < 0)
				return used;
			if (!used)
				break;
			at += used;
			have -= (size_t)used;
		}
		take = (uint32_t)min_of((size_t)flow->payload_left, have);
		take_data(group, flow, at, take);
		at += take;
		have -= take;
		flow->payload_left -= take;
		if (flow->payload_left)
			break;
		if (flow->payload_is_last)
			finish_request(group, flow, flow->payload_slot);
		flow->payload_slot = NULL;
	}
	flow->partial_length = (uint32_t)have;
	memcpy(flow->partial, at, have);
	return 0;
}

static int receive_ready(struct flow_group *group);

static int receive(struct flow_group *group, struct flow *flow, int flags)
{
	size_t kept = flow->partial_length;
	ssize_t got;

	memcpy(group->buffer, flow->partial, kept);
	got = transport_recv(&flow->session->transport, group->buffer + kept, FLOW_BUFFER - kept,
			     flags);
	/* Only a plain socket waits by itself. */
	if (got == -EAGAIN && !flags && group->share->options->creds)
		return receive_ready(group);
	if (got == -EAGAIN)
		return flags & MSG_DONTWAIT ? 0 : -ETIMEDOUT;
	if (got <= 0)
		return got ? (int)got : -ECONNRESET;
	group->now = clock_now();
	return parse_replies(group, flow, group->buffer, kept + (size_t)got);
}

/* ---- The loop ---- */

static int send_all(struct flow_group *group, bool *pending, bool *idle)
{
	*pending = false;
	*idle = true;
	group->now = clock_now();
	if (group->now >= group->share->deadline)
		group->left = 0;
	for (unsigned int i = 0; i < group->share->count; i++) {
		struct flow *flow = &group->flows[i];
		int rc;

		if (flow->iov_first == flow->iov_count)
			issue_round(group, flow);
		rc = send_round(flow);
		if (rc)
			return rc;
		*pending |= flow->iov_first < flow->iov_count;
		*idle &= !flow->in_flight;
	}
	return 0;
}

/* Bytes that were decrypted already are in no poll. */
static bool has_pending(const struct flow_group *group)
{
	for (unsigned int i = 0; i < group->share->count; i++)
		if (transport_pending(&group->flows[i].session->transport))
			return true;
	return false;
}

static int receive_ready(struct flow_group *group)
{
	unsigned int count = group->share->count;

	for (unsigned int i = 0; i < count; i++) {
		struct flow *flow = &group->flows[i];
		bool sending = flow->iov_first < flow->iov_count;

		group->polls[i] = (struct pollfd){
			.fd = flow->session->transport.fd,
			.events = (short)(POLLIN | (sending ? POLLOUT : 0)),
		};
	}
	if (!has_pending(group) && poll(group->polls, count, FLOW_TIMEOUT_MS) <= 0)
		return -ETIMEDOUT;
	for (unsigned int i = 0; i < count; i++) {
		int rc = 0;

		if (group->polls[i].revents & ~POLLOUT ||
		    transport_pending(&group->flows[i].session->transport))
			rc = receive(group, &group->flows[i], MSG_DONTWAIT);
		if (rc)
			return rc;
	}
	return 0;
}

/* A client that has something else to do between its requests. */
static void think(const struct flow_group *group)
{
	unsigned int microseconds = group->share->options->think;

	if (microseconds)
		usleep(microseconds);
}

static int run_loop(struct flow_group *group)
{
	for (;;) {
		bool pending, idle;
		int rc = send_all(group, &pending, &idle);

		if (rc)
			return rc;
		if (idle)
			return 0;
		/* One connection with nothing to send just waits in recv. */
		rc = group->share->count == 1 && !pending ? receive(group, group->flows, 0)
							  : receive_ready(group);
		if (rc)
			return rc;
		think(group);
	}
}

static void flow_free(struct flow *flow)
{
	free(flow->slots);
	free(flow->free_slots);
	free(flow->requests);
	free(flow->iov);
}

static int flow_init(struct flow *flow, struct load_session *session, unsigned int number,
		     unsigned int depth)
{
	flow->session = session;
	flow->number = number;
	flow->slots = calloc(depth, sizeof(*flow->slots));
	flow->free_slots = calloc(depth, sizeof(*flow->free_slots));
	flow->requests = calloc(depth, sizeof(struct nbd_request_wire));
	flow->iov = calloc(FLOW_IOV_MAX, sizeof(*flow->iov));
	if (!flow->slots || !flow->free_slots || !flow->requests || !flow->iov)
		return -ENOMEM;
	for (uint32_t i = 0; i < depth; i++)
		flow->free_slots[i] = i;
	return 0;
}

static int group_init(struct flow_group *group)
{
	struct load_share *share = group->share;
	const struct load_options *options = share->options;
	size_t data_size = options->verify ? (size_t)options->depth * options->block_size : 1;

	group->flows = calloc(share->count, sizeof(*group->flows));
	group->polls = calloc(share->count, sizeof(*group->polls));
	group->buffer = malloc(FLOW_BUFFER);
	group->data = malloc(data_size);
	group->expected = malloc(FLOW_BUFFER);
	if (!group->flows || !group->polls || !group->buffer || !group->data || !group->expected)
		return -ENOMEM;
	for (unsigned int i = 0; i < share->count; i++) {
		if (share->sessions[i].size < options->block_size)
			return -EINVAL;
		if (flow_init(&group->flows[i], &share->sessions[i], share->first + i,
			      options->depth))
			return -ENOMEM;
	}
	return 0;
}

void load_flow_run(struct load_share *share)
{
	struct flow_group group = {.share = share, .left = share->limit};

	share->result.failure = group_init(&group);
	if (!share->result.failure)
		share->result.failure = run_loop(&group);
	share->result.finished = clock_now();
	for (unsigned int i = 0; group.flows && i < share->count; i++)
		flow_free(&group.flows[i]);
	free(group.flows);
	free(group.polls);
	free(group.buffer);
	free(group.data);
	free(group.expected);
}
