/* A ring of whole lines in shared memory: one process writes, one thread of another reads.

   `head` and `tail` count bytes since the ring was made and never wrap; where they point is their value
   modulo the size. The producer copies a line in and then moves `head` (release): a reader that sees the new
   `head` (acquire) sees the whole line, on every machine that has C11's memory model, and a producer that is
   killed before that has written nothing. The reader moves `tail` when it has copied, which gives the room
   back. A line that does not fit is dropped and counted; nobody ever waits. */
#ifndef RATELIMITD_RING_H
#define RATELIMITD_RING_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define RING_HEADER 64

typedef struct {
    uint64_t head;    /* written by the producer */
    uint64_t tail;    /* written by the reader */
    uint64_t dropped; /* lines; written by the producer */
} RingHeader;

static inline char *ring_data(RingHeader *ring)
{
    return (char *)ring + RING_HEADER;
}

/* 1, or 0: there was no room and the line is counted as dropped. `size` is a power of two. */
static inline int ring_put(RingHeader *ring, size_t size, const char *line, size_t n)
{
    uint64_t head = __atomic_load_n(&ring->head, __ATOMIC_RELAXED);
    uint64_t tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
    size_t at = head & (size - 1);
    size_t first = n < size - at ? n : size - at;
    if (head - tail > size || n > size - (head - tail)) {
        __atomic_store_n(&ring->dropped, ring->dropped + 1, __ATOMIC_RELAXED);
        return 0;
    }
    memcpy(ring_data(ring) + at, line, first);
    memcpy(ring_data(ring), line + first, n - first);
    __atomic_store_n(&ring->head, head + n, __ATOMIC_RELEASE);
    return 1;
}

/* How many bytes can be read: always whole lines. */
static inline size_t ring_filled(RingHeader *ring, size_t size)
{
    uint64_t filled = __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE) - ring->tail;
    return filled > size ? 0 : filled;
}

/* Copies the first `n` bytes that can be read; they stay in the ring. */
static inline void ring_copy(RingHeader *ring, size_t size, char *out, size_t n)
{
    size_t at = ring->tail & (size - 1);
    size_t first = n < size - at ? n : size - at;
    memcpy(out, ring_data(ring) + at, first);
    memcpy(out + first, ring_data(ring), n - first);
}

/* Gives the room of the first `n` bytes back to the producer. */
static inline void ring_release(RingHeader *ring, size_t n)
{
    __atomic_store_n(&ring->tail, ring->tail + n, __ATOMIC_RELEASE);
}

#endif
