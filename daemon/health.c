#include "daemon/health.h"

void sc_health_init(struct sc_health *health, uint64_t stuck_after_us, uint64_t now_us)
{
    *health = (struct sc_health){
        .stuck_after_us = stuck_after_us, .progress_us = now_us, .state = SC_HEALTH_LOADING};
}

enum sc_health_state sc_health_update(struct sc_health *h, const struct sc_health_view *v)
{
    if (v->work == 0 || v->progress != h->progress) {
        h->progress = v->progress;
        h->progress_us = v->now_us;
    }
    if (v->draining || h->state == SC_HEALTH_DRAINING)
        h->state = SC_HEALTH_DRAINING;
    else if (v->failed || h->state == SC_HEALTH_FAILED)
        h->state = SC_HEALTH_FAILED;
    else if (!v->loaded)
        h->state = SC_HEALTH_LOADING;
    else if (v->now_us - h->progress_us > h->stuck_after_us)
        h->state = SC_HEALTH_STUCK;
    else
        h->state = SC_HEALTH_READY;
    return h->state;
}

const char *sc_health_name(enum sc_health_state state)
{
    switch (state) {
    case SC_HEALTH_LOADING:
        return "loading";
    case SC_HEALTH_READY:
        return "ready";
    case SC_HEALTH_STUCK:
        return "stuck";
    case SC_HEALTH_FAILED:
        return "failed";
    case SC_HEALTH_DRAINING:
        return "draining";
    }
    return "unknown";
}
