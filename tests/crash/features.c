// SPDX-License-Identifier: MIT
/*
 * Combinations of features, and images that have them. What lies where in a new image: of areas of
 * 16 KiB the backing file has two of three, the image itself two of four (all of them when it is
 * compressed), so that clusters of any size are found whole, mixed and missing. Images with lazy
 * refcounts are dirty, as a writer leaves them that was killed: their refcounts are wrong.
 */
#include "features.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/image/image.h"
#include "server/image/qcow2/writer.h"
#include "server/secret.h"

enum {
	VALUES = 8,
	AREA = 32, /* sectors */
	CANDIDATES = 300,
	BASE_LONGER = 1 << 20,
	CREATE_TRIES = 8, /* qemu-img measures how fast it makes keys, and may fail at that */
};

#define KEY    "words"
#define SECRET "--object secret,id=s,data=" KEY

static const struct {
	const char *name;
	const char *values[VALUES]; /* the first is the usual one */
} axes[AXES] = {
	[AXIS_CLUSTER] = {"cluster", {"65536", "512", "4096", "16384", "2097152"}},
	[AXIS_VERSION] = {"version", {"3", "2"}},
	[AXIS_REFCOUNT] = {"refcount", {"16", "1", "2", "4", "8", "32", "64"}},
	[AXIS_BACKING] = {"backing", {"none", "raw", "qcow2", "short", "long"}},
	[AXIS_SUBCLUSTERS] = {"subclusters", {"no", "yes"}},
	[AXIS_SNAPSHOT] = {"snapshot", {"no", "yes"}},
	[AXIS_DATA_FILE] = {"data-file", {"no", "plain", "raw"}},
	[AXIS_CONTENT] = {"content", {"plain", "zlib", "zstd"}},
	[AXIS_LAZY] = {"lazy", {"no", "yes"}},
	[AXIS_WAY] = {"way", {"driver", "server"}},
	[AXIS_ENCRYPTION] = {"encryption", {"no", "luks"}},
};

int run(const char *format, ...)
{
	char command[4096];
	va_list args;
	int status;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

uint8_t *file_load(const char *path, size_t *size)
{
	int fd = open(path, O_RDONLY);
	struct stat status = {0};
	uint8_t *bytes;

	if (fd >= 0)
		fstat(fd, &status);
	*size = (size_t)status.st_size;
	bytes = calloc(1, *size + 1);
	if (fd >= 0 && read(fd, bytes, *size) != status.st_size)
		*size = 0;
	if (fd >= 0)
		close(fd);
	return bytes;
}

/* Zeroes are left out: large clusters have many. */
bool file_store(const char *path, const uint8_t *bytes, size_t size)
{
	enum { STEP = 65536 };
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	bool done = fd >= 0 && ftruncate(fd, (off_t)size) == 0;

	for (size_t at = 0; at < size && done; at += STEP) {
		size_t step = size - at < STEP ? size - at : STEP;

		if (bytes[at] || memcmp(bytes + at, bytes + at + 1, step - 1))
			done = pwrite(fd, bytes + at, step, (off_t)at) == (ssize_t)step;
	}
	if (fd >= 0)
		close(fd);
	return done;
}

/* ---- Rows ---- */

static const char *value_of(const struct features *row, enum axis axis)
{
	return axes[axis].values[row->value[axis]];
}

static uint8_t values_of(enum axis axis)
{
	uint8_t count = 0;

	while (count < VALUES && axes[axis].values[count])
		count++;
	return count;
}

bool features_has(const struct features *row, enum axis axis, const char *value)
{
	return strcmp(value_of(row, axis), value) == 0;
}

struct features features_of(const char *words)
{
	struct features row = {{0}};
	char word[64];

	for (int axis = 0; axis < AXES; axis++)
		for (uint8_t v = 0; v < values_of(axis); v++) {
			snprintf(word, sizeof(word), "%s=%s", axes[axis].name,
				 axes[axis].values[v]);
			for (const char *at = strstr(words, word); at; at = strstr(at + 1, word))
				if (at[strlen(word)] == ' ' || !at[strlen(word)])
					row.value[axis] = v;
		}
	return row;
}

const char *features_name(const struct features *row)
{
	static char name[256];
	size_t used = 0;

	*name = '\0';
	for (int axis = 0; axis < AXES; axis++)
		if (row->value[axis] || axis == AXIS_CLUSTER)
			used += (size_t)snprintf(name + used, sizeof(name) - used, "%s%s=%s",
						 used ? " " : "", axes[axis].name,
						 value_of(row, axis));
	return name;
}

static bool is_plain(const struct features *row, enum axis axis)
{
	return !row->value[axis];
}

bool features_possible(const struct features *row)
{
	bool compressed = !is_plain(row, AXIS_CONTENT), snapshot = !is_plain(row, AXIS_SNAPSHOT);
	int cluster = atoi(value_of(row, AXIS_CLUSTER));
	int width = atoi(value_of(row, AXIS_REFCOUNT));

	if (!is_plain(row, AXIS_VERSION) &&
	    (width != 16 || !is_plain(row, AXIS_SUBCLUSTERS) || !is_plain(row, AXIS_DATA_FILE) ||
	     !is_plain(row, AXIS_LAZY) || features_has(row, AXIS_CONTENT, "zstd")))
		return false;
	if (!is_plain(row, AXIS_SUBCLUSTERS) && cluster < 16384)
		return false;
	if (!is_plain(row, AXIS_DATA_FILE) && (snapshot || compressed))
		return false;
	if (features_has(row, AXIS_DATA_FILE, "raw") && !is_plain(row, AXIS_BACKING))
		return false;
	if (!is_plain(row, AXIS_ENCRYPTION) &&
	    (compressed || features_has(row, AXIS_DATA_FILE, "raw")))
		return false;
	if (width == 1 && (snapshot || compressed))
		return false; /* nothing can be shared, not even a sector */
	return !(width < 8 && snapshot && compressed); /* many in one cluster, and all twice */
}

/* How many pairs the row has that no row had; with take they are had from now on. */
static int pairs_new(bool had[AXES * VALUES][AXES * VALUES], const struct features *row, int count,
		     bool take)
{
	int found = 0;

	for (int a = 0; a < count; a++)
		for (int b = a + 1; b < count; b++) {
			bool *pair = &had[a * VALUES + row->value[a]][b * VALUES + row->value[b]];

			found += !*pair;
			*pair |= take;
		}
	return found;
}

size_t features_pairwise(struct features rows[FEATURES_MAX], int count, unsigned int seed)
{
	static bool had[AXES * VALUES][AXES * VALUES];
	size_t used = 0;
	int best = 1;

	memset(had, 0, sizeof(had));
	for (int fruitless = 0; used < FEATURES_MAX && fruitless < 20; fruitless++) {
		best = 0;
		for (int i = 0; i < CANDIDATES; i++) {
			struct features row = {{0}};
			int found;

			for (int axis = 0; axis < count; axis++)
				row.value[axis] = (uint8_t)((unsigned int)rand_r(&seed) / 16 %
							    values_of(axis));
			found = features_possible(&row) ? pairs_new(had, &row, count, false) : 0;
			if (found > best) {
				best = found;
				rows[used] = row;
			}
		}
		if (!best)
			continue;
		pairs_new(had, &rows[used++], count, true);
		fruitless = 0;
	}
	return used;
}

/* ---- Images ---- */

static uint64_t base_sectors(const struct disk *disk)
{
	if (features_has(disk->row, AXIS_BACKING, "none"))
		return 0;
	if (features_has(disk->row, AXIS_BACKING, "short"))
		return disk->sectors / 2 + 3;
	if (features_has(disk->row, AXIS_BACKING, "long"))
		return disk->sectors + BASE_LONGER / FEATURES_SECTOR;
	return disk->sectors;
}

static bool base_has(const struct disk *disk, uint64_t sector)
{
	return sector < base_sectors(disk) && sector / AREA % 3;
}

static bool top_has(uint64_t sector)
{
	return sector / AREA % 4 == 1 || sector / AREA % 4 == 2;
}

enum layer disk_layer(const struct disk *disk, uint64_t sector)
{
	if (top_has(sector))
		return LAYER_TOP;
	return base_has(disk, sector) ? LAYER_BASE : LAYER_NONE;
}

/* A raw file of the sectors that are in a layer, or of all that a guest sees (LAYER_NONE). */
static int make_raw(const struct disk *disk, const char *path, uint64_t sectors, enum layer layer)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	int rc = fd < 0 || ftruncate(fd, (off_t)(sectors * FEATURES_SECTOR));
	uint8_t bytes[FEATURES_SECTOR];

	for (uint64_t s = 0; s < sectors && !rc; s++) {
		enum layer here = layer == LAYER_BASE
					  ? (base_has(disk, s) ? LAYER_BASE : LAYER_NONE)
					  : disk_layer(disk, s);

		if (here == LAYER_NONE)
			continue;
		disk->content(bytes, s, here);
		rc = pwrite(fd, bytes, sizeof(bytes), (off_t)(s * FEATURES_SECTOR)) !=
		     sizeof(bytes);
	}
	if (fd >= 0)
		close(fd);
	return rc ? -1 : 0;
}

/* Sets the words that make the backing file known to qemu-img. */
static int make_base(const struct disk *disk, char *words, size_t size)
{
	bool raw = features_has(disk->row, AXIS_BACKING, "raw") ||
		   features_has(disk->row, AXIS_BACKING, "short");
	const char *compress = is_plain(disk->row, AXIS_CONTENT) ? "" : "-c";
	char path[160];
	int rc;

	*words = '\0';
	if (!base_sectors(disk))
		return 0;
	snprintf(path, sizeof(path), "%s/base", disk->folder);
	snprintf(words, size, "-F %s -b %s", raw ? "raw" : "qcow2", path);
	if (raw)
		return make_raw(disk, path, base_sectors(disk), LAYER_BASE);
	snprintf(path, sizeof(path), "%s/base.raw", disk->folder);
	rc = make_raw(disk, path, base_sectors(disk), LAYER_BASE);
	return rc ? rc
		  : -!!run("qemu-img convert %s -f raw -O qcow2 %s %s/base && rm %s", compress,
			   path, disk->folder, path);
}

static void options_of(const struct disk *disk, char *options, size_t size)
{
	const struct features *row = disk->row;
	bool old = !is_plain(row, AXIS_VERSION);

	snprintf(options, size, "cluster_size=%s,compat=%s,refcount_bits=%s%s%s%s%s%s%s%s",
		 value_of(row, AXIS_CLUSTER), old ? "0.10" : "1.1", value_of(row, AXIS_REFCOUNT),
		 is_plain(row, AXIS_SUBCLUSTERS) ? "" : ",extended_l2=on",
		 is_plain(row, AXIS_LAZY) ? "" : ",lazy_refcounts=on",
		 features_has(row, AXIS_CONTENT, "zstd") ? ",compression_type=zstd" : "",
		 *disk->data ? ",data_file=" : "", disk->data,
		 features_has(row, AXIS_DATA_FILE, "raw") ? ",data_file_raw=on" : "",
		 is_plain(row, AXIS_ENCRYPTION)
			 ? ""
			 : ",encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10");
}

struct image_options disk_options(const struct disk *disk)
{
	static struct secret *key;
	bool encrypted = !is_plain(disk->row, AXIS_ENCRYPTION);

	if (encrypted && !key)
		key = secret_create(KEY, strlen(KEY), NULL);
	return (struct image_options){.format = "qcow2",
				      .key_secret = encrypted ? key : NULL,
				      .access = IMAGE_READ_WRITE};
}

/* The image in words of qemu-img. */
static const char *node_of(const struct disk *disk)
{
	static char words[256];

	if (is_plain(disk->row, AXIS_ENCRYPTION))
		snprintf(words, sizeof(words), "-f qcow2 %s", disk->path);
	else
		snprintf(words, sizeof(words),
			 SECRET " --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=%s",
			 disk->path);
	return words;
}

static int create(const struct disk *disk, const char *options, const char *backing)
{
	const char *secret = is_plain(disk->row, AXIS_ENCRYPTION) ? "" : SECRET;
	int rc = -1;

	for (int i = 0; i < CREATE_TRIES && rc; i++)
		rc = run("qemu-img create -q -f qcow2 %s -o %s %s %s %llu %s", secret, options,
			 backing, disk->path, (unsigned long long)disk->sectors * FEATURES_SECTOR,
			 i + 1 < CREATE_TRIES ? "2>/dev/null" : "");
	return rc;
}

/* Writes the image's own layer through the driver. */
static int fill(const struct disk *disk)
{
	const struct image_options options = disk_options(disk);
	uint8_t bytes[AREA * FEATURES_SECTOR];
	struct error err = ERROR_INIT;
	struct image *image;
	int rc = image_open(disk->path, &options, &image, &err);

	if (rc) {
		printf("# %s\n", err.text);
		return -1;
	}
	for (uint64_t first = 0; first < disk->sectors && !rc; first += AREA) {
		uint64_t count = disk->sectors - first < AREA ? disk->sectors - first : AREA;

		if (!top_has(first))
			continue;
		for (uint64_t i = 0; i < count; i++)
			disk->content(bytes + i * FEATURES_SECTOR, first + i, LAYER_TOP);
		rc = image_write(image, bytes, first * FEATURES_SECTOR, count * FEATURES_SECTOR);
	}
	image_close(image);
	return rc ? -1 : 0;
}

/* Says that the refcounts may be wrong, and sees to it that they are. */
static int make_dirty(const struct disk *disk)
{
	int fd = open(disk->path, O_RDWR);
	size_t cluster = (size_t)atoi(value_of(disk->row, AXIS_CLUSTER));
	uint8_t *zeroes = calloc(1, cluster), word[8], *bits = &word[7];
	bool done = fd >= 0 && pread(fd, word, 8, QCOW2_AT_INCOMPATIBLE) == 8;

	*bits |= QCOW2_INCOMPATIBLE_DIRTY;
	done = done && pwrite(fd, word, 8, QCOW2_AT_INCOMPATIBLE) == 8 &&
	       pread(fd, word, 8, QCOW2_AT_REFTABLE) == 8 &&
	       pread(fd, word, 8, (off_t)load_be64(word)) == 8 &&
	       pwrite(fd, zeroes, cluster, (off_t)load_be64(word)) == (ssize_t)cluster;
	free(zeroes);
	if (fd >= 0)
		close(fd);
	return done ? 0 : -1;
}

static bool is_dirty(const struct disk *disk)
{
	int fd = open(disk->path, O_RDONLY);
	uint8_t head[QCOW2_HEADER_V3] = {0};
	bool dirty = fd >= 0 && pread(fd, head, sizeof(head), 0) > 0 && head[7] >= 3 &&
		     head[QCOW2_AT_INCOMPATIBLE + 7] & QCOW2_INCOMPATIBLE_DIRTY;

	if (fd >= 0)
		close(fd);
	return dirty;
}

int disk_ask_qemu(const struct disk *disk)
{
	return run("qemu-img check -q %s %s >%s/said 2>&1", is_dirty(disk) ? "-r all" : "",
		   node_of(disk), disk->folder);
}

int64_t disk_corruptions(struct image *image)
{
	struct qcow2 *q = image->state;
	struct qcow2_check check;
	int rc = qcow2_check(q, q->header.incompatible & QCOW2_INCOMPATIBLE_DIRTY, &check);

	return rc ? rc : (int64_t)check.corruptions;
}

int disk_make(struct disk *disk)
{
	char options[512], backing[256], raw[160];
	int rc;

	if (run("rm -f %s/*", disk->folder))
		return -1;
	snprintf(disk->path, sizeof(disk->path), "%s/disk", disk->folder);
	*disk->data = '\0';
	if (!is_plain(disk->row, AXIS_DATA_FILE))
		snprintf(disk->data, sizeof(disk->data), "%s/disk.data", disk->folder);
	options_of(disk, options, sizeof(options));
	rc = make_base(disk, backing, sizeof(backing));
	if (rc == 0 && is_plain(disk->row, AXIS_CONTENT)) {
		rc = create(disk, options, backing);
		rc = rc ? rc : fill(disk);
	} else if (rc == 0) {
		snprintf(raw, sizeof(raw), "%s/raw", disk->folder);
		rc = make_raw(disk, raw, disk->sectors, LAYER_NONE);
		/* -B is convert's word for the backing file. */
		for (char *b = backing; (b = strstr(b, "-b "));)
			b[1] = 'B';
		rc = rc ? rc
			: run("qemu-img convert -c -f raw -O qcow2 -o %s %s %s %s && rm %s",
			      options, backing, raw, disk->path, raw);
	}
	if (rc == 0 && !is_plain(disk->row, AXIS_SNAPSHOT))
		rc = run("qemu-img snapshot -c before %s",
			 is_plain(disk->row, AXIS_ENCRYPTION) ? disk->path : node_of(disk));
	if (rc == 0 && !is_plain(disk->row, AXIS_LAZY))
		rc = make_dirty(disk);
	return rc ? -1 : 0;
}
