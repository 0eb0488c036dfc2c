#include "base/hash.h"

#include <sodium/utils.h>
#include <string.h>

void sc_hasher_init(struct sc_hasher *h)
{
    SC_ASSERT(crypto_generichash_init(&h->state, NULL, 0, SC_HASH_BYTES) == 0);
}

void sc_hasher_bytes(struct sc_hasher *h, const void *data, size_t bytes)
{
    SC_ASSERT(crypto_generichash_update(&h->state, data, bytes) == 0);
}

void sc_hasher_str(struct sc_hasher *h, const char *text)
{
    size_t len = strlen(text);
    sc_hasher_u64(h, len);
    sc_hasher_bytes(h, text, len);
}

void sc_hasher_u32(struct sc_hasher *h, uint32_t v)
{
    uint8_t b[4];
    for (int i = 0; i < 4; i++)
        b[i] = (uint8_t)(v >> (8 * i));
    sc_hasher_bytes(h, b, sizeof(b));
}

void sc_hasher_u64(struct sc_hasher *h, uint64_t v)
{
    sc_hasher_u32(h, (uint32_t)v);
    sc_hasher_u32(h, (uint32_t)(v >> 32));
}

void sc_hasher_f32(struct sc_hasher *h, float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof(u));
    sc_hasher_u32(h, u);
}

struct sc_hash sc_hasher_end(struct sc_hasher *h)
{
    struct sc_hash out;
    SC_ASSERT(crypto_generichash_final(&h->state, out.bytes, SC_HASH_BYTES) == 0);
    return out;
}

bool sc_hash_equal(const struct sc_hash *a, const struct sc_hash *b)
{
    return sodium_memcmp(a->bytes, b->bytes, SC_HASH_BYTES) == 0;
}

void sc_hash_hex(const struct sc_hash *hash, char ret_hex[2 * SC_HASH_BYTES + 1])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < SC_HASH_BYTES; i++) {
        ret_hex[2 * i] = digits[hash->bytes[i] >> 4];
        ret_hex[2 * i + 1] = digits[hash->bytes[i] & 15];
    }
    ret_hex[2 * SC_HASH_BYTES] = '\0';
}
