#include "model/config.h"

#include <math.h>

/* Every step is in float32, in the order transformers takes it: theta^(i/d) in double would differ
 * from the reference by up to ln(theta) half-ulps, which at position 100,000 is a visible angle. */
static float base_frequency(const struct sc_rope *rope, uint32_t head_dim, uint32_t i)
{
    float exponent = (float)(2 * i) / (float)head_dim;
    float power = (float)pow((double)(float)rope->theta, (double)exponent);
    return 1.0f / power;
}

/* Long waves are stretched by factor, short ones kept, those between blended. */
static float llama3_frequency(const struct sc_rope *rope, float inv)
{
    float low_wavelen = (float)(rope->original_max_positions / rope->low_freq_factor);
    float high_wavelen = (float)(rope->original_max_positions / rope->high_freq_factor);
    float factor = (float)rope->factor;
    float wavelen = (1.0f / inv) * (float)(2.0 * M_PI);
    if (wavelen > low_wavelen)
        return inv / factor;
    if (wavelen < high_wavelen)
        return inv;
    float smooth =
        ((1.0f / wavelen) * (float)rope->original_max_positions - (float)rope->low_freq_factor) /
        (float)(rope->high_freq_factor - rope->low_freq_factor);
    return (1.0f - smooth) * inv / factor + smooth * inv;
}

/* The dimension whose wave turns n_rotations times within the original context. */
static double yarn_dimension(const struct sc_rope *rope, uint32_t head_dim, double n_rotations)
{
    return head_dim * log(rope->original_max_positions / (n_rotations * 2.0 * M_PI)) /
           (2.0 * log(rope->theta));
}

static void yarn_frequencies(const struct sc_rope *rope, uint32_t head_dim, float *ret_inv_freq)
{
    double low = yarn_dimension(rope, head_dim, rope->beta_fast);
    double high = yarn_dimension(rope, head_dim, rope->beta_slow);
    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0.0);
    high = fmin(high, head_dim - 1.0);
    if (low == high)
        high += 0.001; /* a step instead of a division by zero */
    for (uint32_t i = 0; i < head_dim / 2; i++) {
        float ramp = ((float)i - (float)low) / (float)(high - low);
        float keep = 1.0f - fminf(fmaxf(ramp, 0.0f), 1.0f);
        float exponent = (float)(2 * i) / (float)head_dim;
        float power = (float)pow((double)(float)rope->theta, (double)exponent);
        ret_inv_freq[i] =
            (1.0f / ((float)rope->factor * power)) * (1.0f - keep) + (1.0f / power) * keep;
    }
}

void sc_rope_frequencies(const struct sc_rope *rope, uint32_t head_dim, uint32_t max_positions,
                         float *ret_inv_freq, float *ret_scale)
{
    (void)max_positions;
    *ret_scale = rope->kind == SC_ROPE_YARN ? (float)rope->attention_factor : 1.0f;
    if (rope->kind == SC_ROPE_YARN) {
        yarn_frequencies(rope, head_dim, ret_inv_freq);
        return;
    }
    for (uint32_t i = 0; i < head_dim / 2; i++) {
        float inv = base_frequency(rope, head_dim, i);
        if (rope->kind == SC_ROPE_LINEAR)
            inv /= (float)rope->factor;
        else if (rope->kind == SC_ROPE_LLAMA3)
            inv = llama3_frequency(rope, inv);
        ret_inv_freq[i] = inv;
    }
}
