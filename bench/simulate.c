/* bench/simulate.c - the scheduler under load, without a model.
 *
 *   bench-simulate [--rate 20] [--kv exact,compressed] [--sharing on,off] [--router
 * random,prefix,bounded]
 *
 * Simulates seconds to hours of requests over documents in seconds: the scheduler, its prefix tree
 * and its page accounting are the real ones, steps take the time of a cost model (--cost-...,
 * microseconds; the defaults resemble an 8B model in BF16 on one H100). One row for each
 * combination of --kv, --sharing and --router. --check looks into the scheduler after every turn;
 * exit status 1: a check failed. --help lists all options.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/sim_run.h"

static const char *const router_names[] = {"random", "prefix", "bounded"};

struct policies {
    const char *kv, *sharing, *router;
};

struct option_def {
    const char *name, *help;
    uint32_t *u32;
    double *real;
    uint64_t *u64;
    const char **text;
    bool *flag;
};

static bool has_word(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = list; (at = strstr(at, word)) != NULL; at += n)
        if ((at == list || at[-1] == ',') && (at[n] == ',' || at[n] == '\0'))
            return true;
    return false;
}

static void usage(const struct option_def *defs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct option_def *d = &defs[i];
        printf("  --%-20s %s", d->name, d->help);
        if (d->u32 != NULL)
            printf(" (%u)", *d->u32);
        else if (d->real != NULL)
            printf(" (%g)", *d->real);
        else if (d->u64 != NULL)
            printf(" (%llu)", (unsigned long long)*d->u64);
        else if (d->text != NULL)
            printf(" (%s)", *d->text);
        printf("\n");
    }
}

static bool set_option(const struct option_def *d, const char *value)
{
    char *end = NULL;
    if (d->flag != NULL) {
        *d->flag = true;
        return true;
    }
    if (d->text != NULL) {
        *d->text = value;
        return true;
    }
    double x = strtod(value, &end);
    if (end == value || *end != '\0' || !(x >= 0.0 && x <= 4e9)) {
        fprintf(stderr, "bench-simulate: --%s: %s is no number of 0..4e9\n", d->name, value);
        return false;
    }
    if (d->u32 != NULL)
        *d->u32 = (uint32_t)x;
    if (d->u64 != NULL)
        *d->u64 = (uint64_t)x;
    if (d->real != NULL)
        *d->real = x;
    return true;
}

/* 0: go on; else the exit status + 1. */
static int read_options(int argc, char **argv, struct sim_opts *o, struct policies *p, bool *json)
{
    bool help = false;
    const struct option_def defs[] = {
        {"rate", "requests a second, of all groups", .real = &o->rate},
        {"seconds", "time of arrivals", .real = &o->seconds},
        {"documents", "that requests ask about", .u32 = &o->documents},
        {"zipf", "exponent of their popularity", .real = &o->zipf},
        {"doc-len", "tokens of a document, mean", .u32 = &o->doc_len},
        {"question-len", "tokens of a question, mean", .u32 = &o->question_len},
        {"output-len", "tokens of an answer, mean", .u32 = &o->output_len},
        {"pages", "of 32 tokens, of a group", .u32 = &o->pages},
        {"snapshots", "resume points of a group", .u32 = &o->snapshots},
        {"max-seqs", "sequences of a group", .u32 = &o->max_seqs},
        {"step-tokens", "rows of a step", .u32 = &o->step_tokens},
        {"prefill-tokens", "of those, for prefill", .u32 = &o->prefill_tokens},
        {"queue", "requests that may wait in a group", .u32 = &o->queue_max},
        {"groups", "schedulers side by side", .u32 = &o->groups},
        {"namespaces", "tenants", .u32 = &o->namespaces},
        {"first-ns-percent", "requests of the first; 0: as any", .u32 = &o->first_ns_percent},
        {"priority-percent", "requests that go first", .u32 = &o->priority_percent},
        {"cancel-percent", "cancelled, or with a deadline", .u32 = &o->cancel_percent},
        {"retain-percent", "that only read a document", .u32 = &o->retain_percent},
        {"kv", "of exact,compressed", .text = &p->kv},
        {"exact-then-compress", "prompts when they are whole", .flag = &o->exact_then_compress},
        {"sharing", "of on,off", .text = &p->sharing},
        {"router", "of random,prefix,bounded", .text = &p->router},
        {"seed", "", .u64 = &o->seed},
        {"cost-fixed", "us of a step", .real = &o->costs.fixed},
        {"cost-prefill", "us of a token of prefill", .real = &o->costs.prefill_token},
        {"cost-decode", "us of a decode row", .real = &o->costs.decode_row},
        {"cost-entry", "us of an entry attended to", .real = &o->costs.entry},
        {"cost-chore", "us of a step without runs", .real = &o->costs.chore},
        {"check", "looks for broken rules after every turn", .flag = &o->check},
        {"expect-fair", "fails unless namespaces 0 and 1 are served alike",
         .flag = &o->expect_fair},
        {"json", "instead of the table", .flag = json},
        {"help", "this", .flag = &help},
    };
    struct option options[SC_ARRAY_LEN(defs) + 1] = {{0}};
    int which = 0, c;
    for (size_t i = 0; i < SC_ARRAY_LEN(defs); i++)
        options[i] =
            (struct option){.name = defs[i].name,
                            .has_arg = defs[i].flag != NULL ? no_argument : required_argument};
    while ((c = getopt_long(argc, argv, "", options, &which)) == 0)
        if (!set_option(&defs[which], optarg))
            return 3;
    if (c != -1 || optind != argc)
        return 3;
    if (help)
        usage(defs, SC_ARRAY_LEN(defs));
    return help ? 1 : 0;
}

/* The longest request has to fit alone: compressed, at a cut, an epoch is there twice. */
static bool check_options(const struct sim_opts *o, bool compressed)
{
    uint64_t longest = 2ull * o->doc_len + 2ull * o->question_len + 2ull * o->output_len;
    uint64_t most = (uint64_t)o->pages * SC_PAGE_ENTRIES;
    bool ok = o->rate > 0.0 && o->seconds > 0.0 && o->documents > 0 && o->doc_len > 0 &&
              o->question_len > 0 && o->output_len > 0 && o->groups > 0 && o->pages > 0 &&
              o->namespaces > 0 && o->namespaces <= SIM_NAMESPACES_MAX && o->pages <= 1u << 22;
    if (compressed)
        longest += 1024;
    if (o->exact_then_compress && o->retain_percent > 0) {
        fprintf(stderr, "bench-simulate: what compresses at the prompt's end is not retained\n");
        return false;
    }
    if (!ok)
        fprintf(stderr, "bench-simulate: an option is out of its range\n");
    else if (longest > most)
        fprintf(stderr, "bench-simulate: requests of %llu tokens, pages for %llu\n",
                (unsigned long long)longest, (unsigned long long)most);
    return ok && longest <= most;
}

static void print_row(const struct sim_opts *o, const struct sim_result *r)
{
    printf("%-10s %-3s %-7s %8llu %9.1f %9.0f %7.0f %5.1f %8.1f %8.1f %8.1f %8.1f %6u %8llu %7llu "
           "%5.0f %6.1f\n",
           o->kv == SC_KV_CHOICE_EXACT ? "exact" : "compressed", o->sharing ? "on" : "off",
           router_names[o->router], (unsigned long long)r->served, r->requests_per_s,
           r->prompt_per_s, r->output_per_s, r->hit_percent, r->ttft_ms.p50, r->ttft_ms.p90,
           r->ttft_ms.p99, r->queue_ms.p99, r->waiting_max, (unsigned long long)r->evictions,
           (unsigned long long)r->preemptions, r->pages_peak_percent, r->wall_s);
}

static void print_json(const struct sim_opts *o, const struct sim_result *r, bool first)
{
    printf("%s{\"kv\":\"%s\",\"sharing\":%s,\"router\":\"%s\",\"groups\":%u,", first ? "[" : ",\n ",
           o->kv == SC_KV_CHOICE_EXACT ? "exact" : "compressed", o->sharing ? "true" : "false",
           router_names[o->router], o->groups);
    printf("\"requests\":%llu,\"served\":%llu,\"canceled\":%llu,\"late\":%llu,\"refused\":%llu,"
           "\"failed\":%llu,",
           (unsigned long long)r->requests, (unsigned long long)r->served,
           (unsigned long long)r->canceled, (unsigned long long)r->late,
           (unsigned long long)r->refused, (unsigned long long)r->failed);
    printf("\"requests_per_s\":%.3f,\"prompt_tokens_per_s\":%.1f,\"output_tokens_per_s\":%.1f,"
           "\"hit_percent\":%.2f,",
           r->requests_per_s, r->prompt_per_s, r->output_per_s, r->hit_percent);
    printf("\"ttft_ms\":[%.3f,%.3f,%.3f],\"queue_ms\":[%.3f,%.3f,%.3f],\"waiting_max\":%u,",
           r->ttft_ms.p50, r->ttft_ms.p90, r->ttft_ms.p99, r->queue_ms.p50, r->queue_ms.p90,
           r->queue_ms.p99, r->waiting_max);
    printf("\"evictions\":%llu,\"preemptions\":%llu,\"steps\":%llu,\"pages_peak_percent\":%.1f,"
           "\"simulated_s\":%.3f,\"wall_s\":%.3f}",
           (unsigned long long)r->evictions, (unsigned long long)r->preemptions,
           (unsigned long long)r->steps, r->pages_peak_percent, r->simulated_s, r->wall_s);
}

#define N_COMBINATIONS 12u

/* Combination i. False: it is not wanted. */
static bool choose(const struct policies *p, uint32_t i, struct sim_opts *o)
{
    o->router = (enum sim_router)(i % 3);
    o->sharing = i / 3 % 2 == 1;
    o->kv = i / 6 == 1 ? SC_KV_CHOICE_COMPRESSED : SC_KV_CHOICE_EXACT;
    return has_word(p->kv, i / 6 == 1 ? "compressed" : "exact") &&
           has_word(p->sharing, o->sharing ? "on" : "off") &&
           has_word(p->router, router_names[o->router]);
}

int main(int argc, char **argv)
{
    struct sim_opts o = {
        .rate = 20.0,
        .seconds = 30.0,
        .zipf = 1.0,
        .documents = 1000,
        .doc_len = 1500,
        .question_len = 60,
        .output_len = 16,
        .groups = 1,
        .pages = 8192,
        .snapshots = 4096,
        .max_seqs = 64,
        .step_tokens = 2048,
        .prefill_tokens = 1024,
        .queue_max = 4096,
        .namespaces = 1,
        .costs = {
            .fixed = 5000, .prefill_token = 40, .decode_row = 20, .entry = 0.04, .chore = 200}};
    struct policies policies = {.kv = "exact", .sharing = "on", .router = "prefix"};
    bool json = false, first = true;
    int rc = read_options(argc, argv, &o, &policies, &json);
    if (rc != 0)
        return rc - 1;
    if (!check_options(&o, has_word(policies.kv, "compressed")))
        return 2;
    if (!json)
        printf("%-10s %-3s %-7s %8s %9s %9s %7s %5s %8s %8s %8s %8s %6s %8s %7s %5s %6s\n", "kv",
               "sh.", "router", "served", "req/s", "prompt/s", "out/s", "hit%", "ttft50", "ttft90",
               "ttft99", "queue99", "wait^", "evicted", "preempt", "pages", "wall s");
    for (uint32_t i = 0; i < N_COMBINATIONS; i++) {
        struct sim_result r = {0};
        struct sc_err err = SC_ERR_INIT;
        if (!choose(&policies, i, &o))
            continue;
        if (sim_run(&o, &r, &err) != SC_OK) {
            fprintf(stderr, "bench-simulate: %s\n", err.text);
            return 1;
        }
        if (r.failed > 0)
            fprintf(stderr, "bench-simulate: %llu requests failed, the first: %s\n",
                    (unsigned long long)r.failed, r.failure);
        if (json)
            print_json(&o, &r, first);
        else
            print_row(&o, &r);
        (void)fflush(stdout);
        first = false;
    }
    if (json)
        printf("%s]\n", first ? "[" : "");
    return 0;
}
