/* tests/fuzz/fuzz_keys.c - any bytes as a file of API keys: refused with file and line and without
 * a word that could be a key, or keys that are found, each with a valid namespace. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/keys.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first word of each line that is not a comment. */
static void look_up(struct sc_keys *keys, const char *text, size_t size)
{
    for (size_t at = 0; at < size;) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t stop = end != NULL ? (size_t)(end - text) : size, len = 0;
        struct sc_identity who;

        while (at < stop && strchr(" \t\r", text[at]) != NULL && text[at] != '\0')
            at++;
        while (at + len < stop &&
               (text[at + len] == '\0' || strchr(" \t\r", text[at + len]) == NULL))
            len++;
        if (len > 0 && text[at] != '#') {
            SC_ASSERT(sc_keys_find(keys, text + at, len, &who));
            SC_ASSERT(sc_namespace_is_valid(who.ns, strlen(who.ns)));
            SC_ASSERT(!sc_keys_find(keys, text + at, len - 1, &who) || len > SC_KEY_BYTES_MIN);
        }
        at = stop + 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sc_keys *keys = NULL;
    struct sc_err err = SC_ERR_INIT;
    char path[64];
    int fd = memfd_create("keys", MFD_CLOEXEC);

    SC_ASSERT(fd >= 0 && fchmod(fd, 0600) == 0);
    SC_ASSERT(size == 0 || write(fd, data, size) == (ssize_t)size);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (sc_keys_open(path, &keys, &err) == SC_OK) {
        look_up(keys, (const char *)data, size);
        sc_keys_close(keys);
    } else {
        SC_ASSERT(strncmp(err.text, "auth.keys_file: /proc/", 22) == 0 && keys == NULL);
    }
    (void)close(fd);
    return 0;
}
