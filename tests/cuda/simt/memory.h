/* tests/cuda/simt/memory.h - device and pinned host memory. Every piece lies between two pages that
 * nobody may touch, its end at most 255 bytes before the second; the bytes between hold a pattern
 * that is looked at when it is freed. New memory reads as NaN. Threads: under the runtime's lock.
 */
#ifndef SC_SIMT_MEMORY_H
#define SC_SIMT_MEMORY_H

#include <stddef.h>
#include <stdint.h>

namespace simt
{

constexpr size_t MEMORY_BYTES = (size_t)16 << 30; /* of the device */

enum class place { none, device, pinned, registered };

/* NULL: the device has no more. */
void *memory_take(size_t bytes, place where);
/* False: nobody took it. */
bool memory_give(void *mem, place where);
bool memory_register(void *mem, size_t bytes);
size_t memory_free(void);
/* What lies at mem; *ret_left: bytes from there to its end. */
place memory_at(const void *mem, size_t *ret_left);
/* From now on a touch of a forbidden page says what runs. */
void memory_watch(void);

} // namespace simt

#endif
