/* How one web server does, as all processes of the machine see it: a record of eight words in the segment.

   The supervisor writes `down` (health checks), any worker the rest, each word by one atomic store, addition or
   exchange. No two words depend on each other so much that a reader between two stores does harm: at worst one
   request more is sent to a server that has just been left alone. Nothing here is undone when a process dies.

   up -> `failures` in a row -> ejected until an instant -> one request tries it -> up, or ejected for longer. */
#ifndef RATELIMITD_SERVER_STATE_H
#define RATELIMITD_SERVER_STATE_H

#include <stdint.h>

#define SERVER_MOST_TIMES 10u           /* an ejection lasts at most so many times as long as the first */
#define SERVER_TRY_AGAIN_US 1000000u    /* a try that nothing was heard of is forgotten after that */
#define SERVER_WANTED_US 150000u        /* for how long a mark of want holds: three ticks */

typedef struct {
    uint64_t down;
    uint64_t failures;         /* in a row */
    uint64_t ejected_until_us; /* CLOCK_BOOTTIME; 0: not ejected */
    uint64_t ejections;        /* in a row */
    uint64_t tried_us;         /* when a request was last let through to an ejected server */
    uint64_t back_us;          /* since when it is up again; 0: from the start */
    uint64_t wanted_us;        /* when a process last found no room for a connection to it */
    uint64_t spare;
} ServerState;

static inline uint64_t server_word(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
static inline void server_store(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_SEQ_CST); }

/* Whether the caller may send an ejected server the one request that shows whether it is back. */
static inline int server_may_try(ServerState *state, uint64_t now_us) {
    uint64_t tried_us = server_word(&state->tried_us);
    if (now_us < server_word(&state->ejected_until_us) || now_us - tried_us < SERVER_TRY_AGAIN_US) return 0;
    return __atomic_compare_exchange_n(&state->tried_us, &tried_us, now_us, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

/* It has answered. 1: that ends its ejection. */
static inline int server_succeeded(ServerState *state, uint64_t now_us) {
    uint64_t until_us = server_word(&state->ejected_until_us);
    server_store(&state->failures, 0);
    if (until_us == 0 || until_us > now_us) return 0; /* an answer that was under way when it was ejected */
    server_store(&state->back_us, now_us);
    return __atomic_compare_exchange_n(&state->ejected_until_us, &until_us, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

/* It could not be reached, or its answer was none. 1: it should be ejected now. */
static inline int server_failed(ServerState *state, uint64_t now_us, uint64_t most) {
    uint64_t until_us = server_word(&state->ejected_until_us);
    if (until_us) return now_us >= until_us; /* the try failed; or what was under way, which tells nothing new */
    return __atomic_add_fetch(&state->failures, 1, __ATOMIC_SEQ_CST) >= most;
}

/* Leaves it alone for `for_us`, twice as long each time it comes in a row. One that was back for longer than
   that would take begins anew. */
static inline void server_eject(ServerState *state, uint64_t now_us, uint64_t for_us) {
    uint64_t ejections = server_word(&state->ejections), times = 1, back_us = server_word(&state->back_us);
    for (uint64_t i = 0; i < ejections && times < SERVER_MOST_TIMES; i++) times *= 2;
    if (times > SERVER_MOST_TIMES) times = SERVER_MOST_TIMES;
    if (server_word(&state->ejected_until_us) == 0 && (back_us == 0 || now_us - back_us > times * for_us))
        ejections = 0, times = 1;
    server_store(&state->ejections, ejections + 1);
    server_store(&state->failures, 0);
    server_store(&state->tried_us, 0);
    server_store(&state->ejected_until_us, now_us + times * for_us);
}

#endif
