/* A decision where the store of the fleet is asked: by leases in the table, by what the store granted to this
 * request, or by what each limit says of a store that is away.
 *
 * Promises: all charges or none, as in table_core.h; a unit of a lease is spent once, before the lease's end and
 * in its epoch; the entry's window counts what this node admitted, so that a store that lost it can be told.
 * Sources: the rules for leases and their proof are in ARCHITECTURE.md.
 */
#ifndef RATELIMITD_TABLE_LEASES_H
#define RATELIMITD_TABLE_LEASES_H

#include "table_keys.h"

typedef enum { STORE_SHARED, STORE_AWAY, STORE_BOTH } StoreMode;

/* How the store does, read once for a decision. */
typedef struct {
    uint32_t nodes; /* that a limit is shared among while the store is away */
    uint16_t epoch; /* leases of another one are worth nothing */
    uint8_t mode;
    uint8_t unlinked; /* away for this process alone: what it admits is a debt */
} Store;

/* What the store answered for one key of this request. */
typedef struct Grant {
    uint64_t key;
    uint64_t retry_at_us; /* refused: when units are free */
    uint64_t end_us;      /* granted: last instant at which they may be spent; 0: whenever the answer came */
    uint32_t units;       /* 0: refused */
    uint32_t used;        /* of the limit, over the fleet */
    uint16_t incarnation;
} Grant;

/* What a call takes along for one key. */
typedef struct {
    uint32_t known; /* incarnation; 0: nothing of this node is in the key */
    uint32_t want;
    uint32_t debt;
    uint32_t returned; /* units of a lease that has ended */
    uint16_t returned_slot;
    uint8_t stale; /* what was admitted of late may not be in the store: the own list goes along */
    uint8_t own_count;
    uint32_t own[TABLE_SLOTS + 1]; /* units by age in slots */
} Prepared;

typedef struct {
    uint32_t units;
    uint16_t slot;
} LeftOver;

static inline uint16_t lease_epoch(const Entry *e) { return (uint16_t)(e->lease_end >> LEASE_EPOCH_SHIFT); }

static inline uint64_t lease_end_of(uint16_t epoch, uint64_t end_us) {
    return (uint64_t)epoch << LEASE_EPOCH_SHIFT | (end_us & LEASE_END_MASK);
}

static inline uint32_t lease_left(const Entry *e, uint16_t epoch, uint64_t at_us) {
    return lease_epoch(e) == epoch && (e->lease_end & LEASE_END_MASK) > at_us ? e->lease : 0;
}

/* The key is this one from now on. A lease of another one does not count in it, and must not go back to it. */
static inline void lease_belongs(Entry *e, uint16_t incarnation) {
    if (e->incarnation == incarnation) return;
    PUT(e->lease, 0);
    PUT(e->incarnation, incarnation);
}

static inline const Grant *grant_for(const Grant *grants, int n, uint64_t key) {
    for (int i = 0; i < n; i++) {
        if (grants[i].key == key) return &grants[i];
    }
    return NULL;
}

/* This node's share of a limit. */
static inline uint32_t store_share(const Store *store, uint32_t limit) {
    uint32_t share = store->nodes > 1 ? limit / store->nodes : limit;
    return share ? share : 1;
}

/* Refuses what does not fit into this node's share; whether it did. */
static inline int claim_over_share(Claim *claim, const Entry *e, uint64_t at_us, const Store *store) {
    const Charge *c = claim->charge;
    uint32_t share = store_share(store, c->limit);

    if (claim->count + claim->cost <= share) return 0;
    claim_refuse(claim, claim->count,
                 e ? window_free_at(e, c->slot_us, share, claim->cost)
                   : at_us + (TABLE_SLOTS + 1) * c->slot_us);
    return 1;
}

/* The store's own answer, if there is one; whether it settles the claim. A grant that was not used in time is
 * none. */
static inline int claim_answered(Claim *claim, const Grant *grant, uint64_t at_us) {
    if (grant == NULL || (grant->units && grant->end_us && grant->end_us <= at_us)) return 0;
    if (grant->units < claim->cost) {
        claim_refuse(claim, claim->charge->limit, grant->retry_at_us);
    } else {
        claim->grant = grant;
        claim->source = BY_GRANT;
        claim->count = grant->used > claim->cost ? grant->used - claim->cost : 0;
    }
    return 1;
}

static inline void claim_check_shared(Claim *claim, Entry *e, uint64_t at_us, const Store *store,
                                      const Grant *grant) {
    const Charge *c = claim->charge;

    claim->source = BY_NOTHING;
    if (e && e->ban > at_us) {
        claim_refuse(claim, c->limit, e->ban);
        claim->over = CHARGE_BANNED;
        return;
    }
    if (claim->cost > c->limit) {
        claim_refuse(claim, 0, at_us + (TABLE_SLOTS + 1) * c->slot_us);
        return;
    }
    if (e) {
        if (e->generation != c->generation) {
            PUT(e->denied, 0);
            PUT(e->generation, c->generation);
        }
        window_settle(e, at_us / c->slot_us, c->shift);
        claim->count = window_count(e);
    }
    /* Before the grant is looked at: many may have waited for it that each saw room in the share. */
    if (store->mode != STORE_SHARED && c->on_failure == FAILURE_LOCAL &&
        claim_over_share(claim, e, at_us, store)) {
        return;
    }
    if (claim_answered(claim, grant, at_us)) return;
    if (store->mode == STORE_AWAY) {
        if (c->on_failure == FAILURE_CLOSED) claim->over = CHARGE_UNKNOWN;
        claim->source = BY_FALLBACK;
    } else if (e && e->denied > at_us) {
        claim_refuse(claim, c->limit, e->denied);
    } else if (e && store->mode == STORE_SHARED && lease_left(e, store->epoch, at_us) >= claim->cost) {
        claim->source = BY_LEASE;
    }
}

/* Look every key up. ADMITTED: there is a unit for each of them. */
static inline Verdict request_check_shared(TableCore *table, Request *r, uint64_t at_us, const Store *store,
                                           const Grant *grants, int granted) {
    int refused = 0, unknown = 0, lacking = 0;

    for (int i = 0; i < r->n; i++) {
        Claim *claim = &r->claim[i];
        const Charge *c = claim->charge;
        Entry *e = NULL;
        if (table->limits[c->limit_id] != c->limit) table->limits[c->limit_id] = c->limit;
        claim->exists = place_find(claim->pair, c->key, &claim->place);
        if (claim->exists) {
            e = place_entry(claim->place);
            r->pinned.entry[r->pinned.n++] = e;
        }
        claim_check_shared(claim, e, at_us, store, grant_for(grants, granted, c->key));
        if (c->observe) continue;
        if (claim->over == CHARGE_UNKNOWN) unknown = 1;
        else if (claim->over) refused = 1;
        else if (claim->source == BY_NOTHING) lacking = 1;
    }
    return refused ? REFUSED : unknown ? UNKNOWN : lacking ? LACKING : ADMITTED;
}

/* What is admitted without the store is charged to it later: as a debt, or, where all of an outage is to be told,
 * by the whole list. */
static inline void claim_owe(Claim *claim, Entry *e, const Store *store) {
    uint64_t units = e->uncharged + claim->cost;

    PUT(e->uncharged, units < UINT32_MAX ? (uint32_t)units : UINT32_MAX);
    if (claim->source == BY_FALLBACK && !store->unlinked) {
        PUT(e->lease, 0);
        PUT(e->lease_end, lease_end_of((uint16_t)(store->epoch - 1), 0));
    }
}

static inline void request_charge_shared(TableCore *table, Request *r, uint64_t at_us, const Store *store) {
    for (int i = 0; i < r->n; i++) {
        Claim *claim = &r->claim[i];
        Entry *e;
        if (claim->over) continue;
        if (claim->source == BY_LEASE) {
            e = place_entry(claim->place);
            PUT(e->lease, e->lease - (uint32_t)claim->cost);
        }
        if (claim->exists) {
            claim_charge_entry(claim);
            e = place_entry(claim->place);
        } else {
            claim_charge_absent(table, claim, &r->pinned, at_us);
            e = place_entry(claim->place);
            PUT(e->lease_end, lease_end_of(store->epoch, 0));
        }
        if (claim->source == BY_GRANT) lease_belongs(e, claim->grant->incarnation);
        if (claim->source == BY_FALLBACK || claim->source == BY_NOTHING) claim_owe(claim, e, store);
        claim->count += claim->cost;
    }
}

/* `table_admit` by leases, by `granted` answers of the store to this request, or without the store. LACKING: the
 * charges whose source is BY_NOTHING are to be asked for; nothing was charged. After ADMITTED those are observed
 * ones, charged as a debt. */
static inline Verdict table_admit_shared(TableCore *table, Charge *charges, int n, uint64_t now_us,
                                         const Store *store, const Grant *grants, int granted,
                                         Decided *decided) {
    Request r;
    Verdict verdict;
    uint64_t at_us;

    *decided = (Decided){now_us, 0, -1};
    request_gather(table, &r, charges, n);
    if (!stripes_lock(table, &r.stripes)) return TIMED_OUT;
    at_us = decided->at_us = stripes_latest(table, &r.stripes, now_us);
    if (at_us > now_us + TABLE_STALE_US) {
        stripes_unlock(table, &r.stripes, r.stripes.n);
        return STALE;
    }
    for (int i = 0; i < r.stripes.n; i++) PUT(table->stripes[r.stripes.number[i]].tmax, at_us);
    verdict = request_check_shared(table, &r, at_us, store, grants, granted);
    if (verdict == ADMITTED) request_charge_shared(table, &r, at_us, store);
    request_report(&r, charges, n, verdict != REFUSED, decided);
    for (int i = 0; i < n; i++) charges[i].source = r.claim[r.claim_of[i]].source;
    stripes_unlock(table, &r.stripes, r.stripes.n);
    return verdict;
}

/* --- between the table and the store ------------------------------------------------------------------------ */

/* What the node admitted, by age in slots of the store; how many slots that are. The store's slots begin at other
 * instants than the node's: what is N slots old here may be N - 1 there, and a unit must not be charged to a slot
 * before the one in which it was spent. */
static inline uint8_t lease_own_list(const Entry *e, uint32_t own[TABLE_SLOTS + 1]) {
    uint8_t count = 0;

    own[TABLE_SLOTS] = 0;
    for (uint64_t age = 1; age <= TABLE_SLOTS; age++) {
        own[age - 1] = age > e->newest ? 0 : (uint32_t)e->ring[(e->newest - age) % TABLE_SLOTS] << e->shift;
    }
    own[0] += e->cur;
    for (int age = 0; age <= TABLE_SLOTS; age++) {
        if (own[age]) count = (uint8_t)(age + 1);
    }
    return count;
}

/* What a call for `c` takes along, and the entry no longer has. `lost`: the store does not know the key, all of the
 * own list goes along. 1, or -1: its stripe was not free in time. */
static inline int table_prepare(TableCore *table, const Charge *c, uint64_t now_us, const Store *store, int lost,
                                Prepared *out) {
    Grip grip;
    Entry *e;
    uint32_t before;

    memset(out, 0, sizeof *out);
    if (!key_lock(table, &grip, c->key, now_us)) return -1;
    if (grip.exists) {
        e = place_entry(grip.place);
        window_settle(e, grip.at_us / c->slot_us, e->shift);
        out->stale = lost || lease_epoch(e) != store->epoch;
        if (lost || lease_left(e, store->epoch, grip.at_us) == 0) {
            out->returned = lost ? 0 : e->lease;
            out->returned_slot = e->lease_slot;
            PUT(e->lease, 0);
            PUT(e->lease_end, lease_end_of(store->epoch, 0));
        }
        before = (uint32_t)e->ring[(e->newest + TABLE_SLOTS - 1) % TABLE_SLOTS] << e->shift;
        out->want = store->mode != STORE_SHARED ? 0 : e->cur > before ? e->cur : before;
        out->own_count = lease_own_list(e, out->own);
        out->known = out->own_count || out->returned ? e->incarnation : 0;
        out->debt = out->stale ? 0 : e->uncharged;
        PUT(e->uncharged, 0);
    }
    key_unlock(table, &grip);
    return 1;
}

/* What the store's answer leaves in the table. `units` 0: no lease. `left` are the units of the lease that gives
 * way: they go back to the store. 1, or -1: its stripe was not free in time, and the lease is lost. */
static inline int table_apply(TableCore *table, const Charge *c, uint64_t now_us, uint16_t epoch,
                              uint16_t incarnation, uint32_t units, uint16_t slot, uint64_t end_us,
                              uint64_t denied_us, LeftOver *left) {
    Pinned none = {.n = 0};
    Grip grip;
    Entry *e;

    *left = (LeftOver){0, 0};
    if (!key_lock(table, &grip, c->key, now_us)) return -1;
    if (!grip.exists && (units || denied_us > grip.at_us)) {
        PUT(table->stripes[grip.stripe].tmax, grip.at_us);
        grip.place = place_take(table, grip.pair, c->key, grip.at_us, &none);
        e = place_write(grip.place, c->key, c->limit_id);
        PUT(e->shift, c->shift);
        PUT(e->newest, grip.at_us / c->slot_us);
        PUT(e->sum_slot, (uint8_t)e->newest);
        place_publish(grip.place, window_expiry(denied_us > end_us ? denied_us : end_us));
        grip.exists = 1;
    }
    if (grip.exists) {
        e = place_entry(grip.place);
        if (lease_epoch(e) != epoch) PUT(e->lease, 0);
        lease_belongs(e, incarnation);
        if (units && e->lease) *left = (LeftOver){e->lease, e->lease_slot};
        if (units) {
            PUT(e->lease, 0);
            place_keep_until(grip.place, end_us);
            PUT(e->lease_slot, slot);
            PUT(e->lease_end, lease_end_of(epoch, end_us));
            PUT(e->lease, units);
        } else if (lease_epoch(e) != epoch) {
            PUT(e->lease_end, lease_end_of(epoch, 0));
        }
        place_keep_until(grip.place, denied_us);
        PUT(e->generation, c->generation);
        PUT(e->denied, denied_us);
    }
    key_unlock(table, &grip);
    return 1;
}

/* Whether a place holds what the store has to be told: what was admitted without it, or, for `everything`, what was
 * admitted before this epoch and still counts. Read without a lock: one that is written now is told by who writes. */
static inline int table_is_unpushed(const Bucket *bucket, int i, uint64_t now_us, uint16_t epoch, int everything) {
    const Entry *e = &bucket->entry[i];

    if (bucket->expiry[i] <= now_us >> TABLE_EXPIRY_BITS) return 0;
    return e->uncharged || (everything && lease_epoch(e) != epoch && (e->cur || window_ring_sum(e)));
}

#endif
