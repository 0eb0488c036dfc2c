/* cpu/kernels_avx2.c - the kernels with AVX2 and FMA; compiled only for x86-64. */
#include "cpu/packed.h"
#define SC_SIMD_AVX2
#include "cpu/simd.h"

#include "cpu/matmul_impl.h"
#include "cpu/int8_c_impl.h"
#include "cpu/packed_impl.h"
#include "cpu/attention_impl.h"
#include "cpu/rows_impl.h"
#include "cpu/draw_impl.h"
#include "cpu/distance_impl.h"
#include "cpu/entry_impl.h"

const struct sc_cpu_kernels *sc_cpu_kernels_avx2(void)
{
    static const struct sc_cpu_kernels kernels = {
        .matmul_f32 = matmul_f32,
        .matmul_bf16 = matmul_bf16,
        .widen_i8 = widen_i8,
        .unpack = unpack,
        .matmul_i8 = matmul_i8,
        .i8_round_rows = i8_round_rows,
        .i8_words = i8_words,
        .attention_f32 = attend_spans,
        .attention_bf16 = attend_spans,
        .attention_i8 = attend_spans,
        .combine_f32 = state_combine,
        .combine_bf16 = state_combine,
        .combine_i8 = state_combine,
        .norm_row = norm_row,
        .rotate = rotate,
        .swiglu_row = swiglu_row,
        .distances = distances,
        .centre_keys = centre_keys,
        .draw = {draw_masses, draw_largest},
        .rotate_keys = rotate_keys,
        .keys_to_columns = keys_to_columns,
        .entries_to_rows = entries_to_rows,
        .add_rows = add_rows,
        .put_entry = put_entry,
    };
    return &kernels;
}
