/* Clients of a fleet: RATE requests a second for random paths through random nodes, whatever the answers do.
 *
 * fleet_load OUTPUT RATE SECONDS CONNECTIONS SEED PATHS ADDRESS...
 *
 * PATHS are separated by commas, an ADDRESS is IP:PORT; each has CONNECTIONS kept connections, dialled again
 * 50 ms after they were refused or closed, so nodes may die and come. Request i is sent to a random node of those
 * that have a free connection, on the one of its connections that has been free for longest, as PATH?i=NUMBER: one
 * that was never used would be closed by the daemon after a while, perhaps just as a request is sent on it. OUTPUT
 * gets one Record for each request, in the order of their answers; status 0 is a connection that broke in the middle,
 * 1 an answer that had not come 20 s after the end: a node that starts on a machine that is full has connections long
 * before it serves them.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

enum { BUFFER = 4096, EVENTS = 256, MOST_NODES = 64, MOST_PATHS = 256, REDIAL_US = 50000, GRACE_US = 20000000 };
enum { CLOSED, CONNECTING, IDLE, BUSY };

typedef struct __attribute__((packed)) {
    int64_t sent_us; /* CLOCK_REALTIME */
    uint32_t wait_us, number;
    uint16_t status;
    uint8_t node, path;
} Record;

typedef struct {
    int fd, state, filled, node;
    int64_t redial_us, sent_us;
    Record record;
    char data[BUFFER];
} Connection;

static struct sockaddr_in nodes[MOST_NODES];
static const char *paths[MOST_PATHS];
static int *idle[MOST_NODES], idle_count[MOST_NODES], node_count, path_count, poller;
static Connection *connections;
static FILE *output;

static void dial(int number) {
    Connection *connection = &connections[number];
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.u32 = (uint32_t)number};
    int one = 1;
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (connection->fd < 0) fail("socket");
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    connection->state = CONNECTING;
    connection->filled = 0;
    connect(connection->fd, (struct sockaddr *)&nodes[connection->node], sizeof nodes[0]);
    if (epoll_ctl(poller, EPOLL_CTL_ADD, connection->fd, &event) < 0) fail("epoll_ctl");
}

static void put_record(Connection *connection, int status) {
    connection->record.wait_us = (uint32_t)(clock_us(CLOCK_MONOTONIC) - connection->sent_us);
    connection->record.status = (uint16_t)status;
    if (fwrite(&connection->record, sizeof connection->record, 1, output) != 1) fail("fwrite");
}

static void close_connection(int number) {
    Connection *connection = &connections[number];
    int node = connection->node, i;
    if (connection->state == BUSY) put_record(connection, 0);
    for (i = 0; connection->state == IDLE && i < idle_count[node]; i++)
        if (idle[node][i] == number) {
            memmove(idle[node] + i, idle[node] + i + 1, (size_t)(--idle_count[node] - i) * sizeof(int));
            break;
        }
    close(connection->fd);
    connection->state = CLOSED;
    connection->redial_us = clock_us(CLOCK_MONOTONIC) + REDIAL_US;
}

static void set_idle(int number) {
    Connection *connection = &connections[number];
    connection->state = IDLE;
    connection->filled = 0;
    idle[connection->node][idle_count[connection->node]++] = number;
}

static void finish_dial(int number) {
    Connection *connection = &connections[number];
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)number};
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        close_connection(number);
        return;
    }
    epoll_ctl(poller, EPOLL_CTL_MOD, connection->fd, &event);
    set_idle(number);
}

static void read_answer(int number) {
    Connection *connection = &connections[number];
    ssize_t n = read(connection->fd, connection->data + connection->filled, BUFFER - 1 - connection->filled);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        close_connection(number);
        return;
    }
    connection->filled += n;
    if (connection->state != BUSY || !is_whole_answer(connection->data, connection->filled)) return;
    put_record(connection, atoi(connection->data + 9));
    set_idle(number);
}

/* The connection of a node that has been free for longest. */
static Connection *take_idle(int node) {
    Connection *connection = &connections[idle[node][0]];
    memmove(idle[node], idle[node] + 1, (size_t)--idle_count[node] * sizeof(int));
    return connection;
}

/* Sends one request to a random node; 0: no connection is free. */
static int send_request(uint32_t number) {
    int first = rand() % node_count, path = rand() % path_count, i, size, node = 0;
    Connection *connection;
    char request[512];
    for (i = 0; i < node_count; i++)
        if (idle_count[node = (first + i) % node_count]) break;
    if (i == node_count) return 0;
    connection = take_idle(node);
    connection->state = BUSY;
    connection->record = (Record){clock_us(CLOCK_REALTIME), 0, number, 0, (uint8_t)node, (uint8_t)path};
    connection->sent_us = clock_us(CLOCK_MONOTONIC);
    size = snprintf(request, sizeof request, "GET %s?i=%u HTTP/1.1\r\nHost: fleet.example\r\n\r\n", paths[path], number);
    /* What cannot be written is seen when the connection is read. */
    if (write(connection->fd, request, (size_t)size) != size) return 1;
    return 1;
}

static void redial_closed(int count, int64_t now) {
    for (int i = 0; i < count; i++)
        if (connections[i].state == CLOSED && connections[i].redial_us <= now) dial(i);
}

static int read_arguments(char **argv, int argc, int each) {
    for (char *path = strtok(argv[6], ","); path && path_count < MOST_PATHS; path = strtok(NULL, ","))
        paths[path_count++] = path;
    for (int i = 7; i < argc && node_count < MOST_NODES; i++, node_count++) {
        char *colon = strchr(argv[i], ':');
        *colon = 0;
        nodes[node_count].sin_family = AF_INET;
        nodes[node_count].sin_port = htons((uint16_t)atoi(colon + 1));
        if (inet_pton(AF_INET, argv[i], &nodes[node_count].sin_addr) != 1) fail(argv[i]);
        idle[node_count] = calloc((size_t)each, sizeof(int));
    }
    srand((unsigned)atoi(argv[5]));
    return node_count * each;
}

int main(int argc, char **argv) {
    double rate = atof(argv[2]), seconds = atof(argv[3]);
    int each = atoi(argv[4]), count = read_arguments(argv, argc, each), n, busy;
    uint32_t sent = 0;
    int64_t start_us = clock_us(CLOCK_MONOTONIC), end_us = start_us + (int64_t)(seconds * 1e6), now, redialled_us = 0;
    struct epoll_event events[EVENTS];
    struct timespec turn = {0, 500000};
    output = fopen(argv[1], "wb");
    if (!output) fail(argv[1]);
    poller = epoll_create1(0);
    connections = calloc((size_t)count, sizeof *connections);
    for (int i = 0; i < count; i++) connections[i].node = i % node_count;
    while ((now = clock_us(CLOCK_MONOTONIC)) < end_us + GRACE_US) {
        if (now - redialled_us > REDIAL_US / 5) {
            redial_closed(count, now);
            redialled_us = now;
        }
        while (now < end_us && sent < (uint32_t)((double)(now - start_us) * rate / 1e6) && send_request(sent)) sent++;
        if (now >= end_us) {
            for (busy = 0, n = 0; n < count; n++) busy += connections[n].state == BUSY;
            if (!busy) break;
        }
        n = epoll_pwait2(poller, events, EVENTS, &turn, NULL);
        for (int i = 0; i < n; i++) {
            int number = (int)events[i].data.u32;
            if (connections[number].state == CONNECTING) finish_dial(number);
            else if (connections[number].state != CLOSED) read_answer(number);
        }
    }
    for (n = 0; n < count; n++)
        if (connections[n].state == BUSY) put_record(&connections[n], 1);
    return fclose(output) ? 1 : 0;
}
