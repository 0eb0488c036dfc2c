#include "daemon/symbols.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/wire.h"

/* Field numbers of google/protobuf/descriptor.proto. */
enum {
    SET_FILE = 1,
    FILE_NAME = 1,
    FILE_PACKAGE = 2,
    FILE_DEPENDENCY = 3,
    FILE_MESSAGE = 4,
    FILE_ENUM = 5,
    FILE_SERVICE = 6,
    MESSAGE_NAME = 1,
    MESSAGE_NESTED = 3,
    MESSAGE_ENUM = 4,
    ENUM_NAME = 1,
    SERVICE_NAME = 1,
    SERVICE_METHOD = 2,
    METHOD_NAME = 1,
};

#define NAME_BYTES 256
#define NEST_MAX   8

struct file {
    char name[NAME_BYTES];
    struct sc_symbol_file bytes;
};

struct symbol {
    char *name;
    size_t file;
};

struct sc_symbols {
    struct file files[SC_SYMBOL_FILES_MAX];
    size_t n_files;
    struct symbol *symbols;
    size_t n_symbols, cap;
};

static bool take_name(const struct sc_wire_field *f, char name[NAME_BYTES])
{
    if (f->type != 2 || f->len >= NAME_BYTES)
        return false;
    memcpy(name, f->data, f->len);
    name[f->len] = '\0';
    return true;
}

/* The string in field `number` of a message; "" when it has none. */
static bool find_name(const struct sc_wire_field *message, uint32_t number, char name[NAME_BYTES])
{
    struct sc_wire w = sc_wire_init(message->data, message->len);
    struct sc_wire_field f;

    name[0] = '\0';
    while (sc_wire_next(&w, &f)) {
        if (f.number == number && !take_name(&f, name))
            return false;
    }
    return !w.bad;
}

static bool add_symbol(struct sc_symbols *s, size_t file, const char *scope, const char *name,
                       char ret_full[2 * NAME_BYTES])
{
    char *copy;

    (void)snprintf(ret_full, 2 * NAME_BYTES, "%s%s%s", scope, scope[0] != '\0' ? "." : "", name);
    if (s->n_symbols == s->cap) {
        size_t cap = s->cap > 0 ? 2 * s->cap : 128;
        struct symbol *bigger = realloc(s->symbols, cap * sizeof(*bigger));
        if (bigger == NULL)
            return false;
        s->symbols = bigger;
        s->cap = cap;
    }
    copy = strdup(ret_full);
    if (copy == NULL)
        return false;
    s->symbols[s->n_symbols++] = (struct symbol){copy, file};
    return true;
}

/* A message or service: its own name, then those inside it. members: field number of nested things.
 */
static bool add_scope(struct sc_symbols *s, size_t file, const char *scope,
                      const struct sc_wire_field *message, bool is_service, int depth)
{
    char name[NAME_BYTES], full[2 * NAME_BYTES], inner[2 * NAME_BYTES];
    struct sc_wire w = sc_wire_init(message->data, message->len);
    struct sc_wire_field f;
    bool ok = depth < NEST_MAX && find_name(message, MESSAGE_NAME, name) &&
              strlen(scope) + strlen(name) + 2 < sizeof(full) &&
              add_symbol(s, file, scope, name, full);

    while (ok && sc_wire_next(&w, &f)) {
        if (f.type != 2)
            continue;
        if (!is_service && f.number == MESSAGE_NESTED)
            ok = add_scope(s, file, full, &f, false, depth + 1);
        else if (f.number == (is_service ? SERVICE_METHOD : MESSAGE_ENUM))
            ok = find_name(&f, METHOD_NAME, name) && add_symbol(s, file, full, name, inner);
    }
    return ok && !w.bad;
}

static bool add_file(struct sc_symbols *s, const struct sc_wire_field *message)
{
    char package[NAME_BYTES], name[NAME_BYTES], full[2 * NAME_BYTES];
    struct sc_wire w = sc_wire_init(message->data, message->len);
    size_t index = s->n_files;
    struct sc_wire_field f;
    bool ok = index < SC_SYMBOL_FILES_MAX && find_name(message, FILE_PACKAGE, package) &&
              find_name(message, FILE_NAME, s->files[index].name);

    if (!ok)
        return false;
    s->files[index].bytes = (struct sc_symbol_file){message->data, message->len};
    s->n_files++;
    while (ok && sc_wire_next(&w, &f)) {
        if (f.type != 2)
            continue;
        if (f.number == FILE_MESSAGE || f.number == FILE_SERVICE)
            ok = add_scope(s, index, package, &f, f.number == FILE_SERVICE, 0);
        else if (f.number == FILE_ENUM)
            ok = find_name(&f, ENUM_NAME, name) && add_symbol(s, index, package, name, full);
    }
    return ok && !w.bad;
}

enum sc_status sc_symbols_open(const void *set, size_t len, struct sc_symbols **ret_symbols,
                               struct sc_err *err)
{
    struct sc_symbols *s = calloc(1, sizeof(*s));
    struct sc_wire w = sc_wire_init(set, len);
    struct sc_wire_field f;
    bool ok = s != NULL;

    while (ok && sc_wire_next(&w, &f)) {
        if (f.number == SET_FILE && f.type == 2)
            ok = add_file(s, &f);
    }
    if (!ok || w.bad) {
        sc_symbols_close(s);
        return sc_fail(err, SC_EFORMAT, "descriptor set: malformed, or no memory to index it");
    }
    *ret_symbols = s;
    return SC_OK;
}

void sc_symbols_close(struct sc_symbols *s)
{
    if (s == NULL)
        return;
    for (size_t i = 0; i < s->n_symbols; i++)
        free(s->symbols[i].name);
    free(s->symbols);
    free(s);
}

static const struct file *find_file(const struct sc_symbols *s, const char *name)
{
    for (size_t i = 0; i < s->n_files; i++) {
        if (strcmp(s->files[i].name, name) == 0)
            return &s->files[i];
    }
    return NULL;
}

static bool is_listed(const struct sc_symbol_file *list, size_t n, const struct file *file)
{
    for (size_t i = 0; i < n; i++) {
        if (list[i].data == file->bytes.data)
            return true;
    }
    return false;
}

/* The list is its own queue: each file's imports go behind it. At most n_files entries. */
static size_t with_imports(const struct sc_symbols *s, const struct file *first,
                           struct sc_symbol_file ret_files[SC_SYMBOL_FILES_MAX])
{
    size_t n = 0;

    ret_files[n++] = first->bytes;
    for (size_t i = 0; i < n; i++) {
        struct sc_wire w = sc_wire_init(ret_files[i].data, ret_files[i].len);
        struct sc_wire_field f;
        char name[NAME_BYTES];
        while (sc_wire_next(&w, &f)) {
            const struct file *import;
            if (f.number != FILE_DEPENDENCY || !take_name(&f, name))
                continue;
            import = find_file(s, name);
            if (import != NULL && !is_listed(ret_files, n, import))
                ret_files[n++] = import->bytes;
        }
    }
    return n;
}

size_t sc_symbols_by_file(const struct sc_symbols *s, const char *name,
                          struct sc_symbol_file ret_files[SC_SYMBOL_FILES_MAX])
{
    const struct file *file = find_file(s, name);

    return file != NULL ? with_imports(s, file, ret_files) : 0;
}

size_t sc_symbols_by_name(const struct sc_symbols *s, const char *symbol,
                          struct sc_symbol_file ret_files[SC_SYMBOL_FILES_MAX])
{
    for (size_t i = 0; i < s->n_symbols; i++) {
        if (strcmp(s->symbols[i].name, symbol) == 0)
            return with_imports(s, &s->files[s->symbols[i].file], ret_files);
    }
    return 0;
}
