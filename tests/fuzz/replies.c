// SPDX-License-Identifier: MIT
/* The strict reader of replies. Shares with the server only the layouts of common/nbd-protocol. */
#include "replies.h"

#include "fuzz.h"

#define COOKIE_BASE UINT64_C(0x7e57000000000000)

/* A payload above this ends the connection (S35). */
enum { PAYLOAD_LIMIT = 64 << 20 };

/* ---- Requests ---- */

static bool is_write(uint16_t type)
{
	return type == NBD_CMD_WRITE || type == NBD_CMD_TRIM || type == NBD_CMD_WRITE_ZEROES;
}

static bool flags_fit(const struct exchange *exchange, const struct nbd_request *request)
{
	unsigned int fit = NBD_CMD_FLAG_FUA;

	if (request->type == NBD_CMD_READ && (exchange->structured || exchange->extended))
		fit |= NBD_CMD_FLAG_DF;
	if (request->type == NBD_CMD_WRITE_ZEROES)
		fit |= NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
	if (request->type == NBD_CMD_BLOCK_STATUS)
		fit |= NBD_CMD_FLAG_REQ_ONE;
	if (exchange->extended &&
	    (request->type == NBD_CMD_BLOCK_STATUS || request->type == NBD_CMD_WRITE))
		fit |= NBD_CMD_FLAG_PAYLOAD_LEN;
	return !(request->flags & ~fit);
}

static bool carries_payload(const struct exchange *exchange, const struct nbd_request *request)
{
	return exchange->extended ? request->flags & NBD_CMD_FLAG_PAYLOAD_LEN
				  : request->type == NBD_CMD_WRITE;
}

static bool in_range(const struct exchange *exchange, const struct nbd_request *request)
{
	unsigned __int128 end = (unsigned __int128)request->offset + request->length;

	return end <= exchange->size;
}

static enum verdict judge(const struct exchange *exchange, const struct nbd_request *request)
{
	bool payload = carries_payload(exchange, request);

	if (request->type > NBD_CMD_BLOCK_STATUS || !flags_fit(exchange, request))
		return VERDICT_FAIL;
	if (request->type == NBD_CMD_FLUSH)
		return VERDICT_PASS;
	if (is_write(request->type) && exchange->read_only)
		return VERDICT_FAIL;
	if (request->type == NBD_CMD_BLOCK_STATUS && !exchange->contexts)
		return VERDICT_FAIL;
	if (request->type == NBD_CMD_BLOCK_STATUS && payload)
		return VERDICT_ANY;
	if (!in_range(exchange, request) || (request->type == NBD_CMD_WRITE && !payload))
		return VERDICT_FAIL;
	if (!request->length || request->flags & NBD_CMD_FLAG_FAST_ZERO)
		return VERDICT_ANY;
	return VERDICT_PASS;
}

static struct expectation *add_request(struct exchange *exchange)
{
	exchange->items =
		realloc(exchange->items, (exchange->count + 1) * sizeof(*exchange->items));
	FUZZ_CHECK(exchange->items);
	memset(&exchange->items[exchange->count], 0, sizeof(*exchange->items));
	return &exchange->items[exchange->count++];
}

/* One request; the bytes that it takes, or 0 when it is the last that matters. */
static size_t plan_request(struct exchange *exchange, uint8_t *bytes, size_t size)
{
	size_t head = nbd_request_size(exchange->extended);
	uint64_t cookie = COOKIE_BASE + exchange->count, payload;
	struct expectation *item;
	struct nbd_request request;

	if (size < head)
		return 0;
	if (!nbd_request_parse(bytes, exchange->extended, &request)) {
		exchange->killed = true;
		return 0;
	}
	if (request.type == NBD_CMD_DISC) /* it has no reply, whatever is wrong with it */
		return 0;
	payload = carries_payload(exchange, &request) ? request.length : 0;
	if (payload > PAYLOAD_LIMIT) {
		exchange->killed = true;
		return 0;
	}
	item = add_request(exchange);
	memcpy(bytes + 8, &cookie, sizeof(cookie));
	request.cookie = cookie;
	item->request = request;
	item->verdict = judge(exchange, &request);
	item->payload_came = payload < size - head ? payload : size - head;
	exchange->writes |= is_write(request.type);
	if (item->payload_came < payload)
		return 0;
	item->payload = payload ? bytes + head : NULL;
	return head + (size_t)payload;
}

/* Did the whole request come? Only then it has a reply. */
static bool came_whole(const struct exchange *exchange, const struct expectation *item)
{
	return item->payload || !item->request.length || !carries_payload(exchange, &item->request);
}

void requests_plan(struct exchange *exchange, uint8_t *bytes, size_t size)
{
	size_t at = 0, step;

	do {
		step = plan_request(exchange, bytes + at, size - at);
		at += step;
	} while (step);
}

/* ---- Replies ---- */

struct reader {
	const uint8_t *at, *end;
};

static const uint8_t *take(struct reader *reader, uint64_t length)
{
	FUZZ_CHECK((uint64_t)(reader->end - reader->at) >= length);
	reader->at += length;
	return reader->at - length;
}

static struct expectation *find(struct exchange *exchange, const uint8_t *cookie_at)
{
	struct expectation *item;
	uint64_t cookie;

	memcpy(&cookie, cookie_at, sizeof(cookie));
	FUZZ_CHECK(cookie >= COOKIE_BASE && cookie - COOKIE_BASE < exchange->count); /* S63 */
	item = &exchange->items[cookie - COOKIE_BASE];
	FUZZ_CHECK(!item->answered); /* S64 */
	FUZZ_CHECK(came_whole(exchange, item));
	return item;
}

static void check_code(const struct exchange *exchange, const struct expectation *item,
		       uint32_t code)
{
	static const uint32_t known[] = {NBD_EPERM,  NBD_EIO,       NBD_ENOMEM,  NBD_EINVAL,
					 NBD_ENOSPC, NBD_EOVERFLOW, NBD_ENOTSUP, NBD_ESHUTDOWN};
	bool found = false;

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		found |= code == known[i];
	FUZZ_CHECK(found); /* S69 */
	FUZZ_CHECK(item->verdict != VERDICT_PASS);
	FUZZ_CHECK(code != NBD_ENOTSUP || item->request.flags & NBD_CMD_FLAG_FAST_ZERO); /* S70 */
	FUZZ_CHECK(code != NBD_EPERM || exchange->read_only);
}

/* Without a write beside it, a READ returns what the image holds. */
static void check_data(const struct exchange *exchange, uint64_t offset, const uint8_t *data,
		       uint64_t length)
{
	if (!exchange->writes)
		FUZZ_CHECK(memcmp(exchange->image + offset, data, length) == 0);
}

static void read_simple(struct exchange *exchange, struct reader *reader)
{
	const uint8_t *head = take(reader, 16);
	struct expectation *item = find(exchange, head + 8);
	const struct nbd_request *request = &item->request;
	uint32_t code = load_be32(head + 4);

	FUZZ_CHECK(!exchange->extended); /* S101 */
	FUZZ_CHECK(!exchange->structured || (request->type != NBD_CMD_READ &&
					     request->type != NBD_CMD_BLOCK_STATUS)); /* S66 */
	item->answered = true;
	if (code) {
		check_code(exchange, item, code);
		return;
	}
	FUZZ_CHECK(item->verdict != VERDICT_FAIL);
	if (request->type == NBD_CMD_READ)
		check_data(exchange, request->offset, take(reader, request->length),
			   request->length);
}

/* A piece of a READ's answer: inside it, and not told before (S77). */
static void cover(struct expectation *item, uint64_t offset, uint64_t length)
{
	const struct nbd_request *request = &item->request;

	FUZZ_CHECK(request->type == NBD_CMD_READ && item->verdict != VERDICT_FAIL);
	FUZZ_CHECK(length && offset >= request->offset && length <= request->length &&
		   offset - request->offset <= request->length - length);
	FUZZ_CHECK(!(request->flags & NBD_CMD_FLAG_DF) || !item->contents++); /* S83 */
	if (!item->map)
		item->map = calloc(1, request->length);
	FUZZ_CHECK(item->map);
	for (uint64_t at = offset - request->offset; length; at++, length--) {
		FUZZ_CHECK(!item->map[at]);
		item->map[at] = 1;
		item->covered++;
	}
}

static void chunk_data(const struct exchange *exchange, struct expectation *item,
		       const uint8_t *payload, uint64_t length)
{
	FUZZ_CHECK(length >= 9);
	cover(item, load_be64(payload), length - 8);
	check_data(exchange, load_be64(payload), payload + 8, length - 8);
}

static void chunk_hole(const struct exchange *exchange, struct expectation *item,
		       const uint8_t *payload, uint64_t length)
{
	FUZZ_CHECK(length == 12 && !(item->request.flags & NBD_CMD_FLAG_DF));
	cover(item, load_be64(payload), load_be32(payload + 8));
	if (!exchange->writes)
		for (uint32_t i = 0; i < load_be32(payload + 8); i++)
			FUZZ_CHECK(exchange->image[load_be64(payload) + i] == 0);
}

static void chunk_error(const struct exchange *exchange, struct expectation *item,
			const uint8_t *payload, uint64_t length, bool with_offset)
{
	uint64_t tail = with_offset ? 8 : 0, offset;

	FUZZ_CHECK(length >= 6 + tail && 6u + load_be16(payload + 4) + tail == length); /* S82 */
	check_code(exchange, item, load_be32(payload));
	if (!with_offset)
		return;
	offset = load_be64(payload + length - 8);
	FUZZ_CHECK(offset >= item->request.offset &&
		   offset - item->request.offset < item->request.length);
}

/* The length that a BLOCK_STATUS is about: with a payload it is told there (S105). */
static uint64_t status_length(const struct expectation *item)
{
	return item->payload ? load_be64(item->payload) : item->request.length;
}

static void check_extent(const struct exchange *exchange, uint64_t offset, uint64_t length,
			 uint64_t status)
{
	FUZZ_CHECK(length && !(status & ~(uint64_t)3));
	if (exchange->writes || !(status & NBD_STATE_ZERO))
		return;
	for (; length && offset < exchange->size; length--, offset++)
		FUZZ_CHECK(exchange->image[offset] == 0);
}

static void chunk_status(const struct exchange *exchange, struct expectation *item,
			 const uint8_t *payload, uint64_t length, bool extended)
{
	uint64_t prefix = extended ? 8 : 4, size = extended ? 16 : 8, done = 0;
	uint64_t wanted = status_length(item);

	FUZZ_CHECK(exchange->extended == extended && exchange->contexts); /* S104 */
	FUZZ_CHECK(item->request.type == NBD_CMD_BLOCK_STATUS && item->verdict != VERDICT_FAIL);
	FUZZ_CHECK(length > prefix && (length - prefix) % size == 0);
	FUZZ_CHECK(!item->statuses++ && load_be32(payload) == 0); /* S96: one context, id 0 */
	FUZZ_CHECK(!extended || load_be32(payload + 4) == (length - prefix) / size);
	for (uint64_t at = prefix; at < length; at += size) {
		const uint8_t *row = payload + at;
		uint64_t extent = extended ? load_be64(row) : load_be32(row);

		FUZZ_CHECK(done < wanted); /* S97 */
		check_extent(exchange, item->request.offset + done, extent,
			     extended ? load_be64(row + 8) : load_be32(row + 4));
		done += extent;
	}
	if (item->request.flags & NBD_CMD_FLAG_REQ_ONE)
		FUZZ_CHECK(length == prefix + size && done <= wanted);
}

static void chunk_content(const struct exchange *exchange, struct expectation *item, uint16_t type,
			  const uint8_t *payload, uint64_t length)
{
	switch (type) {
	case NBD_REPLY_NONE:
		FUZZ_CHECK(length == 0);
		break;
	case NBD_REPLY_OFFSET_DATA:
		chunk_data(exchange, item, payload, length);
		break;
	case NBD_REPLY_OFFSET_HOLE:
		chunk_hole(exchange, item, payload, length);
		break;
	case NBD_REPLY_BLOCK_STATUS:
	case NBD_REPLY_BLOCK_STATUS_EXT:
		chunk_status(exchange, item, payload, length, type == NBD_REPLY_BLOCK_STATUS_EXT);
		break;
	case NBD_REPLY_ERROR:
	case NBD_REPLY_ERROR_OFFSET:
		chunk_error(exchange, item, payload, length, type == NBD_REPLY_ERROR_OFFSET);
		break;
	default:
		FUZZ_CHECK(!"a known type of chunk");
	}
}

static void check_complete(const struct expectation *item, uint16_t type)
{
	if (type & 0x8000)
		return;
	FUZZ_CHECK(item->verdict != VERDICT_FAIL);
	if (item->request.type == NBD_CMD_READ)
		FUZZ_CHECK(item->covered == item->request.length);
	if (item->request.type == NBD_CMD_BLOCK_STATUS && item->verdict == VERDICT_PASS)
		FUZZ_CHECK(item->statuses == 1);
}

static void read_chunk(struct exchange *exchange, struct reader *reader)
{
	const uint8_t *head = take(reader, nbd_chunk_size(exchange->extended)), *payload;
	struct expectation *item = find(exchange, head + 8);
	uint16_t flags = load_be16(head + 4), type = load_be16(head + 6);
	uint64_t length = exchange->extended ? load_be64(head + 24) : load_be32(head + 16);

	FUZZ_CHECK(exchange->extended || exchange->structured);                          /* S65 */
	FUZZ_CHECK(!exchange->extended || load_be64(head + 16) == item->request.offset); /* S102 */
	FUZZ_CHECK(!(flags & ~NBD_REPLY_FLAG_DONE));
	FUZZ_CHECK(type != NBD_REPLY_NONE || flags & NBD_REPLY_FLAG_DONE); /* S78 */
	payload = take(reader, length);
	chunk_content(exchange, item, type, payload, length);
	if (!(flags & NBD_REPLY_FLAG_DONE))
		return;
	item->answered = true;
	check_complete(item, type);
}

void replies_check(struct exchange *exchange, const uint8_t *bytes, size_t size)
{
	uint32_t chunk_magic =
		exchange->extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC;
	struct reader reader = {bytes, bytes + size};

	while (reader.at < reader.end) {
		FUZZ_CHECK(reader.end - reader.at >= 4);
		if (load_be32(reader.at) == chunk_magic) {
			read_chunk(exchange, &reader);
		} else {
			FUZZ_CHECK(load_be32(reader.at) == NBD_SIMPLE_REPLY_MAGIC);
			read_simple(exchange, &reader);
		}
	}
	for (size_t i = 0; i < exchange->count && !exchange->killed; i++)
		FUZZ_CHECK(exchange->items[i].answered ==
			   came_whole(exchange, &exchange->items[i]));
}

/* ---- The image ---- */

/* The bytes of the export that an item may change. */
static uint64_t reach(const struct exchange *exchange, const struct expectation *item)
{
	if (!is_write(item->request.type) || item->verdict == VERDICT_FAIL)
		return 0;
	return carries_payload(exchange, &item->request) ? item->payload_came
							 : item->request.length;
}

/* What only one request has touched is what that request made of it. */
static void check_effect(const struct expectation *item, const uint8_t *touched,
			 const uint8_t *after)
{
	const struct nbd_request *request = &item->request;

	if (item->verdict != VERDICT_PASS)
		return;
	for (uint64_t i = 0; i < request->length; i++) {
		uint64_t at = request->offset + i;

		if (touched[at] != 1)
			continue;
		if (request->type == NBD_CMD_WRITE && item->payload)
			FUZZ_CHECK(after[at] == item->payload[i]);
		if (request->type == NBD_CMD_WRITE_ZEROES)
			FUZZ_CHECK(after[at] == 0);
	}
}

void image_check(const struct exchange *exchange, const uint8_t *after)
{
	uint8_t *touched = calloc(1, exchange->size);

	FUZZ_CHECK(touched);
	for (size_t i = 0; i < exchange->count; i++) {
		const struct expectation *item = &exchange->items[i];
		uint64_t length = reach(exchange, item);

		for (uint64_t at = 0; at < length; at++)
			if (touched[item->request.offset + at] < 2)
				touched[item->request.offset + at]++;
	}
	for (uint64_t at = 0; at < exchange->size; at++)
		FUZZ_CHECK(touched[at] || after[at] == exchange->image[at]);
	for (size_t i = 0; i < exchange->count; i++)
		if (is_write(exchange->items[i].request.type))
			check_effect(&exchange->items[i], touched, after);
	free(touched);
}

void exchange_clear(struct exchange *exchange)
{
	for (size_t i = 0; i < exchange->count; i++)
		free(exchange->items[i].map);
	free(exchange->items);
}
