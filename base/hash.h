/* base/hash.h - 256-bit BLAKE2b (libsodium), for cache keys, recipes, plans and labels.
 *
 * Integers go in as little-endian bytes of fixed width, strings with their length before them, so
 * that no two different inputs give the same byte stream. Threads: one owner a state.
 */
#ifndef SC_BASE_HASH_H
#define SC_BASE_HASH_H

#include <sodium/crypto_generichash.h>
#include <stdbool.h>

#include "base/status.h"

#define SC_HASH_BYTES 32

struct sc_hash {
    uint8_t bytes[SC_HASH_BYTES];
};

struct sc_hasher {
    crypto_generichash_state state;
};

void sc_hasher_init(struct sc_hasher *h);
void sc_hasher_bytes(struct sc_hasher *h, const void *data, size_t bytes); /* raw, no length */
void sc_hasher_str(struct sc_hasher *h, const char *text);
void sc_hasher_u32(struct sc_hasher *h, uint32_t v);
void sc_hasher_u64(struct sc_hasher *h, uint64_t v);
void sc_hasher_f32(struct sc_hasher *h, float v);
struct sc_hash sc_hasher_end(struct sc_hasher *h);

/* Takes the same time wherever they differ: for secrets. */
bool sc_hash_equal(const struct sc_hash *a, const struct sc_hash *b);
void sc_hash_hex(const struct sc_hash *hash, char ret_hex[2 * SC_HASH_BYTES + 1]);

/* A cheap 64-bit mix (splitmix64) for seeds and table probes; not cryptographic. */
static inline uint64_t sc_mix64(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

#endif
