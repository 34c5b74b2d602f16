// SPDX-License-Identifier: MIT
/*
 * The pure parts of common/kernel: spellings of devices, backend identifiers, and what sysfs and
 * proc say, read from a tree of our own.
 */
#include <check.h>
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/kernel/device.h"
#include "common/kernel/holders.h"
#include "common/kernel/sysfs.h"

static char root[64];
static struct error err;
static struct holders holders;

/* ---- A file system of our own ---- */

static void make_parents(char *path)
{
	for (char *at = path + strlen(root) + 1; (at = strchr(at, '/')); at++) {
		*at = '\0';
		mkdir(path, 0755);
		*at = '/';
	}
}

static void put(const char *name, const char *text)
{
	char path[PATH_MAX];
	AUTO_FILE FILE *file = NULL;

	snprintf(path, sizeof(path), "%s/%s", root, name);
	make_parents(path);
	file = fopen(path, "w");
	ck_assert_ptr_nonnull(file);
	fputs(text, file);
}

static void put_link(const char *name, const char *target)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", root, name);
	make_parents(path);
	ck_assert_int_eq(symlink(target, path), 0);
}

static void make_disk(void)
{
	put("sys/block/nbd0/size", "2048\n");
	put("sys/block/nbd0/ro", "1\n");
	put("sys/block/nbd0/dev", "43:0\n");
	put("sys/block/nbd0/pid", "123\n");
	put("sys/block/nbd0/backend", "v1;disk;nbd://server/x;n=4\n");
	put("sys/block/nbd0/queue/logical_block_size", "4096\n");
	put("sys/block/nbd0/mq/0/cpu_list", "0\n");
	put("sys/block/nbd0/mq/1/cpu_list", "1\n");
	put("sys/block/nbd0/nbd0p1/dev", "43:1\n");
	put("sys/block/nbd0/nbd0p12/dev", "259:7\n");
	put("sys/block/nbd1/size", "0\n");
	put("sys/block/nbd1/dev", "43:32\n");
}

static void set_up(void)
{
	strcpy(root, "/tmp/hawser-unit.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(root));
	memset(&holders, 0, sizeof(holders));
	make_disk();
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
	(void)status;
	(void)type;
	(void)walk;
	return remove(path);
}

static void tear_down(void)
{
	holders_clear(&holders);
	nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- Names ---- */

START_TEST(test_spellings)
{
	static const struct {
		const char *text;
		int index;
	} good[] = {
		{"/dev/nbd0", 0}, {"nbd15", 15}, {"7", 7}, {"/dev/nbd1048575", 1048575}, {"0", 0}};
	static const char *const bad[] = {
		"",         "/dev/",      "nbd",       "/dev/sda",     "nbd-1",
		"nbd01",    "nbd1048576", "nbd0x",     "nbd0 ",        "nbd99999999999999999999",
		"/dev/nbd", "./nbd0",     "/dev/null", "/dev/nbd0/..", "nbd0p",
		"1p1"};
	int index;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		ck_assert_msg(device_parse(good[i].text, &index, &err) == 0, "%s", err.text);
		ck_assert_int_eq(index, good[i].index);
		ck_assert(device_spelling(good[i].text));
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_msg(device_parse(bad[i], &index, &err) == -EINVAL, "'%s'", bad[i]);
}
END_TEST

START_TEST(test_partition_is_refused)
{
	int index;

	ck_assert_int_eq(device_parse("/dev/nbd3p12", &index, &err), -EINVAL);
	ck_assert_str_eq(err.text, "'/dev/nbd3p12' is a partition; name its disk, /dev/nbd3");
	ck_assert(device_is_partition("nbd0p1"));
	ck_assert(!device_is_partition("nbd0"));
	ck_assert(!device_is_partition("nbd0p"));
}
END_TEST

START_TEST(test_labels)
{
	char longest[DEVICE_LABEL_MAX + 2];

	memset(longest, 'a', sizeof(longest));
	longest[DEVICE_LABEL_MAX + 1] = '\0';
	ck_assert(!device_label_valid(longest));
	longest[DEVICE_LABEL_MAX] = '\0';
	ck_assert(device_label_valid(longest));
	ck_assert(device_label_valid("web-disk.1"));
	ck_assert(!device_label_valid(""));
	ck_assert(!device_label_valid("a;b"));
	ck_assert(!device_label_valid("a/b"));
	ck_assert(!device_label_valid("nbd0"));
	ck_assert(!device_label_valid("12"));
	ck_assert(!device_label_valid("nbd0p1"));
	ck_assert(!device_label_valid(".."));
}
END_TEST

START_TEST(test_backend)
{
	char backend[DEVICE_BACKEND_MAX + 1], uri[400];
	struct device_backend out;

	device_backend_build(backend, "disk", "nbd://server/a;b\n", 4);
	ck_assert_str_eq(backend, "v1;disk;nbd://server/a%3Bb%0A;n=4");
	ck_assert(device_backend_parse(backend, &out));
	ck_assert_str_eq(out.label, "disk");
	ck_assert_str_eq(out.uri, "nbd://server/a%3Bb%0A");
	ck_assert_uint_eq(out.connections, 4);

	/* Too long: the URI is cut, the number stays; never half an escape. */
	memset(uri, ';', sizeof(uri));
	uri[sizeof(uri) - 1] = '\0';
	device_backend_build(backend, NULL, uri, 1);
	ck_assert_uint_le(strlen(backend), DEVICE_BACKEND_MAX);
	ck_assert(device_backend_parse(backend, &out));
	ck_assert_uint_eq(strlen(out.uri) % 3, 0);
	ck_assert_uint_eq(out.connections, 1);
}
END_TEST

START_TEST(test_foreign_backend)
{
	static const char *const texts[] = {"", "v2;a;b", "v1x;a", "nbd://server", "\n", ";;;"};
	struct device_backend out;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		ck_assert(!device_backend_parse(texts[i], &out));
		ck_assert_str_eq(out.label, "");
	}
	ck_assert(device_backend_parse("v1", &out));
	ck_assert(device_backend_parse("v1;a;b;n=99999999999999;x=;;n=", &out));
	ck_assert_uint_eq(out.connections, 0);
}
END_TEST

/* ---- sysfs ---- */

START_TEST(test_state)
{
	struct device_state state;

	ck_assert_int_eq(sysfs_state(root, 0, &state, &err), 0);
	ck_assert(state.exists && state.attached && state.read_only && state.netlink);
	ck_assert_uint_eq(state.size, 1 << 20);
	ck_assert_uint_eq(state.block_size, 4096);
	ck_assert_uint_eq(state.queues, 2);
	ck_assert_uint_eq(state.partitions, 2);
	ck_assert_int_eq(state.pid, 123);
	ck_assert_str_eq(state.backend, "v1;disk;nbd://server/x;n=4");

	ck_assert_int_eq(sysfs_state(root, 1, &state, &err), 0);
	ck_assert(state.exists && !state.attached && !state.netlink);
	ck_assert_int_eq(sysfs_state(root, 2, &state, &err), 0);
	ck_assert(!state.exists && !state.attached);
}
END_TEST

START_TEST(test_state_by_ioctl)
{
	struct device_state state;
	char path[PATH_MAX];

	put("sys/block/nbd3/size", "2048\n");
	put("sys/block/nbd3/pid", "77\n");
	put("proc/77/fd/README", "x");
	snprintf(path, sizeof(path), "%s/proc/77/fd/4", root);
	ck_assert_int_eq(symlink("/memfd:", path), 0);
	ck_assert_int_eq(sysfs_state(root, 3, &state, &err), 0);
	ck_assert(state.attached && !state.netlink);
	ck_assert_str_eq(state.backend, "");
	snprintf(path, sizeof(path), "%s/proc/77/fd/5", root);
	ck_assert_int_eq(symlink("/memfd:v1;disk;nbd://server/x;n=1 (deleted)", path), 0);
	ck_assert_int_eq(sysfs_state(root, 3, &state, &err), 0);
	ck_assert(state.attached && !state.netlink);
	ck_assert_str_eq(state.backend, "v1;disk;nbd://server/x;n=1");
}
END_TEST

START_TEST(test_disks)
{
	AUTO_FREE int *indexes = NULL;
	size_t count;

	put("sys/block/nbd10/size", "0\n");
	put("sys/block/nbd0p9/size", "0\n");
	put("sys/block/sda/size", "0\n");
	ck_assert_int_eq(sysfs_disks(root, &indexes, &count, &err), 0);
	ck_assert_uint_eq(count, 3);
	ck_assert_int_eq(indexes[0], 0);
	ck_assert_int_eq(indexes[1], 1);
	ck_assert_int_eq(indexes[2], 10);
}
END_TEST

START_TEST(test_members)
{
	struct sysfs_member members[8];

	ck_assert_uint_eq(sysfs_members(root, 0, members, 8), 3);
	ck_assert_str_eq(members[0].name, "nbd0");
	ck_assert_uint_eq(sysfs_members(root, 0, members, 2), 2);
	ck_assert_uint_eq(sysfs_members(root, 7, members, 8), 0);
}
END_TEST

/* ---- Holders ---- */

START_TEST(test_mount_line)
{
	char plain[] = "36 35 43:1 / /mnt/a\\040b rw,noatime master:1 - ext3 /dev/nbd0p1 rw\n";
	char short_[] = "36 35 43:1 / /mnt rw - ext4 /dev/nbd0\n";
	struct mount_line out;

	ck_assert(mount_line_parse(plain, &out));
	ck_assert_uint_eq(out.major, 43);
	ck_assert_uint_eq(out.minor, 1);
	ck_assert_str_eq(out.point, "/mnt/a b");
	ck_assert_str_eq(out.source, "/dev/nbd0p1");
	ck_assert(mount_line_parse(short_, &out));
	ck_assert_str_eq(out.source, "/dev/nbd0");

	static const char *const bad[] = {"",
					  "\n",
					  " - ",
					  "1 2 3:4",
					  "1 2 3:4 / /m rw",
					  "1 2 - a b",
					  "1 2 x:y / /m rw - ext4 /dev/nbd0",
					  "1 2 3:4 / /m rw - ext4",
					  "1 2 3:4 / /m rw - "};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char line[64];

		strcpy(line, bad[i]);
		ck_assert_msg(!mount_line_parse(line, &out), "'%s'", bad[i]);
	}
}
END_TEST

static void find(unsigned int kinds, const struct holders_ignored *ignored, const char *expected)
{
	char text[1000];

	holders_clear(&holders);
	ck_assert_int_eq(holders_find(root, 0, kinds, ignored, &holders, &err), 0);
	ck_assert_str_eq(holders_describe(&holders, text, sizeof(text)), expected);
}

START_TEST(test_nobody)
{
	put("proc/self/mountinfo", "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
				   "2 1 43:32 / /other rw - ext4 /dev/nbd1 rw\n"
				   "3 1 43:3 / /other rw - ext4 /dev/nbd0p3 rw\n");
	put("proc/swaps", "Filename Type Size Used Priority\n/dev/nbd1 partition 1 0 -2\n"
			  "/dev/nbd0p2 partition 1 0 -2\n");
	put("sys/block/loop0/loop/backing_file", "/dev/nbd1\n");
	put("sys/block/nbd1/holders/dm-0/x", "");
	find(HOLDERS_USE | HOLDERS_OPEN, NULL, "");
}
END_TEST

START_TEST(test_mounts)
{
	put_link("proc/self/ns/mnt", "mnt:[1]");
	put_link("proc/10/ns/mnt", "mnt:[1]");
	put_link("proc/11/ns/mnt", "mnt:[2]");
	put_link("proc/12/ns/mnt", "mnt:[2]");
	put("proc/self/mountinfo", "1 0 43:1 / /mnt rw - ext4 /dev/nbd0p1 rw\n"
				   "2 0 0:40 / /btrfs rw - btrfs /dev/nbd0p12 rw\n"
				   "3 0 0:41 / /proc rw - proc proc rw\n");
	put("proc/10/mountinfo", "1 0 43:1 / /never rw - ext4 /dev/nbd0p1 rw\n");
	put("proc/11/mountinfo", "1 0 43:1 / /mnt rw - ext4 /dev/nbd0p1 rw\n"
				 "2 0 259:7 / /inside rw - ext4 /dev/other rw\n");
	put("proc/12/mountinfo", "1 0 43:1 / /never rw - ext4 /dev/nbd0p1 rw\n");
	ck_assert_int_eq(holders_find(root, 0, HOLDERS_USE, NULL, &holders, &err), 0);
	ck_assert_uint_eq(holders.count, 3);
	ck_assert_str_eq(holders.items[0].text, "/mnt");
	ck_assert_int_eq(holders.items[0].pid, 0);
	ck_assert_str_eq(holders.items[1].text, "/btrfs");
	ck_assert_str_eq(holders.items[1].device, "nbd0p12");
	/* Which of the two of that namespace is read first is the directory's affair: 12 says
	 * nothing that 11 does not, or the other way round. */
	ck_assert(holders.items[2].pid == 11 || holders.items[2].pid == 12);
}
END_TEST

START_TEST(test_swap_device_loop)
{
	put("proc/swaps", "Filename\t\t\tType\tSize\tUsed\tPriority\n"
			  "/dev/nbd0p1                             partition\t1\t0\t-2\n");
	put("sys/block/nbd0/nbd0p12/holders/dm-3/x", "");
	put("sys/block/dm-3/dm/name", "vg-root\n");
	put("sys/block/nbd0/holders/md0/x", "");
	put("sys/block/loop7/loop/backing_file", "/dev/nbd0p1\n");
	ck_assert_int_eq(holders_find(root, 0, HOLDERS_USE, NULL, &holders, &err), 0);
	ck_assert_uint_eq(holders.count, 4);

	char text[1000];
	holders_describe(&holders, text, sizeof(text));
	ck_assert_ptr_nonnull(strstr(text, "/dev/nbd0p1 is in use as swap"));
	ck_assert_ptr_nonnull(strstr(text, "/dev/nbd0p12 is held by dm-3 (vg-root)"));
	ck_assert_ptr_nonnull(strstr(text, "/dev/nbd0 is held by md0"));
	ck_assert_ptr_nonnull(strstr(text, "/dev/nbd0p1 is behind loop7"));
	/* Cut, not overrun. */
	holders_describe(&holders, text, 20);
	ck_assert_uint_eq(strlen(text), 19);
}
END_TEST

START_TEST(test_openers)
{
	struct holders_ignored ignored = {{20, 0}};

	put("proc/20/comm", "qemu-system\n");
	put("proc/20/status", "Name:\tqemu\nTgid:\t20\n");
	put("proc/21/status", "Name:\tqemu\nTgid:\t20\n");
	put_link("proc/20/fd/0", "/dev/null");
	put_link("proc/20/fd/5", "/dev/nbd0");
	put_link("proc/20/fd/6", "/dev/nbd0");
	put_link("proc/20/fd/7", "socket:[12]");
	find(HOLDERS_OPEN, NULL, "/dev/nbd0 is open in qemu-system (pid 20)");
	find(HOLDERS_OPEN, &ignored, "");
	/* A thread stands for its process. */
	ignored.pids[0] = 21;
	find(HOLDERS_OPEN, &ignored, "");
	ignored.pids[0] = 99;
	find(HOLDERS_OPEN, &ignored, "/dev/nbd0 is open in qemu-system (pid 20)");
	find(HOLDERS_USE, NULL, "");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("kernel");
	TCase *tests = tcase_create("kernel");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tests, set_up, tear_down);
	tcase_add_test(tests, test_spellings);
	tcase_add_test(tests, test_partition_is_refused);
	tcase_add_test(tests, test_labels);
	tcase_add_test(tests, test_backend);
	tcase_add_test(tests, test_foreign_backend);
	tcase_add_test(tests, test_state);
	tcase_add_test(tests, test_state_by_ioctl);
	tcase_add_test(tests, test_disks);
	tcase_add_test(tests, test_members);
	tcase_add_test(tests, test_mount_line);
	tcase_add_test(tests, test_nobody);
	tcase_add_test(tests, test_mounts);
	tcase_add_test(tests, test_swap_device_loop);
	tcase_add_test(tests, test_openers);
	suite_add_tcase(suite, tests);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
