/* SPDX-License-Identifier: MIT */
/*
 * The table of trace events. Includers define
 *
 *   TRACE_EVENT(name, format, parameters, values)
 *   TRACE_EVENT_SHOWN(name, format, parameters, values, shown)
 *
 * and trace.h makes a function trace_NAME() with these parameters of each row. values are their
 * names: what static probes get, so that it costs nothing to make. shown is what the text shows
 * where that is not the same: words for numbers, and cookies in the byte order of the wire. Texts
 * are "key=value" words: tests and scripts take them apart, so old ones stay as they are. At most
 * 64 events.
 */
/* clang-format off */

/* ---- Connections ---- */
TRACE_EVENT(connection_accepted, "client=%u socket=%d",
	    (unsigned int client, int fd), (client, fd))
TRACE_EVENT(tls_begin, "client=%u", (unsigned int client), (client))
TRACE_EVENT(tls_end, "client=%u result=%d", (unsigned int client, int result), (client, result))
TRACE_EVENT_SHOWN(handshake_option, "client=%u option=%s length=%u",
		  (unsigned int client, uint32_t option, uint32_t length),
		  (client, option, length),
		  (client, nbd_option_name(option), length))
TRACE_EVENT_SHOWN(handshake_reply, "client=%u option=%s reply=%s length=%u",
		  (unsigned int client, uint32_t option, uint32_t type, uint32_t length),
		  (client, option, type, length),
		  (client, nbd_option_name(option), nbd_reply_name(type), length))
TRACE_EVENT(handshake_done, "client=%u export=%s structured=%d extended=%d contexts=0x%" PRIx64,
	    (unsigned int client, const char *name, int structured, int extended,
	     uint64_t contexts),
	    (client, name, structured, extended, contexts))
TRACE_EVENT(connection_waits, "client=%u", (unsigned int client), (client))
TRACE_EVENT(connection_served, "client=%u", (unsigned int client), (client))
TRACE_EVENT(connection_parked, "client=%u stalled=%d", (unsigned int client, int stalled),
	    (client, stalled))
TRACE_EVENT(connection_ended, "client=%u reason=%s", (unsigned int client, const char *reason),
	    (client, reason))
TRACE_EVENT(connection_closed, "client=%u", (unsigned int client), (client))
TRACE_EVENT(server_draining, "clients=%u", (unsigned int clients), (clients))

/* ---- Requests ---- */
TRACE_EVENT(socket_received, "client=%u bytes=%zd", (unsigned int client, ssize_t bytes),
	    (client, bytes))
TRACE_EVENT_SHOWN(request_received,
		  "client=%u cookie=0x%" PRIx64 " command=%s flags=0x%x offset=%" PRIu64
		  " length=%" PRIu64,
		  (unsigned int client, uint64_t cookie, uint16_t type, uint16_t flags,
		   uint64_t offset, uint64_t length),
		  (client, cookie, type, flags, offset, length),
		  (client, be64toh(cookie), nbd_command_name(type), flags, offset, length))
TRACE_EVENT_SHOWN(request_throttled, "client=%u cookie=0x%" PRIx64 " wait_ns=%" PRIu64,
		  (unsigned int client, uint64_t cookie, uint64_t wait), (client, cookie, wait),
		  (client, be64toh(cookie), wait))
TRACE_EVENT_SHOWN(payload_received, "client=%u cookie=0x%" PRIx64 " error=%d",
		  (unsigned int client, uint64_t cookie, int error), (client, cookie, error),
		  (client, be64toh(cookie), error))
TRACE_EVENT_SHOWN(job_queued,
		  "client=%u cookie=0x%" PRIx64 " offset=%" PRIu64 " length=%" PRIu64 " jobs=%u",
		  (unsigned int client, uint64_t cookie, uint64_t offset, uint64_t length,
		   unsigned int jobs),
		  (client, cookie, offset, length, jobs),
		  (client, be64toh(cookie), offset, length, jobs))
TRACE_EVENT_SHOWN(job_started, "client=%u cookie=0x%" PRIx64 " offset=%" PRIu64,
		  (unsigned int client, uint64_t cookie, uint64_t offset), (client, cookie, offset),
		  (client, be64toh(cookie), offset))
TRACE_EVENT_SHOWN(job_ended, "client=%u cookie=0x%" PRIx64 " offset=%" PRIu64 " result=%d",
		  (unsigned int client, uint64_t cookie, uint64_t offset, int result),
		  (client, cookie, offset, result),
		  (client, be64toh(cookie), offset, result))
TRACE_EVENT_SHOWN(reply_queued, "client=%u cookie=0x%" PRIx64 " command=%s error=%d",
		  (unsigned int client, uint64_t cookie, uint16_t type, int error),
		  (client, cookie, type, error),
		  (client, be64toh(cookie), nbd_command_name(type), error))
TRACE_EVENT(replies_sent, "client=%u bytes=%zu", (unsigned int client, size_t bytes),
	    (client, bytes))

/* ---- Exports and images ---- */
TRACE_EVENT_SHOWN(map_answered,
		  "offset=%" PRIu64 " length=%" PRIu64 " result=%d kind=%s run=%" PRIu64,
		  (uint64_t offset, uint64_t length, int result, int kind, uint64_t run),
		  (offset, length, result, kind, run),
		  (offset, length, result, extent_name(result, kind), run))
TRACE_EVENT(flush_begin, "export=%s", (const char *name), (name))
TRACE_EVENT(flush_end, "export=%s result=%d", (const char *name, int result), (name, result))
TRACE_EVENT(image_opened, "path=%s format=%s size=%" PRIu64 " read_only=%d",
	    (const char *path, const char *format, uint64_t size, int read_only),
	    (path, format, size, read_only))
TRACE_EVENT(image_degraded, "path=%s result=%d", (const char *path, int result), (path, result))
TRACE_EVENT(image_closed, "path=%s", (const char *path), (path))
TRACE_EVENT(image_locked, "path=%s used=0x%x unshared=0x%x result=%d",
	    (const char *path, unsigned int used, unsigned int unshared, int result),
	    (path, used, unshared, result))

/* ---- Host files ---- */
TRACE_EVENT(host_read_begin, "file=%d offset=%" PRIu64 " length=%zu",
	    (int file, uint64_t offset, size_t length), (file, offset, length))
TRACE_EVENT(host_read_end, "file=%d offset=%" PRIu64 " result=%d",
	    (int file, uint64_t offset, int result), (file, offset, result))
TRACE_EVENT(host_read_cached, "file=%d offset=%" PRIu64 " length=%zu result=%zd",
	    (int file, uint64_t offset, size_t length, ssize_t result),
	    (file, offset, length, result))
TRACE_EVENT(host_splice, "file=%d offset=%" PRIu64 " length=%zu result=%zd",
	    (int file, uint64_t offset, size_t length, ssize_t result),
	    (file, offset, length, result))
TRACE_EVENT(host_write_begin, "file=%d offset=%" PRIu64 " length=%zu",
	    (int file, uint64_t offset, size_t length), (file, offset, length))
TRACE_EVENT(host_write_end, "file=%d offset=%" PRIu64 " result=%d",
	    (int file, uint64_t offset, int result), (file, offset, result))
TRACE_EVENT(host_zero_begin, "file=%d offset=%" PRIu64 " length=%" PRIu64 " flags=0x%x",
	    (int file, uint64_t offset, uint64_t length, unsigned int flags),
	    (file, offset, length, flags))
TRACE_EVENT(host_zero_end, "file=%d offset=%" PRIu64 " result=%d",
	    (int file, uint64_t offset, int result), (file, offset, result))
TRACE_EVENT(host_discard_begin, "file=%d offset=%" PRIu64 " length=%" PRIu64,
	    (int file, uint64_t offset, uint64_t length), (file, offset, length))
TRACE_EVENT(host_discard_end, "file=%d offset=%" PRIu64 " result=%d",
	    (int file, uint64_t offset, int result), (file, offset, result))
TRACE_EVENT(host_sync_begin, "file=%d", (int file), (file))
TRACE_EVENT(host_sync_end, "file=%d result=%d", (int file, int result), (file, result))
TRACE_EVENT(host_prefetch, "file=%d offset=%" PRIu64 " length=%" PRIu64 " result=%d",
	    (int file, uint64_t offset, uint64_t length, int result),
	    (file, offset, length, result))
TRACE_EVENT(host_extent, "file=%d offset=%" PRIu64 " length=%" PRIu64 " hole=%d result=%d",
	    (int file, uint64_t offset, uint64_t length, int hole, int result),
	    (file, offset, length, hole, result))

/* ---- qcow2 ---- */
TRACE_EVENT(qcow2_prepared, "path=%s result=%d", (const char *path, int result), (path, result))
TRACE_EVENT(qcow2_allocated, "file=%d cluster=%" PRIu64 " count=%" PRIu64,
	    (int file, uint64_t cluster, uint64_t count), (file, cluster, count))
TRACE_EVENT(qcow2_freed, "file=%d cluster=%" PRIu64 " count=%" PRIu64,
	    (int file, uint64_t cluster, uint64_t count), (file, cluster, count))
TRACE_EVENT(qcow2_table_made, "file=%d table=%" PRIu64 " shared=%" PRIu64,
	    (int file, uint64_t table, uint64_t shared), (file, table, shared))
TRACE_EVENT(qcow2_flush_begin, "file=%d slices=%u l1=%zu reftable=%zu freed=%zu",
	    (int file, unsigned int slices, size_t l1, size_t reftable, size_t freed),
	    (file, slices, l1, reftable, freed))
TRACE_EVENT(qcow2_words_written, "file=%d table=%" PRIu64 " words=%zu",
	    (int file, uint64_t table, size_t words), (file, table, words))
TRACE_EVENT(qcow2_flush_end, "file=%d result=%d", (int file, int result), (file, result))
TRACE_EVENT(qcow2_corrupt, "path=%s offset=%" PRIu64, (const char *path, uint64_t offset),
	    (path, offset))

/* clang-format on */
#undef TRACE_EVENT
#undef TRACE_EVENT_SHOWN
