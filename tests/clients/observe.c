/* What a program can observe of its own socket: observe serve PORT | observe connect PORT blocking|nonblocking.
 *
 * `connect` runs every case of observe_cases.h on a connection of its own and prints a line case=value for each; no value
 * depends on time, or on a number that another connection has not. What the peer does is in the application name, one
 * letter and a number for each thing:
 *   sN send N bytes   rN read N bytes   pN pause for N ms   e read to the end   f shut down   c close   x reset
 * At the end of it the peer reads until the client is gone. Both sides are in one long CopyData message each, so that all
 * that is said is legal. Where a caller has to be asleep when something comes, that is looked for. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/errqueue.h>
#include <linux/sockios.h>
#include "loopback.h"

/* Longest anything may take that is to happen. */
enum { PATIENCE_MS = 40000 };

static const uint8_t QUERY[] = "Q\0\0\0\x16START_REPLICATION";
/* AuthenticationOk, ReadyForQuery. */
static const uint8_t LOGIN[] = "R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
/* Sync and its answer, so often that a session counts as one that lasts. */
static const uint8_t SYNC[] = "S\0\0\0\x04";
static const uint8_t READY[] = "Z\0\0\0\x05I";
enum { ROUNDS = 12 };
/* CopyBothResponse, and the head of the server's message. */
static const uint8_t BOTH[] = "W\0\0\0\x07\0\0\0d\x3f\xff\xff\xf0";
static const uint8_t HEAD[] = "d\x3f\xff\xff\xf0";

static int is_nonblocking;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int receive(int fd, void *bytes, size_t count)
{
    return receive_within(fd, bytes, count, PATIENCE_MS);
}

static int send_all(int fd, const uint8_t *bytes, size_t count)
{
    for (size_t done = 0; done < count;) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        poll(&ready, 1, PATIENCE_MS);
        ssize_t more = send(fd, bytes + done, count - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (more < 0 && errno != EAGAIN)
            return 0;
        done += more > 0 ? more : 0;
    }
    return 1;
}

static void fill(uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        bytes[i] = i % 251;
}

/* Reads to the end. */
static void drain(int fd)
{
    uint8_t byte[4096];
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    while (poll(&ready, 1, -1) == 1 && recv(fd, byte, sizeof byte, MSG_DONTWAIT) > 0)
        ;
}

/* The peer's part. */
static void act(int fd, const char *script)
{
    struct linger at_once = {.l_onoff = 1};
    while (*script) {
        char what = *script++;
        size_t count = strtoul(script, (char **)&script, 10);
        if (what == 's' || what == 'r') {
            uint8_t *own = malloc(count);
            fill(own, count);
            if (what == 's' ? !send_all(fd, own, count) : !receive(fd, own, count))
                script = "";
            free(own);
        } else if (what == 'p') {
            usleep(count * 1000);
        } else if (what == 'e') {
            drain(fd);
        } else if (what == 'f') {
            shutdown(fd, SHUT_WR);
        } else {
            if (what == 'x')
                setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
            close(fd);
            return;
        }
    }
    drain(fd);
    close(fd);
}

static void *attend(void *argument)
{
    int fd = (int)(intptr_t)argument, yes = 1;
    uint8_t length[4], packet[512], query[sizeof QUERY], head[sizeof HEAD - 1], sync[sizeof SYNC - 1];
    pthread_detach(pthread_self());
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    memset(packet, 0, sizeof packet);
    size_t rest = receive(fd, length, 4) ? length[2] * 256 + length[3] - 4 : sizeof packet;
    const char *script = rest < sizeof packet && receive(fd, packet, rest) ? memmem(packet, rest, "observe:", 8) : NULL;
    /* As servers have it, PostgreSQL among them. */
    fcntl(fd, F_SETFL, O_NONBLOCK);
    int is_in = script && send(fd, LOGIN, sizeof LOGIN - 1, MSG_NOSIGNAL) > 0;
    for (int i = 0; is_in && i < ROUNDS; i++)
        is_in = receive(fd, sync, sizeof sync) && send(fd, READY, sizeof READY - 1, MSG_NOSIGNAL) > 0;
    if (is_in && receive(fd, query, sizeof query) &&
        send(fd, BOTH, sizeof BOTH - 1, MSG_NOSIGNAL) > 0 && receive(fd, head, sizeof head))
        act(fd, script + 8);
    else
        close(fd);
    return NULL;
}

static void serve(int port)
{
    int listener = listen_at(port, 128);
    if (listener < 0)
        fail("listen");
    printf("serving=yes\n");
    struct pollfd either[] = {{.fd = 0, .events = POLLIN}, {.fd = listener, .events = POLLIN}};
    while (poll(either, 2, -1) > 0 && !either[0].revents) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        pthread_t thread;
        if (fd >= 0 && pthread_create(&thread, NULL, attend, (void *)(intptr_t)fd) != 0)
            fail("thread");
    }
}

/* A connection on which the peer now acts. */
static int begin(int port, const char *script)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    uint8_t packet[256] = {0, 0, 0, 0, 0, 3}, answer[64];
    size_t length = 8;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (is_nonblocking)
        fcntl(fd, F_SETFL, O_NONBLOCK);
    length += 1 + sprintf((char *)packet + length, "user");
    length += 1 + sprintf((char *)packet + length, "observe");
    length += 1 + sprintf((char *)packet + length, "application_name");
    length += 2 + sprintf((char *)packet + length, "observe:%s", script);
    packet[3] = length;
    send(fd, packet, length, 0);
    if (!receive(fd, answer, sizeof LOGIN - 1))
        fail("login");
    for (int i = 0; i < ROUNDS; i++) {
        send(fd, SYNC, sizeof SYNC - 1, 0);
        if (!receive(fd, answer, sizeof READY - 1))
            fail("round");
    }
    send(fd, QUERY, sizeof QUERY, 0);
    if (!receive(fd, answer, sizeof BOTH - 1))
        fail("login");
    send(fd, HEAD, sizeof HEAD - 1, 0);
    return fd;
}

#include "observe_cases.h"

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3 && !strcmp(argv[1], "serve")) {
        serve(atoi(argv[2]));
    } else if (argc == 4 && !strcmp(argv[1], "connect")) {
        is_nonblocking = !strcmp(argv[3], "nonblocking");
        for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
            int fd = begin(atoi(argv[2]), CASES[i].script);
            printf("%s=", CASES[i].name);
            CASES[i].run(fd);
            printf("\n");
            close(fd);
        }
    } else {
        return 2;
    }
    return 0;
}
