/* The table's core with every store a crash point: a call runs in a thread that ends after `stores` stores.
 *
 * The kernel walks the robust list of a thread that ends as it does that of a killed process, so its locks
 * are left exactly as in a crash. For tests (tables.py).
 */
#include "ratelimitd/limits/table_keys.h"

static __thread long stores_left; /* 0: does not die */

void table_crash_point(void) {
    if (stores_left > 0 && --stores_left == 0) pthread_exit(NULL);
}

typedef struct {
    TableCore table;
    Charge *charges; /* NULL: ban */
    int n;
    uint64_t key, until_us, now_us;
    long stores;
    int survived;
} Call;

static void *call_run(void *argument) {
    Call *call = argument;
    Decided decided;

    stores_left = call->stores;
    if (call->charges) {
        table_admit(&call->table, call->charges, call->n, call->now_us, &decided);
    } else {
        table_ban(&call->table, call->key, 1, call->until_us, call->now_us);
    }
    call->survived = 1;
    return NULL;
}

static TableCore table_at(char *memory, uint32_t stripes, uint32_t buckets_per_stripe) {
    static uint32_t limits[TABLE_LIMIT_IDS];
    static uint64_t busy_until_ns[TABLE_MAX_STRIPES];
    return (TableCore){
        .stripes = (Stripe *)(memory + 4096),
        .buckets = (Bucket *)(memory + 4096 + stripes * sizeof(Stripe)),
        .counters = (TableCounters *)(memory + 256),
        .nstripes = stripes,
        .buckets_per_stripe = buckets_per_stripe,
        .wait_ns = STRIPE_WAIT_NS,
        .limits = limits,
        .busy_until_ns = busy_until_ns,
    };
}

/* Whether the call died. */
static int call_in_thread(Call *call) {
    pthread_t thread;

    if (pthread_create(&thread, NULL, call_run, call) != 0) return -1;
    pthread_join(thread, NULL);
    return !call->survived;
}

int mortal_admit(char *memory, uint32_t stripes, uint32_t buckets, Charge *charges, int n, uint64_t now_us,
                 long stores) {
    Call call = {.table = table_at(memory, stripes, buckets), .charges = charges, .n = n, .now_us = now_us,
                 .stores = stores};
    return call_in_thread(&call);
}

int mortal_ban(char *memory, uint32_t stripes, uint32_t buckets, uint64_t key, uint64_t until_us,
               uint64_t now_us, long stores) {
    Call call = {.table = table_at(memory, stripes, buckets), .key = key, .until_us = until_us,
                 .now_us = now_us, .stores = stores};
    return call_in_thread(&call);
}

int mortal_lock(char *memory, uint32_t stripes, uint32_t buckets, uint32_t stripe) {
    return pthread_mutex_lock(&table_at(memory, stripes, buckets).stripes[stripe].mutex);
}

int mortal_unlock(char *memory, uint32_t stripes, uint32_t buckets, uint32_t stripe) {
    return pthread_mutex_unlock(&table_at(memory, stripes, buckets).stripes[stripe].mutex);
}
