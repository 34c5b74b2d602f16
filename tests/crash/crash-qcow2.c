// SPDX-License-Identifier: MIT
/*
 * Power cuts under the qcow2 driver. Several clients write, zero, discard and flush at once; all
 * that reaches the host file is recorded. Then the file is made as a cut may have left it, many
 * times: it must open, its own checker must find no corruption (leaks are allowed), a sample is
 * shown to qemu-img check, and every sector must be as some write that is not older than what the
 * last flush promised. With a planted fault (syncs in the middle of a flush ignored) the cuts must
 * find corruption, or this test would prove nothing.
 *
 *   crash-qcow2 [-n CUTS] [-s SEED] [-v]
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "record.h"
#include "server/image/image.h"
#include "server/image/qcow2/writer.h"

enum {
	THREADS = 4,
	DISK = 4 << 20,
	SHARED = 2 << 20, /* in the first part clients write side by side in one cluster */
	BLOCK = 4096,
	BLOCKS = DISK / BLOCK,
	OPERATIONS = 60, /* of each client */
	HISTORY = 64,
	QEMU_EVERY = 40,
	FILE_MAX = 48 << 20,
};

/* What happened to a block, newest last. */
struct event {
	uint64_t begun, ended;
	uint32_t version; /* 0: zeroes */
	bool maybe;       /* a discard: zeroes, or what was there */
};

struct block {
	struct event events[HISTORY];
	unsigned int count;
};

struct flush {
	uint64_t begun, ended;
};

struct scenario {
	const char *name;
	const char *options; /* of qemu-img create */
	const char *backing; /* NULL: none; else options of the backing file's creation */
	bool snapshot;
};

static const struct scenario scenarios[] = {
	{"64K", "cluster_size=65536", NULL, false},
	{"512", "cluster_size=512", NULL, false},
	{"512, 64 bits", "cluster_size=512,refcount_bits=64", "cluster_size=65536", false},
	{"4K, snapshot", "cluster_size=4096", NULL, true},
	{"64K, backing", "cluster_size=65536", "cluster_size=65536", false},
	{"16K, extended, backing", "cluster_size=16384,extended_l2=on", "cluster_size=65536",
	 false},
	{"64K, extended, snapshot", "cluster_size=65536,extended_l2=on", NULL, true},
	{"512, 1 bit", "cluster_size=512,refcount_bits=1", NULL, false},
	{"version 2, snapshot", "compat=0.10,cluster_size=4096", NULL, true},
	{"64K, lazy, backing, snapshot", "lazy_refcounts=on,cluster_size=65536", "cluster_size=512",
	 true},
};

static char folder[64] = "/tmp/hawser-crash-XXXXXX";
static bool verbose;
static struct block blocks[BLOCKS];
static struct flush flushes[THREADS * OPERATIONS];
static _Atomic unsigned int flush_count;
static struct image *image;

static int failures;

#define complain(...)                             \
	do {                                      \
		failures++;                       \
		if (failures < 20) {              \
			printf("# " __VA_ARGS__); \
			putchar('\n');            \
		}                                 \
	} while (0)

__attribute__((format(printf, 1, 2))) static int run(const char *format, ...)
{
	char command[2048];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	return system(command);
}

/* ---- Content ---- */

/* Each sector says which block and version it is of. */
static void make_sector(uint8_t *sector, uint32_t block, uint32_t version)
{
	uint32_t *words = (uint32_t *)(void *)sector;

	if (!version) {
		memset(sector, 0, 512);
		return;
	}
	for (int i = 0; i < 128; i += 2) {
		words[i] = block ^ 0x5a5a5a5a;
		words[i + 1] = version;
	}
}

static void make_blocks(uint8_t *bytes, uint32_t first, uint32_t count, uint32_t version)
{
	for (uint32_t i = 0; i < count * (BLOCK / 512); i++)
		make_sector(bytes + (size_t)i * 512, first + i / (BLOCK / 512), version);
}

/* ---- Clients ---- */

struct client {
	unsigned int number, seed;
	uint32_t version;
	uint8_t bytes[64 * BLOCK];
};

/* Which blocks a client may touch: every fourth in the shared part, a stretch of its own behind. */
static void choose(struct client *client, uint32_t *first, uint32_t *count)
{
	uint32_t shared = SHARED / BLOCK, stretch = (BLOCKS - shared) / THREADS;

	if (rand_r(&client->seed) & 8) {
		*first = (uint32_t)rand_r(&client->seed) % (shared / THREADS) * THREADS +
			 client->number;
		*count = 1;
		return;
	}
	*count = 1 + (uint32_t)rand_r(&client->seed) % 48;
	*first = shared + client->number * stretch +
		 (uint32_t)rand_r(&client->seed) % (stretch - *count);
}

static void note_begin(uint32_t first, uint32_t count, uint32_t version, bool maybe)
{
	uint64_t tick = record_tick();

	for (uint32_t b = first; b < first + count; b++)
		blocks[b].events[blocks[b].count++] =
			(struct event){.begun = tick, .version = version, .maybe = maybe};
}

static void note_end(uint32_t first, uint32_t count)
{
	uint64_t tick = record_tick();

	for (uint32_t b = first; b < first + count; b++)
		blocks[b].events[blocks[b].count - 1].ended = tick;
}

static bool history_full(uint32_t first, uint32_t count)
{
	for (uint32_t b = first; b < first + count; b++)
		if (blocks[b].count == HISTORY)
			return true;
	return false;
}

static int flush(void)
{
	struct flush now = {.begun = record_tick()};
	int rc = image_flush(image);

	if (rc)
		return rc;
	record_flush_ended();
	now.ended = record_tick();
	flushes[flush_count++] = now;
	return 0;
}

static int operate(struct client *client)
{
	uint32_t first, count, version = ++client->version * THREADS + client->number;
	unsigned int kind = (unsigned int)rand_r(&client->seed) / 16 % 10;
	uint64_t offset, length;
	int rc;

	if (kind == 0)
		return flush();
	choose(client, &first, &count);
	if (history_full(first, count))
		return 0;
	offset = (uint64_t)first * BLOCK;
	length = (uint64_t)count * BLOCK;
	note_begin(first, count, kind < 7 ? version : 0, kind == 9);
	if (kind < 7) {
		make_blocks(client->bytes, first, count, version);
		rc = image_write(image, client->bytes, offset, length);
	} else if (kind < 9) {
		rc = image_zero(image, offset, length, kind == 7 ? ZERO_MAY_UNMAP : 0);
	} else {
		rc = image_discard(image, offset, length);
	}
	note_end(first, count);
	return rc;
}

static void *client_main(void *argument)
{
	struct client *client = argument;

	for (int i = 0; i < OPERATIONS; i++) {
		int rc = operate(client);

		if (rc)
			complain("client %u: %s", client->number, strerror(-rc));
	}
	return NULL;
}

static void run_clients(unsigned int seed)
{
	static struct client clients[THREADS];
	pthread_t threads[THREADS];

	for (unsigned int i = 0; i < THREADS; i++) {
		clients[i] = (struct client){.number = i, .seed = seed * 31 + i};
		pthread_create(&threads[i], NULL, client_main, &clients[i]);
	}
	for (unsigned int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

/* ---- Judging a cut ---- */

/* The last flush that had been answered at the cut promises all that had ended when it began. */
static uint64_t promised_at(uint64_t tick)
{
	uint64_t begun = 0;

	for (unsigned int i = 0; i < flush_count; i++)
		if (flushes[i].ended < tick && flushes[i].begun > begun)
			begun = flushes[i].begun;
	return begun;
}

static bool is_version(const uint8_t *sector, uint32_t block, uint32_t version)
{
	uint8_t wanted[512];

	make_sector(wanted, block, version);
	return memcmp(sector, wanted, sizeof(wanted)) == 0;
}

/* May the sector be so? From the newest event that is promised on, any may be what is there. */
static bool sector_allowed(const struct block *block, uint32_t number, const uint8_t *sector,
			   uint64_t promise, uint64_t tick)
{
	for (unsigned int i = block->count; i--;) {
		const struct event *event = &block->events[i];

		if (event->begun >= tick)
			continue;
		if (is_version(sector, number, event->version))
			return true;
		if (event->ended && event->ended < promise && !event->maybe)
			return false;
	}
	return is_version(sector, number, number % 3 ? number + 1 : 0); /* as it was made */
}

static void judge_content(struct image *cut, uint64_t tick)
{
	static uint8_t disk[DISK];
	uint64_t promise = promised_at(tick);
	int rc = image_read(cut, disk, 0, DISK);

	if (rc) {
		complain("cut at %llu: cannot be read: %s", (unsigned long long)tick,
			 strerror(-rc));
		return;
	}
	for (uint32_t s = 0; s < DISK / 512; s++) {
		uint32_t number = s / (BLOCK / 512);

		if (sector_allowed(&blocks[number], number, disk + (size_t)s * 512, promise, tick))
			continue;
		complain("cut at %llu: sector %u is neither new nor as promised",
			 (unsigned long long)tick, s);
		return;
	}
}

static void judge(const char *path, uint64_t tick, bool ask_qemu)
{
	const struct image_options options = {.format = "qcow2", .access = IMAGE_READ_WRITE};
	struct error err = ERROR_INIT;
	struct qcow2_check check;
	struct image *cut;
	int rc = image_open(path, &options, &cut, &err);

	if (rc) {
		complain("cut at %llu: %s", (unsigned long long)tick, err.text);
		return;
	}
	rc = qcow2_check(cut->state, false, &check);
	if (rc || check.corruptions)
		complain("cut at %llu: %llu corruptions (%d)", (unsigned long long)tick,
			 (unsigned long long)check.corruptions, rc);
	judge_content(cut, tick);
	image_close(cut);
	if (!ask_qemu)
		return;
	rc = run("qemu-img check -q -f qcow2 %s >%s/said 2>&1", path, folder);
	rc = WEXITSTATUS(rc);
	if (rc != 0 && rc != 3)
		complain("cut at %llu: qemu-img check: %d, we found %llu corruptions",
			 (unsigned long long)tick, rc, (unsigned long long)check.corruptions);
}

/* ---- A scenario ---- */

static void store(const char *path, const uint8_t *bytes, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd < 0 || write(fd, bytes, size) != (ssize_t)size)
		complain("cannot write %s", path);
	close(fd);
}

static size_t load(const char *path, uint8_t *bytes, size_t room)
{
	int fd = open(path, O_RDONLY);
	ssize_t got = fd < 0 ? 0 : read(fd, bytes, room);

	close(fd);
	return got < 0 ? 0 : (size_t)got;
}

/* Two of three blocks have content before the clients come: in the backing file, if any. */
static void fill(const char *path)
{
	const struct image_options options = {.format = "qcow2", .access = IMAGE_READ_WRITE};
	struct error err = ERROR_INIT;
	uint8_t bytes[BLOCK];
	struct image *disk;

	if (image_open(path, &options, &disk, &err)) {
		complain("%s", err.text);
		return;
	}
	for (uint32_t b = 0; b < BLOCKS; b++) {
		make_blocks(bytes, b, 1, b % 3 ? b + 1 : 0);
		if (b % 3 && image_write(disk, bytes, (uint64_t)b * BLOCK, BLOCK))
			complain("cannot fill");
	}
	image_close(disk);
}

static int make_image(const struct scenario *scenario, char *path, size_t path_size)
{
	char base[128];

	snprintf(base, sizeof(base), "%s/base", folder);
	snprintf(path, path_size, "%s/disk", folder);
	if (scenario->backing) {
		if (run("qemu-img create -q -f qcow2 -o %s %s %d", scenario->backing, base, DISK))
			return -1;
		fill(base);
	}
	if (run("qemu-img create -q -f qcow2 -o %s %s %s %s %d", scenario->options,
		scenario->backing ? "-F qcow2 -b" : "", scenario->backing ? base : "", path, DISK))
		return -1;
	if (!scenario->backing)
		fill(path);
	return scenario->snapshot ? run("qemu-img snapshot -c before %s", path) : 0;
}

static struct record *perform(const char *path, unsigned int seed)
{
	const struct image_options options = {.format = "qcow2", .access = IMAGE_READ_WRITE};
	struct error err = ERROR_INIT;

	memset(blocks, 0, sizeof(blocks));
	flush_count = 0;
	if (image_open(path, &options, &image, &err)) {
		complain("%s", err.text);
		return NULL;
	}
	record_start(path);
	run_clients(seed);
	image_close(image);
	return record_stop();
}

static void cut_everywhere(const struct record *record, const uint8_t *start, size_t start_size,
			   unsigned int cuts, bool plant, unsigned int seed)
{
	static uint8_t state[FILE_MAX];
	uint64_t last = record->count ? record->ops[record->count - 1].begun + 2 : 2;
	uint64_t first = record->count ? record->ops[0].begun : 1;
	struct replay replay;
	char path[128];

	snprintf(path, sizeof(path), "%s/cut", folder);
	replay_init(&replay, record, start, start_size, FILE_MAX);
	replay.plant = plant;
	for (unsigned int i = 0; i <= cuts; i++) {
		uint64_t tick = first + (last - first) * i / cuts;

		store(path, state, replay_cut(&replay, tick, state, &seed));
		judge(path, tick, i % QEMU_EVERY == 0 && !plant);
	}
	replay_clear(&replay);
}

/* Returns the faults found. */
static int play(const struct scenario *scenario, unsigned int cuts, unsigned int seed, bool plant)
{
	static uint8_t start[FILE_MAX];
	struct record *record;
	char path[128];
	size_t size;

	failures = 0;
	if (make_image(scenario, path, sizeof(path))) {
		complain("cannot make the image");
		return failures;
	}
	size = load(path, start, sizeof(start));
	record = perform(path, seed);
	if (!record)
		return failures;
	if (verbose)
		printf("# %s: %zu operations, %u flushes\n", scenario->name, record->count,
		       (unsigned int)flush_count);
	if (run("qemu-img check -q -f qcow2 %s", path))
		complain("after a proper end the image is not clean");
	cut_everywhere(record, start, size, cuts, plant, seed);
	record_free(record);
	return failures;
}

int main(int argc, char **argv)
{
	unsigned int cuts = 120, seed = 1;
	int option, bad = 0, found;

	while ((option = getopt(argc, argv, "n:s:v")) != -1) {
		if (option == 'n')
			cuts = (unsigned int)atoi(optarg);
		if (option == 's')
			seed = (unsigned int)atoi(optarg);
		verbose |= option == 'v';
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	log_init("crash-qcow2");
	log_threshold = LOG_LEVEL_ERROR;
	if (system("qemu-img --version >/dev/null 2>&1"))
		return 77;
	if (access("/dev/shm", W_OK) == 0)
		memcpy(folder, "/dev/shm/hawser-crashXXXXXX",
		       sizeof("/dev/shm/hawser-crashXXXXXX"));
	if (!mkdtemp(folder))
		return 77;
	for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
		found = play(&scenarios[i], cuts, seed, false);
		printf("%s %s\n", found ? "not ok" : "ok", scenarios[i].name);
		bad += found != 0;
	}
	found = play(&scenarios[1], cuts > 120 ? cuts : 120, seed, true);
	printf("%s planted fault is found\n", found ? "ok" : "not ok");
	bad += found == 0;
	run("rm -rf %s", folder);
	return bad ? 1 : 0;
}
