/* cuda/nccl.h - one rank's NCCL communicator. Private to cuda/.
 *
 * The library is opened with dlopen, so that a machine with one GPU needs none. Communicators are
 * non-blocking: the host owns every deadline. join, sum and wait end when the deadline passes, when
 * NCCL reports an error, or when *aborted becomes non-zero (another rank failed); the communicator
 * is then aborted, every later call gives SC_EPEER, and join can be called again with a new id.
 * Threads: one owner.
 */
#ifndef SC_CUDA_NCCL_H
#define SC_CUDA_NCCL_H

#include <cuda_runtime_api.h>
#include <stdatomic.h>

#include "base/backend.h"

struct sc_nccl;

/* library NULL: libnccl.so.2, or what SC_NCCL_LIBRARY names. SC_ENOTSUP: there is none, or it is
 * older than 2.14 (no non-blocking communicators), or this build had no nccl.h. */
enum sc_status sc_nccl_open(const char *library, struct sc_nccl **ret_nccl,
                            struct sc_err *err) SC_MUST_CHECK;
void sc_nccl_close(struct sc_nccl *nccl); /* aborts what is still joined; NULL is fine */

enum sc_status sc_nccl_id(struct sc_nccl *nccl, uint8_t ret_id[SC_GROUP_ID_BYTES],
                          struct sc_err *err) SC_MUST_CHECK;
enum sc_status sc_nccl_join(struct sc_nccl *nccl, const struct sc_group_args *args,
                            struct sc_err *err) SC_MUST_CHECK;
void sc_nccl_leave(struct sc_nccl *nccl);
bool sc_nccl_joined(const struct sc_nccl *nccl);
/* In place, queued on the stream. dtype F32, BF16 or I32. */
enum sc_status sc_nccl_sum(struct sc_nccl *nccl, enum sc_dtype dtype, void *data, size_t n,
                           cudaStream_t stream, struct sc_err *err) SC_MUST_CHECK;
/* Until query says that it is done (cudaSuccess) or failed (not cudaErrorNotReady). */
enum sc_status sc_nccl_wait(struct sc_nccl *nccl, cudaError_t (*query)(void *ctx), void *ctx,
                            struct sc_err *err) SC_MUST_CHECK;

#endif
