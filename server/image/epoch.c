// SPDX-License-Identifier: MIT
/*
 * Epochs. Each thread has a slot that says at which epoch it entered, 0 when it is outside. Slots
 * are never freed, only handed on when a thread ends.
 */
#include "epoch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct slot {
	_Atomic uint64_t entered; /* 0: outside */
	atomic_bool taken;
	struct slot *next; /* constant once the slot is in the list */
	char padding[40];  /* a cache line of its own */
};

static _Atomic uint64_t now = 1;
static struct slot *_Atomic slots;
static atomic_uint strays; /* threads inside for which there was no memory */
static __thread struct slot *own;
static __thread unsigned int depth;
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void slot_hand_on(void *slot)
{
	atomic_store(&((struct slot *)slot)->taken, false);
}

static void make_key(void)
{
	pthread_key_create(&key, slot_hand_on);
}

static struct slot *slot_find(void)
{
	struct slot *slot;

	for (slot = atomic_load(&slots); slot; slot = slot->next) {
		bool taken = false;

		if (atomic_compare_exchange_strong(&slot->taken, &taken, true))
			return slot;
	}
	slot = aligned_alloc(64, sizeof(*slot));
	if (!slot)
		return NULL;
	atomic_init(&slot->entered, 0);
	atomic_init(&slot->taken, true);
	slot->next = atomic_load(&slots);
	while (!atomic_compare_exchange_weak(&slots, &slot->next, slot))
		;
	return slot;
}

static void slot_acquire(void)
{
	pthread_once(&once, make_key);
	own = slot_find();
	if (own)
		pthread_setspecific(key, own);
}

void epoch_enter(void)
{
	if (depth++)
		return;
	if (!own)
		slot_acquire();
	if (own)
		atomic_store(&own->entered, atomic_load(&now));
	else
		atomic_fetch_add(&strays, 1);
}

void epoch_leave(void)
{
	if (--depth)
		return;
	if (own)
		atomic_store_explicit(&own->entered, 0, memory_order_release);
	else
		atomic_fetch_sub(&strays, 1);
}

uint64_t epoch_stamp(void)
{
	return atomic_fetch_add(&now, 1);
}

bool epoch_passed(uint64_t stamp)
{
	for (struct slot *slot = atomic_load(&slots); slot; slot = slot->next) {
		uint64_t entered = atomic_load(&slot->entered);

		if (entered && entered <= stamp)
			return false;
	}
	return atomic_load(&strays) == 0;
}
