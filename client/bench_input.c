#include "client/bench_input.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* splitmix64 */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

struct sc_rand sc_rand_init(uint64_t seed, uint64_t key)
{
    return (struct sc_rand){mix(mix(seed + 1) + key)};
}

uint64_t sc_rand_next(struct sc_rand *rand)
{
    rand->state += 0x9E3779B97F4A7C15u;
    return mix(rand->state);
}

uint32_t sc_rand_below(struct sc_rand *rand, uint32_t n)
{
    return (uint32_t)(((sc_rand_next(rand) >> 32) * n) >> 32);
}

uint64_t sc_rand_between(struct sc_rand *rand, uint64_t low, uint64_t high)
{
    return high > low ? low + sc_rand_next(rand) % (high - low + 1) : low;
}

double sc_rand_unit(struct sc_rand *rand)
{
    return (double)(sc_rand_next(rand) >> 11) * 0x1p-53;
}

double sc_rand_exponential(struct sc_rand *rand, double mean)
{
    return -mean * log(1.0 - sc_rand_unit(rand));
}

void sc_rand_order(struct sc_rand *rand, uint32_t *ret_order, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = sc_rand_below(rand, i + 1);
        ret_order[i] = ret_order[j];
        ret_order[j] = i;
    }
}

static size_t word(struct sc_rand *rand, char ret_word[16])
{
    static const char *const starts[] = {"b", "c",  "d",  "f",  "g",  "l",  "m", "n",
                                         "p", "r",  "s",  "t",  "v",  "w",  "h", "st",
                                         "",  "pr", "tr", "ch", "th", "br", "k", "cl"};
    static const char *const vowels[] = {"a", "e", "i", "o", "u", "ea", "ou", "e"};
    static const char *const ends[] = {"", "", "n", "r", "s", "t", "l", "nd"};
    const uint32_t n_syllables = 1 + sc_rand_below(rand, 3);
    ret_word[0] = '\0';
    for (uint32_t i = 0; i < n_syllables; i++) {
        strcat(ret_word, starts[sc_rand_below(rand, sizeof(starts) / sizeof(starts[0]))]);
        strcat(ret_word, vowels[sc_rand_below(rand, sizeof(vowels) / sizeof(vowels[0]))]);
    }
    strcat(ret_word, ends[sc_rand_below(rand, sizeof(ends) / sizeof(ends[0]))]);
    return strlen(ret_word);
}

void sc_rand_text(struct sc_rand *rand, char *ret_text, size_t len)
{
    size_t at = 0;
    uint32_t left = 0; /* words of the sentence */
    while (at < len) {
        char text[24];
        size_t n = word(rand, text);
        const bool first = left == 0;
        if (first) {
            left = 5 + sc_rand_below(rand, 12);
            if (text[0] >= 'a' && text[0] <= 'z')
                text[0] = (char)(text[0] - 'a' + 'A');
        }
        left--;
        if (left == 0)
            text[n++] = '.';
        text[n++] = ' ';
        n = n < len - at ? n : len - at;
        memcpy(ret_text + at, text, n);
        at += n;
    }
}
