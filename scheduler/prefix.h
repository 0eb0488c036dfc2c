/* scheduler/prefix.h - the tree of prefixes whose entries are held, and which of them go first.
 *
 * A node is a block of up to 512 tokens behind its parent's; its key is
 * H(parent's key, tokens), the root's H(model, recipe id, namespace): 256-bit BLAKE2b, so a key
 * names tokens, recipe, model and namespace at once, and two namespaces cannot meet. A node may own
 * a snapshot of the engine: the state after its last token, which also serves shorter prefixes
 * within the snapshot's range. So a request that diverges in the middle of a block begins in the
 * middle of it.
 *
 * Eviction order: the exact tails inside a compressed prompt (a longer one needs them no more),
 * then the least recently used prefixes, leaves before their parents, then documents. Pinned ones
 * stay.
 *
 * Knows tokens and snapshot ids, no engine. Memory: all at open. Threads: one owner.
 */
#ifndef SC_SCHEDULER_PREFIX_H
#define SC_SCHEDULER_PREFIX_H

#include "base/hash.h"
#include "scheduler/kv_log.h"
#include "shard/recipe.h"

#define SC_PREFIX_BLOCK     512u
#define SC_NODE_NONE        UINT32_MAX
#define SC_PREFIX_MIN       16u /* a shorter hit is not worth copying pages for */
#define SC_PREFIX_NODES_MAX (1u << 21)

struct sc_prefix;

/* max_nodes: blocks; a little more than snapshots, for blocks whose own snapshot is gone. log: told
 * of every snapshot that is there to be used, or no longer; borrowed, or NULL. */
enum sc_status sc_prefix_open(uint32_t max_snaps, uint32_t max_nodes, struct sc_kv_log *log,
                              struct sc_prefix **ret_prefix, struct sc_err *err) SC_MUST_CHECK;
void sc_prefix_close(struct sc_prefix *p); /* NULL is fine */
void sc_prefix_reset(struct sc_prefix *p); /* forgets every snapshot: the engine was reset;
                                               nothing is locked */

/* What a request's prefixes hang from. A recipe whose entries depend on where the prompt ends (it
 * compresses at the end, or its window is shorter than a chunk) gets roots of its own for each
 * prompt_len. */
struct sc_prefix_root {
    struct sc_hash key, recipe_id;
    char ns[SC_NAMESPACE_BYTES_MAX + 1];
    /* Blocks end at offset + multiples of the block, as what is compressed does. The first one is
     * whole, the second shorter: nothing is compressed there, and prompts are not cut for it. */
    uint32_t offset;
    bool compressed;
};
/* Entries of this recipe depend on where their prompt ends: only a prompt of that length finds
 * them. */
bool sc_prefix_own_ends(const struct sc_recipe *recipe);
struct sc_prefix_root sc_prefix_root(const struct sc_hash *model, const struct sc_hash *recipe_id,
                                     const char *ns, const struct sc_recipe *recipe,
                                     uint32_t prompt_len);
/* The first end of a block after pos, and the last one at or before it; 0 begins the first. */
uint32_t sc_prefix_boundary(const struct sc_prefix_root *root, uint32_t pos);
uint32_t sc_prefix_boundary_before(const struct sc_prefix_root *root, uint32_t pos);
/* The keys of the blocks of tokens [n] that end after `after`, at most cap. Returns how many. */
uint32_t sc_prefix_keys(const struct sc_prefix_root *root, const int32_t *tokens, uint32_t n,
                        uint32_t after, struct sc_hash *keys, uint32_t cap);
/* The key of the first n tokens. */
struct sc_hash sc_prefix_key(const struct sc_prefix_root *root, const int32_t *tokens, uint32_t n);

struct sc_prefix_hit {
    uint32_t node; /* owns the snapshot; SC_NODE_NONE: a miss, all else is 0 */
    uint32_t snap;
    uint32_t n; /* tokens it gives, <= n_max */
};
/* The longest prefix of tokens [n] that a snapshot serves, of at most n_max tokens. Within the
 * block where the prompt leaves the tree, only so many are compared of those that begin alike: time
 * does not grow with the number of prompts. Refreshes what it goes through. */
struct sc_prefix_hit sc_prefix_find(struct sc_prefix *p, const struct sc_prefix_root *root,
                                    const int32_t *tokens, uint32_t n, uint32_t n_max,
                                    uint64_t now_us);

/* The same for somebody who only asks: refreshes nothing. known: first tokens that some prefix in
 * the tree has, whether or not there is a snapshot to use; differs: the one that has most of them
 * goes on with another token, held. */
struct sc_prefix_peek {
    struct sc_prefix_hit hit;
    uint32_t known;
    bool differs;
    int32_t held;
};
struct sc_prefix_peek sc_prefix_peek(const struct sc_prefix *p, const struct sc_prefix_root *root,
                                     const int32_t *tokens, uint32_t n, uint32_t n_max);
/* The root after node, or the first (SC_NODE_NONE). SC_NODE_NONE: there is none. */
uint32_t sc_prefix_next_root(const struct sc_prefix *p, uint32_t node,
                             struct sc_prefix_root *ret_root);

/* The node of tokens [0, n), with those of the blocks before it; made where they are missing. n is
 * a boundary or not. SC_NODE_NONE: no nodes are left. The node is held until sc_prefix_unhold. */
uint32_t sc_prefix_hold(struct sc_prefix *p, const struct sc_prefix_root *root,
                        const int32_t *tokens, uint32_t n, uint64_t now_us);
/* The same from a held node on, which ends at its boundary pos: tokens [pos, n). */
uint32_t sc_prefix_hold_child(struct sc_prefix *p, const struct sc_prefix_root *root, uint32_t node,
                              const int32_t *tokens, uint32_t n, uint64_t now_us);
void sc_prefix_unhold(struct sc_prefix *p, uint32_t node);
uint32_t sc_prefix_lookup(const struct sc_prefix *p, const struct sc_hash *key);

/* A snapshot's life: take gives the node an id (false: none is free; evict first), live makes it
 * usable once the engine has it, lock keeps it from eviction. */
bool sc_prefix_snap_take(struct sc_prefix *p, uint32_t node, uint32_t *ret_snap);
void sc_prefix_snap_live(struct sc_prefix *p, uint32_t node, uint32_t min_logical, uint32_t n_pages,
                         uint64_t now_us);
void sc_prefix_lock(struct sc_prefix *p, uint32_t node);
void sc_prefix_unlock(struct sc_prefix *p, uint32_t node);
/* Takes the snapshot off the node: its id, which comes back by sc_prefix_snap_give once the engine
 * has dropped it. */
uint32_t sc_prefix_snap_remove(struct sc_prefix *p, uint32_t node);
void sc_prefix_snap_give(struct sc_prefix *p, uint32_t snap);

/* The node whose snapshot goes next, or SC_NODE_NONE. */
uint32_t sc_prefix_victim(const struct sc_prefix *p);
/* The least recently used one that was not used since `before_us`, or SC_NODE_NONE. */
uint32_t sc_prefix_idle(const struct sc_prefix *p, uint64_t before_us);
/* Documents are evicted last; pinned ones not at all before until_us (0: not pinned). */
void sc_prefix_retain(struct sc_prefix *p, uint32_t node, bool retain, uint64_t pin_until_us);
void sc_prefix_unpin_due(struct sc_prefix *p, uint64_t now_us);
/* The pinned one after node, or the first (SC_NODE_NONE). SC_NODE_NONE: there is none. */
uint32_t sc_prefix_next_pinned(const struct sc_prefix *p, uint32_t node);
uint64_t sc_prefix_pins_version(const struct sc_prefix *p); /* another whenever they change */
uint64_t sc_prefix_pin_ends(const struct sc_prefix *p);     /* the first; UINT64_MAX: none will */

/* The snapshots that can be used, as events that store them: those of up to SC_PREFIX_LIST_SCAN
 * nodes from *at on that the view shows, at most cap. *at becomes where to go on, UINT32_MAX: there
 * are no more. Returns their number. */
#define SC_PREFIX_LIST_SCAN 2048u
uint32_t sc_prefix_list(const struct sc_prefix *p, const struct sc_kv_view *view, uint32_t *at,
                        struct sc_kv_event *events, uint32_t cap);

struct sc_prefix_node_info {
    struct sc_hash key, recipe_id;
    uint32_t snap; /* UINT32_MAX: none */
    uint32_t end;  /* logical tokens of the prefix */
    uint32_t n_pages;
    bool live, retained, saved, locked;
    uint64_t pin_until_us;
};
struct sc_prefix_node_info sc_prefix_node(const struct sc_prefix *p, uint32_t node);
void sc_prefix_set_saved(struct sc_prefix *p, uint32_t node, bool saved); /* the store has it */

uint32_t sc_prefix_snaps_free(const struct sc_prefix *p);
uint32_t sc_prefix_n_live(const struct sc_prefix *p);
uint64_t sc_prefix_pinned_pages(const struct sc_prefix *p); /* shared ones counted for each */

#endif
