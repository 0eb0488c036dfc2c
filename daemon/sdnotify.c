#include "daemon/sdnotify.h"

#include <inttypes.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>

#include "daemon/clock.h"

/* A lost notification is systemd's timeout to notice; there is nothing better to do here. */

void sc_notify_status(const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    (void)sd_notifyf(0, "STATUS=%s", text);
}

void sc_notify_ready(void)
{
    (void)sd_notify(0, "READY=1\nSTATUS=ready");
}

void sc_notify_reloading(void)
{
    (void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, sc_now_us());
}

void sc_notify_stopping(void)
{
    (void)sd_notify(0, "STOPPING=1\nSTATUS=draining");
}

void sc_notify_extend(uint64_t us)
{
    (void)sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%" PRIu64, us);
}

void sc_notify_watchdog(void)
{
    (void)sd_notify(0, "WATCHDOG=1");
}

uint64_t sc_notify_watchdog_us(void)
{
    uint64_t us = 0;

    return sd_watchdog_enabled(0, &us) > 0 ? us : 0;
}
