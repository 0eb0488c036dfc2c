/* bench/heap_log.c - preloaded into a daemon: writes what its heap holds, so that a leak is told
 * from memory that malloc keeps.
 *
 *     SC_HEAP_LOG=FILE LD_PRELOAD=libbench-heap-log.so semanticached ...
 *
 * Four times a second one line: bytes in use, bytes free in the arenas, bytes of the arenas, bytes
 * mapped for large blocks. Blocks that a thread's cache holds count as in use. One thread of its
 * own.
 */
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define INTERVAL_US 250000

static void *watch(void *ctx)
{
    FILE *log = ctx;

    for (;;) {
        struct mallinfo2 m = mallinfo2();
        if (fprintf(log, "%zu %zu %zu %zu\n", m.uordblks + m.hblkhd, m.fordblks, m.arena,
                    m.hblkhd) < 0 ||
            fflush(log) != 0)
            return NULL;
        (void)usleep(INTERVAL_US);
    }
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("SC_HEAP_LOG");
    FILE *log = path != NULL ? fopen(path, "we") : NULL;
    pthread_t thread;

    (void)unsetenv("LD_PRELOAD"); /* children are not meant */
    if (log != NULL && pthread_create(&thread, NULL, watch, log) == 0)
        (void)pthread_detach(thread);
}
