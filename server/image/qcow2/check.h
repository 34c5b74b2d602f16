/* SPDX-License-Identifier: MIT */
/* Checking inside: for check.c, which counts, and repair.c, which compares flags and sets right. */
#ifndef HAWSER_SERVER_IMAGE_QCOW2_CHECK_H
#define HAWSER_SERVER_IMAGE_QCOW2_CHECK_H

#include "writer.h"

enum { CHECK_ENTRIES = 64 };

struct counting {
	struct qcow2 *q;
	struct qcow2_check *result;
	uint32_t *counts;  /* references to each host cluster */
	uint64_t clusters; /* of the file */
	uint64_t tables;   /* L2 tables met below one L1 table */
};

/* Sets a refcount, and makes its block where there is none. */
int check_set_refcount(struct counting *counting, uint64_t cluster, uint64_t value);
/* Looks whether COPIED is set only where the refcount is 1; repair clears it elsewhere. */
int check_copied(struct counting *counting, bool repair);

#endif
