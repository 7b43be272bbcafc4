/* How the table of windows lies in shared memory, and how it is written.
 *
 * Stripes (a lock each) come first, the buckets behind them, those of one stripe together. A bucket is a
 * header line and eight entries of two cache lines: the first line is all that a decision in an open slot
 * reads, the second holds the closed slots. All instants are whole microseconds of CLOCK_BOOTTIME.
 *
 * A process may be killed between any two stores. Whatever is reachable is therefore written with PUT, in an
 * order in which every prefix counts the same or more, never less.
 */
#ifndef RATELIMITD_TABLE_LAYOUT_H
#define RATELIMITD_TABLE_LAYOUT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pthread_mutex_clocklock: this header comes before all others */
#endif
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TABLE_SLOTS = 31,          /* closed slots of a window */
    TABLE_PLACES = 8,          /* entries of a bucket */
    TABLE_EXPIRY_BITS = 20,    /* expiry times are in units of 2^20 us */
    TABLE_MAX_STRIPES = 4096,  /* bits 0 to 11 of a key */
    TABLE_LIMIT_IDS = 65536,
    LEASE_EPOCH_SHIFT = 48,    /* 2^48 us are nine years of uptime */
};

#define LEASE_END_MASK (((uint64_t)1 << LEASE_EPOCH_SHIFT) - 1)

typedef struct {
    pthread_mutex_t mutex; /* process-shared, robust */
    uint64_t tmax;         /* latest instant decided under this stripe */
    uint32_t recovered;    /* owners that died with it */
    uint32_t timeouts;     /* waits that passed their bound, or failed */
} __attribute__((aligned(64))) Stripe;

typedef struct {
    uint64_t key;
    uint64_t newest; /* number of the slot that `cur` counts; 64 bits: 1 ms windows pass 2^32 in 40 hours */
    uint32_t cur;    /* units in the newest slot, exact */
    uint32_t sum;    /* of ring */
    uint16_t limit_id;
    uint16_t generation; /* of the policy that wrote `denied` */
    uint8_t shift;       /* sum and ring count in 2^shift units */
    uint8_t sum_slot;    /* low byte of `newest` for which sum holds; any other value: add the ring up */
    uint16_t incarnation;
    uint64_t denied;    /* no unit is free before this instant; 0: unknown */
    uint64_t ban;       /* refused before this instant */
    uint64_t lease_end; /* last instant at which the lease may be spent; above it, the epoch of the store */
    uint32_t lease;     /* units left of it */
    uint32_t uncharged; /* admitted without the store, to be charged when it is back */
    uint16_t ring[TABLE_SLOTS]; /* closed slot j is at j mod 31 */
    uint16_t lease_slot;        /* low 16 bits of the slot that the lease is charged to */
} Entry;

typedef struct {
    uint32_t tag[TABLE_PLACES];
    uint32_t expiry[TABLE_PLACES]; /* the place is free from this time on; 0: empty */
    Entry entry[TABLE_PLACES];
} __attribute__((aligned(64))) Bucket;

/* In the segment's header: stripes belong to no process, neither do these. */
typedef struct {
    uint64_t evicted;      /* live entries that gave way to another key */
    uint64_t evicted_hard; /* those of them that were banned, over their limit or held a lease */
    uint64_t reclaimed;    /* expired entries whose place was taken */
    uint64_t damaged;      /* stripes reset because their tmax was ahead of the clock */
} TableCounters;

_Static_assert(sizeof(Stripe) == 64, "a stripe is one cache line");
_Static_assert(sizeof(Entry) == 128 && offsetof(Entry, ring) == 64, "an entry is two cache lines");
_Static_assert(sizeof(Bucket) == 64 + TABLE_PLACES * 128, "a bucket is a header line and its entries");

/* One process's view: pointers into the segment, and what it alone knows. */
typedef struct {
    Stripe *stripes;
    Bucket *buckets;
    TableCounters *counters;
    uint32_t nstripes; /* power of two */
    uint32_t buckets_per_stripe;
    uint64_t wait_ns;        /* how long a decision may wait for its stripes, all together */
    uint32_t *limits;        /* limit id -> size of the limit as last charged, 0: never by this process */
    uint64_t *busy_until_ns; /* stripe -> until when it is tried and not waited for; 0: not marked */
    uint32_t nbusy;          /* stripes that are marked */
} TableCore;

#ifdef TABLE_CRASH_POINTS
void table_crash_point(void); /* supplied by a test: may end the thread, or wait to be killed */
#else
static inline void table_crash_point(void) {}
#endif

/* GCC takes a function that only prefetches for one without effect and drops its calls, unless it is inlined
 * before it looks. */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* SIGKILL takes a thread between two instructions and leaves its earlier stores in place: only the compiler
 * must keep the order, the next owner is ordered by the lock. */
#define TABLE_FENCE() atomic_signal_fence(memory_order_seq_cst)
#define PUT(field, value)                                      \
    do {                                                       \
        TABLE_FENCE();                                         \
        __atomic_store_n(&(field), (value), __ATOMIC_RELAXED); \
        TABLE_FENCE();                                         \
        table_crash_point();                                   \
    } while (0)

static inline void table_count(uint64_t *counter) { __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }

static inline uint32_t table_stripe(const TableCore *table, uint64_t key) {
    return (uint32_t)key & (table->nstripes - 1);
}

static inline uint32_t table_tag(uint64_t key) { return (uint32_t)(key ^ key >> 32); }

/* The place of a bucket in which a key is put if it is free: where to look before the tags are here. */
static inline int table_home(uint64_t key) { return (int)(key >> 61); }

/* The two buckets of a key lie in its stripe, so that one lock covers both. */
static inline void table_buckets(const TableCore *table, uint64_t key, Bucket *pair[2]) {
    uint64_t n = table->buckets_per_stripe;
    uint64_t first = ((key >> 12 & 0xffffff) * n) >> 24, second = ((key >> 36 & 0xffffff) * n) >> 24;
    Bucket *stripe = table->buckets + (uint64_t)table_stripe(table, key) * n;

    if (second == first) second = second + 1 == n ? 0 : second + 1;
    pair[0] = stripe + first;
    pair[1] = stripe + second;
}

#endif
