#include "tests/cuda/simt/memory.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>

#include "tests/cuda/simt/executor.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes)   ((void)0)
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)0)
#endif

namespace simt
{

namespace
{

constexpr size_t PAGE = 4096, ALIGNMENT = 256, PATTERN_BYTES = (size_t)2 << 20;
constexpr uint8_t JUNK = 0xff, EDGE = 0xa5;

struct piece {
    size_t bytes;
    place where;
    uint8_t *map; /* forbidden page, room, forbidden page */
    size_t map_bytes;
};

/* By address. Never freed: a program may end with memory in use. */
std::map<uintptr_t, piece> &pieces(void)
{
    static auto *all = new std::map<uintptr_t, piece>();
    return *all;
}

size_t device_used;

/* Large pieces share pages of junk until they are written: NaN without the time to write it. */
int junk_file(void)
{
    static int fd = -1;
    if (fd >= 0)
        return fd;
    fd = memfd_create("simt junk", MFD_CLOEXEC);
    uint8_t page[PAGE];
    memset(page, JUNK, sizeof(page));
    for (size_t at = 0; fd >= 0 && at < PATTERN_BYTES; at += PAGE) {
        if (pwrite(fd, page, PAGE, (off_t)at) != (ssize_t)PAGE) {
            perror("simt: junk");
            abort();
        }
    }
    return fd;
}

bool fill(uint8_t *room, size_t bytes)
{
    size_t at = 0;
    for (; bytes - at >= PATTERN_BYTES; at += PATTERN_BYTES) {
        if (mmap(room + at, PATTERN_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
                 junk_file(), 0) == MAP_FAILED)
            return false;
    }
    if (at < bytes && mprotect(room + at, bytes - at, PROT_READ | PROT_WRITE) != 0)
        return false;
    memset(room + at, JUNK, bytes - at);
    return true;
}

/* The bytes of the room before and behind a piece. */
template <class F> void edges(uintptr_t at, const piece &p, F f)
{
    uint8_t *begin = p.map + PAGE, *end = p.map + p.map_bytes - PAGE, *mem = (uint8_t *)at;
    f(begin, (size_t)(mem - begin));
    f(mem + p.bytes, (size_t)(end - mem) - p.bytes);
}

void check_edges(uintptr_t at, const piece &p)
{
    edges(at, p, [&](uint8_t *edge, size_t n) {
        ASAN_UNPOISON_MEMORY_REGION(edge, n);
        for (size_t i = 0; i < n; i++)
            if (edge[i] != EDGE)
                fail("%td bytes from the start of a piece of %zu bytes were written",
                     edge + i - (uint8_t *)at, p.bytes);
    });
}

void on_fault(int, siginfo_t *info, void *)
{
    char text[512];
    const uintptr_t at = (uintptr_t)info->si_addr;
    int n = snprintf(text, sizeof(text), "simt: no memory at %p%s\n", info->si_addr, where());
    for (const auto &[from, p] : pieces()) {
        if (at >= (uintptr_t)p.map && at < (uintptr_t)p.map + p.map_bytes)
            n += snprintf(text + n, sizeof(text) - (size_t)n,
                          "simt: %td bytes from the start of a piece of %zu bytes\n",
                          (ptrdiff_t)(at - from), p.bytes);
    }
    if (write(STDERR_FILENO, text, (size_t)n) < 0)
        _exit(3);
    signal(SIGABRT, SIG_DFL);
    abort();
}

} // namespace

void *memory_take(size_t bytes, place where)
{
    const size_t padded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t room = (padded + PAGE - 1) / PAGE * PAGE;
    if (bytes > MEMORY_BYTES || (where == place::device && bytes > memory_free()))
        return NULL;
    void *map =
        mmap(NULL, room + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return NULL;
    const piece p = {bytes, where, (uint8_t *)map, room + 2 * PAGE};
    uint8_t *mem = p.map + PAGE + room - padded;
    if (!fill(p.map + PAGE, room)) {
        munmap(map, p.map_bytes);
        return NULL;
    }
    edges((uintptr_t)mem, p, [](uint8_t *edge, size_t n) {
        memset(edge, EDGE, n);
        ASAN_POISON_MEMORY_REGION(edge, n);
    });
    pieces()[(uintptr_t)mem] = p;
    if (where == place::device)
        device_used += bytes;
    return mem;
}

bool memory_give(void *mem, place where)
{
    const auto found = pieces().find((uintptr_t)mem);
    if (found == pieces().end() || found->second.where != where)
        return false;
    const piece p = found->second;
    if (where != place::registered) {
        check_edges(found->first, p);
        munmap(p.map, p.map_bytes);
    }
    if (where == place::device)
        device_used -= p.bytes;
    pieces().erase(found);
    return true;
}

bool memory_register(void *mem, size_t bytes)
{
    size_t left;
    if (mem == NULL || memory_at(mem, &left) != place::none)
        return false;
    pieces()[(uintptr_t)mem] = {bytes, place::registered, (uint8_t *)mem, 0};
    return true;
}

size_t memory_free(void)
{
    return MEMORY_BYTES - device_used;
}

place memory_at(const void *mem, size_t *ret_left)
{
    const uintptr_t at = (uintptr_t)mem;
    auto above = pieces().upper_bound(at);
    if (above == pieces().begin())
        return place::none;
    --above;
    if (at - above->first >= above->second.bytes)
        return place::none;
    *ret_left = above->second.bytes - (at - above->first);
    return above->second.where;
}

void memory_watch(void)
{
#ifndef __SANITIZE_ADDRESS__
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    (void)sigaction(SIGSEGV, &action, NULL);
    (void)sigaction(SIGBUS, &action, NULL);
#else
    (void)on_fault;
#endif
}

} // namespace simt
