/* Requests and connections in flight, per key, over all processes.

   One open-addressing table of (key, count) for each page of the segment; only the page's process writes it.
   `enter` sums a key over all tables under one robust mutex, so that two processes cannot both take the last
   place; `leave` is one store and takes no lock. A process that dies leaves its table to be cleared by whoever
   reaps it: nothing that ended with a process is counted for longer than that. A slot keeps its key when its
   count falls to 0 and is used again; when many are used up, and a good part of them for nothing, the table is
   built anew, under the mutex. A key that finds no room even so is not counted, and its asker is told.
   Nothing here outlives its process, so nothing needs an order of stores beyond the mutex. */
#ifndef RATELIMITD_INFLIGHT_H
#define RATELIMITD_INFLIGHT_H

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define INFLIGHT_SLOTS 65536u
#define INFLIGHT_REBUILD (INFLIGHT_SLOTS / 2)
#define INFLIGHT_MOST (INFLIGHT_SLOTS / 8 * 7)
#define INFLIGHT_WAIT_NS 10000000u
#define INFLIGHT_BUSY_NS 100000000u

typedef struct {
    uint64_t key; /* 0: never used */
    uint64_t count;
} InFlightSlot;

typedef struct {
    pthread_mutex_t mutex;
    uint64_t pages; /* tables from 0 on that were ever used */
} InFlightHeader;

static inline int inflight_initialise(InFlightHeader *header) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    return pthread_mutex_init(&header->mutex, &attributes);
}

/* 1 locked, 0 not free in time: its holder is stopped. Then the lock is only tried until `*busy_until_ns`, so
   that a stopped holder costs one wait and not one per connection. */
static inline int inflight_lock(InFlightHeader *header, uint64_t *busy_until_ns) {
    struct timespec until;
    uint64_t at_ns;
    int got = pthread_mutex_trylock(&header->mutex);
    if (got == EBUSY) {
        clock_gettime(CLOCK_MONOTONIC, &until);
        at_ns = (uint64_t)until.tv_sec * 1000000000u + (uint64_t)until.tv_nsec;
        if (at_ns < *busy_until_ns) return 0;
        at_ns += INFLIGHT_WAIT_NS;
        until.tv_sec = (time_t)(at_ns / 1000000000u);
        until.tv_nsec = (long)(at_ns % 1000000000u);
        got = pthread_mutex_clocklock(&header->mutex, CLOCK_MONOTONIC, &until);
        if (got == ETIMEDOUT) *busy_until_ns = at_ns + INFLIGHT_BUSY_NS;
    }
    if (got == EOWNERDEAD) got = pthread_mutex_consistent(&header->mutex);
    if (got == 0) *busy_until_ns = 0;
    return got == 0;
}

/* The slot of `key`, or the one that it would take. */
static inline InFlightSlot *inflight_slot(InFlightSlot *table, uint64_t key) {
    uint32_t i = (uint32_t)(key >> 16) & (INFLIGHT_SLOTS - 1);
    while (table[i].key != 0 && table[i].key != key) i = (i + 1) & (INFLIGHT_SLOTS - 1);
    return &table[i];
}

static inline uint64_t inflight_sum(const InFlightHeader *header, InFlightSlot *tables, uint64_t key) {
    uint64_t sum = 0;
    for (uint64_t page = 0; page < header->pages; page++) {
        InFlightSlot *slot = inflight_slot(tables + page * INFLIGHT_SLOTS, key);
        if (slot->key == key) sum += __atomic_load_n(&slot->count, __ATOMIC_ACQUIRE);
    }
    return sum;
}

/* Drop the keys that nobody holds. `kept` has room for INFLIGHT_MOST slots, and no more are ever in use.
   Returns how many are now. */
static inline uint32_t inflight_rebuild(InFlightSlot *table, InFlightSlot *kept) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < INFLIGHT_SLOTS; i++)
        if (table[i].count) kept[n++] = table[i];
    memset(table, 0, INFLIGHT_SLOTS * sizeof(InFlightSlot));
    for (uint32_t i = 0; i < n; i++) *inflight_slot(table, kept[i].key) = kept[i];
    return n;
}

#endif
