// SPDX-License-Identifier: MIT
/* See reclaim.h. */
#include "reclaim.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "cleanup.h"
#include "log.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57 /* Linux 5.6 */
#endif

static void avoid_oom_killer(void)
{
	static const char never[] = "-1000";
	AUTO_CLOSE int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, never, sizeof(never) - 1) < 0)
		log_info("cannot keep the OOM killer away: %s", strerror(errno));
}

void reclaim_prepare_process(void)
{
	/* As pages are touched: thread stacks and buffers that nobody uses stay unallocated. */
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
		log_info("cannot lock memory: %s", strerror(errno));
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
		log_info("cannot exempt this process from write-back throttling: %s",
			 strerror(errno));
	avoid_oom_killer();
}
