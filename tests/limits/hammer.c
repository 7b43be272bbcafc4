/* One process that decides on a shared table as fast as it can, and logs what it admitted.
 *
 *     hammer TABLE_FD LOG_FD STRIPES BUCKETS_PER_STRIPE SEED WAIT_US PAUSES
 *
 * A record is written after its charge: a death in between hides a charge, so "over the limit in the log" is
 * always a real fault. With PAUSES, a process now and then sleeps between two stores, where it is then found
 * by SIGKILL and SIGSTOP. Keys and limits are those of test_table_processes.py.
 */
#include "ratelimitd/limits/table_core.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEYS = 12, HEADER = 4096 };

typedef struct {
    uint64_t at_us, key;
} Record;

typedef struct {
    uint64_t stop, used, capacity, decisions, timeouts, stale;
    uint64_t reserved[2];
    Record record[];
} Log;

static uint64_t random_state;
static int pauses;

static uint64_t random_below(uint64_t n) {
    random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
    return random_state % n;
}

void table_crash_point(void) {
    if (pauses && random_below(4000) == 0) usleep((useconds_t)random_below(1500));
}

static uint64_t clock_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static void *map(int fd) {
    struct stat stat;
    if (fstat(fd, &stat) != 0) exit(1);
    void *memory = mmap(NULL, (size_t)stat.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) exit(1);
    return memory;
}

static Charge charge_of(uint64_t key) {
    static const uint64_t windows_us[4] = {20000, 100000, 500000, 1000000};
    static const uint32_t limits[3] = {2, 100, 1000};
    return (Charge){
        .key = (key + 1) * 0x9e3779b97f4a7c15u,
        .slot_us = (windows_us[key % 4] + 30) / 31,
        .limit = limits[key % 3],
        .cost = 1,
        .limit_id = (uint16_t)(key + 1),
    };
}

static void decide(TableCore *table, Log *log) {
    Charge charges[3];
    uint64_t keys[3];
    int n = 1 + (int)random_below(3);
    Decided decided;
    Verdict verdict;

    for (int i = 0; i < n; i++) {
        keys[i] = random_below(KEYS);
        charges[i] = charge_of(keys[i]);
    }
    uint64_t behind_us = random_below(8) ? 0 : random_below(30000);
    verdict = table_admit(table, charges, n, clock_us() - behind_us, &decided);
    while (verdict == STALE) {
        log->stale++;
        verdict = table_admit_again(table, charges, n, clock_us(), &decided);
    }
    log->decisions++;
    if (verdict == TIMED_OUT) log->timeouts++;
    if (verdict != ADMITTED) return;
    uint64_t first = __atomic_fetch_add(&log->used, (uint64_t)n, __ATOMIC_RELAXED);
    for (int i = 0; i < n && first + (uint64_t)i < log->capacity; i++) {
        log->record[first + (uint64_t)i] = (Record){decided.at_us, keys[i] + 1};
    }
}

int main(int argc, char **argv) {
    if (argc != 8) return 2;
    char *memory = map(atoi(argv[1]));
    Log *log = map(atoi(argv[2]));
    uint32_t stripes = (uint32_t)atoi(argv[3]);
    TableCore table = {
        .stripes = (Stripe *)(memory + HEADER),
        .buckets = (Bucket *)(memory + HEADER + stripes * sizeof(Stripe)),
        .counters = (TableCounters *)(memory + 256),
        .nstripes = stripes,
        .buckets_per_stripe = (uint32_t)atoi(argv[4]),
        .wait_ns = (uint64_t)atoi(argv[6]) * 1000u,
        .limits = calloc(TABLE_LIMIT_IDS, sizeof(uint32_t)),
        .busy_until_ns = calloc(stripes, sizeof(uint64_t)),
    };
    random_state = (uint64_t)atoll(argv[5]) * 0x9e3779b97f4a7c15u + 1;
    pauses = atoi(argv[7]);
    while (!__atomic_load_n(&log->stop, __ATOMIC_RELAXED)) decide(&table, log);
    return 0;
}
