/* tests/fuzz/fuzz_prompt_format.c - any bytes as the client's prompt format: refused with a
 * message, or a prompt can be built with it. */
#include <stdint.h>
#include <string.h>

#include "client/prompt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct sc_text document = {"text\n\n", 6};
    struct sc_prompt_format format;
    struct sc_err err = SC_ERR_INIT;
    struct sc_arena arena;
    struct sc_text prompt;

    sc_arena_init(&arena, (size_t)64 << 20);
    sc_prompt_format_default(&format);
    if (sc_prompt_format_parse(&arena, (const char *)data, size, &format, &err) == SC_OK) {
        SC_ASSERT(format.n_stops <= SC_FORMAT_STOPS_MAX);
        for (uint32_t i = 0; i < format.n_stops; i++)
            SC_ASSERT(format.stops[i][0] != '\0');
        SC_ASSERT(sc_prompt_build(&arena, &format, &document, "Who?", &prompt, &err) == SC_OK);
        SC_ASSERT(prompt.len == strlen(prompt.bytes) && strncmp(prompt.bytes, "text", 4) == 0);
        SC_ASSERT(sc_prompt_check("prompt", prompt.bytes, prompt.len, &err) == SC_OK);
    } else {
        SC_ASSERT(err.text[0] != '\0');
    }
    sc_arena_fini(&arena);
    return 0;
}
