/* Memory that runs out at any allocation of open, put and get: a status or a miss, never a crash,
 * and the store that lives still serves. */
#include "tests/nomem.h"
#include "tests/store/rig.h"

#define MANY ((uint64_t)1 << 30)

/* True when an allocation was refused on the way. */
static bool round_with_refusal(struct rig *rig, const struct sc_store_opts *opts, unsigned n)
{
    struct sc_blob *blob = rig_blob(2, 3000);
    struct sc_store_label label = rig_label(0);
    struct sc_hash key = rig_key(2);
    struct sc_store *s = NULL;
    struct sc_err err = SC_ERR_INIT;
    enum sc_status st;

    atomic_store(&allocated, 0);
    atomic_store(&refused, n);
    atomic_store(&armed, true);
    st = sc_store_open(opts, &s, &err);
    if (st == SC_OK) {
        (void)rig_hit(rig, s, 1, 3000);
        st = sc_store_put(s, &key, &label, blob, &err);
        assert_true(st == SC_OK || st == SC_ENOMEM);
        sc_store_flush(s);
        (void)rig_hit(rig, s, 2, 3000);
        atomic_store(&armed, false);
        assert_true(rig_hit(rig, s, 1, 3000)); /* it lives, and nothing was lost */
        sc_store_remove(s, &key);
    } else {
        assert_true(s == NULL && err.text[0] != '\0');
    }
    atomic_store(&armed, false);
    sc_store_close(s);
    sc_blob_unref(blob);
    return atomic_load(&allocated) > n;
}

static void any_refused_allocation_is_a_status_or_a_miss(void **state)
{
    struct rig *rig = *state;
    char dir[256];
    struct sc_store_opts opts = {.memory_bytes = MANY, .dir = dir, .dir_bytes = MANY};
    unsigned n = 0;

    strcpy(dir, rig_path(rig, "d"));
    struct sc_store *s = rig_open(rig, opts);
    rig_put(s, 1, 3000);
    sc_store_close(s);
    while (round_with_refusal(rig, &opts, n))
        n++;
    assert_true(n > 10);
    print_message("%u allocations refused, one at a time\n", n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(any_refused_allocation_is_a_status_or_a_miss, rig_setup,
                                        rig_teardown),
    };
    if (!CAN_REFUSE) {
        printf("sanitizers own malloc here\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
