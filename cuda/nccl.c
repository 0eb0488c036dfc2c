#include "cuda/nccl.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if __has_include(<nccl.h>) && !defined(SC_CUDA_NO_NCCL)
#include <nccl.h>

#define VERSION_MIN   21400
#define SPINS_A_LOOK  64u /* queries of the stream between looks at NCCL and the clock */
#define SPINS_A_YIELD 4096u

_Static_assert(sizeof(ncclUniqueId) == SC_GROUP_ID_BYTES, "an id travels as bytes");

struct sc_nccl {
    void *lib;
    ncclComm_t comm; /* NULL: not joined */
    bool lost;       /* it was joined, and failed */
    uint32_t rank;
    uint64_t timeout_ms;
    const _Atomic uint32_t *aborted;

    ncclResult_t (*get_version)(int *version);
    ncclResult_t (*get_unique_id)(ncclUniqueId *id);
    ncclResult_t (*comm_init)(ncclComm_t *comm, int n_ranks, ncclUniqueId id, int rank,
                              ncclConfig_t *config);
    ncclResult_t (*async_error)(ncclComm_t comm, ncclResult_t *error);
    ncclResult_t (*comm_abort)(ncclComm_t comm);
    ncclResult_t (*all_reduce)(const void *from, void *to, size_t n, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream);
    const char *(*error_string)(ncclResult_t rc);
};

static uint64_t now_ms(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

static enum sc_status find_functions(struct sc_nccl *n, struct sc_err *err)
{
    const struct {
        const char *name;
        void *to;
    } wanted[] = {
        {"ncclGetVersion", &n->get_version},       {"ncclGetUniqueId", &n->get_unique_id},
        {"ncclCommInitRankConfig", &n->comm_init}, {"ncclCommGetAsyncError", &n->async_error},
        {"ncclCommAbort", &n->comm_abort},         {"ncclAllReduce", &n->all_reduce},
        {"ncclGetErrorString", &n->error_string},
    };
    for (size_t i = 0; i < SC_ARRAY_LEN(wanted); i++) {
        void *f = dlsym(n->lib, wanted[i].name);
        if (f == NULL)
            return sc_fail(err, SC_ENOTSUP, "NCCL: the library has no %s", wanted[i].name);
        memcpy(wanted[i].to, &f, sizeof(f)); /* ISO C has no cast from data to function pointers */
    }
    return SC_OK;
}

enum sc_status sc_nccl_open(const char *library, struct sc_nccl **ret_nccl, struct sc_err *err)
{
    struct sc_nccl *n = calloc(1, sizeof(*n));
    int version = 0;

    if (n == NULL)
        return sc_fail(err, SC_ENOMEM, "NCCL: out of memory");
    if (library == NULL)
        library = getenv("SC_NCCL_LIBRARY");
    n->lib = dlopen(library != NULL ? library : "libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    enum sc_status st =
        n->lib != NULL ? find_functions(n, err) : sc_fail(err, SC_ENOTSUP, "NCCL: %s", dlerror());
    if (st == SC_OK && (n->get_version(&version) != ncclSuccess || version < VERSION_MIN))
        st = sc_fail(err, SC_ENOTSUP, "NCCL: version %d, at least %d is needed", version,
                     VERSION_MIN);
    if (st != SC_OK) {
        sc_nccl_close(n);
        return st;
    }
    *ret_nccl = n;
    return SC_OK;
}

void sc_nccl_close(struct sc_nccl *n)
{
    if (n == NULL)
        return;
    sc_nccl_leave(n);
    if (n->lib != NULL)
        (void)dlclose(n->lib);
    free(n);
}

bool sc_nccl_joined(const struct sc_nccl *n)
{
    return n != NULL && n->comm != NULL;
}

/* Also for a communicator whose peers hang: abort is the one call that never waits for them. */
void sc_nccl_leave(struct sc_nccl *n)
{
    if (n->comm != NULL)
        (void)n->comm_abort(n->comm);
    n->comm = NULL;
    n->lost = false;
}

static enum sc_status lose(struct sc_nccl *n, struct sc_err *err, enum sc_status st,
                           const char *what, const char *why)
{
    sc_nccl_leave(n);
    n->lost = true;
    return sc_fail(err, st, "NCCL: rank %u: %s: %s; the group was aborted", n->rank, what, why);
}

/* What NCCL, the other ranks and the clock say. SC_EFULL: nothing yet, go on. */
static enum sc_status look(struct sc_nccl *n, const char *what, uint64_t deadline,
                           struct sc_err *err)
{
    ncclResult_t state = ncclSuccess, rc = n->async_error(n->comm, &state);
    char why[64];

    if (rc == ncclSuccess)
        rc = state;
    if (rc != ncclSuccess && rc != ncclInProgress)
        return lose(n, err, SC_EPEER, what, n->error_string(rc));
    if (n->aborted != NULL && atomic_load_explicit(n->aborted, memory_order_acquire) != 0)
        return lose(n, err, SC_EPEER, what, "another rank failed");
    if (now_ms() >= deadline) {
        (void)snprintf(why, sizeof(why), "no progress in %llu ms",
                       (unsigned long long)n->timeout_ms);
        return lose(n, err, SC_ETIMEDOUT, what, why);
    }
    return rc == ncclSuccess ? SC_OK : SC_EFULL;
}

static enum sc_status settle(struct sc_nccl *n, const char *what, struct sc_err *err)
{
    uint64_t deadline = now_ms() + n->timeout_ms;
    enum sc_status st;
    while ((st = look(n, what, deadline, err)) == SC_EFULL)
        (void)nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    return st;
}

enum sc_status sc_nccl_id(struct sc_nccl *n, uint8_t ret_id[SC_GROUP_ID_BYTES], struct sc_err *err)
{
    ncclUniqueId id;
    ncclResult_t rc = n->get_unique_id(&id);
    if (rc != ncclSuccess)
        return sc_fail(err, SC_EDEVICE, "NCCL id: %s", n->error_string(rc));
    memcpy(ret_id, &id, sizeof(id));
    return SC_OK;
}

enum sc_status sc_nccl_join(struct sc_nccl *n, const struct sc_group_args *args, struct sc_err *err)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;

    sc_nccl_leave(n);
    n->rank = args->rank;
    n->timeout_ms = args->timeout_ms;
    n->aborted = args->aborted;
    config.blocking = 0;
    memcpy(&id, args->id, sizeof(id));
    ncclResult_t rc = n->comm_init(&n->comm, (int)args->n_ranks, id, (int)args->rank, &config);
    if ((rc != ncclSuccess && rc != ncclInProgress) || n->comm == NULL)
        return lose(n, err, SC_EDEVICE, "joining", n->error_string(rc));
    return settle(n, "joining", err);
}

static enum sc_status check_joined(const struct sc_nccl *n, struct sc_err *err)
{
    if (n->comm != NULL)
        return SC_OK;
    return sc_fail(err, SC_EPEER, "NCCL: rank %u %s", n->rank,
                   n->lost ? "was aborted" : "has not joined");
}

enum sc_status sc_nccl_sum(struct sc_nccl *n, enum sc_dtype dtype, void *data, size_t count,
                           cudaStream_t stream, struct sc_err *err)
{
    enum sc_status st = check_joined(n, err);
    if (st != SC_OK)
        return st;
    if (dtype != SC_DTYPE_F32 && dtype != SC_DTYPE_BF16 && dtype != SC_DTYPE_I32)
        return sc_fail(err, SC_ENOTSUP, "NCCL: sum of %s, must be f32, bf16 or i32",
                       sc_dtype_name(dtype));
    const ncclDataType_t type = dtype == SC_DTYPE_I32    ? ncclInt32
                                : dtype == SC_DTYPE_BF16 ? ncclBfloat16
                                                         : ncclFloat32;
    ncclResult_t rc = n->all_reduce(data, data, count, type, ncclSum, n->comm, stream);
    if (rc == ncclInProgress)
        return settle(n, "all-reduce", err);
    return rc == ncclSuccess ? SC_OK : lose(n, err, SC_EPEER, "all-reduce", n->error_string(rc));
}

enum sc_status sc_nccl_wait(struct sc_nccl *n, cudaError_t (*query)(void *ctx), void *ctx,
                            struct sc_err *err)
{
    uint64_t deadline = now_ms() + n->timeout_ms;
    enum sc_status st = check_joined(n, err);

    for (uint32_t spins = 1; st == SC_OK; spins++) {
        cudaError_t rc = query(ctx);
        if (rc == cudaSuccess)
            return SC_OK;
        if (rc != cudaErrorNotReady)
            return sc_fail(err, SC_EDEVICE, "device: %s", cudaGetErrorString(rc));
        if (spins % SPINS_A_LOOK == 0)
            st = look(n, "waiting for the device", deadline, err);
        if (st == SC_EFULL)
            st = SC_OK;
        if (spins > SPINS_A_YIELD)
            (void)sched_yield();
    }
    return st;
}

#else /* without nccl.h at build time */

enum sc_status sc_nccl_open(const char *library, struct sc_nccl **ret_nccl, struct sc_err *err)
{
    (void)library;
    (void)ret_nccl;
    return sc_fail(err, SC_ENOTSUP, "NCCL: this build had no nccl.h");
}

void sc_nccl_close(struct sc_nccl *n)
{
    (void)n;
}

enum sc_status sc_nccl_id(struct sc_nccl *n, uint8_t ret_id[SC_GROUP_ID_BYTES], struct sc_err *err)
{
    (void)n;
    (void)ret_id;
    return sc_fail(err, SC_ENOTSUP, "NCCL: not built");
}

enum sc_status sc_nccl_join(struct sc_nccl *n, const struct sc_group_args *args, struct sc_err *err)
{
    (void)n;
    (void)args;
    return sc_fail(err, SC_ENOTSUP, "NCCL: not built");
}

void sc_nccl_leave(struct sc_nccl *n)
{
    (void)n;
}

bool sc_nccl_joined(const struct sc_nccl *n)
{
    (void)n;
    return false;
}

enum sc_status sc_nccl_sum(struct sc_nccl *n, enum sc_dtype dtype, void *data, size_t count,
                           cudaStream_t stream, struct sc_err *err)
{
    (void)n;
    (void)dtype;
    (void)data;
    (void)count;
    (void)stream;
    return sc_fail(err, SC_ENOTSUP, "NCCL: not built");
}

enum sc_status sc_nccl_wait(struct sc_nccl *n, cudaError_t (*query)(void *ctx), void *ctx,
                            struct sc_err *err)
{
    (void)n;
    (void)query;
    (void)ctx;
    return sc_fail(err, SC_ENOTSUP, "NCCL: not built");
}

#endif
