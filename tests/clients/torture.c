/* Peers whose bytes are known in advance: torture serve PORT | torture connect PORT SEED COUNT AT_ONCE BITS PARKED.
 *
 * A session's seed travels as its application name, and torture_script.h makes of it what either side says and how it
 * ends. Each side prints one line a session: what it sent, what it received, and how it ended; the first byte that is
 * not the one meant is its end. What these lines must say is the test's business. `serve` ends with its
 * standard input. With AT_ONCE equal to COUNT no session goes on before all have logged in. PARKED (0 client,
 * 1 server, -1 nobody) is who will be killed. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/sockios.h>
#include "loopback.h"

#include "torture_script.h"

/* Whoever waits longer is stuck: a byte that is lost shows as this, and so does a lost wake-up. */
enum { PATIENCE_SECONDS = 400, PORTION = 1 << 18, STACK = 1 << 17 };
/* After so many bytes the sessions of one program are under way. */
enum { UNDER_WAY = 4 << 20 };

enum { OPEN, ENDED, WAS_RESET, STUCK, WRONG, LEFT, REFUSED };
static const char *const ENDS[] = {"open", "eof", "reset", "stuck", "wrong", "left", "refused"};
static const char *const SIDES[] = {"client", "server"};

struct session {
    struct script script;
    int fd, side, port;
    pthread_mutex_t lock;
    pthread_cond_t progress;
    uint64_t sent, received;
    int end;     /* one of ENDS */
    int cancels; /* requests that the server has closed in order */
};

static uint64_t all_received;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* The first thing that happened is the end, but a reset is one whoever is told of it: it is told once. */
static void end_as(struct session *session, int end)
{
    /* A broken pipe says nothing that reading does not. */
    if (end == OPEN)
        return;
    pthread_mutex_lock(&session->lock);
    if (session->end == OPEN || (session->end == ENDED && end != LEFT) || end == WRONG || end == STUCK)
        session->end = end;
    pthread_cond_broadcast(&session->progress);
    pthread_mutex_unlock(&session->lock);
}

static int end_of_error(void)
{
    return errno == EAGAIN ? STUCK : errno == ECONNRESET ? WAS_RESET : OPEN;
}

static int is_ender(const struct session *session)
{
    return session->script.ending != HALF_CLOSE && session->script.ender == session->side;
}

/* Waits as the script wants it until reading or writing is worth trying. */
static int wait_for(struct session *session, int epoll, short events)
{
    if (session->script.waits[session->side] == EDGES) {
        struct epoll_event event;
        return epoll_wait(epoll, &event, 1, PATIENCE_SECONDS * 1000) == 1;
    }
    struct pollfd ready = {.fd = session->fd, .events = events};
    return poll(&ready, 1, PATIENCE_SECONDS * 1000) == 1;
}

static int edges_of(struct session *session, uint32_t events)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = events | EPOLLET};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, session->fd, &event) < 0)
        fail("epoll");
    return epoll;
}

/* One read or write, however long it takes. */
static ssize_t transfer(struct session *session, int epoll, void *bytes, size_t count, int reads)
{
    int flags = session->script.waits[session->side] == BLOCKING ? MSG_NOSIGNAL : MSG_NOSIGNAL | MSG_DONTWAIT;
    for (;;) {
        ssize_t done = reads ? recv(session->fd, bytes, count, flags) : send(session->fd, bytes, count, flags);
        if (done >= 0 || errno != EAGAIN || !(flags & MSG_DONTWAIT))
            return done;
        if (!wait_for(session, epoll, reads ? POLLIN : POLLOUT)) {
            errno = EAGAIN;
            return -1;
        }
    }
}

/* How far this side may go without an answer, or a question, to what it said. */
static uint64_t may_send(const struct session *session)
{
    const struct script *script = &session->script;
    int complete = 0;
    if (script->shape != ROWS)
        return script->total[session->side];
    while (complete < script->exchanges && script->ends[!session->side][complete] <= session->received)
        complete++;
    if (session->side == CLIENT)
        complete += script->ahead;
    if (complete > script->exchanges)
        complete = script->exchanges;
    return complete ? script->ends[session->side][complete - 1] : 0;
}

static uint64_t wait_for_turn(struct session *session)
{
    pthread_mutex_lock(&session->lock);
    while (may_send(session) <= session->sent && session->end == OPEN && session->sent < session->script.total[session->side])
        pthread_cond_wait(&session->progress, &session->lock);
    uint64_t most = may_send(session);
    pthread_mutex_unlock(&session->lock);
    return most;
}

static int dial(int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
        return fd;
    close(fd);
    return -1;
}

/* A cancel request, with the seed for a key, and the server's close. */
static void cancel(struct session *session)
{
    uint8_t request[16] = {0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e}, nothing;
    int fd = dial(session->port);
    memcpy(request + 8, &session->script.seed, 8);
    session->cancels = fd >= 0 && send(fd, request, 16, MSG_NOSIGNAL) == 16 && recv(fd, &nothing, 1, 0) == 0;
    close(fd);
}

static void *write_all(void *argument)
{
    struct session *session = argument;
    struct script *script = &session->script;
    uint64_t state = script->seed + 77 + session->side, total = script->total[session->side];
    struct stream stream = stream_of(script, session->side);
    uint8_t *bytes = malloc(PORTION);
    int edges = edges_of(session, EPOLLOUT), cancels = session->side == CLIENT && script->cancels;
    while (session->sent < total) {
        uint64_t most = wait_for_turn(session), some = some_size(&state, 18);
        if (most <= session->sent)
            break;
        if (some > most - session->sent)
            some = most - session->sent;
        say(&stream, bytes, some);
        for (uint64_t done = 0; done < some;) {
            ssize_t step = transfer(session, edges, bytes + done, some - done, 0);
            if (step < 0) {
                end_as(session, end_of_error());
                goto end;
            }
            done += step;
            session->sent += step;
        }
        if (cancels && session->sent >= total / 2) {
            cancel(session);
            cancels = 0;
        }
    }
    if (!is_ender(session) && (script->ending == HALF_CLOSE || script->shuts))
        shutdown(session->fd, SHUT_WR);
end:
    close(edges);
    free(bytes);
    return NULL;
}

static void note_received(struct session *session, uint64_t count)
{
    pthread_mutex_lock(&session->lock);
    session->received += count;
    pthread_cond_broadcast(&session->progress);
    pthread_mutex_unlock(&session->lock);
    uint64_t before = __atomic_fetch_add(&all_received, count, __ATOMIC_RELAXED);
    if (before < UNDER_WAY && before + count >= UNDER_WAY)
        printf("under_way=yes\n");
}

static void read_all(struct session *session)
{
    struct script *script = &session->script;
    uint64_t state = script->seed + 99 + session->side;
    struct stream stream = stream_of(script, !session->side);
    uint8_t *bytes = malloc(PORTION), *meant = malloc(PORTION);
    int edges = edges_of(session, EPOLLIN | EPOLLRDHUP), stalls = script->stalls[session->side];
    while (!is_ender(session) || session->received < script->stop_at) {
        uint64_t some = some_size(&state, 18);
        if (is_ender(session) && some > script->stop_at - session->received)
            some = script->stop_at - session->received;
        if (stalls > 0 && below(&state, 8) == 0) {
            usleep(below(&state, 1 << below(&state, 17)));
            stalls--;
        }
        ssize_t step = transfer(session, edges, bytes, some, 1);
        if (step <= 0) {
            end_as(session, step == 0 ? ENDED : end_of_error());
            break;
        }
        say(&stream, meant, step);
        if (session->received + step > script->total[!session->side] || memcmp(bytes, meant, step)) {
            end_as(session, WRONG);
            break;
        }
        note_received(session, step);
    }
    close(edges);
    free(bytes);
    free(meant);
}

/* Waits until all that was sent is in the other kernel, or the connection is gone. */
static void drain(struct session *session)
{
    struct pollfd gone = {.fd = session->fd};
    int left = 1;
    for (int looks = 0; looks < PATIENCE_SECONDS * 1000; looks++) {
        if (poll(&gone, 1, 0) == 1 || ioctl(session->fd, SIOCOUTQ, &left) < 0 || left == 0)
            return;
        usleep(1000);
    }
    end_as(session, STUCK);
}

static void report(struct session *session)
{
    struct script *script = &session->script;
    printf("session seed=%016llx side=%s sent=%llu received=%llu end=%s cancels=%d shape=%s ending=%s ender=%s "
           "client_total=%llu server_total=%llu\n",
           (unsigned long long)script->seed, SIDES[session->side], (unsigned long long)session->sent,
           (unsigned long long)session->received, ENDS[session->end], session->cancels, SHAPES[script->shape],
           ENDINGS[script->ending], SIDES[script->ender], (unsigned long long)script->total[CLIENT],
           (unsigned long long)script->total[SERVER]);
}

/* Ends as the script has it. */
static void leave(struct session *session)
{
    int ending = session->script.ending;
    struct linger at_once = {.l_onoff = 1};
    if (is_ender(session)) {
        end_as(session, LEFT);
        if (ending != CLOSE && ending != ABORT)
            drain(session);
        struct pollfd unread = {.fd = session->fd, .events = POLLIN};
        if ((ending == UNREAD || ending == PARKED_UNREAD) && poll(&unread, 1, PATIENCE_SECONDS * 1000) != 1)
            end_as(session, STUCK);
        if (ending == RESET || ending == ABORT)
            setsockopt(session->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    }
    report(session);
    if (is_ender(session) && ending >= PARKED)
        pause();
    close(session->fd);
}

static void prepare(struct session *session)
{
    if (session->script.waits[session->side] != BLOCKING)
        fcntl(session->fd, F_SETFL, O_NONBLOCK);
    int buffer = session->script.buffers[session->side], yes = 1;
    struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
    setsockopt(session->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(session->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(session->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (buffer > 0) {
        setsockopt(session->fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
        setsockopt(session->fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    }
}

static pthread_t start(void *(*work)(void *), void *argument)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    if (pthread_create(&thread, &attributes, work, argument) != 0)
        fail("thread");
    return thread;
}

/* All of a session behind its login. */
static void converse(struct session *session)
{
    pthread_t writer = start(write_all, session);
    read_all(session);
    pthread_join(writer, NULL);
    leave(session);
}

static struct session *session_of(int side, uint64_t seed, int bits, int parked)
{
    struct session *session = calloc(1, sizeof *session);
    session->script = script_of(seed, bits, parked);
    session->side = side;
    pthread_mutex_init(&session->lock, NULL);
    pthread_cond_init(&session->progress, NULL);
    return session;
}

static int receive(int fd, void *bytes, size_t count)
{
    return receive_within(fd, bytes, count, PATIENCE_SECONDS * 1000);
}

#include "torture_login.h"

int main(int argc, char **argv)
{
    struct rlimit most;
    getrlimit(RLIMIT_NOFILE, &most);
    most.rlim_cur = most.rlim_max;
    setrlimit(RLIMIT_NOFILE, &most);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 3 && !strcmp(argv[1], "serve"))
        serve(atoi(argv[2]));
    else if (argc == 8 && !strcmp(argv[1], "connect"))
        connect_all(argv + 2);
    else
        return 2;
    return 0;
}
