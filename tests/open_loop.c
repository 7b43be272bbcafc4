/* A load with intended send times: RATE requests a second whatever the answers do.
 *
 * open_loop PORT RATE SECONDS CONNECTIONS CRITICAL [HEADER...]
 *
 * Request i is due at i / RATE, on any connection that is free; while none is, it waits, and that wait counts:
 * the time of an answer runs from when its request was due. Every request whose number is a multiple of
 * CRITICAL asks for /pay, the others for /feed. RATE 0 is a closed loop: each connection always has a request
 * in flight. A connection that the server closes is opened anew. Prints one line of JSON for both classes:
 * how many were due, sent, answered with 2xx, refused (4xx) and failed (5xx), how many broke, the waits of the 2xx in
 * microseconds, when the first refusal came, and the 2xx of each quarter of a second.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

enum { BUFFER = 8192, EVENTS = 512, QUARTERS = 4096 };

typedef struct {
    int fd, filled, critical, busy;
    int64_t due_us;
    char data[BUFFER];
} Connection;

typedef struct {
    int64_t due, sent, ok, refused, failed, broken, first_refusal_us;
    int64_t quarters[QUARTERS];
    int64_t *waits;
} Count;

static struct sockaddr_in server;
static Connection *connections;
static int *idle, idle_count, poller;
static Count counts[2];
static char requests[2][BUFFER];
static int request_size[2];
static int64_t start_us, most_waits;

static int64_t now_us(void) {
    return clock_us(CLOCK_MONOTONIC);
}

static void open_connection(int number) {
    Connection *connection = &connections[number];
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)number};
    int one = 1;
    connection->fd = socket(AF_INET, SOCK_STREAM, 0);
    connection->filled = connection->busy = 0;
    if (connection->fd < 0) fail("socket");
    if (connect(connection->fd, (struct sockaddr *)&server, sizeof server) < 0) fail("connect");
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(connection->fd, F_SETFL, O_NONBLOCK);
    if (epoll_ctl(poller, EPOLL_CTL_ADD, connection->fd, &event) < 0) fail("epoll_ctl");
    idle[idle_count++] = number;
}

static void send_request(int64_t due_us, int critical) {
    int number = idle[--idle_count];
    Connection *connection = &connections[number];
    connection->critical = critical;
    connection->due_us = due_us;
    connection->busy = 1;
    /* What cannot be written is seen when the connection is read. */
    if (write(connection->fd, requests[critical], request_size[critical]) == request_size[critical])
        counts[critical].sent++;
}

static void count_answer(Connection *connection) {
    Count *count = &counts[connection->critical];
    int64_t now = now_us(), quarter = (now - start_us) / 250000;
    if (connection->data[9] == '2') {
        if (count->ok < most_waits) count->waits[count->ok] = now - connection->due_us;
        if (quarter < QUARTERS) count->quarters[quarter]++;
        count->ok++;
    } else if (connection->data[9] == '5') {
        count->failed++;
    } else {
        if (count->refused++ == 0) count->first_refusal_us = now - start_us;
    }
}

static void read_answer(int number) {
    Connection *connection = &connections[number];
    ssize_t n = read(connection->fd, connection->data + connection->filled, BUFFER - 1 - connection->filled);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        int i;
        close(connection->fd);
        counts[connection->critical].broken += connection->busy;
        for (i = 0; !connection->busy && i < idle_count; i++)
            if (idle[i] == number) {
                idle[i] = idle[--idle_count];
                break;
            }
        open_connection(number);
        return;
    }
    connection->filled += n;
    if (!connection->busy || !is_whole_answer(connection->data, connection->filled)) return;
    count_answer(connection);
    connection->filled = connection->busy = 0;
    idle[idle_count++] = number;
}

static int by_size(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Of the waits of both classes. */
static int64_t median_wait_us(void) {
    int64_t n = 0, *all = malloc((counts[0].ok + counts[1].ok + 1) * sizeof *all);
    for (int i = 0; i < 2; i++)
        for (int64_t j = 0; j < counts[i].ok && j < most_waits; j++) all[n++] = counts[i].waits[j];
    qsort(all, n, sizeof *all, by_size);
    return n ? all[n / 2] : 0;
}

static void print_count(const char *name, Count *count, int quarters) {
    int64_t n = count->ok < most_waits ? count->ok : most_waits;
    int i;
    qsort(count->waits, n, sizeof *count->waits, by_size);
    printf("\"%s\": {\"due\": %ld, \"sent\": %ld, \"ok\": %ld, \"refused\": %ld, \"failed\": %ld, \"broken\": %ld, "
           "\"p50_us\": %ld, \"p90_us\": %ld, \"p99_us\": %ld, \"first_refusal_us\": %ld, \"quarters\": [",
           name, count->due, count->sent, count->ok, count->refused, count->failed, count->broken, n ? count->waits[n / 2] : 0,
           n ? count->waits[n * 9 / 10] : 0, n ? count->waits[n * 99 / 100] : 0, count->first_refusal_us);
    for (i = 0; i < quarters; i++) printf("%s%ld", i ? ", " : "", count->quarters[i]);
    printf("]}");
}

int main(int argc, char **argv) {
    double rate = atof(argv[2]), seconds = atof(argv[3]);
    int64_t number_due = 0, number_sent = 0, now, end_us, last_us;
    int connection_count = atoi(argv[4]), critical = atoi(argv[5]), i, n;
    struct epoll_event events[EVENTS];
    struct timespec turn = {0, 300000};
    server.sin_family = AF_INET;
    server.sin_port = htons(atoi(argv[1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (i = 0; i < 2; i++) {
        n = sprintf(requests[i], "GET /%s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\n", i ? "pay" : "feed", argv[1]);
        for (int field = 6; field < argc; field++)
            n += snprintf(requests[i] + n, BUFFER - n - 4, "%s\r\n", argv[field]);
        request_size[i] = n + sprintf(requests[i] + n, "\r\n");
    }
    most_waits = rate > 0 ? (int64_t)(rate * seconds) + 1 : 1 << 20;
    for (i = 0; i < 2; i++) counts[i].waits = calloc(most_waits, sizeof(int64_t));
    connections = calloc(connection_count, sizeof *connections);
    idle = calloc(connection_count, sizeof *idle);
    poller = epoll_create1(0);
    for (i = 0; i < connection_count; i++) open_connection(i);
    start_us = now_us();
    end_us = start_us + (int64_t)(seconds * 1e6);
    last_us = end_us + 2000000; /* for answers that are still to come */
    while ((now = now_us()) < last_us) {
        if (rate > 0 && now < end_us) number_due = (int64_t)((now - start_us) * rate / 1e6);
        while (idle_count && (rate > 0 ? number_sent < number_due : now < end_us)) {
            send_request(rate > 0 ? start_us + (int64_t)(number_sent * 1e6 / rate) : now, number_sent % critical == 0);
            number_sent++;
        }
        if (now >= end_us && idle_count == connection_count) break;
        n = epoll_pwait2(poller, events, EVENTS, &turn, NULL);
        for (i = 0; i < n; i++) read_answer((int)events[i].data.u32);
    }
    if (rate <= 0) number_due = number_sent;
    counts[1].due = (number_due + critical - 1) / critical;
    counts[0].due = number_due - counts[1].due;
    n = (int)(seconds * 4);
    printf("{");
    print_count("sheddable", &counts[0], n);
    printf(", ");
    print_count("critical", &counts[1], n);
    printf(", \"p50_us\": %ld}\n", median_wait_us());
    return 0;
}
