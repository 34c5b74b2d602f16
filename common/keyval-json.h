/* SPDX-License-Identifier: MIT */
/*
 * Properties as JSON: {"driver": "raw", "file": {"filename": "a"}} is the list that
 * "driver=raw,file.filename=a" is. Reads what users type: bounded, no I/O. One thread.
 */
#ifndef HAWSER_COMMON_KEYVAL_JSON_H
#define HAWSER_COMMON_KEYVAL_JSON_H

#include "keyval.h"

/*
 * Adds the members of the object in text; those inside others get names with dots, items of an
 * array their number as name. true is "on", false "off", null the empty text. 0, or -EINVAL,
 * -ENOMEM with err set; then the list is as far as it came.
 */
int keyval_parse_json(struct keyval *list, const char *text, struct error *err);

#endif
