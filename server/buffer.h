/* SPDX-License-Identifier: MIT */
/*
 * The buffer pool: page-aligned buffers for jobs, counted against the process's limit. Buffers of
 * a few sizes are kept for reuse; what is idle beyond a small reserve goes back to the system.
 * Any thread.
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
/* Frees the reserve, at exit. */
void buffer_trim(void);

#endif
