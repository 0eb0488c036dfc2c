/* tests/nomem.h - memory that runs out at a chosen allocation. For one file of a test program.
 *
 * Replaces the allocator of the process, where no sanitizer owns it. Threads: any.
 */
#ifndef SC_TESTS_NOMEM_H
#define SC_TESTS_NOMEM_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* While armed, allocation number `refused` of the process gets NULL, and allocated counts all. */
static atomic_bool armed;
static atomic_uint allocated;
static atomic_uint refused = UINT32_MAX;

#if !defined(SC_ASAN) && !defined(SC_TSAN)
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t n, size_t bytes);
extern void *__libc_realloc(void *p, size_t bytes);
extern void *__libc_memalign(size_t align, size_t bytes);

static bool refuse(void)
{
    if (!atomic_load_explicit(&armed, memory_order_relaxed))
        return false;
    if (atomic_fetch_add_explicit(&allocated, 1, memory_order_relaxed) !=
        atomic_load_explicit(&refused, memory_order_relaxed))
        return false;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t bytes)
{
    return refuse() ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    return refuse() ? NULL : __libc_calloc(n, bytes);
}

void *realloc(void *p, size_t bytes)
{
    return refuse() ? NULL : __libc_realloc(p, bytes);
}

void *aligned_alloc(size_t align, size_t bytes)
{
    return refuse() ? NULL : __libc_memalign(align, bytes);
}

int posix_memalign(void **ret, size_t align, size_t bytes)
{
    void *p = refuse() ? NULL : __libc_memalign(align, bytes);
    if (p == NULL)
        return ENOMEM;
    *ret = p;
    return 0;
}
#define CAN_REFUSE true
#else
#define CAN_REFUSE false /* the sanitizer owns malloc */
#endif

#endif
