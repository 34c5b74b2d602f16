// SPDX-License-Identifier: MIT
/*
 * A shim for qemu-img, whose processor time it multiplies. When qemu-img makes a LUKS image it
 * derives keys for seconds, to find how many rounds take as long as was asked. With this it finds
 * at once that few rounds will do: a thousand, the fewest that it makes.
 */
#include <dlfcn.h>
#include <sys/resource.h>
#include <sys/time.h>

enum { FACTOR = 1000, MICROSECONDS = 1000000 };

static void stretch(struct timeval *time)
{
	long long all = ((long long)time->tv_sec * MICROSECONDS + time->tv_usec) * FACTOR;

	time->tv_sec = all / MICROSECONDS;
	time->tv_usec = all % MICROSECONDS;
}

int getrusage(int who, struct rusage *usage)
{
	int (*next)(int, struct rusage *) =
		(int (*)(int, struct rusage *))dlsym(RTLD_NEXT, "getrusage");
	int rc = next ? next(who, usage) : -1;

	if (rc == 0) {
		stretch(&usage->ru_utime);
		stretch(&usage->ru_stime);
	}
	return rc;
}
