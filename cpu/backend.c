#include "cpu/device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#if defined(SC_CPU_X86)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "cpu/memory.h"

/* alloc keeps the size in front of the memory; 64 bytes keep it aligned. */
#define ALLOC_HEADER 64u

static enum sc_status cpu_alloc(struct sc_backend *be, size_t bytes, void **ret_mem,
                                struct sc_err *err)
{
    void *mem = NULL;
    enum sc_status st;
    (void)be;
    if (bytes == 0 || bytes > SIZE_MAX / 4)
        return sc_fail(err, SC_EINVAL, "cpu alloc: %zu bytes", bytes);
    st = sc_cpu_memory_take(bytes + ALLOC_HEADER, "cpu alloc", &mem, err);
    if (st != SC_OK)
        return st;
    *(size_t *)mem = bytes + ALLOC_HEADER;
    *ret_mem = (uint8_t *)mem + ALLOC_HEADER;
    return SC_OK;
}

static void cpu_free(struct sc_backend *be, void *mem)
{
    (void)be;
    if (mem != NULL) {
        void *base = (uint8_t *)mem - ALLOC_HEADER;
        sc_cpu_memory_give(base, *(size_t *)base);
    }
}

static enum sc_status cpu_transfer(struct sc_backend *be, void *dst, const void *src, size_t bytes,
                                   struct sc_err *err)
{
    (void)be;
    if (bytes != 0 && (dst == NULL || src == NULL))
        return sc_fail(err, SC_EINVAL, "cpu transfer: %zu bytes from or to NULL", bytes);
    if (bytes != 0)
        memmove(dst, src, bytes);
    return SC_OK;
}

static enum sc_status cpu_sync(struct sc_backend *be, struct sc_err *err)
{
    (void)be;
    (void)err;
    return SC_OK; /* every call returns when its work is done */
}

static void cpu_describe(struct sc_backend *be, char *buf, size_t bytes)
{
    struct sc_cpu_device *dev = sc_cpu_device(be);
    uint32_t n = sc_cpu_threads_count(dev->threads);
    if (bytes != 0)
        snprintf(buf, bytes, "cpu %s, %u thread%s", sc_cpu_isa_name(dev->isa), n,
                 n == 1 ? "" : "s");
}

static void cpu_close(struct sc_backend *be)
{
    struct sc_cpu_device *dev = sc_cpu_device(be);
    if (dev == NULL)
        return;
    sc_cpu_threads_close(dev->threads);
    sc_cpu_memory_give(dev->scratch, dev->scratch_bytes);
    sc_cpu_memory_give(dev->rounded, SC_CPU_ROUNDED_BYTES);
    sc_cpu_memory_give(dev->parts, SC_CPU_PARTS_BYTES);
    free(dev);
}

static const struct sc_backend_ops cpu_ops = {
    .name = "cpu",
    .close = cpu_close,
    .describe = cpu_describe,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .matrix_open = sc_cpu_matrix_open,
    .matrix_close = sc_cpu_matrix_close,
    .matrix_error = sc_cpu_matrix_error,
    .matrix_is_finite = sc_cpu_matrix_is_finite,
    .matrix_bytes = sc_cpu_matrix_bytes,
    .embedding_open = sc_cpu_embedding_open,
    .embedding_close = sc_cpu_embedding_close,
    .kv_page_bytes = sc_cpu_kv_page_bytes,
    .kv_open = sc_cpu_kv_open,
    .kv_close = sc_cpu_kv_close,
    .upload = cpu_transfer,
    .download = cpu_transfer,
    .sync = cpu_sync,
    .kv_read = sc_cpu_kv_read,
    .kv_write = sc_cpu_kv_write,
    .kv_pack = sc_cpu_kv_pack,
    .kv_unpack = sc_cpu_kv_unpack,
    .kv_copy = sc_cpu_kv_copy,
    .embed = sc_cpu_embed,
    .norm = sc_cpu_norm,
    .matmul = sc_cpu_matmul,
    .rope_angles = sc_cpu_rope_angles,
    .qkv = sc_cpu_qkv,
    .attention = sc_cpu_attention,
    .swiglu = sc_cpu_swiglu,
    .gather_rows = sc_cpu_gather_rows,
    .row_max = sc_cpu_row_max,
    .draw = sc_cpu_draw,
    .distances = sc_cpu_distances,
    .cluster = sc_cpu_cluster,
    .merge = sc_cpu_merge,
};

const char *sc_cpu_isa_name(enum sc_cpu_isa isa)
{
    static const char *const names[SC_CPU_ISA_COUNT] = {"plain", "avx2", "avx512", "avx512bf16",
                                                        "amx"};
    return (unsigned)isa < SC_CPU_ISA_COUNT ? names[isa] : "unknown";
}

#if defined(SC_CPU_X86)
/* The matrix unit, and the kernel's leave to use its registers, which a process has to ask for. All
 * processors that have it look bytes up as well. */
static bool amx_usable(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    uint32_t a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return false;
    const uint32_t bf16 = 1u << 22, tile = 1u << 24, int8 = 1u << 25, all = bf16 | tile | int8;
    return (d & all) == all && __builtin_cpu_supports("avx512vbmi") &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#endif

/* Intel's cores multiply f32 at least as fast as they take bf16 dot products; AMD's take these
 * twice as fast (docs/results/cpu-kernels.md). */
static bool slow_dot(void)
{
#if defined(SC_CPU_X86)
    return __builtin_cpu_is("intel");
#else
    return false;
#endif
}

/* int8 pages are widened with it. */
static bool has_vbmi(void)
{
#if defined(SC_CPU_X86)
    return __builtin_cpu_supports("avx512vbmi");
#else
    return false;
#endif
}

static bool has_vnni(void)
{
#if defined(SC_CPU_X86)
    return __builtin_cpu_supports("avx512vnni");
#else
    return false;
#endif
}

/* One more whenever the bits of an entry change, so that entries which a store keeps from before
 * are not taken for today's. */
#define REVISION 2u

/* AVX2 and AVX512 give the same bits. */
static uint32_t arithmetic_of(const struct sc_cpu_device *dev)
{
    static const uint32_t of[SC_CPU_ISA_COUNT] = {1, 2, 2, 3, 4};
    return REVISION << 16 | (of[dev->isa] + (dev->i8 ? 8u : 0));
}

enum sc_cpu_isa sc_cpu_isa_best(void)
{
#if defined(SC_CPU_X86)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx2 && avx512 && !__builtin_cpu_supports("avx512bf16"))
        return SC_CPU_ISA_AVX512;
    if (avx2 && avx512)
        return amx_usable() ? SC_CPU_ISA_AMX : SC_CPU_ISA_AVX512BF16;
    if (avx2)
        return SC_CPU_ISA_AVX2;
#endif
    return SC_CPU_ISA_PLAIN;
}

static void choose_kernels(struct sc_cpu_device *dev)
{
#if defined(SC_CPU_X86)
    if (dev->isa == SC_CPU_ISA_AVX2) {
        dev->kernels = *sc_cpu_kernels_avx2();
        return;
    }
    if (dev->isa >= SC_CPU_ISA_AVX512) {
        dev->kernels = *sc_cpu_kernels_avx512();
        if (dev->isa == SC_CPU_ISA_AVX512BF16) {
            sc_cpu_kernels_avx512bf16(&dev->kernels);
            sc_cpu_kernels_avx512pack(&dev->kernels);
        }
        if (dev->isa == SC_CPU_ISA_AVX512BF16 && has_vbmi())
            sc_cpu_kernels_avx512vbmi(&dev->kernels);
        if (dev->isa == SC_CPU_ISA_AMX) {
            sc_cpu_kernels_amx(&dev->kernels);
            sc_cpu_kernels_amxfew(&dev->kernels);
        }
        if (has_vnni())
            sc_cpu_kernels_avx512vnni(&dev->kernels);
        if (dev->isa == SC_CPU_ISA_AMX && has_vnni())
            sc_cpu_kernels_amxint8(&dev->kernels);
        return;
    }
#endif
    dev->kernels = *sc_cpu_kernels_plain();
}

static enum sc_status check_opts(const struct sc_backend_opts *opts, enum sc_cpu_isa isa,
                                 struct sc_err *err)
{
    if (opts->n_threads == 0 || opts->n_threads > SC_CPU_THREADS_MAX)
        return sc_fail(err, SC_EINVAL, "cpu threads: %u, allowed 1 to %u", opts->n_threads,
                       SC_CPU_THREADS_MAX);
    if ((unsigned)isa >= SC_CPU_ISA_COUNT || isa > sc_cpu_isa_best())
        return sc_fail(err, SC_ENOTSUP, "cpu instruction set %s: this machine or build has %s",
                       sc_cpu_isa_name(isa), sc_cpu_isa_name(sc_cpu_isa_best()));
    return SC_OK;
}

enum sc_status sc_cpu_backend_open_isa(const struct sc_backend_opts *opts, enum sc_cpu_isa isa,
                                       struct sc_backend **ret_be, struct sc_err *err)
{
    struct sc_cpu_device *dev;
    void *mem = NULL;
    enum sc_status st = check_opts(opts, isa, err);

    if (st != SC_OK)
        return st;
    dev = calloc(1, sizeof(*dev));
    if (dev == NULL)
        return sc_fail(err, SC_ENOMEM, "cpu backend: %zu bytes", sizeof(*dev));
    dev->base.ops = &cpu_ops;
    dev->isa = isa;
    dev->i8 = opts->math == SC_MATH_INT8;
    dev->base.arithmetic = arithmetic_of(dev);
    choose_kernels(dev);
    dev->packs = dev->kernels.unpack != NULL && !opts->plain_weights;
    for (uint32_t n = 1; n <= SC_CHUNK_MAX; n++)
        dev->log_count[n] = logf((float)n);
    st = sc_cpu_memory_take(opts->n_threads * sizeof(struct sc_cpu_scratch), "cpu scratch", &mem,
                            err);
    if (st != SC_OK)
        goto fail;
    dev->scratch = mem;
    dev->scratch_bytes = opts->n_threads * sizeof(struct sc_cpu_scratch);
    if (dev->kernels.round_rows != NULL || dev->i8) {
        st = sc_cpu_memory_take(SC_CPU_ROUNDED_BYTES, "cpu rounded activations", &mem, err);
        if (st != SC_OK)
            goto fail;
        dev->rounded = mem;
    }
    st = sc_cpu_memory_take(SC_CPU_PARTS_BYTES, "cpu attention parts", &mem, err);
    if (st != SC_OK)
        goto fail;
    dev->parts = mem;
    st = sc_cpu_threads_open(opts, &dev->threads, err);
    if (st != SC_OK)
        goto fail;
    *ret_be = &dev->base;
    return SC_OK;

fail:
    cpu_close(&dev->base);
    return st;
}

enum sc_status sc_cpu_backend_open(const struct sc_backend_opts *opts, struct sc_backend **ret_be,
                                   struct sc_err *err)
{
    struct sc_backend_opts chosen = *opts;
    enum sc_cpu_isa isa = sc_cpu_isa_best();
    bool rounds = isa >= SC_CPU_ISA_AVX512BF16;

    if (opts->math == SC_MATH_BF16 && !rounds)
        return sc_fail(err, SC_ENOTSUP, "math bf16: this machine or build has %s, which lacks it",
                       sc_cpu_isa_name(isa));
    if (rounds && opts->math != SC_MATH_BF16 &&
        (opts->math == SC_MATH_F32 || (isa == SC_CPU_ISA_AVX512BF16 && slow_dot())))
        isa = SC_CPU_ISA_AVX512;
    if (opts->math == SC_MATH_AUTO && has_vnni() && isa >= SC_CPU_ISA_AVX512)
        chosen.math = SC_MATH_INT8;
    return sc_cpu_backend_open_isa(&chosen, isa, ret_be, err);
}
