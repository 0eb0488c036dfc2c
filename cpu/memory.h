/* cpu/memory.h - zeroed memory for weights, pages and scratch.
 *
 * Pieces from 1 MiB on are 2 MiB-aligned mappings that ask for huge pages (with 4 KiB pages a
 * weight stream loses a quarter of the bandwidth to page walks); smaller ones are 64-byte aligned.
 * In sanitizer builds every piece comes from malloc, so overruns are seen. Threads: any.
 */
#ifndef SC_CPU_MEMORY_H
#define SC_CPU_MEMORY_H

#include "base/status.h"

/* what: for the message, "matrix". bytes > 0. */
enum sc_status sc_cpu_memory_take(size_t bytes, const char *what, void **ret_mem,
                                  struct sc_err *err) SC_MUST_CHECK;
void sc_cpu_memory_give(void *mem, size_t bytes); /* NULL is fine; bytes as taken */

#endif
