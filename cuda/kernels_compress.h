/* cuda/kernels_compress.h - launchers of the compression kernels: distances, clusters, merge.
 * Private to cuda/; included by compress.c and the kernels.
 *
 * Each puts its work on the stream and returns. Pointers are device memory unless said otherwise;
 * checks are the caller's. The operations are documented in base/backend.h.
 */
#ifndef SC_CUDA_KERNELS_COMPRESS_H
#define SC_CUDA_KERNELS_COMPRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#include "base/dtype.h"
#include "cuda/page.h"

#define SC_CUDA_CHUNK       128u /* SC_CHUNK_MAX */
#define SC_CUDA_PAGE        32u  /* SC_PAGE_ENTRIES */
#define SC_CUDA_CHUNK_PAGES 5u   /* pages that a chunk, or its cores, can touch */
#define SC_CUDA_DIST_SIZES  4u   /* chunks of up to 32, 64, 96 and 128 tokens */

#ifdef __cplusplus
extern "C" {
#endif

/* struct sc_kv_pool as kernels read it; scales of I8: cuda/page.h. */
struct sc_cuda_kv_view {
    uint8_t *mem;
    size_t page_bytes, head_bytes, v_offset, bias_offset;
    uint32_t head_dim;
    enum sc_dtype dtype; /* F32, BF16 or I8 */
};

struct sc_cuda_dist_job {
    uint64_t dist_at; /* of its first plane in dist */
    uint32_t m, slot0, pos0;
    uint32_t mean;                       /* which of mean_key */
    uint32_t pages[SC_CUDA_CHUNK_PAGES]; /* token i: entry (slot0 + i) % 32 of [(slot0 + i) / 32] */
};

struct sc_cuda_dist_launch {
    struct sc_cuda_kv_view kv;
    const struct sc_cuda_dist_job *jobs; /* those of one size together, small sizes first */
    const float *inv_var;                /* [n_jobs, n_kv_heads] in that order; unused by cosine */
    const float *mean_key;               /* [means, n_kv_heads, head_dim]; NULL: zero diagonals */
    const float *inv_freq;               /* [head_dim / 2]; NULL: keys as stored, no mean keys */
    float *turns;                        /* [max_m, head_dim / 2, 2]: filled here; unless NULL:
                                          * neither pre nor mean keys */
    int32_t *dist;
    size_t n_dist;                       /* ints of all planes of all jobs */
    uint32_t n_jobs[SC_CUDA_DIST_SIZES]; /* of each size */
    uint32_t n_planes, n_kv_heads, max_m;
    int32_t cap;
    bool pre; /* keys are turned back before they are compared */
    bool cosine;
};

struct sc_cuda_cluster_job {
    uint64_t dist_at; /* of its first plane in dist */
    uint64_t label_at;
    uint64_t forced[2];
    int64_t tau, alone_above;
    uint32_t m, budget, most_alone;
};

struct sc_cuda_cluster_launch {
    const struct sc_cuda_cluster_job *jobs;
    const int32_t *dist;
    uint8_t *labels, *seeds; /* seeds behind the last cluster become 0 */
    uint32_t *counts;
    uint32_t n_jobs, n_planes, max_m;
    bool scan;
};

struct sc_cuda_merge_job {
    uint64_t label_at;
    uint32_t m, slot0, core_slot0, n_cores;
    uint32_t pages[SC_CUDA_CHUNK_PAGES], core_pages[SC_CUDA_CHUNK_PAGES];
};

enum sc_cuda_pick { SC_CUDA_PICK_MEAN, SC_CUDA_PICK_SEED, SC_CUDA_PICK_LAST };

struct sc_cuda_merge_launch {
    struct sc_cuda_kv_view kv;
    const struct sc_cuda_merge_job *jobs;
    const uint8_t *labels, *seeds;
    const uint32_t *counts;
    const float *bias; /* [SC_CUDA_CHUNK + 1]: of a core of n members */
    uint32_t n_jobs, n_planes, n_kv_heads;
    enum sc_cuda_pick pick;
};

cudaError_t sc_cuda_launch_distances(const struct sc_cuda_dist_launch *a, uint32_t n_sms,
                                     cudaStream_t stream);
/* The diagonals, behind sc_cuda_launch_distances, where there are mean keys. */
cudaError_t sc_cuda_launch_outliers(const struct sc_cuda_dist_launch *a, cudaStream_t stream);
cudaError_t sc_cuda_launch_cluster(const struct sc_cuda_cluster_launch *a, cudaStream_t stream);
cudaError_t sc_cuda_launch_merge(const struct sc_cuda_merge_launch *a, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
