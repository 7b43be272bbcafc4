/* A loop of decisions on a private table, for decision.py: uniformly random keys, whole nanoseconds out.
 *
 * "Rolling" moves time by one slot for each visit of a key on average, so that two decisions of three roll.
 */
#include "ratelimitd/limits/table_core.h"

#include <stdlib.h>
#include <sys/mman.h>

typedef struct {
    uint64_t nanoseconds, admitted, evicted, stale;
} Figures;

static uint64_t random_state = 88172645463325252u;

static uint64_t random_next(void) {
    random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
    return random_state;
}

static uint64_t cpu_ns(void) {
    struct timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

/* The key of number `i`: spread like a hash. */
static uint64_t key_of(uint64_t i) {
    i = (i ^ i >> 30) * 0xbf58476d1ce4e5b9u;
    i = (i ^ i >> 27) * 0x94d049bb133111ebu;
    return i ^ i >> 31;
}

typedef struct {
    TableCore table;
    uint64_t keys, now_us;
} Bench;

enum { SLOT_US = 1 << 20, LIMIT = 2000000000, SHIFT = 15 };

static Charge charge_of(uint64_t key, int limit_id) {
    return (Charge){.key = key_of(key), .slot_us = SLOT_US, .limit = LIMIT, .cost = 1,
                    .limit_id = (uint16_t)limit_id, .shift = SHIFT};
}

/* A table of zeroed memory that holds `keys` keys. */
Bench *bench_open(char *memory, uint32_t stripes, uint32_t buckets_per_stripe, uint64_t keys) {
    Bench *bench = calloc(1, sizeof *bench);

    bench->table = (TableCore){
        .stripes = (Stripe *)(memory + 4096),
        .buckets = (Bucket *)(memory + 4096 + stripes * sizeof(Stripe)),
        .counters = (TableCounters *)(memory + 256),
        .nstripes = stripes,
        .buckets_per_stripe = buckets_per_stripe,
        .wait_ns = STRIPE_WAIT_NS,
        .limits = calloc(TABLE_LIMIT_IDS, sizeof(uint32_t)),
        .busy_until_ns = calloc(stripes, sizeof(uint64_t)),
    };
    bench->keys = keys;
    bench->now_us = (uint64_t)1 << 40;
    stripes_initialise(&bench->table);
    for (uint64_t i = 0; i < keys; i++) {
        Charge charge = charge_of(i, 1);
        Decided decided;
        table_admit(&bench->table, &charge, 1, bench->now_us, &decided);
    }
    return bench;
}

/* Decide `decisions` times on `n` random keys. */
void bench_run(Bench *bench, int n, uint64_t decisions, int rolling, Figures *figures) {
    uint64_t step = rolling ? (uint64_t)SLOT_US * (uint64_t)n : 0, passed = 0, start = cpu_ns();
    Charge charges[MAX_CHARGES];
    Decided decided;

    for (uint64_t i = 0; i < decisions; i++) {
        for (int j = 0; j < n; j++) charges[j] = charge_of(random_next() % bench->keys, j + 1);
        passed += step;
        uint64_t now_us = bench->now_us + passed / bench->keys;
        Verdict verdict = table_admit(&bench->table, charges, n, now_us, &decided);
        figures->admitted += verdict == ADMITTED;
        figures->stale += verdict == STALE;
    }
    bench->now_us += passed / bench->keys;
    figures->nanoseconds = cpu_ns() - start;
    figures->evicted = bench->table.counters->evicted + bench->table.counters->evicted_hard;
}
