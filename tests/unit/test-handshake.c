// SPDX-License-Identifier: MIT
/*
 * The server's handshake machine at its edges: lengths, numbers of options, slots that run out,
 * options that exclude each other, contexts of another export. Bytes in, bytes out.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "server/handshake.h"

enum { BOTH = NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES, GREETING = 18 };

static struct export exports[] = {
	{.name = "", .size = 1 << 20},
	{.name = "other", .description = "the other", .size = 4096, .read_only = true},
};
static unsigned int slots; /* free ones */
static struct handshake_world world;
static struct handshake handshake;
static struct outbuf out;

static bool take_slot(void *context)
{
	(void)context;
	return slots && slots--;
}

static void setup(void)
{
	slots = 1;
	world = (struct handshake_world){
		.exports = exports, .export_count = 2, .take_slot = take_slot};
	handshake_start(&handshake, &world, &out);
}

static void teardown(void)
{
	handshake_clear(&handshake);
	outbuf_clear(&out);
}

/* ---- A client ---- */

static size_t feed(const void *bytes, size_t length)
{
	return handshake_feed(&handshake, bytes, length);
}

static void hello(uint32_t flags)
{
	uint8_t wire[4];

	store_be32(wire, flags);
	ck_assert_uint_eq(feed(wire, 4), 4);
	outbuf_consume(&out, out.used);
}

/* Feeds an option whole; how much was used. */
static size_t send_option(uint32_t option, const void *data, uint32_t length)
{
	uint8_t *wire = malloc(sizeof(struct nbd_option_wire) + length);
	size_t used;

	nbd_option_build(wire, option, length);
	if (length)
		memcpy(wire + sizeof(struct nbd_option_wire), data, length);
	used = feed(wire, sizeof(struct nbd_option_wire) + length);
	free(wire);
	return used;
}

static size_t send_info(uint32_t option, const char *name)
{
	uint8_t data[256];
	uint32_t length = (uint32_t)strlen(name);

	store_be32(data, length);
	memcpy(data + 4, name, length);
	store_be16(data + 4 + length, 1);
	store_be16(data + 6 + length, NBD_INFO_BLOCK_SIZE);
	return send_option(option, data, length + 8);
}

static size_t send_meta(uint32_t option, const char *name, const char *query)
{
	uint8_t data[256];
	uint32_t length = (uint32_t)strlen(name), size = (uint32_t)strlen(query);

	store_be32(data, length);
	memcpy(data + 4, name, length);
	store_be32(data + 4 + length, 1);
	store_be32(data + 8 + length, size);
	memcpy(data + 12 + length, query, size);
	return send_option(option, data, 12 + length + size);
}

/* The next reply in out, which must be to option and of that type; takes it off. */
static void expect_reply(uint32_t option, uint32_t type)
{
	ck_assert_uint_ge(out.used, 20);
	ck_assert_uint_eq(load_be64(out.bytes), NBD_OPTION_REPLY_MAGIC);
	ck_assert_uint_eq(load_be32(out.bytes + 8), option);
	ck_assert_uint_eq(load_be32(out.bytes + 12), type);
	ck_assert_uint_ge(out.used, 20 + load_be32(out.bytes + 16));
	outbuf_consume(&out, 20 + load_be32(out.bytes + 16));
}

static void expect_only(uint32_t option, uint32_t type)
{
	expect_reply(option, type);
	ck_assert_uint_eq(out.used, 0);
}

/* ---- Beginning ---- */

START_TEST(test_greeting)
{
	ck_assert_uint_eq(out.used, GREETING);
	ck_assert_int_eq(memcmp(out.bytes, "NBDMAGICIHAVEOPT\0\3", GREETING), 0);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_FLAGS);
	ck_assert_uint_eq(feed("\0\0\0", 3), 0);
}
END_TEST

/* Flags that were not offered end it (S3). */
START_TEST(test_unknown_flags)
{
	uint8_t wire[4];

	store_be32(wire, UINT32_C(1) << _i);
	ck_assert_uint_eq(feed(wire, 4), 4);
	ck_assert_int_eq(handshake.phase, _i < 2 ? HANDSHAKE_OPTIONS : HANDSHAKE_DROP);
}
END_TEST

START_TEST(test_old_client_may_only_choose)
{
	hello(0);
	send_option(NBD_OPT_LIST, NULL, 0);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_DROP);
	ck_assert_uint_eq(out.used, 0);
}
END_TEST

START_TEST(test_wrong_magic)
{
	hello(BOTH);
	feed("IHAVEOPS\0\0\0\3\0\0\0\0", 16);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_DROP);
	ck_assert_uint_eq(feed("more", 4), 0);
}
END_TEST

/* ---- Lengths ---- */

/* An option of the greatest length is handled, whatever it says. */
START_TEST(test_longest_option)
{
	uint8_t *data = calloc(1, HANDSHAKE_OPTION_MAX);

	hello(BOTH);
	ck_assert_uint_eq(send_option(NBD_OPT_GO, data, HANDSHAKE_OPTION_MAX),
			  16 + HANDSHAKE_OPTION_MAX);
	expect_only(NBD_OPT_GO, NBD_REP_ERR_INVALID);
	ck_assert_uint_eq(send_option(99, data, HANDSHAKE_OPTION_MAX), 16 + HANDSHAKE_OPTION_MAX);
	expect_only(99, NBD_REP_ERR_UNSUP);
	free(data);
}
END_TEST

/* A longer one passes by without being kept, is refused at its end, and what follows is heard. */
START_TEST(test_too_long_option)
{
	const uint32_t lengths[] = {HANDSHAKE_OPTION_MAX + 1, HANDSHAKE_SWALLOW_MAX};
	const struct {
		uint32_t option, reply;
	} options[] = {{NBD_OPT_GO, NBD_REP_ERR_TOO_BIG}, {77, NBD_REP_ERR_UNSUP}};
	uint32_t length = lengths[_i / 2], option = options[_i % 2].option;
	uint8_t head[16], zeroes[1000] = {0};

	hello(BOTH);
	nbd_option_build(head, option, length);
	ck_assert_uint_eq(feed(head, 16), 16);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_SWALLOW);
	while (length) {
		uint32_t piece = length < sizeof(zeroes) ? length : sizeof(zeroes);

		ck_assert_uint_eq(out.used, 0);
		ck_assert_uint_eq(feed(zeroes, piece), piece);
		length -= piece;
	}
	expect_only(option, options[_i % 2].reply);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_OPTIONS);
	send_option(NBD_OPT_ABORT, NULL, 0);
	expect_only(NBD_OPT_ABORT, NBD_REP_ACK);
}
END_TEST

START_TEST(test_far_too_long_option)
{
	uint8_t head[16];

	hello(BOTH);
	nbd_option_build(head, NBD_OPT_LIST, HANDSHAKE_SWALLOW_MAX + 1);
	feed(head, 16);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_DROP);
}
END_TEST

/* There is no reply that could refuse an EXPORT_NAME. */
START_TEST(test_long_export_name)
{
	uint8_t head[16];

	hello(BOTH);
	nbd_option_build(head, NBD_OPT_EXPORT_NAME, HANDSHAKE_OPTION_MAX + 1);
	feed(head, 16);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_DROP);
}
END_TEST

/* Data with ABORT is ignored, however long (S11). */
START_TEST(test_long_abort)
{
	uint8_t *data = calloc(1, HANDSHAKE_SWALLOW_MAX);
	uint32_t length = _i ? HANDSHAKE_SWALLOW_MAX : 3;

	hello(BOTH);
	ck_assert_uint_eq(send_option(NBD_OPT_ABORT, data, length), 16 + length);
	expect_only(NBD_OPT_ABORT, NBD_REP_ACK);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_CLOSE);
	free(data);
}
END_TEST

/* An option waits for its last byte, and nothing is used before it. */
START_TEST(test_incomplete_option)
{
	uint8_t wire[24] = {0};

	hello(BOTH);
	nbd_option_build(wire, NBD_OPT_GO, 6);
	for (size_t length = 0; length < 22; length++)
		ck_assert_uint_eq(feed(wire, length), 0);
	ck_assert_uint_eq(feed(wire, 24), 22);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_DONE);
}
END_TEST

/* ---- Numbers ---- */

START_TEST(test_number_of_options)
{
	hello(BOTH);
	for (int i = 0; i < HANDSHAKE_OPTIONS_MAX; i++) {
		ck_assert_uint_eq(send_option(99, NULL, 0), 16);
		expect_only(99, NBD_REP_ERR_UNSUP);
	}
	ck_assert_int_eq(handshake.phase, HANDSHAKE_OPTIONS);
	send_option(NBD_OPT_LIST, NULL, 0);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_DROP);
}
END_TEST

/* Too long ones count as well. */
START_TEST(test_number_of_long_options)
{
	uint8_t *data = calloc(1, HANDSHAKE_OPTION_MAX + 1);

	hello(BOTH);
	for (int i = 0; i < HANDSHAKE_OPTIONS_MAX; i++) {
		send_option(NBD_OPT_GO, data, HANDSHAKE_OPTION_MAX + 1);
		expect_only(NBD_OPT_GO, NBD_REP_ERR_TOO_BIG);
	}
	send_option(NBD_OPT_GO, data, HANDSHAKE_OPTION_MAX + 1);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_DROP);
	free(data);
}
END_TEST

/* Nobody's unread answers fill the memory. */
START_TEST(test_output_is_bounded)
{
	size_t before;

	hello(BOTH);
	while (send_option(NBD_OPT_LIST, NULL, 0))
		ck_assert_uint_le(out.used, HANDSHAKE_OUTPUT_MAX + 1024);
	ck_assert_uint_gt(out.used, HANDSHAKE_OUTPUT_MAX);
	before = out.used;
	ck_assert_uint_eq(send_option(NBD_OPT_LIST, NULL, 0), 0);
	ck_assert_uint_eq(out.used, before);
	outbuf_consume(&out, before);
	ck_assert_uint_eq(send_option(NBD_OPT_LIST, NULL, 0), 16);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_OPTIONS);
}
END_TEST

/* ---- Slots ---- */

/* The option stays until there is a slot, then it is answered as if it had just come. */
START_TEST(test_waits_for_slot)
{
	slots = 0;
	hello(BOTH);
	for (int i = 0; i < 3; i++) {
		ck_assert_uint_eq(send_info(NBD_OPT_GO, ""), 0);
		ck_assert_int_eq(handshake.phase, HANDSHAKE_FULL);
		ck_assert_uint_eq(out.used, 0);
	}
	ck_assert_uint_eq(handshake.options, 0);
	slots = 1;
	ck_assert_uint_eq(send_info(NBD_OPT_GO, ""), 24);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_DONE);
	ck_assert_ptr_eq(handshake.export_, &exports[0]);
	expect_reply(NBD_OPT_GO, NBD_REP_INFO);
	expect_reply(NBD_OPT_GO, NBD_REP_INFO);
	expect_only(NBD_OPT_GO, NBD_REP_ACK);
}
END_TEST

/* The refusal holds for one option: the next may wait again. */
START_TEST(test_slot_refused)
{
	slots = 0;
	hello(BOTH);
	send_info(NBD_OPT_GO, "");
	handshake.slot_refused = true;
	ck_assert_uint_eq(send_info(NBD_OPT_GO, ""), 24);
	expect_only(NBD_OPT_GO, NBD_REP_ERR_POLICY);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_OPTIONS);
	ck_assert_uint_eq(send_info(NBD_OPT_GO, ""), 0);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_FULL);
}
END_TEST

START_TEST(test_export_name_waits_for_slot)
{
	slots = 0;
	hello(BOTH);
	ck_assert_uint_eq(send_option(NBD_OPT_EXPORT_NAME, NULL, 0), 0);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_FULL);
	handshake.slot_refused = _i;
	slots = !_i;
	send_option(NBD_OPT_EXPORT_NAME, NULL, 0);
	ck_assert_int_eq(handshake.phase, _i ? HANDSHAKE_DROP : HANDSHAKE_DONE);
	ck_assert_uint_eq(out.used, _i ? 0 : 10);
}
END_TEST

/* Looking takes no slot. */
START_TEST(test_info_takes_no_slot)
{
	slots = 0;
	hello(BOTH);
	send_info(NBD_OPT_INFO, "other");
	ck_assert_int_eq(handshake.phase, HANDSHAKE_OPTIONS);
	send_option(NBD_OPT_LIST, NULL, 0);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_OPTIONS);
	ck_assert_ptr_null(handshake.export_);
}
END_TEST

/* An export that is not there takes none either. */
START_TEST(test_failed_go_keeps_slot)
{
	hello(BOTH);
	send_info(NBD_OPT_GO, "nobody");
	expect_only(NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
	ck_assert_uint_eq(slots, 1);
	send_info(NBD_OPT_GO, "other");
	ck_assert_uint_eq(slots, 0);
	ck_assert_ptr_eq(handshake.export_, &exports[1]);
}
END_TEST

/* ---- Options that exclude each other ---- */

static void agree(uint32_t option)
{
	send_option(option, NULL, 0);
	expect_only(option, NBD_REP_ACK);
}

START_TEST(test_twice)
{
	uint32_t option = _i ? NBD_OPT_EXTENDED_HEADERS : NBD_OPT_STRUCTURED_REPLY;

	hello(BOTH);
	send_option(option, "x", 1);
	expect_only(option, NBD_REP_ERR_INVALID);
	ck_assert(!handshake.terms.structured && !handshake.terms.extended);
	agree(option);
	send_option(option, NULL, 0);
	expect_only(option, NBD_REP_ERR_INVALID);
}
END_TEST

START_TEST(test_structured_after_extended)
{
	hello(BOTH);
	agree(NBD_OPT_EXTENDED_HEADERS);
	send_option(NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	expect_only(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_EXT_HEADER_REQD);
	send_option(NBD_OPT_EXPORT_NAME, NULL, 0);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_DROP);
	ck_assert_uint_eq(slots, 1);
}
END_TEST

START_TEST(test_extended_after_structured)
{
	hello(BOTH);
	agree(NBD_OPT_STRUCTURED_REPLY);
	agree(NBD_OPT_EXTENDED_HEADERS);
	ck_assert(handshake.terms.extended);
}
END_TEST

/* ---- Contexts ---- */

static void select_context(const char *name)
{
	send_meta(NBD_OPT_SET_META_CONTEXT, name, "base:allocation");
	expect_reply(NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT);
	expect_only(NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK);
}

START_TEST(test_contexts)
{
	hello(BOTH);
	agree(NBD_OPT_STRUCTURED_REPLY);
	select_context("");
	send_info(NBD_OPT_GO, "");
	ck_assert_uint_eq(handshake.terms.contexts, 1 << CONTEXT_BASE_ALLOCATION);
}
END_TEST

/* What was selected for one export says nothing about another (S46). */
START_TEST(test_contexts_of_another_export)
{
	hello(BOTH);
	agree(NBD_OPT_STRUCTURED_REPLY);
	select_context("");
	if (_i)
		send_info(NBD_OPT_GO, "other");
	else
		send_option(NBD_OPT_EXPORT_NAME, "other", 5);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_DONE);
	ck_assert_uint_eq(handshake.terms.contexts, 0);
}
END_TEST

/* Looking at another export does not touch the selection. */
START_TEST(test_contexts_stay)
{
	hello(BOTH);
	agree(NBD_OPT_STRUCTURED_REPLY);
	select_context("other");
	send_info(NBD_OPT_INFO, "");
	send_meta(NBD_OPT_LIST_META_CONTEXT, "", "base:");
	send_info(NBD_OPT_GO, "other");
	ck_assert_uint_eq(handshake.terms.contexts, 1 << CONTEXT_BASE_ALLOCATION);
}
END_TEST

/* A second SET replaces the first also when it fails (S45). */
START_TEST(test_failed_set_forgets)
{
	static const uint8_t bad[] = {0, 0, 0, 0, 0, 0, 0, 9};

	hello(BOTH);
	agree(NBD_OPT_EXTENDED_HEADERS);
	select_context("");
	switch (_i) {
	case 0:
		send_meta(NBD_OPT_SET_META_CONTEXT, "nobody", "base:allocation");
		expect_only(NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_UNKNOWN);
		break;
	case 1:
		send_option(NBD_OPT_SET_META_CONTEXT, bad, sizeof(bad));
		expect_only(NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
		break;
	default: /* "base:" is no wildcard here (S42) */
		send_meta(NBD_OPT_SET_META_CONTEXT, "", "base:");
		expect_only(NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK);
	}
	send_info(NBD_OPT_GO, "");
	ck_assert_int_eq(handshake.phase, HANDSHAKE_DONE);
	ck_assert_uint_eq(handshake.terms.contexts, 0);
}
END_TEST

START_TEST(test_set_needs_chunks)
{
	hello(BOTH);
	send_meta(NBD_OPT_SET_META_CONTEXT, "", "base:allocation");
	expect_only(NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
}
END_TEST

/* ---- Leaving ---- */

START_TEST(test_shutdown)
{
	uint8_t *data = calloc(1, HANDSHAKE_OPTION_MAX + 1);

	hello(BOTH);
	handshake.shutting_down = true;
	send_info(NBD_OPT_GO, "");
	expect_only(NBD_OPT_GO, NBD_REP_ERR_SHUTDOWN);
	send_option(99, NULL, 0);
	expect_only(99, NBD_REP_ERR_SHUTDOWN);
	send_option(99, data, HANDSHAKE_OPTION_MAX + 1);
	expect_only(99, NBD_REP_ERR_SHUTDOWN);
	free(data);
	send_option(NBD_OPT_ABORT, NULL, 0);
	expect_only(NBD_OPT_ABORT, NBD_REP_ACK);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_CLOSE);
}
END_TEST

START_TEST(test_export_name_answers)
{
	hello(_i ? NBD_FLAG_NO_ZEROES : NBD_FLAG_FIXED_NEWSTYLE);
	ck_assert_uint_eq(send_option(NBD_OPT_EXPORT_NAME, "other", 5), 21);
	ck_assert_uint_eq(out.used, _i ? 10 : 134);
	ck_assert_uint_eq(load_be64(out.bytes), 4096);
	ck_assert_uint_eq(load_be16(out.bytes + 8) & NBD_FLAG_READ_ONLY, NBD_FLAG_READ_ONLY);
	ck_assert_int_eq(handshake.phase, HANDSHAKE_DONE);
}
END_TEST

/* Names that are none: not UTF-8, too long, with a NUL (S6). */
START_TEST(test_bad_names)
{
	static uint8_t data[4 + NBD_STRING_MAX + 1 + 2];
	const uint32_t lengths[] = {NBD_STRING_MAX + 1, NBD_STRING_MAX, 1, 1};
	uint32_t length = lengths[_i];

	memset(data, 0, sizeof(data));
	store_be32(data, length);
	memset(data + 4, _i < 2 ? 'n' : _i == 2 ? 0xff : 0, length);
	hello(BOTH);
	ck_assert_uint_eq(send_option(NBD_OPT_INFO, data, 6 + length), 22 + length);
	expect_only(NBD_OPT_INFO, _i == 1 ? NBD_REP_ERR_UNKNOWN : NBD_REP_ERR_INVALID);
}
END_TEST

/* What a peer calls an export comes back cut. */
START_TEST(test_echo_is_short)
{
	char name[201];

	memset(name, 'n', 200);
	name[200] = '\0';
	hello(BOTH);
	send_info(NBD_OPT_GO, name);
	ck_assert_uint_le(out.used, 20 + 128);
	expect_only(NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
}
END_TEST

static void add_bounds(TCase *tcase)
{
	tcase_add_test(tcase, test_greeting);
	tcase_add_loop_test(tcase, test_unknown_flags, 0, 32);
	tcase_add_test(tcase, test_old_client_may_only_choose);
	tcase_add_test(tcase, test_wrong_magic);
	tcase_add_test(tcase, test_longest_option);
	tcase_add_loop_test(tcase, test_too_long_option, 0, 4);
	tcase_add_test(tcase, test_far_too_long_option);
	tcase_add_test(tcase, test_long_export_name);
	tcase_add_loop_test(tcase, test_long_abort, 0, 2);
	tcase_add_test(tcase, test_incomplete_option);
	tcase_add_test(tcase, test_number_of_options);
	tcase_add_test(tcase, test_number_of_long_options);
	tcase_add_test(tcase, test_output_is_bounded);
	tcase_add_loop_test(tcase, test_bad_names, 0, 4);
	tcase_add_test(tcase, test_echo_is_short);
}

static void add_agreements(TCase *tcase)
{
	tcase_add_test(tcase, test_waits_for_slot);
	tcase_add_test(tcase, test_slot_refused);
	tcase_add_loop_test(tcase, test_export_name_waits_for_slot, 0, 2);
	tcase_add_test(tcase, test_info_takes_no_slot);
	tcase_add_test(tcase, test_failed_go_keeps_slot);
	tcase_add_loop_test(tcase, test_twice, 0, 2);
	tcase_add_test(tcase, test_structured_after_extended);
	tcase_add_test(tcase, test_extended_after_structured);
	tcase_add_test(tcase, test_contexts);
	tcase_add_loop_test(tcase, test_contexts_of_another_export, 0, 2);
	tcase_add_test(tcase, test_contexts_stay);
	tcase_add_loop_test(tcase, test_failed_set_forgets, 0, 3);
	tcase_add_test(tcase, test_set_needs_chunks);
	tcase_add_test(tcase, test_shutdown);
	tcase_add_loop_test(tcase, test_export_name_answers, 0, 2);
}

int main(void)
{
	Suite *suite = suite_create("handshake");
	TCase *bounds = tcase_create("bounds"), *agreements = tcase_create("agreements");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(bounds, setup, teardown);
	tcase_add_checked_fixture(agreements, setup, teardown);
	add_bounds(bounds);
	add_agreements(agreements);
	suite_add_tcase(suite, bounds);
	suite_add_tcase(suite, agreements);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
