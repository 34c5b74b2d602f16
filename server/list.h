/* SPDX-License-Identifier: MIT */
/* hawserd -L: shows what another server exports, as `qemu-nbd -L` does. Main thread. */
#ifndef HAWSER_SERVER_LIST_H
#define HAWSER_SERVER_LIST_H

#include <stdio.h>

#include "common/client-handshake.h"
#include "options.h"

/* Writes to out only when everything was learnt. Chooses no export, so it uses no client up. */
int list_exports(const struct options *options, FILE *out, struct error *err);

/* Pure but for the stream: the text for what was learnt. */
void list_write(FILE *out, const struct nbd_export_list *list);

#endif
