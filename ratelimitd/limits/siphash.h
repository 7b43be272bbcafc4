/* SipHash-2-4 (Aumasson and Bernstein): the keyed 64-bit hash of a limit's key.
 *
 * Without the secret nobody can choose keys that fall into one bucket of the table. `siphash` takes the two
 * halves of the 16-byte secret as little-endian words; its results are those of the reference vectors.
 */
#ifndef RATELIMITD_SIPHASH_H
#define RATELIMITD_SIPHASH_H

#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint64_t v0, v1, v2, v3;
} SipState;

static inline uint64_t sip_rotate(uint64_t word, int bits) { return (word << bits) | (word >> (64 - bits)); }

static inline uint64_t sip_word(const uint8_t *data) {
    uint64_t word;
    memcpy(&word, data, sizeof word);
    return le64toh(word);
}

static inline void sip_round(SipState *s) {
    s->v0 += s->v1, s->v1 = sip_rotate(s->v1, 13), s->v1 ^= s->v0, s->v0 = sip_rotate(s->v0, 32);
    s->v2 += s->v3, s->v3 = sip_rotate(s->v3, 16), s->v3 ^= s->v2;
    s->v0 += s->v3, s->v3 = sip_rotate(s->v3, 21), s->v3 ^= s->v0;
    s->v2 += s->v1, s->v1 = sip_rotate(s->v1, 17), s->v1 ^= s->v2, s->v2 = sip_rotate(s->v2, 32);
}

static inline void sip_absorb(SipState *s, uint64_t word) {
    s->v3 ^= word;
    sip_round(s);
    sip_round(s);
    s->v0 ^= word;
}

static inline uint64_t siphash(const uint8_t *data, size_t n, uint64_t k0, uint64_t k1) {
    SipState s = {k0 ^ 0x736f6d6570736575u, k1 ^ 0x646f72616e646f6du, k0 ^ 0x6c7967656e657261u,
                  k1 ^ 0x7465646279746573u};
    const uint8_t *end = data + (n & ~(size_t)7);
    uint64_t last = (uint64_t)n << 56;

    for (; data != end; data += 8) sip_absorb(&s, sip_word(data));
    for (int i = 0; i < (int)(n & 7); i++) last |= (uint64_t)data[i] << (8 * i);
    sip_absorb(&s, last);
    s.v2 ^= 0xff;
    for (int i = 0; i < 4; i++) sip_round(&s);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

#endif
