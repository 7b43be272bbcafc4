/* The locks of the table: taken in ascending order, waited for within one bound, taken over from the dead.
 *
 * A holder that the scheduler takes off its core is back in 3 to 8 ms; the bound is 10 ms. A stripe that was
 * not free by then is marked in this process and only tried until a try succeeds or 100 ms have passed, so
 * that a stopped holder costs one wait and not one per request. No clock is read unless a stripe is busy.
 */
#ifndef RATELIMITD_TABLE_STRIPES_H
#define RATELIMITD_TABLE_STRIPES_H

#include "table_layout.h"

#include <errno.h>
#include <time.h>

#define STRIPE_WAIT_NS 10000000u
#define STRIPE_BUSY_NS 100000000u

/* The stripes of one decision, each once, ascending: one order for all processes, so no deadlock. */
typedef struct {
    uint32_t number[16];
    int n;
    uint64_t deadline_ns; /* of all waits of this decision; 0: none has waited yet */
} StripeSet;

static inline void stripes_add(StripeSet *set, uint32_t number) {
    int i = set->n;
    while (i > 0 && set->number[i - 1] > number) i--;
    if (i > 0 && set->number[i - 1] == number) return;
    for (int j = set->n++; j > i; j--) set->number[j] = set->number[j - 1];
    set->number[i] = number;
}

static inline uint64_t stripes_clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void stripe_mark_busy(TableCore *table, uint32_t number, uint64_t until_ns) {
    table->nbusy += (until_ns != 0) - (table->busy_until_ns[number] != 0);
    table->busy_until_ns[number] = until_ns;
}

/* Wait for a stripe that was busy when tried. */
static inline int stripe_wait(TableCore *table, uint32_t number, uint64_t *deadline_ns) {
    Stripe *stripe = &table->stripes[number];
    uint64_t now_ns = stripes_clock_ns();
    struct timespec until;
    int error;

    if (now_ns < table->busy_until_ns[number]) return EBUSY;
    if (*deadline_ns == 0) *deadline_ns = now_ns + table->wait_ns;
    until.tv_sec = (time_t)(*deadline_ns / 1000000000u);
    until.tv_nsec = (long)(*deadline_ns % 1000000000u);
    error = pthread_mutex_clocklock(&stripe->mutex, CLOCK_MONOTONIC, &until);
    if (error == ETIMEDOUT) stripe_mark_busy(table, number, stripes_clock_ns() + STRIPE_BUSY_NS);
    return error;
}

/* A dead owner leaves a charge or a roll half done, and both count too much: nothing is to be repaired but
 * the lock itself. Without that the next unlock would make the stripe unusable for ever. */
static inline int stripe_take_over(Stripe *stripe) {
    stripe->recovered++;
    return pthread_mutex_consistent(&stripe->mutex);
}

static inline int stripe_lock(TableCore *table, uint32_t number, uint64_t *deadline_ns) {
    Stripe *stripe = &table->stripes[number];
    int error = pthread_mutex_trylock(&stripe->mutex);

    if (__builtin_expect(error == EBUSY, 0)) error = stripe_wait(table, number, deadline_ns);
    if (__builtin_expect(error == EOWNERDEAD, 0)) error = stripe_take_over(stripe);
    if (__builtin_expect(table->nbusy != 0, 0) && error == 0) stripe_mark_busy(table, number, 0);
    if (__builtin_expect(error != 0 && error != EBUSY, 0)) {
        __atomic_fetch_add(&stripe->timeouts, 1, __ATOMIC_RELAXED);
    }
    return error;
}

static inline void stripes_unlock(TableCore *table, const StripeSet *set, int locked) {
    while (locked > 0) pthread_mutex_unlock(&table->stripes[set->number[--locked]].mutex);
}

/* All stripes or none; whether they were free in time. */
static inline int stripes_lock(TableCore *table, StripeSet *set) {
    for (int i = 0; i < set->n; i++) {
        if (stripe_lock(table, set->number[i], &set->deadline_ns) != 0) {
            stripes_unlock(table, set, i);
            return 0;
        }
    }
    return 1;
}

static inline uint64_t stripes_latest(const TableCore *table, const StripeSet *set, uint64_t now_us) {
    uint64_t latest = now_us;
    for (int i = 0; i < set->n; i++) {
        uint64_t tmax = table->stripes[set->number[i]].tmax;
        if (tmax > latest) latest = tmax;
    }
    return latest;
}

/* For a new segment, before any other process knows it. */
static inline int stripes_initialise(TableCore *table) {
    pthread_mutexattr_t attributes;
    int error = pthread_mutexattr_init(&attributes);

    if (error) return error;
    error = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    if (!error) error = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    for (uint32_t i = 0; i < table->nstripes && !error; i++) {
        error = pthread_mutex_init(&table->stripes[i].mutex, &attributes);
    }
    pthread_mutexattr_destroy(&attributes);
    return error;
}

#endif
