#include "daemon/calibration_file.h"

#include <stdio.h>

#include "base/log.h"
#include "shard/calibrate.h"

#define PATH_BYTES   4096u
#define SAMPLE_CHARS 16 /* of the sample's id, in the name */
#define OF_ANOTHER   "thresholds that another daemon measured on a built-in text"

enum sc_status sc_calibration_file_path(const struct sc_engine *engine,
                                        const struct sc_model *model, const char *dir, char *path,
                                        size_t bytes, struct sc_err *err)
{
    char fingerprint[2 * SC_HASH_BYTES + 1], sample[2 * SC_HASH_BYTES + 1];
    struct sc_hash id;
    enum sc_status st = sc_calibrate_builtin_id(engine, model, &id, err);

    if (st != SC_OK)
        return st;
    sc_hash_hex(&model->fingerprint, fingerprint);
    sc_hash_hex(&id, sample);
    if ((size_t)snprintf(path, bytes, "%s/calibration-%s-%.*s.json", dir, fingerprint, SAMPLE_CHARS,
                         sample) >= bytes)
        return sc_fail(err, SC_EINVAL, "%s: path longer than %zu bytes", dir, bytes);
    return SC_OK;
}

/* The id of what the engine has now, as GetModelInfo tells it. */
static const char *id_of(const struct sc_engine *engine, char hex[2 * SC_HASH_BYTES + 1])
{
    const struct sc_hash hash = sc_calibration_hash(sc_engine_calibration(engine));

    sc_hash_hex(&hash, hex);
    return hex;
}

static void log_measured(const struct sc_engine *engine, const char *uses, const char *kept_in)
{
    char hex[2 * SC_HASH_BYTES + 1];

    sc_warn("no calibration file", "file=%s uses=\"%s\"%s%s id=%s", SC_CALIBRATION_FILE, uses,
            kept_in != NULL ? " kept_in=" : "", kept_in != NULL ? kept_in : "", id_of(engine, hex));
}

/* path: where the result is kept; NULL: nowhere. */
static enum sc_status measure(struct sc_engine *engine, const struct sc_model *model,
                              const char *path, struct sc_err *err)
{
    const char *uses = "thresholds measured on a built-in text";
    struct sc_err why = SC_ERR_INIT;
    enum sc_status st = sc_calibrate_builtin(engine, model, err), kept = SC_OK;

    if (st != SC_OK)
        return st;
    if (path != NULL)
        kept = sc_calibration_save_first(sc_engine_calibration(engine), path, &why);
    /* In a shared directory a daemon that started with us may have been quicker: the entries that
     * it writes are found with its calibration only. */
    if (kept == SC_EEXIST) {
        sc_err_clear(&why);
        kept = sc_calibrate_from_file(engine, model, path, &why);
        if (kept == SC_OK)
            uses = OF_ANOTHER;
    }
    if (kept != SC_OK) {
        sc_warn("calibration not kept", "reason=\"%s\" does=\"measure at every start\"", why.text);
        path = NULL;
    }
    log_measured(engine, uses, path);
    return SC_OK;
}

/* True: another daemon has written one there since, which stays. */
static bool remove_damaged(const struct sc_model *model, const char *path)
{
    struct sc_err why = SC_ERR_INIT;
    bool other = false;

    if (sc_calibration_remove_damaged(path, &model->config, &model->fingerprint, &other, &why) !=
        SC_OK)
        sc_warn("calibration not removed", "reason=\"%s\"", why.text);
    return other;
}

static enum sc_status use_kept(struct sc_engine *engine, const struct sc_model *model,
                               const char *dir, struct sc_err *err)
{
    char path[PATH_BYTES];
    struct sc_err why = SC_ERR_INIT;
    enum sc_status st = sc_calibration_file_path(engine, model, dir, path, sizeof(path), err);

    if (st != SC_OK)
        return st;
    sc_calibration_clean(path);
    st = sc_calibrate_from_file(engine, model, path, &why);
    if (st == SC_OK) {
        log_measured(engine, "thresholds measured on a built-in text before", path);
        return SC_OK;
    }
    if (st == SC_ENOMEM)
        return sc_fail(err, st, "%s", why.text);
    if (st != SC_ENOENT)
        sc_warn("calibration refused", "reason=\"%s\" does=\"measure anew\"", why.text);
    /* Now and not when there is a better one: what is in its place after measuring is another
     * daemon's. What cannot be read (SC_EIO) may be as good as any. */
    if ((st == SC_EFORMAT || st == SC_ERANGE) && remove_damaged(model, path)) {
        sc_err_clear(&why);
        if (sc_calibrate_from_file(engine, model, path, &why) == SC_OK) {
            log_measured(engine, OF_ANOTHER, path);
            return SC_OK;
        }
    }
    return measure(engine, model, path, err);
}

enum sc_status sc_calibration_file_use(struct sc_engine *engine, const struct sc_model *model,
                                       const char *dir, bool *ret_builtin, struct sc_err *err)
{
    char hex[2 * SC_HASH_BYTES + 1];
    bool found = false;
    enum sc_status st = sc_calibrate_own(engine, model, &found, err);

    if (st != SC_OK)
        return st;
    if (found)
        sc_notice("calibration", "file=%s/%s id=%s", model->dir, SC_CALIBRATION_FILE,
                  id_of(engine, hex));
    else if (dir != NULL)
        st = use_kept(engine, model, dir, err);
    else
        st = measure(engine, model, NULL, err);
    if (st == SC_OK)
        *ret_builtin = !found;
    return st;
}
