/* A stand-in for libnccl.so.2 that does what FAKE_NCCL says: ok, slow, old, no_id, fail_init,
 * hang_init, fail_sum, async, hang_sum. Counts aborts in FAKE_NCCL_ABORTS, so that a test sees that
 * nothing is left joined; FAKE_NCCL_TYPE is the type of the last sum. */
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ncclComm {
    int looks, sums;
};

static int is(const char *mode)
{
    const char *m = getenv("FAKE_NCCL");
    return m != NULL && strcmp(m, mode) == 0;
}

ncclResult_t ncclGetVersion(int *version)
{
    *version = is("old") ? 21000 : 22809;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    memset(id, 7, sizeof(*id));
    return is("no_id") ? ncclSystemError : ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int n_ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    if (n_ranks < 1 || rank < 0 || rank >= n_ranks || id.internal[5] != 7 || config->blocking != 0)
        return ncclInvalidArgument;
    if (is("fail_init"))
        return ncclUnhandledCudaError;
    *comm = calloc(1, sizeof(**comm));
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    comm->looks++;
    *error = ncclSuccess;
    if (is("hang_init") || (is("slow") && comm->looks < 5))
        *error = ncclInProgress;
    if (is("async") && comm->sums > 0)
        *error = ncclRemoteError;
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    char text[16];
    const char *n = getenv("FAKE_NCCL_ABORTS");
    (void)snprintf(text, sizeof(text), "%d", (n != NULL ? atoi(n) : 0) + 1);
    (void)setenv("FAKE_NCCL_ABORTS", text, 1);
    free(comm);
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t n, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    char text[16];
    (void)n;
    (void)stream;
    comm->sums++;
    (void)snprintf(text, sizeof(text), "%d", (int)type);
    (void)setenv("FAKE_NCCL_TYPE", text, 1);
    if (from != to || op != ncclSum)
        return ncclInvalidArgument;
    return is("fail_sum") ? ncclInternalError : ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t rc)
{
    return rc == ncclRemoteError ? "a peer is gone" : "some error";
}
