/* Finding the entry of a key, and a place for a new one.
 *
 * A place is published by its expiry time: it is written last, and set to 0 before an entry is taken apart,
 * so that half of an entry is always a free place. Expired entries give way first; in two full buckets the
 * entry goes that matters least, and is counted.
 */
#ifndef RATELIMITD_TABLE_PLACES_H
#define RATELIMITD_TABLE_PLACES_H

#include "table_window.h"

#include <string.h>

typedef struct {
    Bucket *bucket;
    int index;
} Place;

static inline Entry *place_entry(Place place) { return &place.bucket->entry[place.index]; }

/* Bit i is set where place i has this tag. Without a branch for each place, which would be mispredicted. */
static inline unsigned bucket_matches(const Bucket *bucket, uint32_t tag) {
    unsigned matches = 0;
    for (int i = 0; i < TABLE_PLACES; i++) matches |= (unsigned)(bucket->tag[i] == tag) << i;
    return matches;
}

static inline int place_find(Bucket *pair[2], uint64_t key, Place *found) {
    uint32_t tag = table_tag(key);

    for (int b = 0; b < 2; b++) {
        Bucket *bucket = pair[b];
        for (unsigned matches = bucket_matches(bucket, tag); matches != 0; matches &= matches - 1) {
            int i = __builtin_ctz(matches);
            if (bucket->expiry[i] != 0 && bucket->entry[i].key == key) {
                *found = (Place){bucket, i};
                return 1;
            }
        }
    }
    return 0;
}

/* The entries of this decision: none of them may give way to another. */
typedef struct {
    const Entry *entry[16];
    int n;
} Pinned;

static inline int place_is_pinned(const Pinned *pinned, const Entry *entry) {
    for (int i = 0; i < pinned->n; i++) {
        if (pinned->entry[i] == entry) return 1;
    }
    return 0;
}

static inline int place_is_free(const Bucket *bucket, int i, uint64_t at_us, const Pinned *pinned) {
    return bucket->expiry[i] <= at_us >> TABLE_EXPIRY_BITS && !place_is_pinned(pinned, &bucket->entry[i]);
}

/* How many places are free; `*first` is the first of them, seen from the key's home. */
static inline int bucket_free(const Bucket *bucket, uint64_t key, uint64_t at_us, const Pinned *pinned,
                              int *first) {
    int free = 0;
    for (int j = TABLE_PLACES - 1; j >= 0; j--) {
        int i = (table_home(key) + j) % TABLE_PLACES;
        if (place_is_free(bucket, i, at_us, pinned)) {
            *first = i;
            free++;
        }
    }
    return free;
}

enum { RANK_SHARE = 0, RANK_LEASE = 1, RANK_OVER = 2, RANK_BANNED = 3 };

/* What would be lost with an entry: a class in the high half, its share of the limit in the low one. A limit
 * that this process never charged is most likely one that was removed, and counts as hardly used. */
static inline uint64_t place_rank(const TableCore *table, const Entry *e, uint64_t at_us) {
    uint64_t count = ((uint64_t)(window_sum_holds(e) ? e->sum : window_ring_sum(e)) << e->shift) + e->cur;
    uint64_t limit = table->limits[e->limit_id];
    uint64_t share = limit ? (count << 16) / limit : 0;
    uint64_t rank = RANK_SHARE;

    if (e->ban > at_us) {
        rank = RANK_BANNED;
    } else if (e->denied > at_us || (limit && count >= limit)) {
        rank = RANK_OVER;
    } else if (e->lease && (e->lease_end & LEASE_END_MASK) > at_us) {
        rank = RANK_LEASE;
    }
    return rank << 32 | (share < UINT32_MAX ? share : UINT32_MAX);
}

/* Empty the place whose entry matters least. At most 15 of the 16 are pinned, so there is one. */
static inline Place place_evict(TableCore *table, Bucket *pair[2], uint64_t at_us, const Pinned *pinned) {
    uint64_t least = UINT64_MAX;
    Place place = {pair[0], 0};

    for (int b = 0; b < 2; b++) {
        for (int i = 0; i < TABLE_PLACES; i++) {
            const Entry *e = &pair[b]->entry[i];
            uint64_t rank = place_rank(table, e, at_us);
            if (rank < least && !place_is_pinned(pinned, e)) {
                least = rank;
                place = (Place){pair[b], i};
            }
        }
    }
    table_count(least >> 32 == RANK_SHARE ? &table->counters->evicted : &table->counters->evicted_hard);
    return place;
}

/* A place without a reachable entry. The first bucket is preferred until the second is more than two places
 * freer: that keeps most look-ups to one bucket and still evens out their load. */
static inline Place place_take(TableCore *table, Bucket *pair[2], uint64_t key, uint64_t at_us,
                               const Pinned *pinned) {
    int first[2] = {0, 0};
    int free[2] = {
        bucket_free(pair[0], key, at_us, pinned, &first[0]),
        bucket_free(pair[1], key, at_us, pinned, &first[1]),
    };
    int b = free[1] > free[0] + 2 || free[0] == 0;
    Place place = {pair[b], first[b]};

    if (free[b] == 0) {
        place = place_evict(table, pair, at_us, pinned);
    } else if (place.bucket->expiry[place.index] != 0) {
        table_count(&table->counters->reclaimed);
    }
    PUT(place.bucket->expiry[place.index], 0);
    return place;
}

/* Make an entry in a place that was taken, not yet reachable. */
static inline Entry *place_write(Place place, uint64_t key, uint16_t limit_id) {
    Entry *e = place_entry(place);

    TABLE_FENCE();
    memset(e, 0, sizeof *e);
    PUT(e->key, key);
    PUT(e->limit_id, limit_id);
    return e;
}

static inline void place_publish(Place place, uint32_t expiry) {
    PUT(place.bucket->tag[place.index], table_tag(place_entry(place)->key));
    PUT(place.bucket->expiry[place.index], expiry);
}

/* Before anything in the entry counts longer: a place must not look free while it holds a count. */
static inline void place_keep_until(Place place, uint64_t instant) {
    uint32_t expiry = window_expiry(instant);
    if (place.bucket->expiry[place.index] < expiry) PUT(place.bucket->expiry[place.index], expiry);
}

#endif
