// SPDX-License-Identifier: MIT
/*
 * Recording and replaying. A write is durable only when it had ended before a sync began that has
 * ended; all else may be there or not, sector by sector.
 */
#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SECTOR = 512 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct record *current;
static size_t room;
static struct stat target;
static uint64_t ticks;

/* The linker finds these before the C library's. */
ssize_t pwrite64(int fd, const void *buffer, size_t length, off64_t offset);
int fdatasync(int fd);
int fallocate64(int fd, int mode, off64_t offset, off64_t length);

uint64_t record_tick(void)
{
	return __atomic_add_fetch(&ticks, 1, __ATOMIC_SEQ_CST);
}

static bool is_recorded(int fd)
{
	struct stat status;

	return current && fstat(fd, &status) == 0 && status.st_dev == target.st_dev &&
	       status.st_ino == target.st_ino;
}

static size_t begin(enum record_kind kind, const void *bytes, uint64_t offset, uint64_t length)
{
	struct record_op op = {.kind = kind,
			       .offset = offset,
			       .length = length,
			       .thread = (unsigned long)pthread_self()};
	size_t index;

	if (bytes) {
		op.bytes = malloc(length);
		memcpy(op.bytes, bytes, length);
	}
	pthread_mutex_lock(&lock);
	if (current->count == room) {
		room = room ? room * 2 : 1024;
		current->ops = reallocarray(current->ops, room, sizeof(*current->ops));
	}
	op.begun = record_tick();
	index = current->count++;
	current->ops[index] = op;
	pthread_mutex_unlock(&lock);
	return index;
}

static void end(size_t index, bool done)
{
	pthread_mutex_lock(&lock);
	current->ops[index].ended = done ? record_tick() : 0;
	pthread_mutex_unlock(&lock);
}

ssize_t pwrite64(int fd, const void *buffer, size_t length, off64_t offset)
{
	size_t index = 0;
	bool recorded = is_recorded(fd);
	ssize_t rc;

	if (recorded)
		index = begin(RECORD_WRITE, buffer, (uint64_t)offset, length);
	rc = syscall(SYS_pwrite64, fd, buffer, length, offset);
	if (recorded)
		end(index, rc == (ssize_t)length);
	return rc;
}

int fdatasync(int fd)
{
	size_t index = 0;
	bool recorded = is_recorded(fd);
	int rc;

	if (recorded)
		index = begin(RECORD_SYNC, NULL, 0, 0);
	rc = (int)syscall(SYS_fdatasync, fd);
	if (recorded)
		end(index, rc == 0);
	return rc;
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
	size_t index = 0;
	bool recorded = is_recorded(fd);
	int rc;

	/* Only these two are used; both leave zeroes. */
	if (recorded)
		index = begin(RECORD_PUNCH, NULL, (uint64_t)offset, (uint64_t)length);
	rc = (int)syscall(SYS_fallocate, fd, mode, offset, length);
	if (recorded)
		end(index, rc == 0);
	return rc;
}

void record_start(const char *path)
{
	stat(path, &target);
	room = 0;
	current = calloc(1, sizeof(*current));
}

struct record *record_stop(void)
{
	struct record *record = current;

	current = NULL;
	return record;
}

void record_free(struct record *record)
{
	for (size_t i = 0; i < record->count; i++)
		free(record->ops[i].bytes);
	free(record->ops);
	free(record);
}

void record_flush_ended(void)
{
	unsigned long self = (unsigned long)pthread_self();

	pthread_mutex_lock(&lock);
	for (size_t i = current->count; i--;) {
		struct record_op *op = &current->ops[i];

		if (op->thread == self && op->kind == RECORD_SYNC) {
			op->flush_ends = true;
			break;
		}
	}
	pthread_mutex_unlock(&lock);
}

/* ---- Replay ---- */

void replay_init(struct replay *replay, const struct record *record, const uint8_t *start,
		 size_t start_size, size_t size)
{
	*replay = (struct replay){.record = record,
				  .durable = calloc(1, size),
				  .size = size,
				  .end = start_size,
				  .applied = calloc(record->count + 1, sizeof(bool))};
	memcpy(replay->durable, start, start_size);
}

void replay_clear(struct replay *replay)
{
	free(replay->durable);
	free(replay->applied);
}

/* Applies the part of an operation that lies in [from, to) of the file. */
static void apply(const struct record_op *op, uint8_t *image, uint64_t from, uint64_t to,
		  size_t *end)
{
	if (op->kind == RECORD_WRITE) {
		memcpy(image + from, op->bytes + (from - op->offset), to - from);
		*end = *end > to ? *end : to;
	}
	if (op->kind == RECORD_PUNCH)
		memset(image + from, 0, to - from);
}

/* The latest sync that has ended before tick, by when it began; 0: none. */
static uint64_t last_sync(const struct replay *replay, uint64_t tick)
{
	uint64_t begun = 0;

	for (size_t i = 0; i < replay->record->count; i++) {
		const struct record_op *op = &replay->record->ops[i];

		if (op->begun >= tick)
			break;
		if (op->kind == RECORD_SYNC && op->ended && op->ended < tick &&
		    (op->flush_ends || !replay->plant) && op->begun > begun)
			begun = op->begun;
	}
	return begun;
}

/* Moves what the sync made durable into the durable image, in the order in which it ended. */
static void settle(struct replay *replay, uint64_t sync)
{
	const struct record *record = replay->record;

	for (size_t i = replay->next; i < record->count && record->ops[i].begun < sync; i++) {
		const struct record_op *op = &record->ops[i];

		if (replay->applied[i] || !op->ended || op->ended > sync)
			continue;
		apply(op, replay->durable, op->offset, op->offset + op->length, &replay->end);
		replay->applied[i] = true;
	}
	while (replay->next < record->count && replay->applied[replay->next])
		replay->next++;
}

/* mood: 0 none of it, 1 all, 2 a half of the sectors, 3 a half of the operations. */
static void apply_some(const struct record_op *op, uint8_t *image, int mood, unsigned int *seed,
		       size_t *file_end)
{
	uint64_t end = op->offset + op->length, from = op->offset;

	if (mood == 3 && rand_r(seed) & 4)
		return;
	while (from < end) {
		uint64_t to = (from / SECTOR + 1) * SECTOR;

		to = to < end ? to : end;
		if (mood != 2 || rand_r(seed) & 4)
			apply(op, image, from, to, file_end);
		from = to;
	}
}

size_t replay_cut(struct replay *replay, uint64_t tick, uint8_t *image, unsigned int *seed)
{
	const struct record *record = replay->record;
	int mood = rand_r(seed) / 7 % 4;
	size_t file_end;

	settle(replay, last_sync(replay, tick));
	file_end = replay->end;
	memcpy(image, replay->durable, replay->size);
	for (size_t i = replay->next; i < record->count && record->ops[i].begun < tick; i++)
		if (!replay->applied[i] && mood)
			apply_some(&record->ops[i], image, mood, seed, &file_end);
	return file_end;
}
