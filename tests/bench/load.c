// SPDX-License-Identifier: MIT
/*
 * bench-load: the load generator of `make bench`. Puts reads, writes, connections or a start on an
 * NBD server and prints what came of it as one JSON object. It knows no server by name and must
 * never be the slow side; `--help` shows the options. main runs one thread per share of the
 * connections and waits for them.
 */
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/size.h"

#define STARTUP_LIMIT (10 * CLOCK_SECOND)

/* ---- Small helpers that the other parts use ---- */

static uint64_t pattern_word(uint64_t index)
{
	uint64_t value = (index + 1) * UINT64_C(0x9e3779b97f4a7c15);

	value ^= value >> 29;
	/* No byte is zero, so that a hole or a forgotten block never looks right. */
	return value | UINT64_C(0x0101010101010101);
}

void load_pattern_fill(void *buffer, uint64_t offset, size_t length)
{
	uint8_t *at = buffer;

	while (length) {
		uint64_t word = pattern_word(offset / 8);
		size_t skip = offset % 8, take = min_of(8 - skip, length);

		if (take == 8)
			memcpy(at, &word, 8);
		else
			memcpy(at, (uint8_t *)&word + skip, take);
		at += take;
		offset += take;
		length -= take;
	}
}

void load_latency_add(struct load_result *result, uint64_t nanoseconds)
{
	unsigned int power = nanoseconds < LOAD_LATENCY_STEPS
				     ? 0
				     : 59 - (unsigned int)__builtin_clzll(nanoseconds);
	uint64_t step = power ? (nanoseconds >> (power - 1)) - LOAD_LATENCY_STEPS : nanoseconds;

	result->latency[power * LOAD_LATENCY_STEPS + step]++;
	result->latency_max = max_of(result->latency_max, nanoseconds);
}

uint64_t load_latency_percentile(const struct load_result *result, double percent)
{
	uint64_t total = 0, seen = 0, wanted;

	for (size_t i = 0; i < LOAD_LATENCY_BUCKETS; i++)
		total += result->latency[i];
	wanted = (uint64_t)((double)total * percent / 100);
	for (size_t i = 0; i < LOAD_LATENCY_BUCKETS; i++) {
		uint64_t power = i / LOAD_LATENCY_STEPS, step = i % LOAD_LATENCY_STEPS;

		seen += result->latency[i];
		if (seen > wanted)
			return power ? (step + LOAD_LATENCY_STEPS) << (power - 1) : step;
	}
	return result->latency_max;
}

/* ---- Reads and writes ---- */

static void *share_thread(void *argument)
{
	load_flow_run(argument);
	return NULL;
}

static void add_result(struct load_result *sum, const struct load_result *part)
{
	sum->operations += part->operations;
	sum->bytes += part->bytes;
	sum->wire_bytes += part->wire_bytes;
	sum->errors += part->errors;
	sum->latency_max = max_of(sum->latency_max, part->latency_max);
	sum->finished = max_of(sum->finished, part->finished);
	for (size_t i = 0; i < LOAD_LATENCY_BUCKETS; i++)
		sum->latency[i] += part->latency[i];
	if (part->failure)
		sum->failure = part->failure;
}

static void divide_work(const struct load_options *options, struct load_session *sessions,
			const uint8_t *block, struct load_share *shares)
{
	uint64_t start = clock_now();
	unsigned int first = 0;

	for (unsigned int i = 0; i < options->threads; i++) {
		unsigned int end = options->connections * (i + 1) / options->threads;

		shares[i] = (struct load_share){
			.options = options,
			.block = block,
			.began = start,
			.sessions = sessions + first,
			.first = first,
			.count = end - first,
			.deadline = options->seconds > 0
					    ? start + (uint64_t)(options->seconds * CLOCK_SECOND)
					    : CLOCK_NEVER,
			.limit = options->count ? options->count / options->threads +
							  (i < options->count % options->threads)
						: UINT64_MAX,
		};
		first = end;
	}
}

static int run_shares(struct load_share *shares, unsigned int count, void *(*run)(void *),
		      struct load_result *sum)
{
	AUTO_FREE pthread_t *threads = calloc(count, sizeof(*threads));
	unsigned int started = 0;
	int rc = threads ? 0 : ENOMEM;

	while (!rc && started < count) {
		rc = pthread_create(&threads[started], NULL, run, &shares[started]);
		started += !rc;
	}
	for (unsigned int i = 0; i < started; i++) {
		pthread_join(threads[i], NULL);
		add_result(sum, &shares[i].result);
	}
	return -rc;
}

static int run_flows(const struct load_options *options, struct load_result *sum, double *seconds)
{
	AUTO_FREE struct load_session *sessions = calloc(options->connections, sizeof(*sessions));
	AUTO_FREE struct load_share *shares = calloc(options->threads, sizeof(*shares));
	AUTO_FREE uint8_t *block = malloc(options->block_size);
	unsigned int open = 0;
	int rc = sessions && shares && block ? 0 : -ENOMEM;

	while (!rc && open < options->connections) {
		rc = load_dial(options, &sessions[open]);
		open += !rc;
	}
	if (!rc) {
		if (options->zeroes)
			memset(block, 0, options->block_size);
		else
			load_pattern_fill(block, 0, options->block_size);
		divide_work(options, sessions, block, shares);
		rc = run_shares(shares, options->threads, share_thread, sum);
		*seconds = (double)(sum->finished - shares->began) / CLOCK_SECOND;
	}
	for (unsigned int i = 0; i < open; i++)
		load_hang_up(&sessions[i]);
	return rc;
}

/* ---- Connections ---- */

/* One client after the other, until the share is used up. */
static void *connect_thread(void *argument)
{
	struct load_share *share = argument;
	struct load_result *result = &share->result;
	uint64_t now = share->began;

	while (now < share->deadline && result->operations < share->limit) {
		struct load_session session = {.size = 0};
		uint64_t began = now;

		result->failure = load_dial(share->options, &session);
		if (result->failure)
			break;
		load_hang_up(&session);
		now = clock_now();
		load_latency_add(result, now - began);
		result->operations++;
	}
	result->finished = now;
	return NULL;
}

static int run_connects(struct load_options *options, struct load_result *sum, double *seconds)
{
	AUTO_FREE struct load_share *shares = calloc(options->connections, sizeof(*shares));
	int rc;

	if (!shares)
		return -ENOMEM;
	options->threads = options->connections;
	divide_work(options, NULL, NULL, shares);
	rc = run_shares(shares, options->threads, connect_thread, sum);
	*seconds = (double)(sum->finished - shares->began) / CLOCK_SECOND;
	return rc;
}

/* ---- Starting a server ---- */

static pid_t start_command(char *const argv[])
{
	pid_t parent = getpid(), child = fork();

	if (child)
		return child;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() == parent)
		execvp(argv[0], argv);
	fprintf(stderr, "bench-load: cannot run %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

/* Ends all that the command left running: as subreaper we are the parent of its daemon, too. */
static void stop_commands(void)
{
	char path[64];
	unsigned int pid;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	for (;;) {
		AUTO_FILE FILE *children = fopen(path, "re");

		if (!children || fscanf(children, "%u", &pid) != 1)
			return;
		kill((pid_t)pid, SIGTERM);
		waitpid((pid_t)pid, NULL, 0);
	}
}

/* A command that ends well has become a daemon. */
static bool has_failed(pid_t *child)
{
	int status;

	if (*child <= 0 || waitpid(*child, &status, WNOHANG) != *child)
		return *child < 0;
	*child = 0;
	return !WIFEXITED(status) || WEXITSTATUS(status);
}

static int run_startup(const struct load_options *options, char *const argv[],
		       struct load_result *sum, double *seconds)
{
	const struct timespec pause = {.tv_nsec = 50 * 1000};
	uint64_t start, now;
	pid_t child;
	int rc = -ETIMEDOUT;

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	start = now = clock_now();
	child = start_command(argv);
	while (rc && now - start < STARTUP_LIMIT && !has_failed(&child)) {
		rc = load_dial_greeting(options);
		if (rc)
			nanosleep(&pause, NULL);
		now = clock_now();
	}
	load_latency_add(sum, now - start);
	*seconds = (double)(now - start) / CLOCK_SECOND;
	sum->operations = !rc;
	stop_commands();
	if (rc)
		fprintf(stderr, "bench-load: %s did not begin to serve: %s\n", argv[0],
			strerror(-rc));
	return rc;
}

/* ---- The image ---- */

static int make_image(const struct load_options *options)
{
	enum { STEP = 1 << 20 };
	AUTO_CLOSE int fd = open(options->image, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	AUTO_FREE uint8_t *buffer = malloc(STEP);

	if (fd < 0 || !buffer) {
		fprintf(stderr, "bench-load: cannot create %s: %s\n", options->image,
			strerror(errno));
		return -EIO;
	}
	for (uint64_t offset = 0; offset < options->image_size; offset += STEP) {
		size_t length = (size_t)min_of((uint64_t)STEP, options->image_size - offset);

		load_pattern_fill(buffer, offset, length);
		if (write(fd, buffer, length) != (ssize_t)length) {
			fprintf(stderr, "bench-load: cannot write %s: %s\n", options->image,
				strerror(errno));
			return -EIO;
		}
	}
	return fsync(fd) ? -errno : 0;
}

/* ---- Options and output ---- */

static const char *const operation_names[] = {
	[LOAD_READ] = "read",       [LOAD_WRITE] = "write",     [LOAD_MIXED] = "mixed",
	[LOAD_CONNECT] = "connect", [LOAD_STARTUP] = "startup", [LOAD_IMAGE] = "image",
};
enum { OPERATIONS = sizeof(operation_names) / sizeof(operation_names[0]) };

static const char usage_text[] =
	"usage: bench-load (--unix PATH | --tcp HOST:PORT) [OPTIONS] [-- SERVER ARGUMENT...]\n"
	"       bench-load --op image --image FILE --size N\n"
	"  --op OP          read (default), write, mixed, connect, startup or image\n"
	"  --tls-certificates FOLDER | --tls-psk FILE   with TLS (user bench)\n"
	"  --export NAME    name of the export (default: empty)\n"
	"  --block-size N   bytes of a request (default 4k)\n"
	"  --depth N        requests in flight on a connection (default 1)\n"
	"  --connections N  (default 1)     --threads N  (default: one per connection)\n"
	"                   connect: so many clients at once, each with a thread\n"
	"  --seconds S      how long (default 1)\n"
	"  --count N        at most so many requests; with --seconds 0 only that ends it\n"
	"  --sequential     one after the other instead of scattered\n"
	"  --read-percent P share of reads in mixed (default 50)\n"
	"  --think US       rest so many microseconds before the next requests\n"
	"  --hot-bytes N --hot-percent P   P of 100 requests go to the first N bytes\n"
	"  --simple         do not ask for structured replies\n"
	"  --verify         the data must be, and stays, the pattern of --op image\n"
	"  --zeroes         write zeroes\n"
	"  --seed N         another order of the scattered requests\n";

enum option_kind { OPTION_TEXT, OPTION_SIZE, OPTION_NUMBER, OPTION_FLAG, OPTION_OTHER };

struct option_row {
	const char *name;
	enum option_kind kind;
	void *field;
};

static int find_operation(const char *name, enum load_operation *operation)
{
	for (size_t i = 0; i < OPERATIONS; i++)
		if (!strcmp(operation_names[i], name)) {
			*operation = (enum load_operation)i;
			return 0;
		}
	return -EINVAL;
}

/* "HOST:PORT" is cut in two in place. */
static int split_address(struct load_options *options, char *text)
{
	char *colon = strrchr(text, ':');

	if (!colon)
		return -EINVAL;
	*colon = '\0';
	options->host = text;
	options->port = colon + 1;
	return 0;
}

static int set_other(struct load_options *options, const char *name, char *value)
{
	char *end;

	if (!strcmp(name, "op"))
		return find_operation(value, &options->operation);
	if (!strcmp(name, "tcp"))
		return split_address(options, value);
	options->seconds = strtod(value, &end);
	return *end || options->seconds < 0 ? -EINVAL : 0;
}

static int set_option(struct load_options *options, const struct option_row *row, char *value)
{
	uint64_t number = 0;
	int rc = 0;

	switch (row->kind) {
	case OPTION_TEXT:
		*(const char **)row->field = value;
		break;
	case OPTION_SIZE:
		rc = size_parse(value, INT64_MAX, row->field);
		break;
	case OPTION_NUMBER:
		rc = size_parse(value, INT32_MAX, &number);
		*(unsigned int *)row->field = (unsigned int)number;
		break;
	case OPTION_FLAG:
		*(bool *)row->field = true;
		break;
	case OPTION_OTHER:
		rc = set_other(options, row->name, value);
		break;
	}
	if (rc)
		fprintf(stderr, "bench-load: --%s: bad value '%s'\n", row->name, value);
	return rc;
}

static int parse_options(struct load_options *options, int argc, char **argv)
{
	const struct option_row rows[] = {
		{"unix", OPTION_TEXT, &options->unix_path},
		{"tcp", OPTION_OTHER, NULL},
		{"op", OPTION_OTHER, NULL},
		{"export", OPTION_TEXT, &options->export_name},
		{"tls-certificates", OPTION_TEXT, &options->certificates},
		{"tls-psk", OPTION_TEXT, &options->keys},
		{"image", OPTION_TEXT, &options->image},
		{"size", OPTION_SIZE, &options->image_size},
		{"block-size", OPTION_NUMBER, &options->block_size},
		{"depth", OPTION_NUMBER, &options->depth},
		{"connections", OPTION_NUMBER, &options->connections},
		{"threads", OPTION_NUMBER, &options->threads},
		{"seconds", OPTION_OTHER, NULL},
		{"count", OPTION_SIZE, &options->count},
		{"sequential", OPTION_FLAG, &options->sequential},
		{"read-percent", OPTION_NUMBER, &options->read_percent},
		{"think", OPTION_NUMBER, &options->think},
		{"hot-bytes", OPTION_SIZE, &options->hot_bytes},
		{"hot-percent", OPTION_NUMBER, &options->hot_percent},
		{"simple", OPTION_FLAG, &options->simple},
		{"verify", OPTION_FLAG, &options->verify},
		{"zeroes", OPTION_FLAG, &options->zeroes},
		{"seed", OPTION_SIZE, &options->seed},
	};
	enum { ROWS = sizeof(rows) / sizeof(rows[0]) };
	struct option longs[ROWS + 1] = {{0}};
	int index;

	for (int i = 0; i < ROWS; i++)
		longs[i] = (struct option){
			.name = rows[i].name, .has_arg = rows[i].kind != OPTION_FLAG, .val = i};
	while ((index = getopt_long(argc, argv, "+", longs, NULL)) != -1)
		if (index == '?' || set_option(options, &rows[index], optarg))
			return -EINVAL;
	return 0;
}

static int check_options(struct load_options *options, int rest)
{
	bool addressed = options->unix_path || options->host;

	if (!options->threads || options->threads > options->connections)
		options->threads = options->connections;
	if (options->operation == LOAD_IMAGE ? !options->image : !addressed)
		return -EINVAL;
	if ((options->operation == LOAD_STARTUP) != (rest > 0))
		return -EINVAL;
	if (!options->seconds && !options->count)
		return -EINVAL;
	return options->depth && options->connections && options->block_size ? 0 : -EINVAL;
}

static void print_result(const struct load_options *options, const struct load_result *result,
			 double seconds)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	printf("{\"op\": \"%s\", \"block_size\": %u, \"depth\": %u, \"connections\": %u, "
	       "\"ops\": %llu, \"bytes\": %llu, \"wire_bytes\": %llu, \"seconds\": %.6f, "
	       "\"p50_us\": %.2f, \"p99_us\": %.2f, \"max_us\": %.2f, \"errors\": %llu, "
	       "\"client_cpu_seconds\": %.3f, \"failure\": \"%s\"}\n",
	       operation_names[options->operation], options->block_size, options->depth,
	       options->connections, (unsigned long long)result->operations,
	       (unsigned long long)result->bytes, (unsigned long long)result->wire_bytes, seconds,
	       (double)load_latency_percentile(result, 50) / 1e3,
	       (double)load_latency_percentile(result, 99) / 1e3, (double)result->latency_max / 1e3,
	       (unsigned long long)result->errors,
	       (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
		       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6,
	       result->failure ? strerror(-result->failure) : "");
}

static int run_operation(struct load_options *options, char *const command[],
			 struct load_result *sum, double *seconds)
{
	switch (options->operation) {
	case LOAD_READ:
	case LOAD_WRITE:
	case LOAD_MIXED:
		return run_flows(options, sum, seconds);
	case LOAD_CONNECT:
		return run_connects(options, sum, seconds);
	case LOAD_STARTUP:
		return run_startup(options, command, sum, seconds);
	case LOAD_IMAGE:
		return make_image(options);
	}
	return -EINVAL;
}

int main(int argc, char **argv)
{
	static struct load_result sum;
	struct load_options options = {
		.export_name = "",
		.seconds = 1,
		.block_size = 4096,
		.depth = 1,
		.connections = 1,
		.read_percent = 50,
		.hot_percent = 90,
	};
	double seconds = 0;
	int rc;

	if (argc > 1 && !strcmp(argv[1], "--help")) {
		fputs(usage_text, stdout);
		return 0;
	}
	if (parse_options(&options, argc, argv) || check_options(&options, argc - optind)) {
		fputs(usage_text, stderr);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	rc = load_keys(&options);
	if (!rc)
		rc = run_operation(&options, argv + optind, &sum, &seconds);
	tls_creds_free(options.creds);
	if (rc)
		return 1;
	print_result(&options, &sum, seconds);
	return sum.failure || sum.errors ? 1 : 0;
}
