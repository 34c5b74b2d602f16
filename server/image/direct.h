/* SPDX-License-Identifier: MIT */
/*
 * Direct I/O (O_DIRECT): requests of any offset and length over a file that takes only aligned
 * ones. Reads go through an aligned buffer where they must; writes that end inside a block read
 * the block, change it and write it back, kept apart from all other writes to that block. The file
 * never grows: the last block of a file whose size is no multiple of the alignment is written
 * through the page cache.
 *
 * Used by hostfile.c only. Any thread; all functions block.
 */
#ifndef HAWSER_SERVER_IMAGE_DIRECT_H
#define HAWSER_SERVER_IMAGE_DIRECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct direct;

/*
 * For a file opened with O_DIRECT; path is opened once more for its last block when writable.
 * alignment 0: ask the system. 0 or -errno.
 */
int direct_new(int fd, const char *path, bool writable, struct direct **direct);
void direct_free(struct direct *direct);

/* The unit of the file's direct I/O, bytes, a power of two. */
uint32_t direct_alignment(const struct direct *direct);

/* As hostfile_read() and hostfile_write(). */
int direct_read(struct direct *direct, void *buffer, size_t length, uint64_t offset);
int direct_write(struct direct *direct, const void *buffer, size_t length, uint64_t offset);

/* Around a change of whole blocks by other means: nobody changes a part of them meanwhile, who
 * would write back the rest as it was before. */
void direct_hold(struct direct *direct, uint64_t offset, uint64_t length);
void direct_release(struct direct *direct, uint64_t offset, uint64_t length);

#endif
