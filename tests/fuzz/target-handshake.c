// SPDX-License-Identifier: MIT
/*
 * The server's handshake machine. The first four bytes are a plan (how slots run out, when the
 * server begins to shut down, how bytes come in pieces), the rest is what a client sends. The same
 * bytes are fed whole and in pieces, with the output drained by and by: the answers must be the
 * same, and must be what the protocol allows.
 */
#include "fuzz.h"
#include "server/handshake.h"

enum { PLAN_SIZE = 4, FEEDS_MAX = 64 };

/* ---- The world: two exports, slots that are refused by plan ---- */

struct slots {
	uint8_t plan; /* bit n: the n-th question is answered with yes */
	unsigned int questions, taken;
};

static bool take_slot(void *context)
{
	struct slots *slots = context;
	bool free_ = slots->plan >> (slots->questions++ & 7) & 1;

	slots->taken += free_;
	return free_;
}

static struct export exports[] = {
	{.name = "", .size = 1 << 20},
	{.name = "zwei \xc3\xa9", .description = "the second", .size = 12345, .read_only = true},
};

struct run {
	struct slots slots;
	struct handshake_world world;
	struct outbuf out;   /* what the machine wrote and was not drained */
	struct outbuf total; /* all that was drained */
	struct handshake handshake;
	size_t used;
};

static void run_begin(struct run *run, const uint8_t *plan)
{
	*run = (struct run){.slots = {.plan = plan[0]}};
	run->world = (struct handshake_world){.exports = exports,
					      .export_count = sizeof(exports) / sizeof(exports[0]),
					      .take_slot = take_slot,
					      .context = &run->slots};
	handshake_start(&run->handshake, &run->world, &run->out);
}

static void run_end(struct run *run)
{
	outbuf_clear(&run->out);
	outbuf_clear(&run->total);
	handshake_clear(&run->handshake);
}

static void drain(struct run *run, size_t length)
{
	outbuf_add(&run->total, run->out.bytes, length);
	outbuf_consume(&run->out, length);
}

static void check_fed(const struct run *run, size_t length, size_t used)
{
	const struct handshake *handshake = &run->handshake;

	FUZZ_CHECK(used <= length);
	/* One answer may come on top of what must be drained first. */
	FUZZ_CHECK(run->out.used <= HANDSHAKE_OUTPUT_MAX + 3 * (NBD_STRING_MAX + 32));
	if (handshake->phase == HANDSHAKE_OPTIONS && run->out.used <= HANDSHAKE_OUTPUT_MAX)
		FUZZ_CHECK(length - used < HANDSHAKE_OPTION_MAX + sizeof(struct nbd_option_wire));
	if (handshake->phase == HANDSHAKE_SWALLOW)
		FUZZ_CHECK(used == length && handshake->swallow <= HANDSHAKE_SWALLOW_MAX);
	FUZZ_CHECK(!handshake->export_ || run->slots.taken == 1);
	FUZZ_CHECK(handshake->phase != HANDSHAKE_DONE || handshake->export_);
}

/* Feeds as the owner of a connection does: again while something is used, and when output left.
 * A machine that waits for a slot is asked again, and told in the end that there is none. */
static void feed(struct run *run, const uint8_t *data, size_t length)
{
	struct handshake *handshake = &run->handshake;
	unsigned int refusals = 0;

	for (;;) {
		size_t used, drained;

		used = handshake_feed(handshake, data, length);
		check_fed(run, length, used);
		run->used += used;
		data += used;
		length -= used;
		drained = run->out.used;
		drain(run, drained);
		if (handshake->phase == HANDSHAKE_FULL)
			handshake->slot_refused = ++refusals > 2;
		else if (!used && drained <= HANDSHAKE_OUTPUT_MAX)
			return;
		else
			refusals = 0;
	}
}

/* All bytes up to size, at once or (with a seed) in pieces. */
static void feed_up_to(struct run *run, const uint8_t *data, size_t size, uint64_t seed)
{
	struct fuzz_random random = {.state = seed};
	size_t known = seed ? run->used : size;

	do {
		size_t piece = seed ? 1 + fuzz_below(&random, known % 3 ? 23 : 3000) : 0;

		known += piece < size - known ? piece : size - known;
		feed(run, data + run->used, known - run->used);
	} while (known < size && run->handshake.phase < HANDSHAKE_DONE);
}

/* A client's bytes; behind the first of them (plan) the server begins to shut down. */
static void feed_client(struct run *run, const uint8_t *plan, const uint8_t *data, size_t size,
			uint64_t seed)
{
	size_t before = plan[1] & 0x80 ? 8 * (size_t)(plan[1] & 0x7f) : size;

	feed_up_to(run, data, before < size ? before : size, seed);
	run->handshake.shutting_down = before < size;
	if (run->used < size && run->handshake.phase < HANDSHAKE_DONE)
		feed_up_to(run, data, size, seed);
}

/* ---- What went out ---- */

struct reader {
	const uint8_t *at, *end;
};

static const uint8_t *take(struct reader *reader, size_t length)
{
	FUZZ_CHECK((size_t)(reader->end - reader->at) >= length);
	reader->at += length;
	return reader->at - length;
}

static void check_text(const uint8_t *text, size_t length)
{
	struct nbd_string string = {(const char *)text, (uint32_t)length};

	FUZZ_CHECK(nbd_string_valid(string));
}

static void check_server(const uint8_t *data, uint32_t length)
{
	uint32_t name;

	FUZZ_CHECK(length >= 4);
	name = load_be32(data);
	FUZZ_CHECK(name <= length - 4);
	check_text(data + 4, name);
	check_text(data + 4 + name, length - 4 - name);
}

static void check_size_and_flags(const uint8_t *data)
{
	const struct export *export = &exports[load_be64(data) == exports[1].size];
	uint16_t flags = load_be16(data + 8);

	FUZZ_CHECK(load_be64(data) == export->size && flags & NBD_FLAG_HAS_FLAGS);
	FUZZ_CHECK(!(flags & NBD_FLAG_READ_ONLY) == !export->read_only);
	FUZZ_CHECK(!(flags & NBD_FLAG_SEND_TRIM) == export->read_only);
}

static void check_info(const uint8_t *data, uint32_t length)
{
	FUZZ_CHECK(length >= 2);
	switch (load_be16(data)) {
	case NBD_INFO_EXPORT:
		FUZZ_CHECK(length == 12);
		check_size_and_flags(data + 2);
		break;
	case NBD_INFO_NAME:
	case NBD_INFO_DESCRIPTION:
		check_text(data + 2, length - 2);
		break;
	case NBD_INFO_BLOCK_SIZE:
		FUZZ_CHECK(length == 14);
		break;
	default:
		FUZZ_CHECK(!"a known information type");
	}
}

/* One reply; true when it is the final one of its option. */
static bool read_reply(struct reader *reader, uint32_t option)
{
	const uint8_t *head = take(reader, 20), *data;
	uint32_t type = load_be32(head + 12), length = load_be32(head + 16);

	FUZZ_CHECK(load_be64(head) == NBD_OPTION_REPLY_MAGIC);
	FUZZ_CHECK(load_be32(head + 8) == option);
	FUZZ_CHECK(strcmp(nbd_reply_name(type), "unknown"));
	FUZZ_CHECK(type != NBD_REP_ERR_TLS_REQD); /* S47 */
	data = take(reader, length);
	if (type & 0x80000000) {
		check_text(data, length);
		return true;
	}
	if (type == NBD_REP_SERVER)
		check_server(data, length);
	else if (type == NBD_REP_INFO)
		check_info(data, length);
	else if (type == NBD_REP_META_CONTEXT)
		FUZZ_CHECK(length > 4);
	else
		FUZZ_CHECK(length == 0);
	return type == NBD_REP_ACK;
}

static void check_export_name(const struct run *run, struct reader *reader)
{
	const uint8_t *answer = take(reader, 10);

	FUZZ_CHECK(load_be64(answer) == run->handshake.export_->size);
	check_size_and_flags(answer);
	if (!run->handshake.no_zeroes)
		for (int i = 0; i < 124; i++)
			FUZZ_CHECK(*take(reader, 1) == 0);
}

/* Each option that the machine took has its replies, in order, and nothing else was said. */
static void check_output(const struct run *run, const uint8_t *data)
{
	const struct handshake *handshake = &run->handshake;
	struct reader out = {run->total.bytes, run->total.bytes + run->total.used};
	size_t at = 4;

	FUZZ_CHECK(load_be64(take(&out, 8)) == NBD_MAGIC);
	FUZZ_CHECK(load_be64(take(&out, 8)) == NBD_OPTION_MAGIC);
	FUZZ_CHECK(load_be16(take(&out, 2)) == (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES));
	while (at + 16 <= run->used && out.at < out.end) {
		uint32_t option = load_be32(data + at + 8);

		FUZZ_CHECK(load_be64(data + at) == NBD_OPTION_MAGIC);
		at += 16 + (size_t)load_be32(data + at + 12);
		if (option == NBD_OPT_EXPORT_NAME && handshake->phase == HANDSHAKE_DONE)
			check_export_name(run, &out);
		else
			while (!read_reply(&out, option))
				;
	}
	FUZZ_CHECK(out.at == out.end);
	if (handshake->phase != HANDSHAKE_DROP && handshake->phase != HANDSHAKE_SWALLOW &&
	    run->used >= 4)
		FUZZ_CHECK(at == run->used);
}

static void check_same(const struct run *a, const struct run *b)
{
	const struct handshake_terms *x = &a->handshake.terms, *y = &b->handshake.terms;

	FUZZ_CHECK(a->handshake.phase == b->handshake.phase && a->used == b->used);
	FUZZ_CHECK(a->handshake.export_ == b->handshake.export_);
	FUZZ_CHECK(x->structured == y->structured && x->extended == y->extended);
	FUZZ_CHECK(x->contexts == y->contexts);
	FUZZ_CHECK(a->slots.questions == b->slots.questions);
	FUZZ_CHECK(a->total.used == b->total.used);
	FUZZ_CHECK(memcmp(a->total.bytes, b->total.bytes, a->total.used) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct run whole, pieces;

	if (size < PLAN_SIZE)
		return 0;
	run_begin(&whole, data);
	run_begin(&pieces, data);
	feed_client(&whole, data, data + PLAN_SIZE, size - PLAN_SIZE, 0);
	feed_client(&pieces, data, data + PLAN_SIZE, size - PLAN_SIZE,
		    UINT32_C(0x10000) + load_be16(data + 2));
	drain(&whole, whole.out.used);
	drain(&pieces, pieces.out.used);
	check_same(&whole, &pieces);
	check_output(&whole, data + PLAN_SIZE);
	run_end(&whole);
	run_end(&pieces);
	return 0;
}
