/* Keys of prefixes: what they name, and where blocks end. docs/sharing.md tells them to those who
 * compute them elsewhere. */
#include <stdio.h>

#include "scheduler/prefix_internal.h"

bool sc_prefix_own_ends(const struct sc_recipe *recipe)
{
    /* A chunk's end looks at most chunk_max + 1 tokens ahead: with a window longer than that, what
     * is compressed cannot have seen the prompt's end. */
    return recipe->mode == SC_KV_COMPRESSED &&
           (recipe->exact_then_compress || recipe->window < recipe->chunk_max + 2);
}

struct sc_prefix_root sc_prefix_root(const struct sc_hash *model, const struct sc_hash *recipe_id,
                                     const char *ns, const struct sc_recipe *recipe,
                                     uint32_t prompt_len)
{
    struct sc_prefix_root root = {.recipe_id = *recipe_id,
                                  .compressed = recipe->mode == SC_KV_COMPRESSED};
    (void)snprintf(root.ns, sizeof(root.ns), "%s", ns);
    struct sc_hasher h;
    sc_hasher_init(&h);
    sc_hasher_str(&h, "semanticache prefix 1");
    sc_hasher_bytes(&h, model->bytes, SC_HASH_BYTES);
    sc_hasher_bytes(&h, recipe_id->bytes, SC_HASH_BYTES);
    sc_hasher_str(&h, ns);
    sc_hasher_u32(&h, sc_prefix_own_ends(recipe) ? prompt_len : 0);
    root.key = sc_hasher_end(&h);
    if (root.compressed)
        root.offset = recipe->window % SC_PREFIX_BLOCK;
    return root;
}

uint32_t sc_prefix_boundary(const struct sc_prefix_root *root, uint32_t pos)
{
    if (pos < SC_PREFIX_BLOCK)
        return SC_PREFIX_BLOCK;
    return root->offset + ((pos - root->offset) / SC_PREFIX_BLOCK + 1) * SC_PREFIX_BLOCK;
}

uint32_t sc_prefix_boundary_before(const struct sc_prefix_root *root, uint32_t pos)
{
    if (pos < SC_PREFIX_BLOCK)
        return 0;
    uint32_t before = pos - (pos - root->offset) % SC_PREFIX_BLOCK;
    return before < SC_PREFIX_BLOCK ? SC_PREFIX_BLOCK : before;
}

struct sc_hash sc_prefix_child_key(const struct sc_hash *parent, const int32_t *tokens, uint32_t n)
{
    struct sc_hasher h;
    sc_hasher_init(&h);
    sc_hasher_bytes(&h, parent->bytes, SC_HASH_BYTES);
    sc_hasher_u32(&h, n);
    sc_hasher_bytes(&h, tokens, n * sizeof(*tokens));
    return sc_hasher_end(&h);
}

uint32_t sc_prefix_keys(const struct sc_prefix_root *root, const int32_t *tokens, uint32_t n,
                        uint32_t after, struct sc_hash *keys, uint32_t cap)
{
    struct sc_hash key = root->key;
    uint32_t n_keys = 0;
    for (uint32_t pos = 0; pos < n && n_keys < cap;) {
        uint32_t end = sc_prefix_boundary(root, pos);
        end = end < n ? end : n;
        key = sc_prefix_child_key(&key, tokens + pos, end - pos);
        pos = end;
        if (end > after)
            keys[n_keys++] = key;
    }
    return n_keys;
}

struct sc_hash sc_prefix_key(const struct sc_prefix_root *root, const int32_t *tokens, uint32_t n)
{
    struct sc_hash key = root->key;
    if (n > 0)
        (void)sc_prefix_keys(root, tokens, n, n - 1, &key, 1);
    return key;
}
