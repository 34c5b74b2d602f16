// SPDX-License-Identifier: MIT
/* hawserd's command line: what each option sets, what is refused with which words, what excludes
 * what. Words are those that scripts may know from qemu-nbd. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "server/options.h"

enum { WORDS_MAX = 80 };

static struct options options;
static struct error err;

/* Splits at blanks; getopt_long permutes the copy. */
static int parse(const char *line)
{
	static char copy[8192];
	char *argv[WORDS_MAX + 1] = {copy};
	int argc = 0;

	memset(&err, 0, sizeof(err));
	ck_assert_uint_lt(strlen(line), sizeof(copy));
	strcpy(copy, line);
	for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) {
		ck_assert_int_lt(argc, WORDS_MAX);
		argv[argc++] = word;
	}
	argv[argc] = NULL;
	options_clear(&options);
	return options_parse(&options, argc, argv, &err);
}

START_TEST(test_defaults)
{
	ck_assert_int_eq(parse("hawserd disk"), 0);
	ck_assert_int_eq(options.mode, OPTIONS_SERVE);
	ck_assert_str_eq(options.server.export_.file, "disk");
	ck_assert_str_eq(options.server.export_.name, "");
	ck_assert_ptr_null(options.server.export_.format);
	ck_assert_uint_eq(options.server.export_.offset, 0);
	ck_assert_int_eq(options.server.export_.access, IMAGE_READ_WRITE);
	ck_assert_uint_eq(options.server.max_clients, 1);
	ck_assert_uint_eq(options.server.handshake_limit_ms, 10000);
	ck_assert(!options.server.persistent);
	ck_assert_ptr_null(options.port);
	ck_assert_ptr_null(options.socket);
}
END_TEST

START_TEST(test_all_long)
{
	ck_assert_int_eq(parse("hawserd --port=10 --bind ::1 --export-name=n --description=d "
			       "--read-only --shared=0 --persistent --fork --pid-file=p -v -v "
			       "--format=raw --offset=0x200 --handshake-limit=0 disk"),
			 0);
	ck_assert_str_eq(options.port, "10");
	ck_assert_str_eq(options.bind, "::1");
	ck_assert_str_eq(options.server.export_.name, "n");
	ck_assert_str_eq(options.server.export_.description, "d");
	ck_assert_int_eq(options.server.export_.access, IMAGE_READ_ONLY);
	ck_assert_uint_eq(options.server.max_clients, 0);
	ck_assert(options.server.persistent);
	ck_assert(options.fork);
	ck_assert_str_eq(options.pid_file, "p");
	ck_assert_uint_eq(options.verbose, 2);
	ck_assert_str_eq(options.server.export_.format, "raw");
	ck_assert_uint_eq(options.server.export_.offset, 512);
	ck_assert_uint_eq(options.server.handshake_limit_ms, 0);
}
END_TEST

/* The same meaning, in other spellings. */
static const char *const spellings[] = {
	"hawserd -t -e 3 -k /s disk",
	"hawserd disk -t -e 3 -k /s",
	"hawserd -t disk -e3 -k/s",
	"hawserd -te3 -k /s disk",
	"hawserd --pers --share=3 --sock /s disk",
	"hawserd -t -e 9 -e 3 -k /x -k /s disk",
	"hawserd -te 3 -k /s -- disk",
};

START_TEST(test_spelling)
{
	ck_assert_int_eq(parse(spellings[_i]), 0);
	ck_assert(options.server.persistent);
	ck_assert_uint_eq(options.server.max_clients, 3);
	ck_assert_str_eq(options.socket, "/s");
	ck_assert_str_eq(options.server.export_.file, "disk");
}
END_TEST

static const struct {
	const char *line;
	enum options_mode mode;
} modes[] = {
	{"hawserd -d /dev/nbd0", OPTIONS_DETACH},
	{"hawserd --disconnect /dev/nbd0", OPTIONS_DETACH},
	{"hawserd -L", OPTIONS_LIST},
	{"hawserd --r --no a", OPTIONS_SERVE}, /* neither --run nor --no-references is meant */
	{"hawserd --no-refer --au a", OPTIONS_SERVE},
	{"hawserd --con nbd0 a", OPTIONS_SERVE},
	{"hawserd --contr none a", OPTIONS_SERVE},
	{"hawserd -L -r -s -t -e 2 -k /s", OPTIONS_LIST},
	{"hawserd -L -r -t -e 2 -p 99 -b host", OPTIONS_LIST},
	{"hawserd -T help", OPTIONS_TRACE_HELP},
	{"hawserd --trace enable=? -L", OPTIONS_TRACE_HELP},
	{"hawserd --help --no-such-option", OPTIONS_HELP},
	{"hawserd -V -h", OPTIONS_VERSION},
};

START_TEST(test_mode)
{
	int rc = parse(modes[_i].line);

	ck_assert_int_eq(rc, 0);
	ck_assert_int_eq(options.mode, modes[_i].mode);
}
END_TEST

static const struct {
	const char *line;
	struct cache_mode mode;
} caches[] = {
	{"hawserd a", {.direct = false}},
	{"hawserd -n a", {.direct = true}},
	{"hawserd --cache=none a", {.direct = true}},
	{"hawserd --cache=off a", {.direct = true}},
	{"hawserd --cache writeback a", {.direct = false}},
	{"hawserd --cache=writethrough a", {.write_through = true}},
	{"hawserd --cache=directsync a", {.direct = true, .write_through = true}},
	{"hawserd --cache=unsafe a", {.ignore_flush = true}},
};

START_TEST(test_cache)
{
	const struct cache_mode *mode = &options.server.export_.cache;

	ck_assert_int_eq(parse(caches[_i].line), 0);
	ck_assert_int_eq(mode->direct, caches[_i].mode.direct);
	ck_assert_int_eq(mode->write_through, caches[_i].mode.write_through);
	ck_assert_int_eq(mode->ignore_flush, caches[_i].mode.ignore_flush);
}
END_TEST

static const struct {
	const char *line;
	enum discard_mode mode;
	enum detect_zeroes detect;
} discards[] = {
	{"hawserd a", DISCARD_IGNORE, DETECT_ZEROES_OFF},
	{"hawserd --discard=ignore a", DISCARD_IGNORE, DETECT_ZEROES_OFF},
	{"hawserd --discard=off a", DISCARD_IGNORE, DETECT_ZEROES_OFF},
	{"hawserd --discard=unmap a", DISCARD_UNMAP, DETECT_ZEROES_OFF},
	{"hawserd --discard=on a", DISCARD_UNMAP, DETECT_ZEROES_OFF},
	{"hawserd -s a", DISCARD_UNMAP, DETECT_ZEROES_OFF},
	{"hawserd --discard=ignore -s a", DISCARD_IGNORE, DETECT_ZEROES_OFF},
	{"hawserd -s --discard=on a", DISCARD_UNMAP, DETECT_ZEROES_OFF},
	{"hawserd --detect-zeroes=on a", DISCARD_IGNORE, DETECT_ZEROES_ON},
	{"hawserd --detect-zeroes=on --detect-zeroes=off a", DISCARD_IGNORE, DETECT_ZEROES_OFF},
	{"hawserd --detect-zeroes=unmap --discard=unmap a", DISCARD_UNMAP, DETECT_ZEROES_UNMAP},
	{"hawserd --discard=on --detect-zeroes=unmap a", DISCARD_UNMAP, DETECT_ZEROES_UNMAP},
	{"hawserd -s --detect-zeroes=unmap a", DISCARD_UNMAP, DETECT_ZEROES_UNMAP},
	{"hawserd --image-opts driver=qcow2,discard=unmap,detect-zeroes=unmap,file=a",
	 DISCARD_UNMAP, DETECT_ZEROES_UNMAP},
	{"hawserd --detect-zeroes=on --image-opts driver=raw,file.filename=a", DISCARD_IGNORE,
	 DETECT_ZEROES_ON},
	{"hawserd --detect-zeroes=on --image-opts driver=raw,detect-zeroes=off,file.filename=a",
	 DISCARD_IGNORE, DETECT_ZEROES_OFF},
};

START_TEST(test_discard)
{
	ck_assert_int_eq(parse(discards[_i].line), 0);
	ck_assert_int_eq(options.server.export_.discard, discards[_i].mode);
	ck_assert_int_eq(options.server.export_.detect_zeroes, discards[_i].detect);
}
END_TEST

static const struct {
	const char *line;
	enum image_access access;
	struct cache_mode cache;
	enum discard_mode discard;
} described[] = {
	{"hawserd --image-opts file=a", IMAGE_READ_WRITE, {.direct = false}, DISCARD_IGNORE},
	{"hawserd json:{\"file\":\"a\",\"read-only\":true}",
	 IMAGE_READ_ONLY,
	 {.direct = false},
	 DISCARD_IGNORE},
	{"hawserd --image-opts file.filename=a,file.read-only=on,auto-read-only=on",
	 IMAGE_READ_ONLY,
	 {.direct = false},
	 DISCARD_IGNORE},
	{"hawserd -r --image-opts file=a,read-only=off,auto-read-only=on",
	 IMAGE_READ_ONLY,
	 {.direct = false},
	 DISCARD_IGNORE},
	{"hawserd --image-opts file.filename=a,file.auto-read-only=on",
	 IMAGE_AUTO_READ_ONLY,
	 {.direct = false},
	 DISCARD_IGNORE},
	{"hawserd --auto-read-only --image-opts file=a,auto-read-only=off",
	 IMAGE_READ_WRITE,
	 {.direct = false},
	 DISCARD_IGNORE},
	{"hawserd --image-opts file=a,cache.direct=on,cache.no-flush=on,discard=unmap",
	 IMAGE_READ_WRITE,
	 {.direct = true, .ignore_flush = true},
	 DISCARD_UNMAP},
	{"hawserd -n --discard=unmap --image-opts file=a,cache.direct=off,discard=ignore",
	 IMAGE_READ_WRITE,
	 {.direct = false},
	 DISCARD_IGNORE},
	{"hawserd --discard=unmap --image-opts driver=qcow2,file=a,pass-discard-request=off",
	 IMAGE_READ_WRITE,
	 {.direct = false},
	 DISCARD_IGNORE},
};

START_TEST(test_described)
{
	const struct export_config *config = &options.server.export_;

	ck_assert_int_eq(parse(described[_i].line), 0);
	ck_assert_ptr_nonnull(config->node);
	ck_assert_int_eq(config->access, described[_i].access);
	ck_assert_int_eq(config->cache.direct, described[_i].cache.direct);
	ck_assert_int_eq(config->cache.ignore_flush, described[_i].cache.ignore_flush);
	ck_assert_int_eq(config->discard, described[_i].discard);
}
END_TEST

START_TEST(test_file_prefix)
{
	ck_assert_int_eq(parse("hawserd file:a:b"), 0);
	ck_assert_str_eq(options.server.export_.file, "a:b");
}
END_TEST

static const struct {
	const char *line, *said;
} refused[] = {
	{"hawserd", "Invalid number of arguments\nTry `hawserd --help' for more information."},
	{"hawserd a b", "Invalid number of arguments\nTry"},
	{"hawserd --zzz a", "Try `hawserd --help' for more information."},
	{"hawserd -Z a", "Try `hawserd --help' for more information."},
	{"hawserd -k rel a", "socket path must be absolute"},
	{"hawserd -o 1k a", "Invalid offset '1k'"},
	{"hawserd -o -1 a", "Invalid offset '-1'"},
	{"hawserd -o 18446744073709551616 a", "Invalid offset '18446744073709551616'"},
	{"hawserd -e x a", "Invalid shared device number 'x'"},
	{"hawserd -e -1 a", "Invalid shared device number '-1'"},
	{"hawserd -e 2147483648 a", "Invalid shared device number '2147483648'"},
	{"hawserd --handshake-limit=x a", "Invalid handshake limit 'x'"},
	{"hawserd --handshake-limit=4294968 a", "Invalid handshake limit '4294968'"},
	{"hawserd -p 65536 a", "Invalid port number '65536'"},
	{"hawserd -p 99999999999999999999999 a", "Invalid port number '9999"},
	{"hawserd -L a", "List mode is incompatible with a file name"},
	{"hawserd -L -x a", "List mode is incompatible with per-device settings"},
	{"hawserd -L -o 1", "List mode is incompatible with per-device settings"},
	{"hawserd -L -f raw", "List mode is incompatible with per-device settings"},
	{"hawserd -L -D x", "List mode is incompatible with per-device settings"},
	{"hawserd -L -c nbd0", "List mode is incompatible with per-device settings"},
	{"hawserd -L -d", "List mode is incompatible with per-device settings"},
	{"hawserd -L --fork", "List mode is incompatible with forking"},
	{"hawserd -c nbd0 -d a", "--connect and --disconnect are mutually exclusive"},
	{"hawserd -r --auto-read-only a", "--read-only and --auto-read-only are mutually"},
	{"hawserd --run x --fork a", "--run and --fork are mutually exclusive"},
	{"hawserd --stdio -k /s a", "--stdio and --socket are mutually exclusive"},
	{"hawserd nbd://host/x", "'nbd://host/x': images behind a URL"},
	{"hawserd json:{}", "Failed to blk_new_open 'json:{}': Must specify either driver or file"},
	{"hawserd nbd:localhost:10809", "'nbd:localhost:10809': images"},
	{"hawserd --selinux-l=x a", "--selinux-label is not permitted without --socket"},
	{"hawserd --partition=x a", "Invalid partition `x'"},
	{"hawserd -P 0 a", "Invalid partition 0"},
	{"hawserd -P 1 -o 0 a", "Cannot request partition and offset together"},
	{"hawserd -L -P 1", "List mode is incompatible with per-device settings"},
	{"hawserd --cache=fast a", "Invalid cache mode `fast'"},
	{"hawserd -n --cache=none a", "-n and --cache can only be specified once"},
	{"hawserd --cache=none -n a", "-n and --cache can only be specified once"},
	{"hawserd -L --cache=none", "List mode is incompatible with per-device settings"},
	{"hawserd -L -n", "List mode is incompatible with per-device settings"},
	{"hawserd --aio native a", "Failed to blk_new_open 'a': aio=native was specified, but it"},
	{"hawserd --aio uring a", "Invalid aio mode 'uring'"},
	{"hawserd --aio threads --aio threads a", "--aio can only be specified once"},
	{"hawserd -L --aio threads", "List mode is incompatible with per-device settings"},
	{"hawserd --discard=x a", "Invalid discard mode `x'"},
	{"hawserd --discard=on --discard=off a", "--discard can only be specified once"},
	{"hawserd -L --discard=off", "List mode is incompatible with per-device settings"},
	{"hawserd --detect-zeroes=x a",
	 "Failed to parse detect_zeroes mode: invalid parameter value: x"},
	{"hawserd --detect-zeroes=unmap a",
	 "setting detect-zeroes to unmap is not allowed without setting discard operation to "
	 "unmap"},
	{"hawserd --discard=off --detect-zeroes=unmap -s a", "setting detect-zeroes to unmap is"},
	{"hawserd --image-opts detect-zeroes=unmap,driver=raw,file.filename=a",
	 "Failed to blk_new_open 'detect-zeroes=unmap,driver=raw,file.filename=a': setting "
	 "detect-zeroes to unmap is"},
	{"hawserd --image-opts driver=raw",
	 "Failed to blk_new_open 'driver=raw': A block device must be specified for \"file\""},
	{"hawserd --image-opts -f raw driver=raw", "--image-opts and -f are mutually exclusive"},
	{"hawserd --image-opts driver=throttle,throttle-group=t,file=a",
	 "Failed to blk_new_open 'driver=throttle,throttle-group=t,file=a': Throttle group 't' "
	 "does"},
	{"hawserd --image-opts file=a,aio=native",
	 "Failed to blk_new_open 'file=a,aio=native': Block format '' does not"},
	{"hawserd -n --image-opts file.filename=a,file.aio=native,cache.direct=off",
	 "Failed to blk_new_open 'file.filename=a,file.aio=native,cache.direct=off': aio=native "
	 "was"},
	{"hawserd --object nothing,id=x a", "Invalid parameter 'nothing'; --object help lists"},
	{"hawserd --tls-creds=x -c /dev/nbd0 a", "TLS is not supported with a host device"},
	{"hawserd --tls-authz=x a", "--tls-authz is not permitted without --tls-creds"},
	{"hawserd --tls-hostname=x -L", "--tls-hostname is not permitted without --tls-creds"},
	{"hawserd --tls-creds=x --tls-hostname=.com -L",
	 "--tls-hostname: the name '.com' begins with a dot"},
	{"hawserd --tls-creds=x --tls-hostname= -L", "--tls-hostname: the name '' is empty"},
	{"hawserd --tls-creds=x --tls-authz=y -L",
	 "TLS authorization is incompatible with export list"},
	{"hawserd --tls-creds=x --tls-hostname=y a",
	 "TLS hostname is only supported with export list"},
	{"hawserd -T x,y=1 a", "--trace: Invalid parameter 'y'; there are enable, events, file"},
	{"hawserd --trace events=/nonexistent/x a", "--trace: Could not open '/nonexistent/x'"},
	{"hawserd -L -B x", "List mode is incompatible with per-device settings"},
	{"hawserd -L -A", "List mode is incompatible with per-device settings"},
	{"hawserd -l x -B x a", "--load-snapshot and --bitmap are mutually exclusive"},
	{"hawserd --selinux-label=x -p 1 a", "--selinux-label is not permitted without --socket"},
};

/* Each bitmap once, the last one first, up to the limit. */
START_TEST(test_bitmaps)
{
	char line[40 + SERVER_BITMAPS_MAX * 7] = "hawserd -A -B b -B a --bitmap=b x";

	ck_assert_int_eq(parse(line), 0);
	ck_assert(options.server.export_.allocation_depth);
	ck_assert_uint_eq(options.server.export_.bitmap_count, 2);
	ck_assert_str_eq(options.server.export_.bitmaps[0], "a");
	ck_assert_str_eq(options.server.export_.bitmaps[1], "b");
	strcpy(line, "hawserd x");
	for (int i = 0; i < SERVER_BITMAPS_MAX; i++)
		sprintf(line + strlen(line), " -Bn%d", i);
	ck_assert_int_eq(parse(line), 0);
	ck_assert_str_eq(options.server.export_.bitmaps[SERVER_BITMAPS_MAX - 1], "n0");
	strcat(line, " -Bx");
	ck_assert_int_eq(parse(line), -EINVAL);
}
END_TEST

START_TEST(test_refused)
{
	ck_assert_int_eq(parse(refused[_i].line), -EINVAL);
	ck_assert_msg(!strncmp(err.text, refused[_i].said, strlen(refused[_i].said)),
		      "'%s' said '%s'", refused[_i].line, err.text);
}
END_TEST

/* Long strings: the limit itself is allowed, one byte more is not. */
START_TEST(test_length)
{
	static const struct {
		const char *option, *said;
		int allowed;
		char fill;
	} limits[] = {
		{"-x ", "export name '", 4096, 'n'},
		{"-D ", "export description '", 4096, 'd'},
		{"-k /", "UNIX socket path '/", 106, 's'},
	};
	char line[8000];

	for (int over = 0; over <= 1; over++) {
		int used = sprintf(line, "hawserd a %s", limits[_i].option);
		int count = limits[_i].allowed + over;

		memset(line + used, limits[_i].fill, (size_t)count);
		line[used + count] = '\0';
		ck_assert_int_eq(parse(line), over ? -EINVAL : 0);
	}
	ck_assert(!strncmp(err.text, limits[_i].said, strlen(limits[_i].said)));
	ck_assert_ptr_nonnull(strstr(err.text, "too long"));
}
END_TEST

static const struct {
	const char *line, *said;
	unsigned int count;
} activations[] = {
	{"hawserd a", NULL, 0},
	{"hawserd -p 1 -k /s a", NULL, 0},
	{"hawserd -t -r a", NULL, 1},
	{"hawserd a", "hawserd does not support socket activation with LISTEN_FDS > 1", 2},
	{"hawserd -c nbd0 a", "NBD device can't be set when using socket activation", 1},
	{"hawserd -k /s a", "Unix socket can't be set when using socket activation", 1},
	{"hawserd -b ::1 a", "The interface can't be set when using socket activation", 1},
	{"hawserd -p 1 a", "TCP port number can't be set when using socket activation", 1},
	{"hawserd -L", "List mode is incompatible with socket activation", 1},
	{"hawserd --selinux-l x -k /s a", "Unix socket can't be set when using socket activation",
	 1},
	{"hawserd --run x a", "A command can't be set when using socket activation", 1},
};

START_TEST(test_activation)
{
	int rc;

	ck_assert_int_eq(parse(activations[_i].line), 0);
	rc = options_check_activation(&options, activations[_i].count, &err);
	ck_assert_int_eq(rc, activations[_i].said ? -EINVAL : 0);
	if (activations[_i].said)
		ck_assert_str_eq(err.text, activations[_i].said);
}
END_TEST

/* What is not there yet must not be in the help: tools grep it to learn what they may use. */
START_TEST(test_help)
{
	char *text = NULL;
	size_t length = 0;
	FILE *out = open_memstream(&text, &length);

	ck_assert_ptr_nonnull(out);
	options_print_help(out);
	fclose(out);
	ck_assert_ptr_nonnull(strstr(text, "-p, --port=PORT"));
	ck_assert_ptr_nonnull(strstr(text, "    --fork "));
	ck_assert_ptr_nonnull(strstr(text, "--tls-creds=ID"));
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		ck_assert_uint_le(strlen(line), 80);
	free(text);
}
END_TEST

#define COUNT(array) (int)(sizeof(array) / sizeof((array)[0]))

int main(void)
{
	Suite *suite = suite_create("options");
	TCase *tcase = tcase_create("command line");
	SRunner *runner = srunner_create(suite);
	int failed;

	log_init("hawserd");
	tcase_add_test(tcase, test_defaults);
	tcase_add_test(tcase, test_all_long);
	tcase_add_loop_test(tcase, test_spelling, 0, COUNT(spellings));
	tcase_add_loop_test(tcase, test_mode, 0, COUNT(modes));
	tcase_add_loop_test(tcase, test_cache, 0, COUNT(caches));
	tcase_add_test(tcase, test_bitmaps);
	tcase_add_loop_test(tcase, test_discard, 0, COUNT(discards));
	tcase_add_loop_test(tcase, test_described, 0, sizeof(described) / sizeof(described[0]));
	tcase_add_test(tcase, test_file_prefix);
	tcase_add_loop_test(tcase, test_refused, 0, COUNT(refused));
	tcase_add_loop_test(tcase, test_length, 0, 3);
	tcase_add_loop_test(tcase, test_activation, 0, COUNT(activations));
	tcase_add_test(tcase, test_help);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
