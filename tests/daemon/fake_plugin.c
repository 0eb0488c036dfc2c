/* A plugin for test_plugin.c; SC_FAKE_ABI and SC_FAKE_WORKS choose what is wrong with it. */
#include "base/plugin.h"

static enum sc_status probe(char *text, size_t bytes, struct sc_err *err)
{
    (void)text;
    (void)bytes;
    (void)err;
    return SC_OK;
}

static void close_nothing(struct sc_backend *be)
{
    (void)be;
}

static const struct sc_backend_ops ops = {.name = "fake", .close = close_nothing};
static struct sc_backend the_backend = {.ops = &ops};

static enum sc_status open_fake(const struct sc_backend_opts *opts, struct sc_backend **ret_be,
                                struct sc_err *err)
{
    (void)opts;
    if (!SC_FAKE_WORKS) {
        if (err != NULL)
            err->status = SC_EUNAVAIL;
        return SC_EUNAVAIL;
    }
    *ret_be = &the_backend;
    return SC_OK;
}

extern const struct sc_backend_plugin sc_backend_plugin;
const struct sc_backend_plugin sc_backend_plugin = {
    .abi = SC_FAKE_ABI, .name = "fake", .probe = probe, .open = open_fake};
