/* SPDX-License-Identifier: MIT */
/*
 * What a stream of requests must be answered with, after the protocol and not after the server's
 * code. First requests_plan() walks the requests and gives each a cookie of its own; then, when
 * all replies are in, replies_check() reads them strictly. One thread.
 */
#ifndef HAWSER_TESTS_FUZZ_REPLIES_H
#define HAWSER_TESTS_FUZZ_REPLIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/nbd-protocol.h"

enum verdict { VERDICT_PASS, VERDICT_FAIL, VERDICT_ANY };

struct expectation {
	struct nbd_request request;
	enum verdict verdict;
	const uint8_t *payload; /* NULL: none, or it never came whole */
	uint64_t payload_came;  /* bytes of it that are in the stream */
	bool answered;          /* its last reply has come */
	unsigned int contents;  /* chunks with content so far */
	unsigned int statuses;
	uint64_t covered; /* bytes of a READ */
	uint8_t *map;     /* which ones, a byte each */
};

/* The world that the requests are for. */
struct exchange {
	bool structured, extended, contexts, read_only;
	const uint8_t *image; /* what the export held when the requests were sent */
	uint64_t size;

	struct expectation *items;
	size_t count;
	bool killed; /* the server may drop all replies: the stream breaks a MUST */
	bool writes; /* there are requests that change data, so READ may see either state */
};

/* Walks the requests in bytes and rewrites their cookies. */
void requests_plan(struct exchange *exchange, uint8_t *bytes, size_t size);
/* Reads what the server sent, up to its end of the stream. */
void replies_check(struct exchange *exchange, const uint8_t *bytes, size_t size);
/* Compares the image afterwards with what the requests may have made of it. */
void image_check(const struct exchange *exchange, const uint8_t *after);
void exchange_clear(struct exchange *exchange);

#endif
