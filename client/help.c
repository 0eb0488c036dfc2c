#include "client/help.h"

#define OPTION_COLUMNS 34

struct group {
    const char *title;
    enum sc_opt_id first, last;
};

static const struct group groups[] = {
    {"Input and output", SC_OPT_PROMPT, SC_OPT_PRIORITY},
    {"Documents", SC_OPT_ID, SC_OPT_TTL},
    {"Load", SC_OPT_STREAMS, SC_OPT_KEEP},
    {"Quality", SC_OPT_SUITE, SC_OPT_AGAINST_EXACT},
    {"Sampling (names as in vLLM; what is not given is the server's default)", SC_OPT_MAX_TOKENS,
     SC_OPT_LOGPROBS},
    {"KV cache (what is not given is the server's default)", SC_OPT_KV, SC_OPT_EXACT_LAYERS},
    {"General", SC_OPT_SERVER, SC_OPT_HELP},
};

void sc_help_overview(FILE *out)
{
    (void)fputs("semcache - command line client of semanticached\n\n"
                "usage: semcache COMMAND [options]\n\n",
                out);
    for (int id = 0; id < SC_CMD_COUNT; id++) {
        const struct sc_cmd_spec *cmd = sc_cmd_spec((enum sc_cmd_id)id);
        (void)fprintf(out, "  %-15s %s\n", cmd->name, cmd->summary);
    }
    (void)fputs(
        "\n`semcache help COMMAND` lists its options; `semcache --version` says the version.\n"
        "Exit status: 0 done, 1 the server refused or failed, 2 wrong usage or input,\n"
        "130 interrupted.\n",
        out);
}

static void print_option(FILE *out, const struct sc_opt_spec *spec)
{
    int n = fprintf(out, "  --%s%s%s", spec->name, spec->value_name != NULL ? " " : "",
                    spec->value_name != NULL ? spec->value_name : "");
    if (n >= OPTION_COLUMNS) {
        (void)fputc('\n', out);
        n = 0;
    }
    (void)fprintf(out, "%*s%s", OPTION_COLUMNS - n, "", spec->help);
    if (spec->kind == SC_ARG_CHOICE) {
        (void)fputs(" [", out);
        for (int c = 0; c < SC_CHOICES_MAX && spec->choices[c] != NULL; c++)
            (void)fprintf(out, "%s%s", c > 0 ? "|" : "", spec->choices[c]);
        (void)fputc(']', out);
    }
    (void)fputc('\n', out);
}

void sc_help_cmd(FILE *out, enum sc_cmd_id id)
{
    const struct sc_cmd_spec *cmd = sc_cmd_spec(id);
    (void)fprintf(out, "usage: semcache %s %s\n\n%s.\n%s", cmd->name, cmd->usage, cmd->summary,
                  cmd->details);
    for (size_t g = 0; g < sizeof(groups) / sizeof(groups[0]); g++) {
        bool titled = false;
        for (int o = (int)groups[g].first; o <= (int)groups[g].last; o++) {
            const struct sc_opt_spec *spec = sc_opt_spec((enum sc_opt_id)o);
            if (!sc_opt_belongs(spec, id))
                continue;
            if (!titled)
                (void)fprintf(out, "\n%s:\n", groups[g].title);
            titled = true;
            print_option(out, spec);
        }
    }
}
