// SPDX-License-Identifier: MIT
/* What of an export becomes a device: rules of access, size and blocks (C12 to C16, C26 to C28). */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/attach-plan.h"

enum {
	WRITABLE = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA,
	READ_ONLY = WRITABLE | NBD_FLAG_READ_ONLY,
};

static struct attach_plan plan;
static struct error err;

static struct nbd_export_info export_of(uint64_t size, uint16_t flags)
{
	return (struct nbd_export_info){.has_size = true, .size = size, .flags = flags};
}

static struct nbd_export_info blocks_of(uint32_t minimum, uint32_t maximum)
{
	struct nbd_export_info info = export_of(1 << 20, WRITABLE);

	info.has_block_sizes = true;
	info.minimum = minimum;
	info.maximum = maximum;
	return info;
}

static int make(struct attach_wish wish, struct nbd_export_info info)
{
	if (!wish.connections)
		wish.connections = 1;
	memset(&err, 0, sizeof(err));
	return attach_plan_make(&wish, &info, &plan, &err);
}

START_TEST(test_access)
{
	ck_assert_int_eq(make((struct attach_wish){0}, export_of(4096, WRITABLE)), 0);
	ck_assert(!plan.read_only && !plan.degraded && !(plan.flags & NBD_FLAG_READ_ONLY));
	ck_assert_int_eq(make((struct attach_wish){0}, export_of(4096, READ_ONLY)), 0);
	ck_assert(plan.read_only && plan.degraded && plan.flags & NBD_FLAG_READ_ONLY);
	ck_assert_int_eq(make((struct attach_wish){.read_only = true}, export_of(4096, READ_ONLY)),
			 0);
	ck_assert(plan.read_only && !plan.degraded);
	ck_assert_int_eq(make((struct attach_wish){.read_only = true}, export_of(4096, WRITABLE)),
			 0);
	ck_assert(plan.read_only && !plan.degraded && plan.flags & NBD_FLAG_READ_ONLY);
	ck_assert_int_eq(make((struct attach_wish){.read_write = true}, export_of(4096, WRITABLE)),
			 0);
	ck_assert_int_eq(make((struct attach_wish){.read_write = true}, export_of(4096, READ_ONLY)),
			 -EROFS);
	ck_assert_str_eq(err.text, "NBD export is read-only");
}
END_TEST

START_TEST(test_sizes)
{
	static const struct {
		uint64_t size, device, lost;
	} cases[] = {
		{512, 512, 0},
		{513, 512, 1},
		{1023, 512, 511},
		{INT64_MAX, INT64_MAX - 511, 511},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ck_assert_int_eq(make((struct attach_wish){0}, export_of(cases[i].size, WRITABLE)),
				 0);
		ck_assert_uint_eq(plan.size, cases[i].device);
		ck_assert_uint_eq(plan.lost, cases[i].lost);
	}
	ck_assert_int_eq(make((struct attach_wish){0}, export_of(0, WRITABLE)), -EINVAL);
	ck_assert_int_eq(make((struct attach_wish){0}, export_of(511, WRITABLE)), -EINVAL);
	ck_assert_int_eq(make((struct attach_wish){.block_size = 4096}, export_of(4095, WRITABLE)),
			 -EINVAL);
}
END_TEST

START_TEST(test_blocks)
{
	static const struct {
		uint32_t minimum;
		uint64_t wish;
		int rc;
		uint32_t block;
	} cases[] = {
		{1, 0, 0, 512},
		{512, 0, 0, 512},
		{4096, 0, 0, 4096},
		{1, 4096, 0, 4096},
		{4096, 512, -EINVAL, 0},
		{1, 1000, -EINVAL, 0},
		{1, 256, -EINVAL, 0},
		{1, 131072, -EINVAL, 0},
		{65536, 0, 0, 65536},
		{131072, 0, -ENOTSUP, 0},
		{0, 0, 0, 512},
		{3000, 0, -ENOTSUP, 0},
		{1, UINT64_MAX, -EINVAL, 0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct attach_wish wish = {.block_size = cases[i].wish};

		ck_assert_int_eq(make(wish, blocks_of(cases[i].minimum, 1 << 25)), cases[i].rc);
		if (!cases[i].rc)
			ck_assert_uint_eq(plan.block_size, cases[i].block);
	}
	ck_assert_int_eq(make((struct attach_wish){0}, blocks_of(1, 65536)), 0);
	ck_assert_uint_eq(plan.max_payload, 65536);
	/* Without negotiation: 32 MiB (C13). */
	ck_assert_int_eq(make((struct attach_wish){0}, export_of(4096, WRITABLE)), 0);
	ck_assert_uint_eq(plan.max_payload, 32 << 20);
}
END_TEST

START_TEST(test_connections)
{
	struct attach_wish wish = {.connections = 4};

	ck_assert_int_eq(make(wish, export_of(4096, WRITABLE)), -ENOTSUP);
	ck_assert_int_eq(make(wish, export_of(4096, WRITABLE | NBD_FLAG_CAN_MULTI_CONN)), 0);
	ck_assert(plan.flags & NBD_FLAG_CAN_MULTI_CONN);
}
END_TEST

START_TEST(test_flags)
{
	/* What the driver does not know is kept from it. */
	ck_assert_int_eq(
		make((struct attach_wish){0}, export_of(4096, 0xffff & ~NBD_FLAG_READ_ONLY)), 0);
	ck_assert_uint_eq(plan.flags, 0x17d);
	/* An old server without HAS_FLAGS. */
	ck_assert_int_eq(make((struct attach_wish){0}, export_of(4096, 0)), 0);
	ck_assert_uint_eq(plan.flags, NBD_FLAG_HAS_FLAGS);
	/* WRITE_ZEROES of servers that may lie about more than 64 MiB. */
	ck_assert_int_eq(make((struct attach_wish){0},
			      export_of(4096, WRITABLE | NBD_FLAG_SEND_WRITE_ZEROES)),
			 0);
	ck_assert(!(plan.flags & NBD_FLAG_SEND_WRITE_ZEROES));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("attach-plan");
	TCase *tests = tcase_create("attach-plan");
	SRunner *runner;
	int failed;

	tcase_add_test(tests, test_access);
	tcase_add_test(tests, test_sizes);
	tcase_add_test(tests, test_blocks);
	tcase_add_test(tests, test_connections);
	tcase_add_test(tests, test_flags);
	suite_add_tcase(suite, tests);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
