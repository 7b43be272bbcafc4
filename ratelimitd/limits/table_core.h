/* A decision on the shared table of windows: all of its charges, or none.
 *
 * Promises: the instant of a decision is never before an earlier one under the same stripes, and it, not the
 * clock's, is what is charged and to be logged; a refused request changes no count and creates no entry; a
 * process that dies at any store leaves counts that are too high and never too low, until the window is over.
 */
#ifndef RATELIMITD_TABLE_CORE_H
#define RATELIMITD_TABLE_CORE_H

#include "table_places.h"
#include "table_stripes.h"

enum { MAX_CHARGES = 16 };

#define TABLE_STALE_US 1000000u

typedef enum { ADMITTED, REFUSED, TIMED_OUT, STALE, UNKNOWN, LACKING } Verdict;

typedef struct {
    uint64_t key;
    uint64_t slot_us;
    uint32_t limit;
    uint32_t cost;
    uint16_t limit_id;
    uint16_t generation;
    uint8_t shift;
    uint8_t observe;
    uint8_t over; /* 0, or why this charge alone would have been refused */
    uint8_t on_failure;
    uint32_t used;
    uint8_t source; /* where its units came from, or were to come from (table_leases.h) */
} Charge;

enum { CHARGE_OVER = 1, CHARGE_BANNED = 2, CHARGE_UNKNOWN = 3 };
enum { FAILURE_LOCAL = 0, FAILURE_OPEN = 1, FAILURE_CLOSED = 2 };
enum { BY_NOTHING = 0, BY_LEASE = 1, BY_GRANT = 2, BY_FALLBACK = 3 };

typedef struct {
    uint64_t at_us;
    uint64_t retry_at_us;
    int refused_by;
} Decided;

/* One key of a decision: its charges merged, and what was found in the table. */
typedef struct {
    const Charge *charge; /* the first with this key */
    uint64_t cost;        /* of all of them */
    Bucket *pair[2];
    Place place;
    int exists;
    uint64_t count;       /* units before the decision */
    int over;             /* refused by itself */
    int source;           /* of the units, where a store is asked */
    const struct Grant *grant;
    uint64_t retry_at_us; /* if over */
} Claim;

typedef struct {
    Claim claim[MAX_CHARGES];
    int n;
    uint8_t claim_of[MAX_CHARGES]; /* index of a charge -> index of its claim */
    StripeSet stripes;
    Pinned pinned;
} Request;

/* Fetch what will be read, before it is waited for: of the entry, the lines of the place it likely has. */
ALWAYS_INLINE void request_prefetch(const TableCore *table, const Claim *claim, uint32_t stripe) {
    const Entry *home = &claim->pair[0]->entry[table_home(claim->charge->key)];

    __builtin_prefetch(&table->stripes[stripe], 1);
    __builtin_prefetch(claim->pair[0]->tag, 1);
    __builtin_prefetch(&home->key, 1);
    __builtin_prefetch(&home->ring, 1);
    __builtin_prefetch(claim->pair[1]->tag, 0);
}

/* Two checks of one key that each see room for one would together charge two: equal keys are one claim. */
static inline void request_gather(const TableCore *table, Request *r, const Charge *charges, int n) {
    r->n = r->stripes.n = r->pinned.n = 0;
    r->stripes.deadline_ns = 0;
    for (int i = 0; i < n; i++) {
        int j = 0;
        while (j < r->n && r->claim[j].charge->key != charges[i].key) j++;
        r->claim_of[i] = (uint8_t)j;
        if (j < r->n) {
            r->claim[j].cost += charges[i].cost;
            continue;
        }
        Claim *claim = &r->claim[r->n++];
        claim->charge = &charges[i];
        claim->cost = charges[i].cost;
        claim->exists = claim->over = 0;
        claim->count = claim->retry_at_us = 0;
        uint32_t stripe = table_stripe(table, charges[i].key);
        table_buckets(table, charges[i].key, claim->pair);
        request_prefetch(table, claim, stripe);
        stripes_add(&r->stripes, stripe);
    }
}

static inline void claim_refuse(Claim *claim, uint64_t count, uint64_t retry_at_us) {
    claim->over = CHARGE_OVER;
    claim->count = count;
    claim->retry_at_us = retry_at_us;
}

static inline void claim_check_absent(Claim *claim, uint64_t at_us) {
    const Charge *c = claim->charge;
    if (claim->cost > c->limit) claim_refuse(claim, 0, at_us + (TABLE_SLOTS + 1) * c->slot_us);
}

/* Rolls and marks the entry, which are no charges. `denied` is kept for one unit: that of a greater cost
 * would refuse a smaller one that fits. */
static inline void claim_check_entry(Claim *claim, Entry *e, uint64_t at_us) {
    const Charge *c = claim->charge;

    if (e->ban > at_us) {
        claim_refuse(claim, c->limit, e->ban);
        claim->over = CHARGE_BANNED;
        return;
    }
    if (e->generation != c->generation) {
        PUT(e->denied, 0);
        PUT(e->generation, c->generation);
    }
    if (e->denied > at_us && claim->cost == 1) {
        claim_refuse(claim, c->limit, e->denied);
        return;
    }
    window_settle(e, at_us / c->slot_us, c->shift);
    claim->count = window_count(e);
    if (claim->count + claim->cost > c->limit) {
        claim_refuse(claim, claim->count, window_free_at(e, c->slot_us, c->limit, claim->cost));
        PUT(e->denied, window_free_at(e, c->slot_us, c->limit, 1));
    }
}

/* Look every key up; whether all of them have room. */
static inline int request_check(TableCore *table, Request *r, uint64_t at_us) {
    int admitted = 1;

    for (int i = 0; i < r->n; i++) {
        Claim *claim = &r->claim[i];
        const Charge *c = claim->charge;
        if (table->limits[c->limit_id] != c->limit) table->limits[c->limit_id] = c->limit;
        claim->exists = place_find(claim->pair, c->key, &claim->place);
        if (claim->exists) {
            Entry *e = place_entry(claim->place);
            r->pinned.entry[r->pinned.n++] = e;
            claim_check_entry(claim, e, at_us);
        } else {
            claim_check_absent(claim, at_us);
        }
        if (claim->over && !c->observe) admitted = 0;
    }
    return admitted;
}

static inline void claim_charge_entry(Claim *claim) {
    Entry *e = place_entry(claim->place);
    place_keep_until(claim->place, (e->newest + TABLE_SLOTS + 1) * claim->charge->slot_us);
    PUT(e->cur, e->cur + (uint32_t)claim->cost);
}

static inline void claim_charge_absent(TableCore *table, Claim *claim, Pinned *pinned, uint64_t at_us) {
    const Charge *c = claim->charge;
    uint64_t slot = at_us / c->slot_us;
    Entry *e;

    claim->place = place_take(table, claim->pair, c->key, at_us, pinned);
    e = place_write(claim->place, c->key, c->limit_id);
    PUT(e->generation, c->generation);
    PUT(e->shift, c->shift);
    PUT(e->newest, slot);
    PUT(e->sum_slot, (uint8_t)slot);
    PUT(e->cur, (uint32_t)claim->cost);
    place_publish(claim->place, window_expiry((slot + TABLE_SLOTS + 1) * c->slot_us));
    pinned->entry[pinned->n++] = e;
}

/* An observed limit is charged up to its size: what is over it passes without a charge. */
static inline void request_charge(TableCore *table, Request *r, uint64_t at_us) {
    for (int i = 0; i < r->n; i++) {
        Claim *claim = &r->claim[i];
        if (claim->over) continue;
        if (claim->exists) {
            claim_charge_entry(claim);
        } else {
            claim_charge_absent(table, claim, &r->pinned, at_us);
        }
        claim->count += claim->cost;
    }
}

/* Tell the caller: for each charge what it used, for a refusal who decided and until when. */
static inline void request_report(const Request *r, Charge *charges, int n, int admitted, Decided *decided) {
    decided->refused_by = -1;
    decided->retry_at_us = 0;
    for (int i = 0; i < n; i++) {
        const Claim *claim = &r->claim[r->claim_of[i]];
        charges[i].over = (uint8_t)claim->over;
        charges[i].used = claim->count < UINT32_MAX ? (uint32_t)claim->count : UINT32_MAX;
        if (!admitted && claim->over && !charges[i].observe && claim->retry_at_us > decided->retry_at_us) {
            decided->refused_by = i;
            decided->retry_at_us = claim->retry_at_us;
        }
    }
}

/* Under the stripes: the instant first, everything later relies on it. */
static inline Verdict request_decide(TableCore *table, Request *r, Charge *charges, int n, uint64_t now_us,
                                     Decided *decided) {
    uint64_t at_us = stripes_latest(table, &r->stripes, now_us);
    int admitted;

    decided->at_us = at_us;
    if (at_us > now_us + TABLE_STALE_US) return STALE;
    for (int i = 0; i < r->stripes.n; i++) PUT(table->stripes[r->stripes.number[i]].tmax, at_us);
    admitted = request_check(table, r, at_us);
    if (admitted) request_charge(table, r, at_us);
    request_report(r, charges, n, admitted, decided);
    return admitted ? ADMITTED : REFUSED;
}

static inline Verdict table_admit(TableCore *table, Charge *charges, int n, uint64_t now_us,
                                  Decided *decided) {
    Request r;
    Verdict verdict;

    *decided = (Decided){now_us, 0, -1};
    request_gather(table, &r, charges, n);
    if (!stripes_lock(table, &r.stripes)) return TIMED_OUT;
    verdict = request_decide(table, &r, charges, n, now_us, decided);
    stripes_unlock(table, &r.stripes, r.stripes.n);
    return verdict;
}

/* Forget all that a stripe holds. */
static inline void stripe_reset(TableCore *table, uint32_t number, uint64_t now_us) {
    Bucket *bucket = table->buckets + (uint64_t)number * table->buckets_per_stripe;

    table_count(&table->counters->damaged);
    for (uint32_t i = 0; i < table->buckets_per_stripe; i++, bucket++) {
        for (int j = 0; j < TABLE_PLACES; j++) PUT(bucket->expiry[j], 0);
    }
    PUT(table->stripes[number].tmax, now_us);
}

/* After STALE: `ahead` was seen in a stripe before the clock said `now_us`. If it is still ahead of that, no
 * clock can have written it, however long this process stood still in between: the stripe is damaged, and
 * would freeze every stripe that shares a request with it. One that has moved on is not. Whether the stripes were
 * free in time. */
static inline int table_mend(TableCore *table, Charge *charges, int n, uint64_t now_us, uint64_t ahead) {
    Request r;

    if (ahead <= now_us) return 1;
    request_gather(table, &r, charges, n);
    if (!stripes_lock(table, &r.stripes)) return 0;
    for (int i = 0; i < r.stripes.n; i++) {
        uint32_t number = r.stripes.number[i];
        if (table->stripes[number].tmax == ahead) stripe_reset(table, number, now_us);
    }
    stripes_unlock(table, &r.stripes, r.stripes.n);
    return 1;
}

static inline Verdict table_admit_again(TableCore *table, Charge *charges, int n, uint64_t now_us,
                                        Decided *decided) {
    uint64_t ahead = decided->at_us;

    *decided = (Decided){now_us, 0, -1};
    if (!table_mend(table, charges, n, now_us, ahead)) return TIMED_OUT;
    return table_admit(table, charges, n, now_us, decided);
}

#endif
