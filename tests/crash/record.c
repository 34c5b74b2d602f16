// SPDX-License-Identifier: MIT
/*
 * Recording and replaying. A write is durable only when it had ended before a sync of its file
 * began that has ended; all else may be there or not, sector by sector.
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
#include <sys/uio.h>
#include <unistd.h>

enum { SECTOR = 512 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct record *current;
static struct stat targets[RECORD_FILES];
static uint64_t ticks;

/* The linker finds these before the C library's. */
ssize_t pwrite64(int fd, const void *buffer, size_t length, off64_t offset);
ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags);
int ftruncate64(int fd, off64_t size);
int fallocate64(int fd, int mode, off64_t offset, off64_t length);
int fdatasync(int fd);

uint64_t record_tick(void)
{
	return __atomic_add_fetch(&ticks, 1, __ATOMIC_SEQ_CST);
}

/* ---- Recording ---- */

enum { NOT_RECORDED = -1 };

static int file_of(int fd)
{
	struct stat status;

	if (!current || fstat(fd, &status))
		return NOT_RECORDED;
	for (int i = 0; i < RECORD_FILES; i++)
		if (targets[i].st_ino && status.st_dev == targets[i].st_dev &&
		    status.st_ino == targets[i].st_ino)
			return i;
	return NOT_RECORDED;
}

/* The operation's place in the record, or NOT_RECORDED. iov: of a write. */
static ssize_t begin(enum record_kind kind, int fd, uint64_t offset, uint64_t length,
		     const struct iovec *iov)
{
	int file = file_of(fd);
	struct record_op op = {.kind = kind,
			       .file = (unsigned int)file,
			       .offset = offset,
			       .length = length,
			       .thread = (unsigned long)pthread_self()};
	ssize_t index;

	if (file == NOT_RECORDED)
		return NOT_RECORDED;
	if (iov) {
		op.bytes = malloc(length + 1);
		for (size_t at = 0; at < length; at += iov++->iov_len)
			memcpy(op.bytes + at, iov->iov_base, iov->iov_len);
	}
	pthread_mutex_lock(&lock);
	if (current->count == current->room) {
		current->room = current->room ? current->room * 2 : 1024;
		current->ops = reallocarray(current->ops, current->room, sizeof(*current->ops));
	}
	op.begun = record_tick();
	index = (ssize_t)current->count++;
	current->ops[index] = op;
	pthread_mutex_unlock(&lock);
	return index;
}

/* rc: as the system call returned; a write may have been short. Keeps errno. */
static ssize_t end(ssize_t index, ssize_t rc)
{
	struct record_op *op;
	int saved = errno;

	if (index == NOT_RECORDED)
		return rc;
	pthread_mutex_lock(&lock);
	op = &current->ops[index];
	op->ended = record_tick();
	if (rc < 0) { /* it did nothing: this system cannot, or would have to wait */
		op->kind = RECORD_NOTHING;
		op->length = 0;
	}
	if (op->kind == RECORD_WRITE && rc >= 0)
		op->length = (uint64_t)rc;
	pthread_mutex_unlock(&lock);
	errno = saved;
	return rc;
}

ssize_t pwrite64(int fd, const void *buffer, size_t length, off64_t offset)
{
	const struct iovec iov = {(void *)(uintptr_t)buffer, length};
	ssize_t index = begin(RECORD_WRITE, fd, (uint64_t)offset, length, &iov);

	return end(index, syscall(SYS_pwrite64, fd, buffer, length, offset));
}

ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
{
	uint64_t length = 0;
	ssize_t index;

	for (int i = 0; i < count; i++)
		length += iov[i].iov_len;
	index = begin(RECORD_WRITE, fd, (uint64_t)offset, length, iov);
	return end(index, syscall(SYS_pwritev2, fd, iov, count, offset, 0, flags));
}

int ftruncate64(int fd, off64_t size)
{
	ssize_t index = begin(RECORD_SIZE, fd, (uint64_t)size, 0, NULL);

	return (int)end(index, syscall(SYS_ftruncate, fd, size));
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
	/* All modes that are used leave zeroes, but for one that only takes space. */
	ssize_t index = mode == FALLOC_FL_KEEP_SIZE
				? NOT_RECORDED
				: begin(RECORD_PUNCH, fd, (uint64_t)offset, (uint64_t)length, NULL);

	return (int)end(index, syscall(SYS_fallocate, fd, mode, offset, length));
}

int fdatasync(int fd)
{
	ssize_t index = begin(RECORD_SYNC, fd, 0, 0, NULL);

	return (int)end(index, syscall(SYS_fdatasync, fd));
}

void record_start(const char *const paths[RECORD_FILES])
{
	for (int i = 0; i < RECORD_FILES; i++)
		if (!*paths[i] || stat(paths[i], &targets[i]))
			targets[i] = (struct stat){0};
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
	struct record_op *first = NULL, *last = NULL;

	pthread_mutex_lock(&lock);
	for (size_t i = current->count; i--;) {
		struct record_op *op = &current->ops[i];

		if (op->thread != self || op->kind != RECORD_SYNC)
			continue;
		if (op->flush_ends)
			break;
		last = last ? last : op;
		first = op;
	}
	if (last) {
		last->flush_ends = true;
		first->flush_begins = true;
	}
	pthread_mutex_unlock(&lock);
}

/* ---- Replay ---- */

/* How far any operation reaches into a file. */
static size_t room_of(const struct record *record, unsigned int file, size_t start_size)
{
	size_t room = start_size;

	for (size_t i = 0; i < record->count; i++) {
		const struct record_op *op = &record->ops[i];

		if (op->file == file && op->kind <= RECORD_SIZE && op->offset + op->length > room)
			room = op->offset + op->length;
	}
	return room;
}

void replay_init(struct replay *replay, const struct record *record, enum plant plant,
		 uint8_t *const start[RECORD_FILES], const size_t start_size[RECORD_FILES])
{
	*replay = (struct replay){.record = record,
				  .plant = plant,
				  .applied = calloc(record->count + 1, sizeof(bool))};
	for (unsigned int i = 0; i < RECORD_FILES; i++) {
		struct replay_file *file = &replay->files[i];

		file->room = room_of(record, i, start_size[i]);
		file->durable = calloc(1, file->room + 1);
		file->cut = malloc(file->room + 1);
		file->end = start_size[i];
		memcpy(file->durable, start[i], start_size[i]);
	}
}

void replay_clear(struct replay *replay)
{
	for (int i = 0; i < RECORD_FILES; i++) {
		free(replay->files[i].durable);
		free(replay->files[i].cut);
	}
	free(replay->applied);
}

/* Applies the part of an operation that lies in [from, to) of the file. */
static void apply(const struct record_op *op, uint8_t *bytes, size_t *end, uint64_t from,
		  uint64_t to)
{
	switch (op->kind) {
	case RECORD_WRITE:
		memcpy(bytes + from, op->bytes + (from - op->offset), to - from);
		*end = *end > to ? *end : to;
		break;
	case RECORD_PUNCH:
		memset(bytes + from, 0, to - from);
		break;
	case RECORD_SIZE:
		if (op->offset < *end)
			memset(bytes + op->offset, 0, *end - op->offset);
		*end = op->offset;
		break;
	case RECORD_SYNC:
	case RECORD_NOTHING:
		break;
	}
}

/* Does the sync do what it says? */
static bool counts(const struct replay *replay, const struct record_op *op)
{
	switch (replay->plant) {
	case PLANT_NONE:
		return true;
	case PLANT_FIRST:
		return !op->flush_begins || op->flush_ends;
	case PLANT_MIDDLE:
		return op->flush_ends;
	case PLANT_LAST:
		return !op->flush_ends;
	case PLANT_DATA:
		return op->file == 0;
	}
	return true;
}

/* The latest sync of a file that has ended before tick, by when it began; 0: none. */
static uint64_t last_sync(const struct replay *replay, unsigned int file, uint64_t tick)
{
	uint64_t begun = 0;

	for (size_t i = 0; i < replay->record->count; i++) {
		const struct record_op *op = &replay->record->ops[i];

		if (op->begun >= tick)
			break;
		if (op->kind == RECORD_SYNC && op->file == file && op->ended && op->ended < tick &&
		    op->begun > begun && counts(replay, op))
			begun = op->begun;
	}
	return begun;
}

/* Moves what these syncs made durable into the durable files. */
static void settle(struct replay *replay, const uint64_t syncs[RECORD_FILES], uint64_t tick)
{
	const struct record *record = replay->record;

	for (size_t i = replay->next; i < record->count && record->ops[i].begun < tick; i++) {
		const struct record_op *op = &record->ops[i];
		struct replay_file *file = &replay->files[op->file];

		if (replay->applied[i] || !op->ended || op->ended > syncs[op->file])
			continue;
		apply(op, file->durable, &file->end, op->offset, op->offset + op->length);
		replay->applied[i] = true;
	}
	while (replay->next < record->count && replay->applied[replay->next])
		replay->next++;
}

/* What becomes of what is not durable. */
enum mood {
	MOOD_NONE,
	MOOD_ALL,
	MOOD_SECTORS,
	MOOD_OPERATIONS,
	MOOD_ONE,
	MOOD_NEWEST,
	MOOD_ALL_BUT_ONE,
	MOODS
};

static void apply_some(const struct record_op *op, struct replay_file *file, enum mood mood,
		       unsigned int *seed)
{
	uint64_t end = op->offset + op->length, from = op->offset;

	if (op->kind == RECORD_SIZE)
		apply(op, file->cut, &file->cut_end, from, end);
	while (from < end) {
		uint64_t to = (from / SECTOR + 1) * SECTOR;

		to = to < end ? to : end;
		if (mood != MOOD_SECTORS || rand_r(seed) & 16)
			apply(op, file->cut, &file->cut_end, from, to);
		from = to;
	}
}

static bool wanted(enum mood mood, bool chosen, unsigned int *seed)
{
	switch (mood) {
	case MOOD_NONE:
		return false;
	case MOOD_OPERATIONS:
		return rand_r(seed) & 16;
	case MOOD_ONE:
	case MOOD_NEWEST:
		return chosen;
	case MOOD_ALL_BUT_ONE:
		return !chosen;
	default:
		return true;
	}
}

void replay_cut(struct replay *replay, uint64_t tick, unsigned int *seed)
{
	const struct record *record = replay->record;
	enum mood mood = (unsigned int)rand_r(seed) / 16 % MOODS;
	uint64_t syncs[RECORD_FILES];
	size_t last, chosen;

	for (unsigned int i = 0; i < RECORD_FILES; i++)
		syncs[i] = last_sync(replay, i, tick);
	settle(replay, syncs, tick);
	for (int i = 0; i < RECORD_FILES; i++) {
		struct replay_file *file = &replay->files[i];

		memcpy(file->cut, file->durable, file->end);
		memset(file->cut + file->end, 0, file->room - file->end);
		file->cut_end = file->end;
	}
	for (last = replay->next; last < record->count && record->ops[last].begun < tick; last++)
		;
	chosen = replay->next + (size_t)rand_r(seed) / 16 % (last - replay->next + 1);
	if (mood == MOOD_NEWEST && last > replay->next)
		chosen = last - 1;
	for (size_t i = replay->next; i < last; i++)
		if (!replay->applied[i] && wanted(mood, i == chosen, seed))
			apply_some(&record->ops[i], &replay->files[record->ops[i].file], mood,
				   seed);
}
