/* cpu/kernels_avx512vbmi.c - attention over int8 pages for machines that look bytes up in a table
 * of 128: a line takes five instructions instead of twenty to widen. The bits are those of
 * kernels_avx512bf16.c. */
#include "cpu/kernels.h"
#define SC_SIMD_AVX512
#include "cpu/simd.h"

#include "cpu/bf16_impl.h"

#include "cpu/attention_dot_impl.h"
#define SETTLE_PAGES(i8) ((i8) ? SC_CPU_STRETCH_PAGES : 1u)
#define SC_FEW_BY_PAGE
#include "cpu/attention_bf16_impl.h"
#include "cpu/attention_few_impl.h"

void sc_cpu_kernels_avx512vbmi(struct sc_cpu_kernels *kernels)
{
    kernels->attention_i8 = attend_spans;
    kernels->combine_i8 = state_combine;
}
