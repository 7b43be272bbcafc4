/* What operators do with single keys, and what metrics and tests read from the table.
 *
 * The first three take the key's stripe as a decision does and are bounded like one; `table_live` reads
 * without a lock, because a count for a metric may be a moment old. `table_fault` checks the invariants.
 */
#ifndef RATELIMITD_TABLE_KEYS_H
#define RATELIMITD_TABLE_KEYS_H

#include "table_core.h"

/* A key under its stripe. */
typedef struct {
    uint32_t stripe;
    uint64_t at_us;
    Bucket *pair[2];
    Place place;
    int exists;
} Grip;

static inline int key_lock(TableCore *table, Grip *grip, uint64_t key, uint64_t now_us) {
    uint64_t deadline_ns = 0;

    grip->stripe = table_stripe(table, key);
    if (stripe_lock(table, grip->stripe, &deadline_ns) != 0) return 0;
    grip->at_us = table->stripes[grip->stripe].tmax > now_us ? table->stripes[grip->stripe].tmax : now_us;
    table_buckets(table, key, grip->pair);
    grip->exists = place_find(grip->pair, key, &grip->place);
    return 1;
}

static inline void key_unlock(TableCore *table, const Grip *grip) {
    pthread_mutex_unlock(&table->stripes[grip->stripe].mutex);
}

typedef struct {
    uint64_t used;
    uint64_t denied_until_us;
    uint64_t banned_until_us;
    uint16_t limit_id;
} Peeked;

/* What a key has used at `now_us`, and until when it is refused. Works on a copy: looking changes nothing.
 * 1 found, 0 not, -1 its stripe was not free in time. */
static inline int table_peek(TableCore *table, uint64_t key, uint64_t slot_us, uint64_t now_us,
                             Peeked *peeked) {
    Grip grip;
    Entry copy;
    int found;

    if (!key_lock(table, &grip, key, now_us)) return -1;
    found = grip.exists && grip.place.bucket->expiry[grip.place.index] > grip.at_us >> TABLE_EXPIRY_BITS;
    if (found) copy = *place_entry(grip.place);
    key_unlock(table, &grip);
    if (!found) return 0;
    window_settle(&copy, grip.at_us / slot_us, copy.shift);
    peeked->used = window_count(&copy);
    peeked->denied_until_us = copy.denied > grip.at_us ? copy.denied : 0;
    peeked->banned_until_us = copy.ban > grip.at_us ? copy.ban : 0;
    peeked->limit_id = copy.limit_id;
    return 1;
}

/* Forget a key. 1 forgotten, 0 not there, -1 its stripe was not free in time. */
static inline int table_reset(TableCore *table, uint64_t key, uint64_t now_us) {
    Grip grip;

    if (!key_lock(table, &grip, key, now_us)) return -1;
    if (grip.exists) PUT(grip.place.bucket->expiry[grip.place.index], 0);
    key_unlock(table, &grip);
    return grip.exists;
}

/* Refuse a key until `until_us`; 0 lifts the ban and leaves the count. A ban makes an entry where there is
 * none. 1 done, 0 nothing to lift, -1 its stripe was not free in time. */
static inline int table_ban(TableCore *table, uint64_t key, uint16_t limit_id, uint64_t until_us,
                            uint64_t now_us) {
    Pinned none = {.n = 0};
    Grip grip;
    int done;

    if (!key_lock(table, &grip, key, now_us)) return -1;
    done = grip.exists || until_us;
    if (grip.exists) {
        place_keep_until(grip.place, until_us);
        PUT(place_entry(grip.place)->ban, until_us);
    } else if (until_us) {
        PUT(table->stripes[grip.stripe].tmax, grip.at_us); /* taking a place relies on it, as in a decision */
        grip.place = place_take(table, grip.pair, key, grip.at_us, &none);
        PUT(place_write(grip.place, key, limit_id)->ban, until_us);
        place_publish(grip.place, window_expiry(until_us));
    }
    key_unlock(table, &grip);
    return done;
}

/* The limit id of the entry in a place that is in use at `now_us`, else -1. */
static inline int table_live(const Bucket *bucket, int i, uint64_t now_us) {
    return bucket->expiry[i] > now_us >> TABLE_EXPIRY_BITS ? bucket->entry[i].limit_id : -1;
}

static inline uint64_t table_key_of(const Bucket *bucket, int i, uint16_t *limit_id) {
    *limit_id = bucket->entry[i].limit_id;
    return bucket->entry[i].key;
}

/* What is wrong with a place, or NULL. Only while nobody decides. */
static inline const char *table_fault(const TableCore *table, Bucket *bucket, int i) {
    Bucket *pair[2];
    const Entry *e = &bucket->entry[i];
    uint64_t stripe = (uint64_t)(bucket - table->buckets) / table->buckets_per_stripe;
    int places = 0;

    if (bucket->expiry[i] == 0) return NULL;
    table_buckets(table, e->key, pair);
    if (bucket->tag[i] != table_tag(e->key)) return "the tag is another key's";
    if (bucket != pair[0] && bucket != pair[1]) return "the key does not belong into this bucket";
    if (table_stripe(table, e->key) != stripe) return "the key does not belong into this stripe";
    for (int b = 0; b < 2; b++) {
        for (int j = 0; j < TABLE_PLACES; j++) {
            places += pair[b]->expiry[j] && pair[b]->entry[j].key == e->key;
        }
    }
    if (places != 1) return "the key has two entries";
    if (window_sum_holds(e) && e->sum != window_ring_sum(e)) return "the sum is not that of its slots";
    return NULL;
}

#endif
