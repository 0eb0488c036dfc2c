#include <string.h>

#include "scheduler/internal.h"

static bool is_stop_id(const struct sc_request *r, int32_t token)
{
    for (uint32_t i = 0; !r->ignore_eos && i < r->config->n_eos_ids; i++)
        if (r->config->eos_ids[i] == token)
            return true;
    for (uint32_t i = 0; i < r->n_stop_ids; i++)
        if (r->stop_ids[i] == token)
            return true;
    return false;
}

/* Starts the step's text with what was held back. The scratch is never smaller than that. */
static void take_held(struct sc_request *r, struct sc_text *text)
{
    text->len = r->n_held;
    memcpy(text->bytes, r->held, r->n_held);
    r->n_held = 0;
}

/* A stop string counts once min_tokens were sampled. True: the text ends here. */
static bool find_stop_string(const struct sc_request *r, const struct sc_text *text, size_t from,
                             struct sc_output *out)
{
    struct sc_stop_match match;
    if (sc_request_completion(r) < r->min_tokens ||
        !sc_stops_find(r->stops, r->n_stops, text->bytes, text->len, from, &match))
        return false;
    out->finish = SC_FINISH_STOP;
    out->stop_string = r->stops[match.which].text;
    out->emit_len = r->include_stop_string ? match.end : match.start;
    return true;
}

enum sc_status sc_output_token(struct sc_request *r, int32_t token, struct sc_text *text,
                               struct sc_output *ret_output, struct sc_err *err)
{
    struct sc_output out = {.finish = SC_FINISH_NONE, .stop_id = -1};
    enum sc_status st = SC_OK;
    take_held(r, text);
    size_t from = text->len;
    r->tokens[r->n_tokens++] = token;
    bool stopped = is_stop_id(r, token);
    if (!stopped)
        st = sc_detok_push(&r->detok, token, text, err);
    if (st != SC_OK)
        return st;
    if (!stopped && find_stop_string(r, text, from, &out))
        goto done;
    if (stopped) {
        out.finish = SC_FINISH_STOP;
        out.stop_id = token;
    } else if (sc_request_completion(r) >= r->max_tokens) {
        out.finish = SC_FINISH_LENGTH;
    }
    if (out.finish != SC_FINISH_NONE) {
        st = sc_detok_flush(&r->detok, text, err);
        if (st != SC_OK)
            return st;
        out.emit_len = text->len;
    } else {
        r->n_held = (uint32_t)sc_stops_held(r->stops, r->n_stops, text->bytes, text->len);
        out.emit_len = text->len - r->n_held;
        memcpy(r->held, text->bytes + out.emit_len, r->n_held);
    }
done:
    *ret_output = out;
    return SC_OK;
}
