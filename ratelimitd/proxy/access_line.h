/* One line of the access log, from values to text. No allocation, no state but the second written last.

   Nothing that a client sent can end a line, leave its string or reach a terminal as a control: in JSON
   `"`, `\` and every byte outside of printable ASCII are escaped, the latter as \u00XX (a byte is the
   character of that number, ISO-8859-1, so that nothing is lost and nothing is misread); in the combined
   format as \xXX, as Apache does. Texts of the operator's own (`own`) are UTF-8 and stay so in JSON. */
#ifndef RATELIMITD_ACCESS_LINE_H
#define RATELIMITD_ACCESS_LINE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* What is longer is cut. The largest line has a target and seven other texts, each byte escaped by six. */
#define LINE_MOST_TARGET 65536
#define LINE_MOST_TEXT 4096
#define LINE_OUTCOME 16
#define LINE_MOST (6 * (LINE_MOST_TARGET + 9 * LINE_MOST_TEXT) + 1024)

typedef struct {
    const char *at;
    ptrdiff_t n; /* -1: there is none */
    int own;
} LineText;

typedef struct {
    int64_t began_us;   /* wall clock */
    int64_t decided_us; /* clock of the limiter, since 1970 */
    int64_t duration_us;
    int64_t bytes_in;
    int64_t bytes_out;
    int64_t body_out; /* of bytes_out, without heads */
    int status;
    int minor; /* of the HTTP version */
    const char *outcome; /* LINE_OUTCOME bytes can be read there */
    int outcome_n;
    LineText client, method, target, limit, upstream, server, request_id, referer, agent;
} AccessLine;

typedef struct {
    int64_t second;
    char json[24];     /* 2026-11-25T02:17:29 */
    char combined[32]; /* 25/Nov/2026:02:17:29 */
} LineClock;

/* Copies are of constant sizes where speed matters, for the compiler to make moves of; there is room in every
   line for what lies beyond the text. */
static inline char *line_put(char *out, const char *text)
{
    size_t n = strlen(text); /* known to the compiler: `text` is a literal */
    memcpy(out, text, n);
    return out + n;
}

static inline char *line_number(char *out, int64_t value)
{
    static const char pairs[] = "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
                                "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
                                "8081828384858687888990919293949596979899";
    char digits[40];
    int n = 20;
    uint64_t left = value < 0 ? 0 : (uint64_t)value;
    while (left >= 10) {
        n -= 2;
        memcpy(digits + n, pairs + 2 * (left % 100), 2);
        left /= 100;
    }
    if (left || n == 20) digits[--n] = (char)('0' + left);
    memcpy(out, digits + n, 20);
    return out + 20 - n;
}

static inline char *line_thousandths(char *out, unsigned value)
{
    *out++ = '.';
    *out++ = (char)('0' + value / 100);
    *out++ = (char)('0' + value / 10 % 10);
    *out++ = (char)('0' + value % 10);
    return out;
}

static inline void line_tell_time(LineClock *clock, int64_t second)
{
    struct tm utc;
    time_t at = (time_t)second;
    if (clock->second == second && clock->json[0]) return;
    gmtime_r(&at, &utc);
    strftime(clock->json, sizeof clock->json, "%Y-%m-%dT%H:%M:%S", &utc);
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    snprintf(clock->combined, sizeof clock->combined, "%02d/%s/%04d:%02d:%02d:%02d", utc.tm_mday % 100,
             months[utc.tm_mon], (utc.tm_year + 1900) % 10000, utc.tm_hour % 100, utc.tm_min % 100,
             utc.tm_sec % 100);
    clock->second = second;
}

/* Copies a step of bytes, unless one of them cannot stand as it is: a control, DEL, above 127, `"` or `\`. */
#ifdef __SSE2__
#define LINE_STEP 16
static inline int line_copy_plain(char *out, const unsigned char *in)
{
    const __m128i v = _mm_loadu_si128((const __m128i *)in);
    __m128i care = _mm_cmplt_epi8(v, _mm_set1_epi8(0x20)); /* above 127 is below 0 */
    care = _mm_or_si128(care, _mm_cmpeq_epi8(v, _mm_set1_epi8(0x7f)));
    care = _mm_or_si128(care, _mm_cmpeq_epi8(v, _mm_set1_epi8('"')));
    care = _mm_or_si128(care, _mm_cmpeq_epi8(v, _mm_set1_epi8('\\')));
    if (_mm_movemask_epi8(care)) return 0;
    _mm_storeu_si128((__m128i *)out, v);
    return 1;
}
#else
#define LINE_STEP 8
static inline int line_copy_plain(char *out, const unsigned char *in)
{
    const uint64_t ones = 0x0101010101010101ULL, tops = 0x8080808080808080ULL;
    uint64_t w, quote, slash, del, found;
    memcpy(&w, in, 8);
    quote = w ^ (ones * '"'), slash = w ^ (ones * '\\'), del = w ^ (ones * 0x7f);
    found = w | ((w - ones * 0x20) & ~w);
    found |= ((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((del - ones) & ~del);
    if (found & tops) return 0;
    memcpy(out, &w, 8);
    return 1;
}
#endif

static inline char *line_escape(char *out, unsigned char c, int json, int own)
{
    static const char hex[] = "0123456789abcdef";
    if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
        *out++ = (char)c;
    } else if (c == '"' || c == '\\') {
        *out++ = '\\';
        *out++ = (char)c;
    } else if (json && own && c > 0x7f) {
        *out++ = (char)c;
    } else {
        out = line_put(out, json ? "\\u00" : "\\x");
        *out++ = hex[c >> 4];
        *out++ = hex[c & 15];
    }
    return out;
}

static inline char *line_text(char *out, const LineText *text, ptrdiff_t most, int json)
{
    const unsigned char *in = (const unsigned char *)text->at;
    ptrdiff_t i = 0, n = text->n < most ? text->n : most, last = n - LINE_STEP;
    if (n > 0 && last < 0) {
        unsigned char padded[LINE_STEP];
        memset(padded, ' ', LINE_STEP);
        for (i = 0; i < n; i++) padded[i] = in[i];
        if (line_copy_plain(out, padded)) return out + n;
        i = 0;
    }
    while (i < n) {
        if (i <= last) {
            if (line_copy_plain(out, in + i)) {
                out += LINE_STEP;
                i += LINE_STEP;
                continue;
            }
        } else if (last >= 0 && line_copy_plain(out - (i - last), in + last)) {
            return out + (n - i); /* the last step: those of it that were written already are plain, too */
        }
        out = line_escape(out, in[i++], json, text->own);
    }
    return out;
}

/* A string or null. */
static inline char *line_json(char *out, const LineText *text, ptrdiff_t most)
{
    if (text->n < 0) return line_put(out, "null");
    *out++ = '"';
    out = line_text(out, text, most, 1);
    *out++ = '"';
    return out;
}

static inline char *line_as_json(char *out, const AccessLine *line, LineClock *clock)
{
    line_tell_time(clock, line->began_us / 1000000);
    out = line_put(out, "{\"time\":\"");
    memcpy(out, clock->json, 19);
    out += 19;
    out = line_thousandths(out, (unsigned)(line->began_us / 1000 % 1000));
    out = line_number(line_put(out, "Z\",\"decided\":"), line->decided_us);
    out = line_json(line_put(out, ",\"client\":"), &line->client, LINE_MOST_TEXT);
    out = line_json(line_put(out, ",\"method\":"), &line->method, LINE_MOST_TEXT);
    out = line_json(line_put(out, ",\"target\":"), &line->target, LINE_MOST_TARGET);
    out = line_number(line_put(out, ",\"status\":"), line->status);
    out = line_put(out, ",\"outcome\":\"");
    memcpy(out, line->outcome, LINE_OUTCOME);
    out += line->outcome_n;
    out = line_json(line_put(out, "\",\"limit\":"), &line->limit, LINE_MOST_TEXT);
    out = line_number(line_put(out, ",\"bytes_in\":"), line->bytes_in);
    out = line_number(line_put(out, ",\"bytes_out\":"), line->bytes_out);
    out = line_number(line_put(out, ",\"duration_ms\":"), line->duration_us / 1000);
    out = line_thousandths(out, (unsigned)(line->duration_us < 0 ? 0 : line->duration_us % 1000));
    out = line_json(line_put(out, ",\"upstream\":"), &line->upstream, LINE_MOST_TEXT);
    out = line_json(line_put(out, ",\"server\":"), &line->server, LINE_MOST_TEXT);
    out = line_json(line_put(out, ",\"request_id\":"), &line->request_id, LINE_MOST_TEXT);
    return line_put(out, "}\n");
}

/* In quotes, `-` when there is none. */
static inline char *line_quoted(char *out, const LineText *text, ptrdiff_t most)
{
    *out++ = '"';
    out = text->n < 0 ? line_put(out, "-") : line_text(out, text, most, 0);
    *out++ = '"';
    return out;
}

static inline char *line_as_combined(char *out, const AccessLine *line, LineClock *clock)
{
    line_tell_time(clock, line->began_us / 1000000);
    out = line_text(out, &line->client, LINE_MOST_TEXT, 0);
    out = line_put(line_put(out, " - - ["), clock->combined);
    out = line_put(out, " +0000] \"");
    if (line->method.n < 0 || line->target.n < 0) {
        out = line_put(out, "-");
    } else {
        out = line_text(out, &line->method, LINE_MOST_TEXT, 0);
        *out++ = ' ';
        out = line_text(out, &line->target, LINE_MOST_TARGET, 0);
        out = line_put(out, line->minor ? " HTTP/1.1" : " HTTP/1.0");
    }
    out = line_number(line_put(out, "\" "), line->status);
    *out++ = ' ';
    out = line_number(out, line->body_out);
    *out++ = ' ';
    out = line_quoted(out, &line->referer, LINE_MOST_TEXT);
    *out++ = ' ';
    out = line_quoted(out, &line->agent, LINE_MOST_TEXT);
    *out++ = '\n';
    return out;
}

#endif
