/* What the loads written in C share: their clock, their end, and whether an answer that is being read is whole. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>

static int64_t clock_us(clockid_t id) {
    struct timespec now;
    clock_gettime(id, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* Whether `filled` bytes are a whole answer; there is room for one more behind them. */
static int is_whole_answer(char *data, int filled) {
    char *end, *length;
    data[filled] = 0;
    end = strstr(data, "\r\n\r\n");
    if (!end) return 0;
    length = strcasestr(data, "\r\ncontent-length:");
    if (!length || length > end) return 1;
    return filled >= end + 4 - data + atoi(length + 17);
}
