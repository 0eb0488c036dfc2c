/* Files with passwords and keys: what is read, and what is refused without a look at it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/secret.h"

#define SECRET "s3cret"

enum { MAX = 32 };

/* The linker puts this in read's place. */
ssize_t __real_read(int fd, void *buf, size_t n);
ssize_t __wrap_read(int fd, void *buf, size_t n);
static int n_reads, fails_at, fails_with; /* fails_at: the number of a read, from 1; 0: none */

ssize_t __wrap_read(int fd, void *buf, size_t n)
{
    n_reads++;
    if (n_reads == fails_at) {
        errno = fails_with;
        return -1;
    }
    return __real_read(fd, buf, n < 4 ? n : 4); /* in pieces */
}

static char path[64];

static int setup(void **state)
{
    (void)state;
    (void)strcpy(path, "/tmp/sc-secret-XXXXXX");
    int fd = mkstemp(path);
    n_reads = fails_at = 0;
    return fd >= 0 ? close(fd) : -1;
}

static int teardown(void **state)
{
    (void)state;
    return remove(path);
}

static void hold(const char *bytes, size_t len, mode_t mode)
{
    (void)chmod(path, 0600);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(path, mode), 0);
}

static void refused(enum sc_status want, const char *says)
{
    struct sc_err err = SC_ERR_INIT;
    char buf[MAX + 1] = {0};
    size_t len = 77;
    assert_int_equal(sc_secret_read(path, "the word", buf, MAX, &len, &err), want);
    if (strstr(err.text, path) == NULL || strstr(err.text, says) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, says);
    assert_null(strstr(err.text, SECRET));
    assert_int_equal(len, 77);
    for (size_t i = 0; i < sizeof(buf); i++)
        assert_int_equal(buf[i], 0);
}

static void all_bytes_are_read_and_ended_by_0(void **state)
{
    static const char bytes[MAX + 1] = SECRET "\0\n9876543210 and more";
    static const mode_t modes[] = {0600, 0400, 0640, 0660};
    (void)state;
    for (size_t n = 0; n <= MAX; n++) {
        struct sc_err err = SC_ERR_INIT;
        char buf[MAX + 1];
        size_t len = 77;
        memset(buf, 'x', sizeof(buf));
        hold(bytes, n, modes[n % SC_ARRAY_LEN(modes)]);
        fails_at = n_reads + 2;
        fails_with = EINTR; /* read again */
        assert_int_equal(sc_secret_read(path, "the word", buf, MAX, &len, &err), SC_OK);
        assert_int_equal(len, n);
        assert_memory_equal(buf, bytes, n);
        assert_int_equal(buf[n], 0);
    }
}

static void a_file_that_others_may_read_or_write_is_refused(void **state)
{
    static const mode_t modes[] = {0604, 0602, 0644, 0666};
    (void)state;
    for (size_t i = 0; i < SC_ARRAY_LEN(modes); i++) {
        char says[128];
        hold(SECRET, strlen(SECRET), modes[i]);
        (void)snprintf(says, sizeof(says), "mode %03o lets others at the word; chmod o= %s",
                       (unsigned)modes[i], path);
        refused(SC_EPERM, says);
    }
    assert_int_equal(n_reads, 0);
}

static void what_is_too_long_or_no_file_is_refused(void **state)
{
    char many[MAX + 1];
    (void)state;
    memset(many, 'x', sizeof(many));
    hold(many, sizeof(many), 0600);
    refused(SC_EINVAL, "33 bytes, limit 32");
    assert_int_equal(unlink(path), 0);
    refused(SC_ENOENT, "No such file");
    assert_int_equal(mkfifo(path, 0600), 0); /* with nobody at its other end */
    refused(SC_EIO, "not a file");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    refused(SC_EIO, "not a file");
    assert_int_equal(n_reads, 0);
}

/* Half of a file of keys is not the keys. */
static void a_read_that_fails_half_way_is_an_error_and_leaves_nothing(void **state)
{
    (void)state;
    hold(SECRET SECRET, 2 * strlen(SECRET), 0600);
    fails_at = n_reads + 2;
    fails_with = EIO;
    refused(SC_EIO, "Input/output error");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(all_bytes_are_read_and_ended_by_0),
        TEST(a_file_that_others_may_read_or_write_is_refused),
        TEST(what_is_too_long_or_no_file_is_refused),
        TEST(a_read_that_fails_half_way_is_an_error_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
