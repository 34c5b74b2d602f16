// SPDX-License-Identifier: MIT
/*
 * Power cuts under the qcow2 driver. Several clients write, zero, discard and flush at once, on
 * images of all pairs of features, through the driver or through the whole server; all that reaches
 * the host files is recorded. Then the files are made as a cut may have left them, many times: the
 * image must open, our checker must find no corruption (leaks are allowed), every sector must be as
 * some write left it that is not older than what flushes and FUA promised, and a snapshot must be
 * what it was. A sample is shown to qemu-img check, written to, and checked again.
 *
 * With a planted fault (a barrier that does nothing) the cuts must find it, or this test would
 * prove nothing; and qemu-img check must then agree with our checker.
 *
 *   crash-qcow2 [-n CUTS] [-o OPERATIONS] [-s SEED] [-f "AXIS=VALUE ..."] [-p PLANT] [-v]
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clients.h"
#include "common/log.h"
#include "features.h"
#include "history.h"
#include "record.h"
#include "server/image/image.h"

enum {
	SECTOR = FEATURES_SECTOR,
	RAGGED_END = 37, /* sectors: the disk ends inside of a cluster */
	QEMU_EVERY = 30, /* cuts */
	QEMU_EVERY_PLANTED = 4,
	MORE_WRITES = 24, /* after a cut */
	PLANTED_TRIES = 30,
	WORD_MAX = 12, /* bytes: of a table's entry, or of the header */
	WORD_CUTS = 3,
	HEADER_CUTS = 100,
	AFTER_HEADER_CUTS = 6,
	HEADER_OPERATIONS = 40, /* after a change of the header */
};

static const char *const plants[] = {[PLANT_NONE] = "none",
				     [PLANT_FIRST] = "first",
				     [PLANT_MIDDLE] = "middle",
				     [PLANT_LAST] = "last",
				     [PLANT_DATA] = "data"};

/* Where each planted fault must be found. */
static const struct {
	enum plant plant;
	const char *row;
} planted[] = {
	{PLANT_FIRST, "cluster=512"},
	{PLANT_MIDDLE, "cluster=512"},
	{PLANT_MIDDLE, "cluster=16384 subclusters=yes snapshot=yes"},
	{PLANT_LAST, "cluster=4096"},
	{PLANT_DATA, "cluster=4096 data-file=plain"},
};

static char folder[64] = "/tmp/hawser-crash-XXXXXX";
static bool verbose;
static unsigned int cuts = 40, operations = 60;

/* What the cuts of one row found. */
static struct {
	int faults, disagreements;
	enum plant plant;
} found;

/* Faults are told where none are expected. */
#define complain(...)                                                   \
	do {                                                            \
		if (found.faults++ < 10 && found.plant == PLANT_NONE) { \
			printf("# " __VA_ARGS__);                       \
			putchar('\n');                                  \
		}                                                       \
	} while (0)

/* ---- Judging a cut ---- */

static void judge_content(const struct disk *disk, struct image *image, uint64_t tick)
{
	uint8_t *bytes = malloc(disk->sectors * SECTOR);
	int rc = image_read(image, bytes, 0, disk->sectors * SECTOR);
	uint64_t bad;

	if (rc)
		complain("cut at %llu: cannot be read: %s", (unsigned long long)tick,
			 strerror(-rc));
	else if (!history_allows(bytes, tick, &bad)) {
		if (!found.faults && found.plant == PLANT_NONE)
			history_tell(bytes, bad, tick);
		complain("cut at %llu: sector %llu is neither new nor as promised",
			 (unsigned long long)tick, (unsigned long long)bad);
	}
	free(bytes);
}

static void judge_snapshot(const struct disk *disk, uint64_t tick)
{
	struct image_options options = disk_options(disk);
	struct error err = ERROR_INIT;
	struct image *image;
	uint8_t *bytes;
	uint64_t bad;
	int rc;

	if (features_has(disk->row, AXIS_SNAPSHOT, "no"))
		return;
	options.access = IMAGE_READ_ONLY;
	options.load_snapshot = "before";
	if (image_open(disk->path, &options, &image, &err)) {
		complain("cut at %llu: snapshot: %s", (unsigned long long)tick, err.text);
		return;
	}
	bytes = malloc(disk->sectors * SECTOR);
	rc = image_read(image, bytes, 0, disk->sectors * SECTOR);
	if (rc)
		complain("cut at %llu: the snapshot cannot be read: %s", (unsigned long long)tick,
			 strerror(-rc));
	else if (!history_is_start(bytes, &bad))
		complain("cut at %llu: sector %llu of the snapshot has changed",
			 (unsigned long long)tick, (unsigned long long)bad);
	free(bytes);
	image_close(image);
}

/* After a cut life goes on: what is written then is there, and nothing breaks by it. */
static void go_on(const struct disk *disk, uint64_t tick, unsigned int seed)
{
	const struct image_options options = disk_options(disk);
	struct error err = ERROR_INIT;
	struct image *image;
	uint8_t bytes[16 * SECTOR], got[16 * SECTOR];
	int rc = image_open(disk->path, &options, &image, &err);

	for (int i = 0; i < MORE_WRITES && rc == 0; i++) {
		uint64_t first = (uint64_t)rand_r(&seed) / 16 % (disk->sectors - 16);

		memset(bytes, i + 1, sizeof(bytes));
		rc = image_write(image, bytes, first * SECTOR, sizeof(bytes));
		if (rc == 0)
			rc = image_read(image, got, first * SECTOR, sizeof(got));
		if (rc == 0 && memcmp(got, bytes, sizeof(got)))
			rc = -EILSEQ;
	}
	if (rc)
		complain("cut at %llu: later: %s", (unsigned long long)tick, strerror(-rc));
	if (image)
		image_close(image);
	judge_snapshot(disk, tick);
	rc = disk_ask_qemu(disk);
	if (rc != 0 && rc != 3)
		complain("cut at %llu: later: qemu-img check: %d", (unsigned long long)tick, rc);
}

/* Our verdict: is the image consistent? */
static bool judge(const struct disk *disk, uint64_t tick)
{
	const struct image_options options = disk_options(disk);
	struct error err = ERROR_INIT;
	int64_t corruptions;
	struct image *image;
	int rc = image_open(disk->path, &options, &image, &err);

	if (rc) {
		complain("cut at %llu: %s", (unsigned long long)tick, err.text);
		return false;
	}
	corruptions = disk_corruptions(image);
	if (corruptions)
		complain("cut at %llu: %lld corruptions", (unsigned long long)tick,
			 (long long)corruptions);
	judge_content(disk, image, tick);
	image_close(image);
	judge_snapshot(disk, tick);
	return !corruptions;
}

static void cross_check(const struct disk *disk, uint64_t tick, bool consistent)
{
	int rc = disk_ask_qemu(disk);

	if ((rc == 0 || rc == 3) == consistent)
		return;
	found.disagreements++;
	printf("# cut at %llu: qemu-img check: %d, we say it is %s\n", (unsigned long long)tick, rc,
	       consistent ? "consistent" : "corrupt");
	run("head -n 5 %s/said | sed 's/^/# /'", folder);
}

/* ---- A row ---- */

static void cut(const struct disk *disk, struct replay *replay, uint64_t tick, unsigned int *seed,
		bool ask_qemu)
{
	bool consistent;

	replay_cut(replay, tick, seed);
	if (!file_store(disk->path, replay->files[0].cut, replay->files[0].cut_end) ||
	    (*disk->data &&
	     !file_store(disk->data, replay->files[1].cut, replay->files[1].cut_end)))
		complain("no room for the files");
	consistent = judge(disk, tick);
	if (!ask_qemu)
		return;
	cross_check(disk, tick, consistent);
	if (!replay->plant)
		go_on(disk, tick, *seed);
}

/* How often to cut just after an operation has begun: words of tables and the header refer to what
 * must be there before them; and what the header no longer refers to is used anew. */
static unsigned int cuts_at(const struct record_op *op, unsigned int *after_header)
{
	bool word = op->kind == RECORD_WRITE && op->file == 0 && op->length <= WORD_MAX;

	if (word && op->offset < FEATURES_SECTOR) {
		*after_header = HEADER_OPERATIONS;
		return HEADER_CUTS;
	}
	if (*after_header) {
		--*after_header;
		return AFTER_HEADER_CUTS;
	}
	return word ? WORD_CUTS : 0;
}

static void cut_everywhere(const struct disk *disk, struct replay *replay, unsigned int seed)
{
	const struct record *record = replay->record;
	uint64_t last = record->count ? record->ops[record->count - 1].begun + 2 : 2;
	uint64_t first = record->count ? record->ops[0].begun : 1;
	bool large = features_has(disk->row, AXIS_CLUSTER, "2097152");
	unsigned int here = large ? cuts / 4 + 1 : cuts; /* each takes its time there */
	unsigned int every = replay->plant ? QEMU_EVERY_PLANTED : QEMU_EVERY;
	unsigned int after_header = 0;
	size_t next = 0;

	for (unsigned int i = 0; i <= here; i++) {
		uint64_t tick = first + (last - first) * i / here;

		for (; next < record->count && record->ops[next].begun < tick; next++)
			for (unsigned int n = cuts_at(&record->ops[next], &after_header);
			     n && !large; n--)
				cut(disk, replay, record->ops[next].begun + 1, &seed, false);
		cut(disk, replay, tick, &seed, i % every == 0);
	}
}

static uint64_t sectors_of(const struct features *row)
{
	uint64_t sectors = 4096;

	if (features_has(row, AXIS_CLUSTER, "2097152"))
		sectors = 8192;
	/* While clients write, the refcount table of the smallest clusters must grow. */
	if (features_has(row, AXIS_CLUSTER, "512") && features_has(row, AXIS_REFCOUNT, "64"))
		sectors = 6144;
	return sectors + RAGGED_END;
}

/* Clients, then cuts; what they find is in found. */
static void play(const struct features *row, enum plant plant, unsigned int seed)
{
	struct disk disk = {
		.row = row, .folder = folder, .sectors = sectors_of(row), .content = history_layer};
	uint8_t *start[RECORD_FILES];
	size_t start_size[RECORD_FILES];
	struct record *record;
	struct replay replay;
	int rc;

	memset(&found, 0, sizeof(found));
	found.plant = plant;
	if (disk_make(&disk)) {
		found.plant = PLANT_NONE;
		complain("cannot make the image");
		return;
	}
	history_start(&disk);
	start[0] = file_load(disk.path, &start_size[0]);
	start[1] = file_load(disk.data, &start_size[1]);
	record_start((const char *const[]){disk.path, disk.data});
	rc = clients_run(&disk, operations, seed);
	record = record_stop();
	if (verbose)
		printf("# %s: %zu operations, %u flushes, %zu bytes\n", features_name(row),
		       record->count, history_flushes(), start_size[0]);
	if (rc)
		complain("a client failed");
	else if (disk_ask_qemu(&disk))
		complain("after a proper end the image is not clean");
	replay_init(&replay, record, plant, start, start_size);
	cut_everywhere(&disk, &replay, seed);
	replay_clear(&replay);
	record_free(record);
	free(start[0]);
	free(start[1]);
}

/* ---- All of them ---- */

static int play_row(const struct features *row, enum plant plant, unsigned int seed)
{
	play(row, plant, seed);
	printf("%s %s%s%s\n", found.faults || found.disagreements ? "not ok" : "ok",
	       features_name(row), plant ? ", without barrier " : "", plant ? plants[plant] : "");
	return found.faults || found.disagreements;
}

/* A few cuts may miss a fault, and what threads do is never the same: it is tried until found. */
static int play_planted(unsigned int seed)
{
	int bad = 0;

	cuts = cuts < 120 ? 120 : cuts;
	for (size_t i = 0; i < sizeof(planted) / sizeof(planted[0]); i++) {
		struct features row = features_of(planted[i].row);
		int faults = 0, disagreements = 0, tries = 0;

		while (!faults && tries < PLANTED_TRIES) {
			play(&row, planted[i].plant, seed + (unsigned int)tries++);
			faults = found.faults;
			disagreements += found.disagreements;
		}
		bad += !faults || disagreements;
		printf("%s planted fault: barrier '%s' on %s: found %d times, tries: %d\n",
		       faults && !disagreements ? "ok" : "not ok", plants[planted[i].plant],
		       planted[i].row, faults, tries);
	}
	return bad;
}

static enum plant plant_of(const char *name)
{
	for (int p = 0; p <= PLANT_DATA; p++)
		if (strcmp(name, plants[p]) == 0)
			return (enum plant)p;
	fprintf(stderr, "crash-qcow2: no barrier is called '%s'\n", name);
	exit(2);
}

static int play_all(unsigned int seed)
{
	static struct features rows[FEATURES_MAX];
	size_t count = features_pairwise(rows, AXES, seed);
	int bad = 0;

	for (size_t i = 0; i < count; i++)
		bad += play_row(&rows[i], PLANT_NONE, seed + (unsigned int)i);
	return bad + play_planted(seed);
}

int main(int argc, char **argv)
{
	enum plant plant = PLANT_NONE;
	const char *words = NULL;
	unsigned int seed = 1;
	struct features row;
	int option, bad;

	while ((option = getopt(argc, argv, "n:o:s:f:p:v")) != -1) {
		if (option == 'n')
			cuts = (unsigned int)atoi(optarg);
		if (option == 'o')
			operations = (unsigned int)atoi(optarg);
		if (option == 's')
			seed = (unsigned int)atoi(optarg);
		if (option == 'f')
			words = optarg;
		if (option == 'p')
			plant = plant_of(optarg);
		verbose |= option == 'v';
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	log_init("crash-qcow2");
	log_threshold = LOG_LEVEL_ERROR;
	if (run("qemu-img --version >/dev/null 2>&1"))
		return 77;
	if (access("/dev/shm", W_OK) == 0)
		strcpy(folder, "/dev/shm/hawser-crash-XXXXXX");
	if (!mkdtemp(folder))
		return 77;
	row = features_of(words ? words : "");
	bad = words ? play_row(&row, plant, seed) : play_all(seed);
	run("rm -rf %s", folder);
	return bad ? 1 : 0;
}
