/* Bytes of HTTP/1.1 fields, looked at one by one or eight at a time. No allocation, no state.

   NAME_BYTE maps a byte of a field name (RFC 9110, 5.6.2 `tchar`) to its lower case, anything else to 0.
   TARGET_BYTE is 1 for the bytes that a request target may hold: visible ASCII but `#` (RFC 9112, 3.2).
   HOST_BYTE is 1 for the bytes of a registered name or an IPv4 address (RFC 3986, 3.2.2, without `,`). */
#ifndef RATELIMITD_SCAN_H
#define RATELIMITD_SCAN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint8_t NAME_BYTE[256];
static uint8_t TARGET_BYTE[256];
static uint8_t HOST_BYTE[256];

static void scan_prepare(void) {
    int c;
    const char *marks = "!#$%&'*+-.^_`|~";
    const char *host_marks = "-._~!$&'()*+;=%";
    for (c = '0'; c <= '9'; c++) NAME_BYTE[c] = HOST_BYTE[c] = (uint8_t)c;
    for (c = 'a'; c <= 'z'; c++) NAME_BYTE[c] = HOST_BYTE[c] = (uint8_t)c;
    for (c = 'A'; c <= 'Z'; c++) NAME_BYTE[c] = HOST_BYTE[c] = (uint8_t)(c | 0x20);
    for (; *marks; marks++) NAME_BYTE[(uint8_t)*marks] = (uint8_t)*marks;
    for (; *host_marks; host_marks++) HOST_BYTE[(uint8_t)*host_marks] = (uint8_t)*host_marks;
    for (c = 0x21; c <= 0x7e; c++) TARGET_BYTE[c] = c != '#';
}

/* Copies the name at `p` in lower case into `name` (room for `most` bytes; longer names are checked only).
   Returns its length; the byte after it is no tchar. */
static inline size_t scan_name(const uint8_t *p, size_t n, uint8_t *name, size_t most, int *underscore) {
    size_t i;
    uint8_t c;
    for (i = 0; i < n; i++) {
        c = NAME_BYTE[p[i]];
        if (c == 0) break;
        if (c == '_') { *underscore = 1; c = '-'; }
        if (i < most) name[i] = c;
    }
    return i;
}

/* 1 when no byte is a control character but HTAB (RFC 9110, 5.5; obs-text passes). Eight bytes a step. */
static inline int scan_value_is_clean(const uint8_t *p, size_t n) {
    const uint64_t ones = 0x0101010101010101ULL, high = 0x8080808080808080ULL;
    uint64_t w, low, del, tab;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        memcpy(&w, p + i, 8);
        tab = w ^ (ones * 0x09);
        tab = ~(((tab & ~high) + ~high) | tab) & high;       /* bytes that are HTAB */
        low = (~(((w & ~high) + ones * 0x60) | w)) & high;   /* bytes under 0x20 */
        del = w ^ (ones * 0x7f);
        del = ~(((del & ~high) + ~high) | del) & high;       /* bytes that are DEL */
        if ((low & ~tab) | del) return 0;
    }
    for (; i < n; i++)
        if ((p[i] < 0x20 && p[i] != 0x09) || p[i] == 0x7f) return 0;
    return 1;
}

/* 1 when every byte is 1 in `table`. */
static inline int scan_all(const uint8_t *table, const uint8_t *p, size_t n) {
    size_t i;
    for (i = 0; i < n; i++)
        if (!table[p[i]]) return 0;
    return 1;
}

/* The end of the head that starts at `start`: the offset behind its empty line.
   0: not there yet, and *resume is where to look on (a line start). -1: a line ends in a bare LF. */
static inline ptrdiff_t scan_head_end(const uint8_t *base, size_t length, size_t start, size_t *resume) {
    size_t line = *resume < start ? start : *resume;
    const uint8_t *lf;
    while (line < length && (lf = memchr(base + line, '\n', length - line)) != NULL) {
        size_t at = (size_t)(lf - base);
        if (at == start || base[at - 1] != '\r') return -1;
        if (at == line + 1) return (ptrdiff_t)(at + 1);
        line = at + 1;
    }
    *resume = line;
    return 0;
}

#endif
