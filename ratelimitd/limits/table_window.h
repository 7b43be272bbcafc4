/* The arithmetic of one entry: a window as 31 closed slots and the one that is filling.
 *
 * The count of an entry is every slot that overlaps the window, whole: it errs upwards only. Slot numbers are
 * instant / slot length. Slot lengths are rounded up, so two instants at most a window apart are at most 31
 * slots apart. All functions here need the stripe's lock; those that write keep "never less" at every store.
 */
#ifndef RATELIMITD_TABLE_WINDOW_H
#define RATELIMITD_TABLE_WINDOW_H

#include "table_layout.h"

static inline uint64_t window_units_up(uint64_t units, int shift) {
    return (units + ((uint64_t)1 << shift) - 1) >> shift;
}

static inline uint32_t window_ring_sum(const Entry *e) {
    uint32_t sum = 0;
    for (int i = 0; i < TABLE_SLOTS; i++) sum += e->ring[i];
    return sum;
}

/* Add the ring up. The mark comes after the sum: before, it would vouch for the old one. */
static inline void window_add_up(Entry *e) {
    PUT(e->sum, window_ring_sum(e));
    PUT(e->sum_slot, (uint8_t)e->newest);
}

static inline int window_sum_holds(const Entry *e) { return e->sum_slot == (uint8_t)e->newest; }

static inline uint64_t window_count(const Entry *e) { return ((uint64_t)e->sum << e->shift) + e->cur; }

/* To coarser units. The new shift first: for a while old numbers count as too much. */
static inline void window_coarsen(Entry *e, int shift) {
    int by = shift - e->shift;
    PUT(e->shift, (uint8_t)shift);
    for (int i = 0; i < TABLE_SLOTS; i++) {
        if (e->ring[i]) PUT(e->ring[i], (uint16_t)window_units_up(e->ring[i], by));
    }
}

/* To finer units, if every slot fits: a slot that does not is above the new limit, and cutting it off would
 * forget what a limit raised again still counts. The slots first, the shift last. */
static inline void window_refine(Entry *e, int shift) {
    int by = e->shift - shift;
    for (int i = 0; i < TABLE_SLOTS; i++) {
        if (((uint64_t)e->ring[i] << by) > UINT16_MAX) return;
    }
    for (int i = 0; i < TABLE_SLOTS; i++) {
        if (e->ring[i]) PUT(e->ring[i], (uint16_t)(e->ring[i] << by));
    }
    PUT(e->shift, (uint8_t)shift);
}

/* The least shift, at least `shift`, in which `units` fit into a closed slot. */
static inline int window_shift_holding(uint64_t units, int shift) {
    while (window_units_up(units, shift) > UINT16_MAX) shift++;
    return shift;
}

/* Close the newest slot and open `slot`; `shift` is what the limit asks for. Once `newest` is stored, `cur`
 * counts in the new slot, later than it was, and old slots count as those that took their places; the closed
 * slot is in the ring before it leaves `cur`. The mark is spoiled first, because 256 slots later its byte
 * would fit again. */
static inline void window_roll(Entry *e, uint64_t slot, int shift) {
    uint64_t old = e->newest;

    PUT(e->sum_slot, (uint8_t)(slot + 1));
    PUT(e->newest, slot);
    if (slot - old <= TABLE_SLOTS) {
        int holding = window_shift_holding(e->cur, shift > e->shift ? shift : e->shift);
        if (holding > e->shift) window_coarsen(e, holding);
        PUT(e->ring[old % TABLE_SLOTS], (uint16_t)window_units_up(e->cur, e->shift));
        PUT(e->cur, 0);
        for (uint64_t j = old + 1; j < slot; j++) PUT(e->ring[j % TABLE_SLOTS], 0);
        if (shift < e->shift) window_refine(e, shift);
    } else {
        PUT(e->cur, 0);
        for (int i = 0; i < TABLE_SLOTS; i++) PUT(e->ring[i], 0);
        PUT(e->shift, (uint8_t)shift);
    }
    window_add_up(e);
}

/* Make `newest` and `sum` those of `slot`, never behind `newest`: instants of a stripe do not fall. */
static inline void window_settle(Entry *e, uint64_t slot, int shift) {
    if (slot > e->newest) {
        window_roll(e, slot, shift);
    } else if (!window_sum_holds(e)) {
        window_add_up(e);
    }
}

/* The first instant at which a settled entry has `cost` units free, if nothing else is charged until then.
 * What never fits is answered like the whole limit. */
static inline uint64_t window_free_at(const Entry *e, uint64_t slot_us, uint64_t limit, uint64_t cost) {
    uint64_t slot = e->newest, left = (uint64_t)e->sum << e->shift;
    uint64_t closed = window_units_up(e->cur, e->shift) << e->shift; /* what cur counts once it is closed */

    if (left + e->cur + cost <= limit) return 0;
    for (uint64_t gone = TABLE_SLOTS; gone > 0; gone--) { /* slot - gone leaves first */
        if (gone > slot) continue;
        left -= (uint64_t)e->ring[(slot - gone) % TABLE_SLOTS] << e->shift;
        if (left + closed + cost <= limit) return (slot - gone + TABLE_SLOTS + 1) * slot_us;
    }
    return (slot + TABLE_SLOTS + 1) * slot_us;
}

/* The expiry time of something that ends at `instant`. */
static inline uint32_t window_expiry(uint64_t instant) {
    uint64_t time = (instant >> TABLE_EXPIRY_BITS) + ((instant & ((1u << TABLE_EXPIRY_BITS) - 1)) != 0);
    return time < UINT32_MAX ? (uint32_t)time : UINT32_MAX;
}

#endif
