#include "client/json_out.h"

#include "base/utf8.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

json_t *sc_json_text(const char *text, size_t len)
{
    size_t clean_len = 0;
    char *clean = sc_utf8_clean(text, len, &clean_len);
    json_t *value = clean != NULL ? json_stringn(clean, clean_len) : NULL;
    free(clean);
    return value;
}

json_t *sc_json_ids(const int32_t *ids, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n && list != NULL; i++) {
        if (json_array_append_new(list, json_integer(ids[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

/* KvMode's values start with KV_MODE_: the prefix is the type's name in capitals. */
const char *sc_enum_text(const ProtobufCEnumDescriptor *type, int value,
                         char buffer[SC_ENUM_TEXT_BYTES])
{
    const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(type, value);
    size_t prefix = 0, n = 0;
    buffer[0] = '\0';
    if (v == NULL)
        return buffer;
    for (const char *p = type->short_name; *p != '\0'; p++)
        prefix += isupper((unsigned char)*p) && p != type->short_name ? 2 : 1;
    const char *text = strlen(v->name) > prefix ? v->name + prefix + 1 : v->name;
    for (; text[n] != '\0' && n + 1 < SC_ENUM_TEXT_BYTES; n++)
        buffer[n] = (char)tolower((unsigned char)text[n]);
    buffer[n] = '\0';
    return buffer;
}

json_t *sc_json_u64(uint64_t u)
{
    char text[24];
    if (u <= INT64_MAX)
        return json_integer((json_int_t)u);
    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)u);
    return json_string(text);
}

/* The shortest decimal that is this float: 0.05, not 0.0500000007. */
static json_t *json_float(float value)
{
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        (void)snprintf(text, sizeof(text), "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value)
            break;
    }
    return json_real(strtod(text, NULL));
}

static json_t *json_labels(const ProtobufCBinaryData *data)
{
    json_t *list = json_array();
    for (size_t i = 0; i < data->len && list != NULL; i++) {
        if (json_array_append_new(list, json_integer(data->data[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *json_hex(const ProtobufCBinaryData *data)
{
    static const char digits[] = "0123456789abcdef";
    char *text = malloc(2 * data->len + 1);
    if (text == NULL)
        return NULL;
    for (size_t i = 0; i < data->len; i++) {
        text[2 * i] = digits[data->data[i] >> 4];
        text[2 * i + 1] = digits[data->data[i] & 15];
    }
    json_t *value = json_stringn(text, 2 * data->len);
    free(text);
    return value;
}

static json_t *json_bytes(const ProtobufCFieldDescriptor *f, const ProtobufCBinaryData *data)
{
    if (strcmp(f->name, "labels") == 0)
        return json_labels(data);
    if (strcmp(f->name, "block_keys") == 0 || strcmp(f->name, "parent_key") == 0)
        return json_hex(data);
    return sc_json_text((const char *)data->data, data->len);
}

static json_t *json_scalar(const ProtobufCFieldDescriptor *f, const void *at)
{
    char name[SC_ENUM_TEXT_BYTES];
    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        return json_integer(*(const int32_t *)at);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return json_integer(*(const int64_t *)at);
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        return json_integer(*(const uint32_t *)at);
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return sc_json_u64(*(const uint64_t *)at);
    case PROTOBUF_C_TYPE_FLOAT:
        return json_float(*(const float *)at);
    case PROTOBUF_C_TYPE_DOUBLE:
        return json_real(*(const double *)at);
    case PROTOBUF_C_TYPE_BOOL:
        return json_boolean(*(const protobuf_c_boolean *)at);
    case PROTOBUF_C_TYPE_ENUM:
        return json_string(
            sc_enum_text((const ProtobufCEnumDescriptor *)f->descriptor, *(const int *)at, name));
    case PROTOBUF_C_TYPE_STRING: {
        const char *text = *(char *const *)at;
        return text != NULL ? sc_json_text(text, strlen(text)) : json_string("");
    }
    case PROTOBUF_C_TYPE_BYTES:
        return json_bytes(f, at);
    case PROTOBUF_C_TYPE_MESSAGE:
        return sc_json_message(*(ProtobufCMessage *const *)at);
    }
    return NULL;
}

static size_t item_bytes(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_ENUM:
        return 4;
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    default:
        return 8;
    }
}

static json_t *json_repeated(const ProtobufCFieldDescriptor *f, const void *items, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n && list != NULL; i++) {
        json_t *item = json_scalar(f, (const char *)items + i * item_bytes(f->type));
        if (json_array_append_new(list, item) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static bool is_present(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *f)
{
    const void *quantifier = (const char *)message + f->quantifier_offset;
    if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0)
        return *(const uint32_t *)quantifier == f->id;
    if (f->type == PROTOBUF_C_TYPE_MESSAGE && f->label != PROTOBUF_C_LABEL_REPEATED)
        return *(ProtobufCMessage *const *)((const char *)message + f->offset) != NULL;
    return true;
}

json_t *sc_json_message(const ProtobufCMessage *message)
{
    json_t *object = json_object();
    for (unsigned i = 0; i < message->descriptor->n_fields && object != NULL; i++) {
        const ProtobufCFieldDescriptor *f = &message->descriptor->fields[i];
        const void *at = (const char *)message + f->offset;
        json_t *value;
        if (!is_present(message, f))
            continue;
        if (f->label == PROTOBUF_C_LABEL_REPEATED)
            value = json_repeated(f, *(void *const *)at,
                                  *(const size_t *)((const char *)message + f->quantifier_offset));
        else
            value = json_scalar(f, at);
        if (json_object_set_new(object, f->name, value) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

enum sc_status sc_json_print(FILE *out, json_t *value, struct sc_err *err)
{
    if (value == NULL)
        return sc_fail(err, SC_ENOMEM, "JSON: no memory");
    int bad = json_dumpf(value, out, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(value);
    if (bad != 0 || fputc('\n', out) == EOF || fflush(out) != 0)
        return sc_fail(err, SC_EIO, "output: %s", strerror(errno));
    return SC_OK;
}
