/* Any bytes as a chat template, and after the first NUL as the JSON of its messages: refused with a
 * message, or rendered to UTF-8 twice the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat_template.h"
#include "model/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char messages[] =
    "[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\" h\\u00e9 \"},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\",\"function\":{\"name\":"
    "\"f\",\"arguments\":{\"a\":[1,2.5,true]}}}]}]";
static const char variables[] =
    "{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":"
    "\"object\",\"properties\":{\"a\":{\"type\":\"string\"}}}}}],\"n\":3,\"s\":\"abc\",\"l\":[1,2]"
    "}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct tm now = {.tm_year = 125, .tm_mday = 1};
    const char *text = (const char *)data;
    const char *nul = size > 0 ? memchr(data, 0, size) : NULL;
    size_t len = nul != NULL ? (size_t)(nul - text) : size;
    struct sc_chat_request req = {.messages_json = nul != NULL ? nul + 1 : messages,
                                  .messages_json_len =
                                      nul != NULL ? size - len - 1 : sizeof(messages) - 1,
                                  .add_generation_prompt = true,
                                  .bos_token = "<s>",
                                  .eos_token = "</s>",
                                  .variables_json = variables,
                                  .variables_json_len = sizeof(variables) - 1,
                                  .now = &now};
    struct sc_chat_template *tpl = NULL;
    struct sc_text out[2] = {{0}};
    struct sc_err err[2] = {SC_ERR_INIT, SC_ERR_INIT};
    if (sc_chat_template_open(text, len, &tpl, &err[0]) != SC_OK) {
        SC_ASSERT(err[0].text[0] != '\0' && tpl == NULL);
        return 0;
    }
    enum sc_status st = sc_chat_template_render(tpl, &req, &out[0], &err[0]);
    SC_ASSERT(sc_chat_template_render(tpl, &req, &out[1], &err[1]) == st);
    SC_ASSERT(out[0].len == out[1].len);
    SC_ASSERT(strcmp(err[0].text, err[1].text) == 0);
    if (st == SC_OK) {
        SC_ASSERT(out[0].len == 0 || memcmp(out[0].bytes, out[1].bytes, out[0].len) == 0);
        SC_ASSERT(sc_utf8_valid_bytes(out[0].bytes, out[0].len) == out[0].len);
    }
    sc_text_fini(&out[0]);
    sc_text_fini(&out[1]);
    sc_chat_template_close(tpl);
    return 0;
}
