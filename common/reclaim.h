/* SPDX-License-Identifier: MIT */
/*
 * For processes in the path of a local block device: the kernel may wait for them in order to get
 * memory back, so they must not wait for memory themselves. Main thread, before others exist.
 */
#ifndef HAWSER_COMMON_RECLAIM_H
#define HAWSER_COMMON_RECLAIM_H

/* Locks memory, exempts the process from write-back throttling, keeps the OOM killer away; says
 * (log_info) what the system did not allow. */
void reclaim_prepare_process(void);

#endif
