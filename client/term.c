#include "client/term.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define BAR_COLUMNS 30

void sc_text_out_init(struct sc_text_out *out, FILE *file, bool terminal)
{
    *out = (struct sc_text_out){.file = file, .terminal = terminal, .at_line_start = true};
}

static enum sc_status put(struct sc_text_out *out, const char *text, size_t len, struct sc_err *err)
{
    if (len == 0)
        return SC_OK;
    out->at_line_start = text[len - 1] == '\n';
    if (fwrite(text, 1, len, out->file) != len)
        return sc_fail(err, SC_EIO, "output: %s", strerror(errno));
    return SC_OK;
}

/* C0 but newline and tab, DEL, and C1 (U+0080..U+009F). */
static bool is_control(const char *text, int n)
{
    const unsigned char *s = (const unsigned char *)text;
    if (n == 1)
        return (s[0] < 0x20 && s[0] != '\n' && s[0] != '\t') || s[0] == 0x7F;
    return n == 2 && s[0] == 0xC2 && s[1] < 0xA0;
}

static enum sc_status put_for_terminal(struct sc_text_out *out, const char *text, size_t len,
                                       struct sc_err *err)
{
    enum sc_status st = SC_OK;
    size_t from = 0, at = 0;
    while (at < len && st == SC_OK) {
        int n = sc_utf8_char_len(text + at, len - at);
        if (n > 0 && !is_control(text + at, n)) {
            at += (size_t)n;
            continue;
        }
        st = put(out, text + from, at - from, err);
        if (st == SC_OK)
            st = put(out, SC_UTF8_REPLACEMENT, strlen(SC_UTF8_REPLACEMENT), err);
        at += n > 0 ? (size_t)n : 1;
        from = at;
    }
    return st == SC_OK ? put(out, text + from, at - from, err) : st;
}

static enum sc_status flush(struct sc_text_out *out, struct sc_err *err)
{
    if (fflush(out->file) != 0)
        return sc_fail(err, SC_EIO, "output: %s", strerror(errno));
    return SC_OK;
}

enum sc_status sc_text_out_write(struct sc_text_out *out, const char *text, size_t len,
                                 struct sc_err *err)
{
    enum sc_status st = SC_OK;
    if (!out->terminal) {
        st = put(out, text, len, err);
        return st == SC_OK ? flush(out, err) : st;
    }
    /* First complete the character that the last write left open, byte by byte. */
    while (out->n_held > 0 && len > 0 && st == SC_OK) {
        out->held[out->n_held++] = *text++;
        len--;
        if (sc_utf8_char_len(out->held, out->n_held) != 0) {
            st = put_for_terminal(out, out->held, out->n_held, err);
            out->n_held = 0;
        }
    }
    if (st != SC_OK || len == 0)
        return st == SC_OK ? flush(out, err) : st;
    size_t whole = sc_utf8_whole(text, len);
    out->n_held = len - whole;
    memcpy(out->held, text + whole, out->n_held);
    st = put_for_terminal(out, text, whole, err);
    return st == SC_OK ? flush(out, err) : st;
}

enum sc_status sc_text_out_finish(struct sc_text_out *out, struct sc_err *err)
{
    enum sc_status st = SC_OK;
    if (out->n_held > 0)
        st = put_for_terminal(out, out->held, out->n_held, err);
    out->n_held = 0;
    if (st == SC_OK && out->terminal && !out->at_line_start)
        st = put(out, "\n", 1, err);
    return st == SC_OK ? flush(out, err) : st;
}

void sc_progress_show(struct sc_progress *progress, const char *what, uint64_t done, uint64_t total)
{
    char bar[BAR_COLUMNS + 1];
    if (!progress->terminal || total == 0)
        return;
    if (done > total)
        done = total;
    size_t filled = (size_t)(done * BAR_COLUMNS / total);
    memset(bar, '.', BAR_COLUMNS);
    memset(bar, '#', filled);
    bar[BAR_COLUMNS] = '\0';
    (void)fprintf(progress->file, "\r%s [%s] %" PRIu64 "/%" PRIu64 " tokens", what, bar, done,
                  total);
    (void)fflush(progress->file);
    progress->shown = true;
}

void sc_progress_line(struct sc_progress *progress, const char *text)
{
    if (!progress->terminal)
        return;
    (void)fprintf(progress->file, "\r%s\033[K", text);
    (void)fflush(progress->file);
    progress->shown = true;
}

void sc_progress_clear(struct sc_progress *progress)
{
    if (!progress->shown)
        return;
    (void)fputs("\r\033[K", progress->file);
    (void)fflush(progress->file);
    progress->shown = false;
}

const char *sc_term_bold(bool colors)
{
    return colors ? "\033[1m" : "";
}

const char *sc_term_dim(bool colors)
{
    return colors ? "\033[2m" : "";
}

const char *sc_term_reset(bool colors)
{
    return colors ? "\033[0m" : "";
}

const char *sc_bytes_text(double bytes, char buffer[SC_BYTES_TEXT_BYTES])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t u = 0;
    while (bytes >= 1024.0 && u + 1 < SC_ARRAY_LEN(units)) {
        bytes /= 1024.0;
        u++;
    }
    (void)snprintf(buffer, SC_BYTES_TEXT_BYTES, u == 0 ? "%.0f %s" : "%.1f %s", bytes, units[u]);
    return buffer;
}
