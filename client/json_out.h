/* client/json_out.h - messages as JSON.
 *
 * Fields keep their names in the proto; enums become their lower-case names without the type's
 * prefix (KV_MODE_EXACT is "exact"); bytes become text with U+FFFD for what is not UTF-8, except
 * `labels`, which becomes numbers, and `block_keys` and `parent_key`, which become hex digits;
 * absent optional fields and messages are left out. Threads: pure functions.
 */
#ifndef SC_CLIENT_JSON_OUT_H
#define SC_CLIENT_JSON_OUT_H

#include <jansson.h>
#include <protobuf-c/protobuf-c.h>
#include <stdio.h>

#include "base/status.h"

/* New references; NULL: no memory. */
json_t *sc_json_message(const ProtobufCMessage *message);
json_t *sc_json_text(const char *text, size_t len);
/* A number where jansson can hold it; from 2^63 on, as seeds can be, text. */
json_t *sc_json_u64(uint64_t u);
json_t *sc_json_ids(const int32_t *ids, size_t n);

/* "exact" for a value of an enum field; "" for one that this client does not know. */
#define SC_ENUM_TEXT_BYTES 48
const char *sc_enum_text(const ProtobufCEnumDescriptor *type, int value,
                         char buffer[SC_ENUM_TEXT_BYTES]);

/* One line and a newline; steals the reference. SC_ENOMEM for NULL. */
enum sc_status sc_json_print(FILE *out, json_t *value, struct sc_err *err) SC_MUST_CHECK;

#endif
