/* tests/model/chat_util.h - rendering small templates in tests. */
#ifndef SC_TESTS_MODEL_CHAT_UTIL_H
#define SC_TESTS_MODEL_CHAT_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "model/chat_template.h"

struct rendering {
    const char *source, *text;
};

static const char chat_messages[] =
    "[{\"role\":\"system\",\"content\":\"  Sys \\u00e9<b>\\n\"},"
    "{\"role\":\"user\",\"content\":\"Hi 'x' \\\"y\\\"\\n\\tz\"},"
    "{\"role\":\"assistant\",\"content\":\"A</"
    "think>\\n\\nB\",\"tool_calls\":[{\"id\":\"123456789\","
    "\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1}}}]},"
    "{\"role\":\"tool\",\"content\":null}]";
static const char chat_variables[] =
    "{\"n\":3,\"z\":0,\"t\":true,\"e\":\"\",\"s\":\"h\\u00e9llo w\\u00f6rld\",\"l\":[3,1,2],"
    "\"d\":{\"b\":1,\"a\":\"x\",\"items\":5,\"C\":null}}";
static const struct tm chat_now = {
    .tm_year = 125, .tm_mon = 0, .tm_mday = 15, .tm_hour = 12, .tm_wday = 3, .tm_yday = 14};

static inline struct sc_chat_request chat_request(void)
{
    return (struct sc_chat_request){.messages_json = chat_messages,
                                    .messages_json_len = sizeof(chat_messages) - 1,
                                    .add_generation_prompt = true,
                                    .bos_token = "<s>",
                                    .eos_token = "</s>",
                                    .variables_json = chat_variables,
                                    .variables_json_len = sizeof(chat_variables) - 1,
                                    .now = &chat_now};
}

/* Opens and renders; the caller frees *out. */
static inline enum sc_status chat_render(const char *source, size_t len,
                                         const struct sc_chat_request *req, struct sc_text *out,
                                         struct sc_err *err)
{
    struct sc_chat_template *tpl = NULL;
    enum sc_status st = sc_chat_template_open(source, len, &tpl, err);
    if (st == SC_OK)
        st = sc_chat_template_render(tpl, req, out, err);
    sc_chat_template_close(tpl);
    return st;
}

static inline void expect_text(const char *source, const struct sc_chat_request *req,
                               const char *want)
{
    struct sc_text out = {0};
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st = chat_render(source, strlen(source), req, &out, &err);
    if (st != SC_OK || strcmp(out.bytes, want) != 0)
        fail_msg("%s\n gave %s %s: %s\n want %s", source, sc_status_name(st), err.text,
                 out.bytes != NULL ? out.bytes : "nothing", want);
    sc_text_fini(&out);
}

static inline void expect_all(const struct rendering *list, size_t n)
{
    struct sc_chat_request req = chat_request();
    for (size_t i = 0; i < n; i++)
        expect_text(list[i].source, &req, list[i].text);
}

/* says: what the message must have, position included. */
static inline void expect_refusal(const char *source, enum sc_status want, const char *says)
{
    struct sc_chat_request req = chat_request();
    struct sc_text out = {0};
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st = chat_render(source, strlen(source), &req, &out, &err);
    if (st != want || strstr(err.text, says) == NULL)
        fail_msg("%s\n gave %s: %s, want %s: %s", source, sc_status_name(st), err.text,
                 sc_status_name(want), says);
    assert_int_equal(out.len, 0);
    sc_text_fini(&out);
}

#endif
