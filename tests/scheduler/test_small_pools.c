/* Random requests in pools that hold little more than one of them: who can run alone is answered
 * whoever came with it, as in a pool with room for all. Who cannot without compression may with it,
 * as its text will have it, or is refused. */
#include <string.h>

#include "base/hash.h"
#include "tests/scheduler/sharing_rig.h"

#if defined(SC_ASAN) || defined(SC_TSAN)
#define ROUNDS 6u /* sanitizers are slow */
#else
#define ROUNDS 24u
#endif
#define TOGETHER 3u

static uint64_t rng_state;

static uint32_t pick(uint32_t n)
{
    return (uint32_t)((rng_state = sc_mix64(rng_state + 1)) % n);
}

#define PICK(type, ...)                                                                            \
    (((const type[]){__VA_ARGS__})[pick(sizeof((const type[]){__VA_ARGS__}) / sizeof(type))])

static struct sc_recipe random_recipe(struct sc_recipe r)
{
    r.epoch = PICK(uint32_t, 64, 128, 256, 512);
    r.window = 16 + pick(300);
    r.target_ratio = PICK(float, 0.03f, 0.1f, 0.25f, 0.5f, 1.0f);
    r.generated_ratio = PICK(float, 0.1f, 0.5f, 1.0f);
    r.compress_generated = pick(2) == 0;
    r.exact_then_compress = pick(4) == 0;
    r.keep_outliers = pick(4) > 0;
    r.chunking = PICK(enum sc_chunking, SC_CHUNKS_PACKED, SC_CHUNKS_PACKED, SC_CHUNKS_CLAUSE,
                      SC_CHUNKS_FIXED);
    r.exact_layers[0] = pick(3) == 0 ? 1u << pick(2) : 0;
    if (pick(3) == 0)
        r.budget = SC_BUDGET_PER_CHUNK;
    else if (pick(3) == 0)
        r.label_scope = SC_LABELS_PER_HEAD;
    if (pick(3) == 0) /* from all merges to nothing does */
        r.similarity_threshold = PICK(float, 0.2f, 0.9f, 0.999f);
    return r;
}

struct wish {
    struct sc_request_opts opts;
    int32_t ids[CONTEXT];
    uint32_t fits; /* in a pool of so many pages, whatever merges */
    struct answer answer, expected;
};

/* What it needs at its peak is EXACT's pages, two a layer that cores fill partly, and one chunk's
 * cores; more where all of it is compressed at once, and then it is not let in with less. */
static void make_wish(const struct server *s, struct wish *w)
{
    const uint32_t n = 20 + pick(CONTEXT - 400);
    prompt_of(w->ids, n, s->rig.model->config.vocab, pick(3), pick(n), 10 + pick(3));
    w->opts = ask(s, w->ids, n, pick(6) == 0 ? SC_KV_CHOICE_EXACT : SC_KV_CHOICE_COMPRESSED);
    w->opts.recipe = random_recipe(w->opts.recipe);
    w->opts.max_tokens = PICK(uint32_t, 1, 5, 12, 1 + pick(300));
    struct sc_recipe exact = w->opts.recipe;
    exact.mode = SC_KV_EXACT;
    w->fits = sc_engine_pages_estimate(s->rig.engine, &exact, n + w->opts.max_tokens);
    if (w->opts.kv == SC_KV_CHOICE_EXACT)
        return;
    w->fits += 2 * s->rig.model->config.n_layers + SC_CHUNK_MAX / SC_PAGE_ENTRIES;
    uint32_t prompt = sc_engine_pages_estimate(s->rig.engine, &w->opts.recipe, n);
    if (w->opts.recipe.exact_then_compress && prompt > w->fits)
        w->fits = prompt;
}

static void in_company(struct server *s, struct wish *w, uint32_t n_pages, uint32_t round)
{
    pthread_mutex_lock(&s->gate); /* all are there before the first has read anything */
    for (uint32_t i = 0; i < TOGETHER; i++)
        submit(s, w[i].opts, &w[i].answer);
    pthread_mutex_unlock(&s->gate);
    for (uint32_t i = 0; i < TOGETHER; i++) {
        const struct answer *a = &w[i].answer;
        wait_done(&w[i].answer);
        const bool fits = w[i].fits <= n_pages, exact = w[i].opts.kv == SC_KV_CHOICE_EXACT;
        if (a->status == SC_OK && (fits || !exact))
            assert_same(a, &w[i].expected);
        else if (a->status != SC_EFULL || fits || (exact && a->receipt.kv.logical_tokens > 0))
            fail_msg("round %u: %u + %u tokens of at most %u pages in a pool of %u: %s after %u "
                     "tokens, %u logical ones held",
                     round, w[i].opts.n_prompt, w[i].opts.max_tokens, w[i].fits, n_pages,
                     sc_status_name(a->status), a->n_all, a->receipt.kv.logical_tokens);
    }
}

static void whoever_fits_alone_is_answered(void **state)
{
    static struct wish w[TOGETHER];
    (void)state;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        struct server s;
        struct sc_engine_info info;
        rng_state = sc_mix64(round);
        server_open(&s, 1, true, 0, NULL);
        sc_engine_get_info(s.rig.engine, &info);
        uint32_t least = UINT32_MAX, most = 0;
        for (uint32_t i = 0; i < TOGETHER; i++) {
            make_wish(&s, &w[i]);
            w[i].expected = run(&s, w[i].opts);
            least = w[i].fits < least ? w[i].fits : least;
            most = w[i].fits > most ? w[i].fits : most;
        }
        server_close(&s);
        const uint32_t n_pages = pick(2) == 0 ? most : least + pick(most - least + 1);
        server_open(&s, 1, pick(3) > 0, (uint64_t)info.page_bytes * n_pages, NULL);
        in_company(&s, w, n_pages, round);
        server_close(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whoever_fits_alone_is_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
