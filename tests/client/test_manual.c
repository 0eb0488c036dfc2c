#include "client/help.h"

#include "base/arena.h"
#include "client/prompt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The man page without roff's backslashes before dashes. */
static char *read_page(struct sc_arena *arena)
{
    struct sc_text page = {0};
    struct sc_err err = SC_ERR_INIT;
    assert_int_equal(sc_prompt_read(arena, SC_SOURCE_DIR "/client/semcache.1", &page, &err), SC_OK);
    char *text = sc_arena_take(arena, page.len + 1);
    size_t n = 0;
    assert_non_null(text);
    for (size_t i = 0; i < page.len; i++)
        if (page.bytes[i] != '\\' || page.bytes[i + 1] != '-')
            text[n++] = page.bytes[i];
    return text;
}

static void the_page_has_an_entry_for_every_option_and_command(void **state)
{
    (void)state;
    struct sc_arena arena;
    char want[128];
    sc_arena_init(&arena, 1u << 20);
    const char *page = read_page(&arena);
    for (int id = 0; id < SC_OPT_COUNT; id++) {
        const struct sc_opt_spec *spec = sc_opt_spec((enum sc_opt_id)id);
        (void)snprintf(want, sizeof(want), ".TP\n.B%s --%s%s", spec->value_name != NULL ? "I" : "",
                       spec->name, spec->value_name != NULL ? " \" " : "\n");
        if (strstr(page, want) == NULL)
            fail_msg("client/semcache.1 has no entry for --%s", spec->name);
        for (int c = 0; c < SC_CHOICES_MAX && spec->choices[c] != NULL; c++)
            if (strstr(page, spec->choices[c]) == NULL)
                fail_msg("client/semcache.1 does not name %s of --%s", spec->choices[c],
                         spec->name);
    }
    for (int id = 0; id < SC_CMD_COUNT; id++) {
        (void)snprintf(want, sizeof(want), ".TP\n.B %s\n", sc_cmd_spec((enum sc_cmd_id)id)->name);
        if (strstr(page, want) == NULL)
            fail_msg("client/semcache.1 does not explain %s",
                     sc_cmd_spec((enum sc_cmd_id)id)->name);
    }
    sc_arena_fini(&arena);
}

static void the_help_of_a_command_lists_exactly_its_options(void **state)
{
    (void)state;
    for (int c = 0; c < SC_CMD_COUNT; c++) {
        char *text = NULL;
        size_t len = 0;
        char want[128];
        FILE *out = open_memstream(&text, &len);
        assert_non_null(out);
        sc_help_cmd(out, (enum sc_cmd_id)c);
        assert_int_equal(fclose(out), 0);
        for (int id = 0; id < SC_OPT_COUNT; id++) {
            const struct sc_opt_spec *spec = sc_opt_spec((enum sc_opt_id)id);
            (void)snprintf(want, sizeof(want), "\n  --%s%s%s", spec->name,
                           spec->value_name != NULL ? " " : "",
                           spec->value_name != NULL ? spec->value_name : "");
            const char *at = strstr(text, want);
            const bool listed = at != NULL && strchr(" \n", at[strlen(want)]) != NULL;
            if (listed != sc_opt_belongs(spec, (enum sc_cmd_id)c))
                fail_msg("help %s: --%s", sc_cmd_spec((enum sc_cmd_id)c)->name, spec->name);
        }
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_has_an_entry_for_every_option_and_command),
        cmocka_unit_test(the_help_of_a_command_lists_exactly_its_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
