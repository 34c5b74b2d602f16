/* SPDX-License-Identifier: MIT */
/*
 * --auto-read-only: an image is open for writing only while a client is there that may write. A
 * client that asks for the export (INFO, GO, EXPORT_NAME) makes it writable; when that fails it is
 * told that the export is read-only, and when it cannot even be read safely, it is refused. When
 * the last writing client has left everything is flushed, and the image is open for reading; when
 * the last of all has left, others may write it.
 *
 * Opening, flushing and locking can block, so a thread of its own does it, one change at a time.
 * The functions below are for the main loop; a client that has to wait asks again when told.
 */
#ifndef HAWSER_SERVER_ACCESS_H
#define HAWSER_SERVER_ACCESS_H

#include "common/error.h"
#include "export.h"
#include "handshake.h"

struct access;

/* wake_fd: an eventfd that is written when a change has ended: then call access_go_on(). NULL: out
 * of memory. */
struct access *access_new(struct export *export, int wake_fd);
/* Ends the thread when its work at hand has ended; the image stays as it is then. */
void access_stop(struct access *access);
/* No client, thread or epoch uses the export any more. */
void access_free(struct access *access);

enum access_answer { ACCESS_GIVEN, ACCESS_WAIT, ACCESS_REFUSED };

/*
 * A client wants to know the export, or to use it: gives it a right, which it has until
 * access_detach(). ACCESS_WAIT: ask again when access_go_on() says so. ACCESS_REFUSED: err says
 * why.
 */
enum access_answer access_attach(struct access *access, struct handshake *handshake,
				 struct error *err);
/* The client has gone. */
void access_detach(struct access *access, struct handshake *handshake);

/* Takes note of what the thread has done: true when clients that wait shall ask again; afterwards
 * call access_settle(). */
bool access_go_on(struct access *access);
/* Goes back to what the clients that are there need, if no change is under way. waiting: some have
 * still to ask. */
void access_settle(struct access *access, bool waiting);

#endif
