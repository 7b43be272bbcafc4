/* Bytes of HTTP/1.1 fields, looked at one by one or sixteen at a time. No allocation, no state.

   NAME_BYTE maps a byte of a field name (RFC 9110, 5.6.2 `tchar`) to its lower case, anything else to 0.
   TARGET_BYTE is 1 for the bytes that a request target may hold: visible ASCII but `#` (RFC 9112, 3.2).
   HOST_BYTE is not 0 for those of a registered name or an IPv4 address (RFC 3986, 3.2.2) that can be compared
   as they are: without `,` and `%`. */
#ifndef RATELIMITD_SCAN_H
#define RATELIMITD_SCAN_H

#include <arpa/inet.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

static uint8_t NAME_BYTE[256];
static uint8_t TARGET_BYTE[256];
static uint8_t HOST_BYTE[256];

static inline void scan_prepare(void) {
    int c;
    const char *marks = "!#$%&'*+-.^_`|~";
    const char *host_marks = "-._~!$&'()*+;=";
    for (c = '0'; c <= '9'; c++) NAME_BYTE[c] = HOST_BYTE[c] = (uint8_t)c;
    for (c = 'a'; c <= 'z'; c++) NAME_BYTE[c] = HOST_BYTE[c] = (uint8_t)c;
    for (c = 'A'; c <= 'Z'; c++) NAME_BYTE[c] = HOST_BYTE[c] = (uint8_t)(c | 0x20);
    for (; *marks; marks++) NAME_BYTE[(uint8_t)*marks] = (uint8_t)*marks;
    for (; *host_marks; host_marks++) HOST_BYTE[(uint8_t)*host_marks] = (uint8_t)*host_marks;
    for (c = 0x21; c <= 0x7e; c++) TARGET_BYTE[c] = c != '#';
}

/* The length of the field name at `p`: the byte behind it is no tchar. Letters and `-`, which most names are made
   of, are looked at sixteen at a time where the processor can. */
static inline size_t scan_name(const uint8_t *p, size_t n, int *underscore) {
    size_t i = 0;
    int found = 0;
#ifdef __SSE2__
    const __m128i lower = _mm_set1_epi8(0x20), a = _mm_set1_epi8('a'), last = _mm_set1_epi8(25);
    for (; i + 16 <= n; i += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(p + i));
        __m128i place = _mm_sub_epi8(_mm_or_si128(v, lower), a);
        __m128i common = _mm_cmpeq_epi8(_mm_min_epu8(place, last), place);
        common = _mm_or_si128(common, _mm_cmpeq_epi8(v, _mm_set1_epi8('-')));
        unsigned other = 0xffffu & ~(unsigned)_mm_movemask_epi8(common);
        if (other) {
            i += (size_t)__builtin_ctz(other);
            break;
        }
    }
#endif
    for (; i < n; i++) {
        uint8_t c = NAME_BYTE[p[i]];
        if (c == 0) break;
        found |= c == '_';
    }
    *underscore = found;
    return i;
}

/* Whether the name at `p` is `lower`, a name of `n` bytes in lower case; `_` counts as `-`. */
static inline int scan_is_name(const uint8_t *p, const char *lower, size_t n) {
    size_t i;
    for (i = 0; i < n; i++) {
        uint8_t c = NAME_BYTE[p[i]];
        if ((c == '_' ? '-' : c) != (uint8_t)lower[i]) return 0;
    }
    return 1;
}

/* How many bytes from `p` on, of the `n` there are, are text of a field value: no control but HTAB (RFC 9110,
   5.5; obs-text passes). Sixteen bytes a step where the processor can. */
static inline size_t scan_text(const uint8_t *p, size_t n) {
    size_t i = 0;
#ifdef __SSE2__
    const __m128i last_control = _mm_set1_epi8(0x1f), tab = _mm_set1_epi8(0x09), del = _mm_set1_epi8(0x7f);
    for (; i + 16 <= n; i += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(p + i));
        __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(v, last_control), v);
        control = _mm_or_si128(_mm_andnot_si128(_mm_cmpeq_epi8(v, tab), control), _mm_cmpeq_epi8(v, del));
        unsigned found = (unsigned)_mm_movemask_epi8(control);
        if (found) return i + (size_t)__builtin_ctz(found);
    }
#endif
    for (; i < n; i++)
        if ((p[i] < 0x20 && p[i] != 0x09) || p[i] == 0x7f) break;
    return i;
}

/* 1 when every byte is 1 in `table`. */
static inline int scan_all(const uint8_t *table, const uint8_t *p, size_t n) {
    size_t i;
    for (i = 0; i < n; i++)
        if (!table[p[i]]) return 0;
    return 1;
}

/* 1 when every byte may stand in a target, or belongs to a well-formed UTF-8 character (RFC 3629) from U+00A0 on. */
static inline int scan_utf8_target(const uint8_t *p, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint8_t c = p[i++];
        int more = c < 0x80 ? 0 : c < 0xc2 ? -1 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : c < 0xf5 ? 3 : -1;
        uint8_t least = c == 0xc2 || c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
        uint8_t most = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
        if (more < 0 || (more == 0 && !TARGET_BYTE[c])) return 0;
        for (; more > 0; more--, i++) {
            if (i == n || p[i] < least || p[i] > most) return 0;
            least = 0x80, most = 0xbf;
        }
    }
    return 1;
}

/* The length of the IPv6 address in brackets at the start of `p`; 0: there is none. */
static inline size_t scan_ipv6(const uint8_t *p, size_t n) {
    char text[INET6_ADDRSTRLEN];
    struct in6_addr address;
    const uint8_t *end = memchr(p, ']', n);
    size_t length = end == NULL ? 0 : (size_t)(end - p) - 1;
    if (length == 0 || length >= sizeof text) return 0;
    memcpy(text, p + 1, length);
    text[length] = 0;
    return strlen(text) == length && inet_pton(AF_INET6, text, &address) == 1 ? length + 2 : 0;
}

/* What is wrong with a Host value, host [":" port] (RFC 9110, 7.2); NULL: nothing. */
static inline const char *scan_host_fault(const uint8_t *p, size_t n) {
    size_t at = 0;
    unsigned port = 0;
    if (n > 0 && p[0] == '[') {
        at = scan_ipv6(p, n);
        if (at == 0) return "the Host field holds no valid address in brackets";
    } else {
        while (at < n && HOST_BYTE[p[at]]) at++;
        if (at == 0) return "the Host field names no host";
    }
    if (at < n && p[at] == ':')
        for (at++; at < n && '0' <= p[at] && p[at] <= '9' && port <= 65535; at++) port = port * 10 + (p[at] - '0');
    return at == n && port <= 65535 ? NULL : "the Host field is no host and port";
}

/* The end of the head that starts at `start`: the offset behind its empty line.
   0: not there yet, and *resume is where to look on (a line start).
   -1: a line ends in a bare LF, and *resume is behind it. */
static inline ptrdiff_t scan_head_end(const uint8_t *base, size_t length, size_t start, size_t *resume) {
    size_t line = *resume < start ? start : *resume;
    const uint8_t *lf;
    while (line < length && (lf = memchr(base + line, '\n', length - line)) != NULL) {
        size_t at = (size_t)(lf - base);
        if (at == start || base[at - 1] != '\r') {
            *resume = at + 1;
            return -1;
        }
        if (at == line + 1) return (ptrdiff_t)(at + 1);
        line = at + 1;
    }
    *resume = line;
    return 0;
}

#endif
