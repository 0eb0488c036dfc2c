/* cuda/panel.cuh - how operands of Hopper's matrix instructions lie in shared memory, and how the
 * instructions are told: in panels of 64 bf16 a row, 128 bytes, whose 16-byte chunks are permuted
 * by XOR with the row's number modulo 8; panels are aligned to 1024 bytes.
 */
#ifndef SC_CUDA_PANEL_CUH
#define SC_CUDA_PANEL_CUH

#include <stdint.h>

#define PANEL_DIMS 64

/* Byte offset of a 16-byte chunk in panels of n_rows rows. */
__device__ __forceinline__ uint32_t panel_at(int n_rows, int row, int chunk)
{
    return (uint32_t)((chunk / 8 * n_rows + row) * 128 + ((chunk % 8) ^ (row & 7)) * 16);
}

/* How the instructions find a matrix: leading is the distance of panels (where the long side of
 * the panel is not summed over), stride that of groups of eight rows. */
__device__ __forceinline__ uint64_t matrix_at(uint32_t shared, uint32_t leading, uint32_t stride)
{
    return (uint64_t)((shared & 0x3ffff) >> 4) | (uint64_t)(leading >> 4) << 16 |
           (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}

/* The matrix so many bytes behind: the upper half stays, and no address reaches the next field. */
__device__ __forceinline__ uint64_t matrix_behind(uint64_t matrix, uint32_t bytes)
{
    return (matrix & ~(uint64_t)UINT32_MAX) | ((uint32_t)matrix + (bytes >> 4));
}

#endif
