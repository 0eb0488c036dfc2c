#include "cpu/memory.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_BYTES   ((size_t)2 << 20)
#define MAPPED_BYTES ((size_t)1 << 20)

static size_t round_up(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

static bool is_mapped(size_t bytes)
{
#if defined(SC_ASAN) || defined(SC_TSAN)
    (void)bytes;
    return false;
#else
    return bytes >= MAPPED_BYTES;
#endif
}

/* Maps more than asked and gives back both ends, so that what stays begins on a huge page. */
static void *map_aligned(size_t bytes)
{
    size_t want = bytes + HUGE_BYTES;
    char *raw = mmap(NULL, want, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *mem;

    if (raw == MAP_FAILED)
        return NULL;
    mem = (char *)round_up((size_t)raw, HUGE_BYTES);
    if (mem != raw)
        munmap(raw, (size_t)(mem - raw));
    if (raw + want != mem + bytes)
        munmap(mem + bytes, (size_t)(raw + want - (mem + bytes)));
    madvise(mem, bytes, MADV_HUGEPAGE); /* only a hint; the kernel may not have them */
    return mem;
}

/* Large blocks come from calloc, which sanitizers map and need not clear: to clear them here costs
 * a sanitizer up to five times their size in shadow, and most of a pool is never used. */
static void *take_cleared(size_t bytes)
{
    void *mem;
    if (bytes >= MAPPED_BYTES) {
        mem = calloc(1, bytes);
        if (mem == NULL || (uintptr_t)mem % 64 == 0)
            return mem;
        free(mem);
    }
    mem = aligned_alloc(64, round_up(bytes, 64));
    if (mem != NULL)
        memset(mem, 0, bytes);
    return mem;
}

enum sc_status sc_cpu_memory_take(size_t bytes, const char *what, void **ret_mem,
                                  struct sc_err *err)
{
    void *mem;
    if (bytes == 0 || bytes > SIZE_MAX / 2)
        return sc_fail(err, SC_EINVAL, "%s: %zu bytes of memory", what, bytes);
    mem = is_mapped(bytes) ? map_aligned(round_up(bytes, HUGE_BYTES)) : take_cleared(bytes);
    if (mem == NULL)
        return sc_fail(err, SC_ENOMEM, "%s: %zu bytes", what, bytes);
    *ret_mem = mem;
    return SC_OK;
}

void sc_cpu_memory_give(void *mem, size_t bytes)
{
    if (mem != NULL && is_mapped(bytes))
        munmap(mem, round_up(bytes, HUGE_BYTES));
    else
        free(mem);
}
