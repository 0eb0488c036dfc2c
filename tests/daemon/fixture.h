/* tests/daemon/fixture.h - a model without weights: configuration and tokenizer of a golden one. */
#ifndef SC_TESTS_DAEMON_FIXTURE_H
#define SC_TESTS_DAEMON_FIXTURE_H

#include "daemon/convert.h"

#define FIXTURE_DIR SC_SOURCE_DIR "/tests/golden/llama31"

struct fixture {
    struct sc_model model;
    struct sc_config config;
    struct sc_convert convert;
};

static int fixture_open(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct sc_err err = SC_ERR_INIT;

    sc_config_init(&f->config);
    if (sc_model_config_load(FIXTURE_DIR, &f->model.config, &err) != SC_OK ||
        sc_tokenizer_open_dir(FIXTURE_DIR, &f->model.tok, &err) != SC_OK) {
        print_error("%s\n", err.text);
        return -1;
    }
    f->model.dir = (char *)(uintptr_t)FIXTURE_DIR;
    f->convert = (struct sc_convert){
        .model = &f->model, .config = &f->config, .max_context = f->model.config.max_positions};
    *state = f;
    return 0;
}

static int fixture_close(void **state)
{
    struct fixture *f = *state;

    sc_tokenizer_close(f->model.tok);
    free(f);
    return 0;
}

#endif
