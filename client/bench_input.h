/* client/bench_input.h - what benchmarks send: numbers, token ids and text from a seed.
 *
 * The same seed and key give the same input, in whatever order requests start.
 * Threads: values, one owner.
 */
#ifndef SC_CLIENT_BENCH_INPUT_H
#define SC_CLIENT_BENCH_INPUT_H

#include <stddef.h>
#include <stdint.h>

struct sc_rand {
    uint64_t state;
};

struct sc_rand sc_rand_init(uint64_t seed, uint64_t key);
uint64_t sc_rand_next(struct sc_rand *rand);
uint32_t sc_rand_below(struct sc_rand *rand, uint32_t n);                    /* n of 0 gives 0 */
uint64_t sc_rand_between(struct sc_rand *rand, uint64_t low, uint64_t high); /* both included */
double sc_rand_unit(struct sc_rand *rand);                                   /* [0, 1) */
double sc_rand_exponential(struct sc_rand *rand, double mean);

/* The numbers 0..n-1 in random order. */
void sc_rand_order(struct sc_rand *rand, uint32_t *ret_order, uint32_t n);

/* Fills with lower-case words in sentences, ASCII, exactly `len` bytes and no NUL. */
void sc_rand_text(struct sc_rand *rand, char *ret_text, size_t len);

#endif
