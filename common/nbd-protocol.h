/* SPDX-License-Identifier: MIT */
/*
 * The NBD protocol as bytes: constants, wire layouts, names, the error map, and pure functions
 * that build and parse messages (buffer, length, out). No I/O, no allocation, no state; all of it
 * may meet hostile bytes. Numbers are those of the NBD protocol document; extended headers are
 * those of its extension branch.
 */
#ifndef HAWSER_COMMON_NBD_PROTOCOL_H
#define HAWSER_COMMON_NBD_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bytes.h"

#define NBD_MAGIC                  UINT64_C(0x4e42444d41474943)
#define NBD_OPTION_MAGIC           UINT64_C(0x49484156454f5054) /* IHAVEOPT */
#define NBD_OLDSTYLE_MAGIC         UINT64_C(0x0000420281861253)
#define NBD_OPTION_REPLY_MAGIC     UINT64_C(0x0003e889045565a9)
#define NBD_REQUEST_MAGIC          UINT32_C(0x25609513)
#define NBD_SIMPLE_REPLY_MAGIC     UINT32_C(0x67446698)
#define NBD_STRUCTURED_REPLY_MAGIC UINT32_C(0x668e33ef)
#define NBD_EXTENDED_REQUEST_MAGIC UINT32_C(0x21e41c71)
#define NBD_EXTENDED_REPLY_MAGIC   UINT32_C(0x6e8a278c)

#define NBD_DEFAULT_PORT           "10809"

enum {
	NBD_STRING_MAX = 4096, /* names, descriptions, messages, queries (S6) */
	NBD_SECTOR = 512,
};
/* What both sides may assume without negotiation (S32). */
#define NBD_DEFAULT_PAYLOAD_MAX UINT32_C(33554432)

/* Handshake flags (server) and client flags share their bits. */
enum {
	NBD_FLAG_FIXED_NEWSTYLE = 1 << 0,
	NBD_FLAG_NO_ZEROES = 1 << 1,
};

enum nbd_option {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_STARTTLS = 5,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED_REPLY = 8,
	NBD_OPT_LIST_META_CONTEXT = 9,
	NBD_OPT_SET_META_CONTEXT = 10,
	NBD_OPT_EXTENDED_HEADERS = 11,
};

#define NBD_REP_ERROR(n) (UINT32_C(0x80000000) + (n))
enum nbd_option_reply {
	NBD_REP_ACK = 1,
	NBD_REP_SERVER = 2,
	NBD_REP_INFO = 3,
	NBD_REP_META_CONTEXT = 4,
};
#define NBD_REP_ERR_UNSUP           NBD_REP_ERROR(1)
#define NBD_REP_ERR_POLICY          NBD_REP_ERROR(2)
#define NBD_REP_ERR_INVALID         NBD_REP_ERROR(3)
#define NBD_REP_ERR_PLATFORM        NBD_REP_ERROR(4)
#define NBD_REP_ERR_TLS_REQD        NBD_REP_ERROR(5)
#define NBD_REP_ERR_UNKNOWN         NBD_REP_ERROR(6)
#define NBD_REP_ERR_SHUTDOWN        NBD_REP_ERROR(7)
#define NBD_REP_ERR_BLOCK_SIZE_REQD NBD_REP_ERROR(8)
#define NBD_REP_ERR_TOO_BIG         NBD_REP_ERROR(9)
#define NBD_REP_ERR_EXT_HEADER_REQD NBD_REP_ERROR(10)

enum nbd_info {
	NBD_INFO_EXPORT = 0,
	NBD_INFO_NAME = 1,
	NBD_INFO_DESCRIPTION = 2,
	NBD_INFO_BLOCK_SIZE = 3,
};

/* Transmission flags. */
enum {
	NBD_FLAG_HAS_FLAGS = 1 << 0,
	NBD_FLAG_READ_ONLY = 1 << 1,
	NBD_FLAG_SEND_FLUSH = 1 << 2,
	NBD_FLAG_SEND_FUA = 1 << 3,
	NBD_FLAG_ROTATIONAL = 1 << 4,
	NBD_FLAG_SEND_TRIM = 1 << 5,
	NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
	NBD_FLAG_SEND_DF = 1 << 7,
	NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
	NBD_FLAG_SEND_RESIZE = 1 << 9,
	NBD_FLAG_SEND_CACHE = 1 << 10,
	NBD_FLAG_SEND_FAST_ZERO = 1 << 11,
	NBD_FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12,
};

enum nbd_command {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_CACHE = 5,
	NBD_CMD_WRITE_ZEROES = 6,
	NBD_CMD_BLOCK_STATUS = 7,
	NBD_CMD_RESIZE = 8,
};

enum {
	NBD_CMD_FLAG_FUA = 1 << 0,
	NBD_CMD_FLAG_NO_HOLE = 1 << 1,
	NBD_CMD_FLAG_DF = 1 << 2,
	NBD_CMD_FLAG_REQ_ONE = 1 << 3,
	NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
	NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5,
};

enum {
	NBD_REPLY_FLAG_DONE = 1 << 0,
};
enum nbd_chunk_type {
	NBD_REPLY_NONE = 0,
	NBD_REPLY_OFFSET_DATA = 1,
	NBD_REPLY_OFFSET_HOLE = 2,
	NBD_REPLY_BLOCK_STATUS = 5,
	NBD_REPLY_BLOCK_STATUS_EXT = 6,
	NBD_REPLY_ERROR = 0x8001,
	NBD_REPLY_ERROR_OFFSET = 0x8002,
};

/* Error numbers on the wire; the only ones that may be sent (S69). */
enum nbd_errno {
	NBD_SUCCESS = 0,
	NBD_EPERM = 1,
	NBD_EIO = 5,
	NBD_ENOMEM = 12,
	NBD_EINVAL = 22,
	NBD_ENOSPC = 28,
	NBD_EOVERFLOW = 75,
	NBD_ENOTSUP = 95,
	NBD_ESHUTDOWN = 108,
};

/* Metadata contexts. The last one is a prefix of names. */
#define NBD_CONTEXT_ALLOCATION       "base:allocation"
#define NBD_CONTEXT_ALLOCATION_DEPTH "qemu:allocation-depth"
#define NBD_CONTEXT_DIRTY_BITMAP     "qemu:dirty-bitmap:"

/* Status of a dirty bitmap. */
enum { NBD_STATE_DIRTY = 1 << 0 };

/* base:allocation status bits. */
enum {
	NBD_STATE_HOLE = 1 << 0,
	NBD_STATE_ZERO = 1 << 1,
};

/* ---- Layouts, in wire (big-endian) order ---- */

struct nbd_greeting_wire {
	uint64_t magic;
	uint64_t option_magic;
	uint16_t flags;
} __attribute__((packed));

struct nbd_option_wire {
	uint64_t magic;
	uint32_t option;
	uint32_t length;
} __attribute__((packed));

struct nbd_option_reply_wire {
	uint64_t magic;
	uint32_t option;
	uint32_t type;
	uint32_t length;
} __attribute__((packed));

struct nbd_request_wire {
	uint32_t magic;
	uint16_t flags;
	uint16_t type;
	uint64_t cookie;
	uint64_t offset;
	uint32_t length;
} __attribute__((packed));

struct nbd_extended_request_wire {
	uint32_t magic;
	uint16_t flags;
	uint16_t type;
	uint64_t cookie;
	uint64_t offset;
	uint64_t length;
} __attribute__((packed));

struct nbd_simple_reply_wire {
	uint32_t magic;
	uint32_t error;
	uint64_t cookie;
} __attribute__((packed));

struct nbd_chunk_wire {
	uint32_t magic;
	uint16_t flags;
	uint16_t type;
	uint64_t cookie;
	uint32_t length;
} __attribute__((packed));

struct nbd_extended_chunk_wire {
	uint32_t magic;
	uint16_t flags;
	uint16_t type;
	uint64_t cookie;
	uint64_t offset;
	uint64_t length;
} __attribute__((packed));

/* ---- Parsed forms ---- */

struct nbd_request {
	uint16_t flags;
	uint16_t type;
	uint64_t cookie;
	uint64_t offset;
	uint64_t length;
};

/* A request of either header form at the start of buffer; its size is nbd_request_size().
 * Returns false when the magic is not the form's. */
bool nbd_request_parse(const void *buffer, bool extended, struct nbd_request *request);
static inline size_t nbd_request_size(bool extended)
{
	return extended ? sizeof(struct nbd_extended_request_wire)
			: sizeof(struct nbd_request_wire);
}

/* ---- Option payloads ---- */

/* A counted string inside somebody's buffer: not terminated, not owned. */
struct nbd_string {
	const char *text;
	uint32_t length;
};

/* Is it UTF-8 without NUL and at most NBD_STRING_MAX bytes (S6)? */
bool nbd_string_valid(struct nbd_string string);
bool nbd_string_equals(struct nbd_string string, const char *text);

/* INFO and GO: u32 name length, name, u16 n, n x u16. */
struct nbd_info_request {
	struct nbd_string name;
	uint16_t count;
	const uint8_t *types; /* count big-endian u16, at any alignment */
};
/* False when the lengths do not fit the payload exactly (S19). */
bool nbd_info_request_parse(const void *payload, uint32_t length, struct nbd_info_request *out);
bool nbd_info_requested(const struct nbd_info_request *request, enum nbd_info type);

/* LIST_META and SET_META: u32 name length, name, u32 n, n x (u32 length, query). */
struct nbd_meta_request {
	struct nbd_string name;
	uint32_t count;
	const uint8_t *queries; /* already checked to hold count queries, up to end */
	const uint8_t *end;
};
/* False when any length runs past the payload or bytes are left over (S39). */
bool nbd_meta_request_parse(const void *payload, uint32_t length, struct nbd_meta_request *out);
/* Takes the next query; false after the last. cursor starts at request->queries. */
bool nbd_meta_query_next(const struct nbd_meta_request *request, const uint8_t **cursor,
			 struct nbd_string *query);

/* ---- Building headers; each returns the bytes written ---- */

size_t nbd_option_build(void *at, uint32_t option, uint32_t length);
size_t nbd_option_reply_build(void *at, uint32_t option, uint32_t type, uint32_t length);
size_t nbd_request_build(void *at, bool extended, const struct nbd_request *request);
size_t nbd_simple_reply_build(void *at, uint64_t cookie, uint32_t error);
size_t nbd_chunk_build(void *at, bool extended, uint16_t flags, uint16_t type, uint64_t cookie,
		       uint64_t offset, uint64_t length);
static inline size_t nbd_chunk_size(bool extended)
{
	return extended ? sizeof(struct nbd_extended_chunk_wire) : sizeof(struct nbd_chunk_wire);
}

/* ---- Names and numbers ---- */

/* Wire number for a host errno (positive); anything unknown is EIO's or EINVAL's (S69). */
uint32_t nbd_errno_from_host(int host);
/* Host errno for a wire number; unknown ones are EINVAL (C30). */
int nbd_errno_to_host(uint32_t wire);

/* "NBD_OPT_GO"; never NULL: "unknown". Constant strings. */
const char *nbd_option_name(uint32_t option);
const char *nbd_reply_name(uint32_t type);
const char *nbd_command_name(uint16_t command);
/* The words of `qemu-nbd -L` and `hawser info`, bit by bit; NULL for a bit without a word. */
const char *nbd_flag_word(unsigned int bit);
enum { NBD_FLAG_WORD_ORDER = 12 };
/* Bits in the order in which they are shown. */
extern const uint8_t nbd_flag_word_order[NBD_FLAG_WORD_ORDER];

#endif
