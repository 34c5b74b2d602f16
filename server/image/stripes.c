// SPDX-License-Identifier: MIT
/*
 * Locks for ranges of a file.
 */
#include "stripes.h"

/* A stream of readers must not keep the one who wants to be alone waiting for ever. */
void stripes_init(struct stripes *stripes)
{
	pthread_rwlockattr_t attributes;

	pthread_rwlockattr_init(&attributes);
	pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	for (int i = 0; i < STRIPES; i++)
		pthread_rwlock_init(&stripes->lock[i], &attributes);
	pthread_rwlockattr_destroy(&attributes);
}

void stripes_destroy(struct stripes *stripes)
{
	for (int i = 0; i < STRIPES; i++)
		pthread_rwlock_destroy(&stripes->lock[i]);
}

uint64_t stripes_of(uint64_t offset, uint64_t length)
{
	uint64_t first = offset >> STRIPE_SHIFT, last = (offset + length - 1) >> STRIPE_SHIFT;
	uint64_t bits = 0;

	if (last - first >= STRIPES)
		return UINT64_MAX;
	for (uint64_t s = first; s <= last; s++)
		bits |= UINT64_C(1) << s % STRIPES;
	return bits;
}

/* In ascending order, so that two cannot wait for each other. */
void stripes_lock(struct stripes *stripes, uint64_t bits, bool alone)
{
	for (; bits; bits &= bits - 1) {
		pthread_rwlock_t *lock = &stripes->lock[__builtin_ctzll(bits)];

		if (alone)
			pthread_rwlock_wrlock(lock);
		else
			pthread_rwlock_rdlock(lock);
	}
}

bool stripes_try_share(struct stripes *stripes, uint64_t bits)
{
	uint64_t held = 0;

	for (uint64_t left = bits; left; left &= left - 1) {
		uint64_t bit = left & -left;

		if (pthread_rwlock_tryrdlock(&stripes->lock[__builtin_ctzll(bit)])) {
			stripes_unlock(stripes, held);
			return false;
		}
		held |= bit;
	}
	return true;
}

void stripes_unlock(struct stripes *stripes, uint64_t bits)
{
	for (; bits; bits &= bits - 1)
		pthread_rwlock_unlock(&stripes->lock[__builtin_ctzll(bits)]);
}
