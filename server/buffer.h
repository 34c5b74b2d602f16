/* SPDX-License-Identifier: MIT */
/*
 * The buffer pool: page-aligned buffers for jobs, counted against the process's limit. What is idle
 * is kept for reuse up to a reserve; the last worker, and the last engine thread, that end because
 * nothing is asked of them give it back to the system. Any thread.
 */
#ifndef HAWSER_SERVER_BUFFER_H
#define HAWSER_SERVER_BUFFER_H

#include <stdbool.h>
#include <stdint.h>

/*
 * A buffer of at least length bytes; *size is what it counts for. NULL when the process's limit
 * is reached (unless forced: the one that each connection may always have) or memory is short.
 */
uint8_t *buffer_get(uint64_t length, bool forced, uint32_t *size);
void buffer_put(uint8_t *buffer, uint32_t size);

/* Bytes in use now. */
uint64_t buffer_in_use(void);
/* Bytes of the reserve. */
uint64_t buffer_kept(void);
/* Frees the reserve. */
void buffer_trim(void);

#endif
