/* SPDX-License-Identifier: MIT */
/*
 * Host files: the one thin layer through which the engine and the image drivers reach the bytes
 * of the host (regular files and block devices). Everything above deals in struct hostfile, so
 * that tests can record, fail, cut or delay each operation here.
 *
 * All functions return bytes or 0 on success and -errno on failure; none touches errno's meaning
 * for the caller. Any thread; the capability bits are learned at run time and are only hints.
 */
#ifndef HAWSER_SERVER_IMAGE_HOSTFILE_H
#define HAWSER_SERVER_IMAGE_HOSTFILE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "common/error.h"

struct hostfile {
	int fd;
	bool writable;
	bool is_block;         /* a block device, else a regular file */
	uint32_t block_size;   /* zero and discard requests are aligned to it, bytes */
	uint64_t base, length; /* the part of it that is meant, bytes; UINT64_MAX: to its end */
	char *path;            /* as the user gave it, for messages */
	uint64_t identity;     /* the same for all openings that hostfile_reopen() made */
	unsigned int locks_used, locks_unshared; /* as lock_acquire() took them; the opener's */
	struct direct *direct;                   /* not NULL: around the page cache */
	_Atomic(uint8_t *) view; /* all of the file, mapped for reading; NULL: not yet */
	uint64_t view_size;      /* written once, before view */
	pthread_mutex_t view_lock;
	atomic_bool nowait_read;  /* RWF_NOWAIT reads work here */
	atomic_bool nowait_write; /* RWF_NOWAIT writes work here */
	atomic_bool cachestat;    /* cachestat(2) answers for this file */
	bool mincore_tells;       /* mincore(2) tells us the truth */
	atomic_bool zero_range;   /* fallocate(ZERO_RANGE) works here */
	atomic_bool punch_hole;   /* fallocate(PUNCH_HOLE) works here */
};

/*
 * Opens path; -EISDIR and -EINVAL for what is neither a file nor a block device, -EACCES for a
 * block device that is set read-only and should be written. No message: the caller knows what it
 * was for. The file is closed and freed by hostfile_close().
 */
int hostfile_open(const char *path, bool writable, struct hostfile **file);
void hostfile_close(struct hostfile *file);

/*
 * Opens the same file once more, also when it has another name by now, or none: for writing, or
 * only for reading. As hostfile_open(); it is all of the file, and not direct.
 */
int hostfile_reopen(const struct hostfile *file, bool writable, struct hostfile **again);

/*
 * The view of one opening becomes that of another of the same file, at the same address: whoever
 * still uses it sees no change. `from` does without from now on; any thread may use it meanwhile.
 */
void hostfile_adopt_view(struct hostfile *file, struct hostfile *from);

/*
 * From now on all reads and writes go around the page cache; called before any of them. 0, or
 * -EINVAL where the file system has no direct I/O.
 */
int hostfile_use_direct(struct hostfile *file);

/*
 * From now on offset 0 is the byte at base, and nothing behind length bytes is there (UINT64_MAX:
 * as far as the file goes). Called before any other operation.
 */
void hostfile_set_part(struct hostfile *file, uint64_t base, uint64_t length);

/* Do writes of whole pages go to memory first, so that they rarely wait? */
static inline bool hostfile_is_cached(const struct hostfile *file)
{
	return !file->is_block && !file->direct;
}

/* Are both the same file of the host? */
bool hostfile_same(const struct hostfile *one, const struct hostfile *other);

/* Size in bytes now; block devices are asked anew each time. */
int hostfile_size(const struct hostfile *file, uint64_t *size);

/* Has the file fewer bytes allocated than its size promises, so that it must have holes? */
int hostfile_sparse(const struct hostfile *file, bool *sparse);

/*
 * Reads without blocking: bytes (maybe fewer than asked), or -EAGAIN when the bytes are not in
 * memory or this file cannot tell.
 */
ssize_t hostfile_read_nowait(struct hostfile *file, void *buffer, size_t length, uint64_t offset);

/* Reads everything: 0, -ENODATA when the file ended first (the rest of the buffer is zeroed), or
 * another -errno. Blocks. */
int hostfile_read(struct hostfile *file, void *buffer, size_t length, uint64_t offset);

/* Writes everything or fails. 0 or -errno. Blocks as the page cache demands. */
int hostfile_write(struct hostfile *file, const void *buffer, size_t length, uint64_t offset);

/* Writes without blocking: bytes, or -EAGAIN as above. */
ssize_t hostfile_write_nowait(struct hostfile *file, const void *buffer, size_t length,
			      uint64_t offset);

/* Moves bytes from the file into a pipe without copying; see splice(2). Blocks on a miss. */
ssize_t hostfile_splice(struct hostfile *file, uint64_t offset, int pipe_fd, size_t length);

/* What the page cache holds of a range. Does not block. */
enum hostfile_residency { HOSTFILE_UNKNOWN, HOSTFILE_RESIDENT, HOSTFILE_MISSING };
enum hostfile_residency hostfile_residency(struct hostfile *file, uint64_t offset, uint64_t length);

/*
 * The range as memory, for the kernel to copy from, not for us to touch: where the file has been
 * cut the kernel's copy fails, ours would be killed. For ranges that hostfile_residency() has just
 * found in memory; the address may well be behind the end. NULL: not possible here.
 */
const uint8_t *hostfile_view(struct hostfile *file, uint64_t offset, uint64_t length);

enum hostfile_zero {
	HOSTFILE_ZERO_MAY_UNMAP = 1 << 0, /* the range may become a hole */
	HOSTFILE_ZERO_FAST = 1 << 1,      /* -EOPNOTSUPP instead of writing zeroes */
};
/* The range reads as zeroes afterwards. Blocks. */
int hostfile_zero(struct hostfile *file, uint64_t offset, uint64_t length, unsigned int flags);

/* Gives the range back where the host can; its content is then undefined. Never fails for a host
 * that cannot. Blocks. */
int hostfile_discard(struct hostfile *file, uint64_t offset, uint64_t length);

/*
 * The same, so that pages of the range that somebody still refers to, a socket for one, are no
 * longer those of the file: what is written there later does not show in them. False: it cannot be
 * told, or they still are. Blocks.
 */
bool hostfile_detach(struct hostfile *file, uint64_t offset, uint64_t length);

/* fdatasync(2). Blocks. */
int hostfile_sync(struct hostfile *file);

/* Starts reading the range into memory. */
int hostfile_prefetch(struct hostfile *file, uint64_t offset, uint64_t length);

/* How much of the range, from its begin on, is a hole; 0 where the host cannot tell. Cheaper than
 * hostfile_extent(), which looks for the end of data. May block. */
uint64_t hostfile_hole(struct hostfile *file, uint64_t offset, uint64_t length);

/*
 * The run of data or hole at offset: *length bytes from offset on are all data, or all hole.
 * length on entry bounds the answer. Where the host cannot tell all is data. May block.
 */
int hostfile_extent(struct hostfile *file, uint64_t offset, uint64_t *length, bool *hole);

#endif
