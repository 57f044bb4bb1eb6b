/* The cases of observe.c. Each has a connection whose peer acts as its script says, and prints what it observes. */

static uint8_t buffer[1 << 20];

static const char *error_name(void)
{
    return strerrorname_np(errno);
}

/* The result of a call: a number, or the error. */
static void show(const char *what, ssize_t result)
{
    if (result < 0)
        printf("%s:%s ", what, error_name());
    else
        printf("%s:%zd ", what, result);
}

static void show_events(const char *what, unsigned events)
{
    printf("%s:%s%s%s%s%s%s ", what, events & POLLIN ? "I" : "", events & POLLOUT ? "O" : "", events & POLLRDHUP ? "R" : "",
           events & POLLHUP ? "H" : "", events & POLLERR ? "E" : "", events ? "" : "-");
}

static unsigned events_within(int fd, short wanted, int ms)
{
    struct pollfd ready = {.fd = fd, .events = wanted};
    return poll(&ready, 1, ms) > 0 ? (unsigned)ready.revents : 0;
}

/* A call that waits, in either mode. */
static ssize_t get(int fd, size_t count, int flags)
{
    if (is_nonblocking)
        events_within(fd, POLLIN, PATIENCE_MS);
    return recv(fd, buffer, count, flags);
}

/* What somebody does who waits until a thread of ours is asleep. */
struct watcher {
    pthread_t watches, sleeper;
    pid_t thread;
    int fd, signal;
};

static int is_asleep(pid_t thread)
{
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", thread);
    FILE *file = fopen(path, "r");
    size_t length = file ? fread(text, 1, sizeof text - 1, file) : 0;
    text[length] = 0;
    if (file)
        fclose(file);
    const char *state = strstr(text, ") ");
    return state && state[2] == 'S';
}

static void *watch(void *argument)
{
    struct watcher *watcher = argument;
    while (!is_asleep(watcher->thread))
        usleep(1000);
    if (watcher->signal)
        pthread_kill(watcher->sleeper, watcher->signal);
    else
        send(watcher->fd, "g", 1, MSG_NOSIGNAL);
    return NULL;
}

/* Once this thread is asleep, which it is to be next in a call: lets the peer go on, or sends the thread a signal. */
static void when_asleep(struct watcher *watcher, int fd, int signal)
{
    *watcher = (struct watcher){.sleeper = pthread_self(), .thread = gettid(), .fd = fd, .signal = signal};
    if (pthread_create(&watcher->watches, NULL, watch, watcher) != 0)
        fail("thread");
}

static void show_bytes(const char *what, size_t count, size_t from)
{
    size_t same = 0;
    while (same < count && buffer[same] == (from + same) % 251)
        same++;
    printf("%s:%s ", what, same == count ? "right" : "wrong");
}

/* Waits until so many bytes can be read, by peeking at them. */
static void settle(int fd, size_t count)
{
    for (int looks = 0; looks < PATIENCE_MS; looks++) {
        if (recv(fd, buffer, sizeof buffer, MSG_PEEK | MSG_DONTWAIT) >= (ssize_t)count)
            return;
        usleep(1000);
    }
    printf("unsettled ");
}

static void go_on(int fd)
{
    show("go", send(fd, "g", 1, MSG_NOSIGNAL));
}

static int unread(int fd)
{
    int count = -1;
    ioctl(fd, FIONREAD, &count);
    return count;
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void poll_readiness(int fd)
{
    short all = POLLIN | POLLOUT | POLLRDHUP;
    show_events("idle", events_within(fd, all, 0));
    go_on(fd);
    show_events("woken", events_within(fd, POLLIN, PATIENCE_MS));
    settle(fd, 10);
    show_events("data", events_within(fd, all, 0));
    show("part", recv(fd, buffer, 4, 0));
    show_events("rest", events_within(fd, all, 0));
    show("all", recv(fd, buffer, 6, 0));
    show_events("empty", events_within(fd, all, 0));
}

static void select_readiness(int fd)
{
    fd_set set;
    struct timeval none = {0}, patience = {.tv_sec = PATIENCE_MS / 1000};
    FD_ZERO(&set);
    FD_SET(fd, &set);
    show("idle", select(fd + 1, &set, NULL, NULL, &none));
    go_on(fd);
    FD_SET(fd, &set);
    show("data", select(fd + 1, &set, NULL, NULL, &patience));
}

static unsigned epoll_events(int epoll, int ms)
{
    struct epoll_event event = {0};
    return epoll_wait(epoll, &event, 1, ms) == 1 ? event.events : 0;
}

static void epoll_of_kind(int fd, uint32_t kind)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | kind};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    show_events("idle", epoll_events(epoll, 0));
    go_on(fd);
    show_events("data", epoll_events(epoll, PATIENCE_MS));
    show("part", get(fd, 4, 0));
    show_events("rest", epoll_events(epoll, 0));
    go_on(fd);
    settle(fd, 11);
    show_events("more", epoll_events(epoll, PATIENCE_MS));
    show("all", recv(fd, buffer, 100, 0));
    show("none", recv(fd, buffer, 100, MSG_DONTWAIT));
    show_events("empty", epoll_events(epoll, 0));
    go_on(fd);
    show_events("end", epoll_events(epoll, PATIENCE_MS));
    close(epoll);
}

static void epoll_level(int fd)
{
    epoll_of_kind(fd, 0);
}

static void epoll_edge(int fd)
{
    epoll_of_kind(fd, EPOLLET);
}

static void epoll_one_shot(int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    show_events("first", epoll_events(epoll, PATIENCE_MS));
    show_events("second", epoll_events(epoll, 0));
    epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
    show_events("again", epoll_events(epoll, 0));
    close(epoll);
}

static void sigio(int fd)
{
    sigset_t wanted;
    struct timespec patience = {.tv_sec = PATIENCE_MS / 1000};
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGIO);
    sigprocmask(SIG_BLOCK, &wanted, NULL);
    fcntl(fd, F_SETOWN, getpid());
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC);
    go_on(fd);
    show("signal", sigtimedwait(&wanted, NULL, &patience));
    show("bytes", get(fd, 100, 0));
}

static void fionread(int fd)
{
    settle(fd, 1000);
    show("all", unread(fd));
    show("part", recv(fd, buffer, 300, 0));
    show("rest", unread(fd));
    show("peek", recv(fd, buffer, 700, MSG_PEEK));
    show("still", unread(fd));
    show("end", recv(fd, buffer, 700, 0));
    show("none", unread(fd));
}

static void outq(int fd)
{
    int left = 1, unsent = 1;
    fill(buffer, 50000);
    show("send", send(fd, buffer, 50000, MSG_NOSIGNAL));
    show("answer", get(fd, 1, 0));
    for (int looks = 0; looks < PATIENCE_MS && (left || unsent); looks++) {
        ioctl(fd, SIOCOUTQ, &left);
        ioctl(fd, SIOCOUTQNSD, &unsent);
        usleep(1000);
    }
    printf("left:%d unsent:%d ", left, unsent);
}

static void peek(int fd)
{
    settle(fd, 10);
    for (int i = 0; i < 2; i++) {
        show("peek", recv(fd, buffer, 10, MSG_PEEK));
        show_bytes("bytes", 10, 0);
    }
    show("read", recv(fd, buffer, 100, 0));
    show_bytes("bytes", 10, 0);
    show("none", recv(fd, buffer, 100, MSG_PEEK | MSG_DONTWAIT));
}

static void peek_trunc(int fd)
{
    settle(fd, 10);
    show("peek", recv(fd, NULL, 100, MSG_PEEK | MSG_TRUNC));
    show("drop", recv(fd, NULL, 4, MSG_TRUNC));
    show("rest", recv(fd, buffer, 100, 0));
    show_bytes("bytes", 6, 4);
}

static void peek_off(int fd)
{
    int offset = 3;
    settle(fd, 10);
    show("set", setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset));
    show("peek", recv(fd, buffer, 4, MSG_PEEK));
    show("peek", recv(fd, buffer, 4, MSG_PEEK));
    show("read", recv(fd, buffer, 100, 0));
}

static void wait_all(int fd)
{
    struct watcher watcher;
    if (is_nonblocking) {
        show("first", get(fd, 10, MSG_WAITALL));
        go_on(fd);
        show("rest", get(fd, 10, MSG_WAITALL));
    } else {
        when_asleep(&watcher, fd, 0);
        show("all", recv(fd, buffer, 10, MSG_WAITALL));
        pthread_join(watcher.watches, NULL);
    }
    show("none", recv(fd, buffer, 10, MSG_WAITALL | MSG_DONTWAIT));
}

static void wait_all_without_waiting(int fd)
{
    settle(fd, 5);
    show("some", recv(fd, buffer, 10, MSG_WAITALL | MSG_DONTWAIT));
}

static void wait_all_to_end(int fd)
{
    show("some", get(fd, 10, MSG_WAITALL));
    show("end", get(fd, 10, MSG_WAITALL));
}

static void wait_all_to_reset(int fd)
{
    settle(fd, 5);
    go_on(fd);
    show_events("reset", events_within(fd, 0, PATIENCE_MS));
    show("some", recv(fd, buffer, 10, MSG_WAITALL));
    show("reset", recv(fd, buffer, 10, MSG_WAITALL));
    show("end", recv(fd, buffer, 10, MSG_WAITALL));
}

static void low_water_poll(int fd)
{
    int low = 8;
    show("set", setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low));
    settle(fd, 5);
    show_events("some", events_within(fd, POLLIN, 0));
    go_on(fd);
    show_events("enough", events_within(fd, POLLIN, PATIENCE_MS));
    show("read", recv(fd, buffer, 100, 0));
}

static void low_water_recv(int fd)
{
    int low = 8;
    show("set", setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low));
    /* Asleep before anything comes: a call that has copied five bytes is not woken for five more. */
    struct watcher watcher;
    when_asleep(&watcher, fd, 0);
    show("read", get(fd, 100, 0));
    pthread_join(watcher.watches, NULL);
}

static void would_block(int fd)
{
    show("dontwait", recv(fd, buffer, 10, MSG_DONTWAIT));
    if (is_nonblocking)
        show("recv", recv(fd, buffer, 10, 0));
}

static void receive_timeout(int fd)
{
    struct timeval patience = {.tv_usec = 200000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    int64_t begin = now_ms();
    show("recv", recv(fd, buffer, 10, 0));
    printf("waited:%d ", now_ms() - begin >= 190);
}

static void send_timeout(int fd)
{
    struct timeval patience = {.tv_usec = 500000};
    ssize_t sent;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    do
        sent = send(fd, buffer, sizeof buffer, MSG_NOSIGNAL);
    while (sent > 0 || (is_nonblocking && events_within(fd, POLLOUT, 500)));
    show("send", sent);
    show_events("full", events_within(fd, POLLOUT, 0));
}

static void room_again(int fd)
{
    while (send(fd, buffer, sizeof buffer, MSG_NOSIGNAL | MSG_DONTWAIT) > 0 || events_within(fd, POLLOUT, 500))
        ;
    show_events("full", events_within(fd, POLLOUT, 0));
    show_events("room", events_within(fd, POLLOUT, PATIENCE_MS));
}

#include "observe_ends.h"
#include "observe_transfers.h"

/* What the peer does: see observe.c. `r1` waits until the case goes on. */
static const struct {
    const char *name, *script;
    void (*run)(int fd);
} CASES[] = {
    {"poll", "r1s10", poll_readiness},
    {"select", "r1s10", select_readiness},
    {"epoll_level", "r1s10r1s5r1f", epoll_level},
    {"epoll_edge", "r1s10r1s5r1f", epoll_edge},
    {"epoll_one_shot", "s10", epoll_one_shot},
    {"sigio", "r1s10", sigio},
    {"fionread", "s1000", fionread},
    {"outq", "r50000s1", outq},
    {"peek", "s10", peek},
    {"peek_trunc", "s10", peek_trunc},
    {"peek_off", "s10", peek_off},
    {"waitall", "s5r1s5", wait_all},
    {"waitall_dontwait", "s5", wait_all_without_waiting},
    {"waitall_end", "s5p200f", wait_all_to_end},
    {"waitall_reset", "s5r1x", wait_all_to_reset},
    {"rcvlowat_poll", "s5r1s5", low_water_poll},
    {"rcvlowat_recv", "r1s5p200s5", low_water_recv},
    {"eagain", "", would_block},
    {"rcvtimeo", "", receive_timeout},
    {"sndtimeo", "p8000", send_timeout},
    {"room_again", "p8000e", room_again},
    {"so_error", "r1x", error_of_reset},
    {"end", "s5f", end_of_stream},
    {"signal", "r1s5", interrupted_plain},
    {"signal_restart", "r1s5", interrupted_restart},
    {"asleep_at_fin", "p200f", asleep_at_end},
    {"asleep_at_reset", "p200x", asleep_at_end},
    {"asleep_at_shutdown", "", asleep_at_own_shutdown},
    {"shut_rd", "r1s5f", shut_reading},
    {"shut_wr", "es5c", shut_writing},
    {"splice_from", "s100000", splice_from},
    {"splice_to", "r100000s1", splice_to},
    {"sendfile", "r100000s1", send_file},
    {"zerocopy", "r50000s1", zero_copy},
    {"msg_more", "r6s1", more_to_come},
    {"cork", "r6s1", corked},
    {"vectors", "r9s9", vectors},
    {"tcp_inq", "s1000", bytes_in_queue},
    {"dup", "s10", duplicated},
    {"fork", "s10", forked},
    {"names", "", names},
    {"tcp_info", "r1s10r1f", info},
    {"tcp_info_reset", "r1x", info_of_reset},
    {"tcp_info_bytes", "r1s1000", info_bytes},
    {"options", "", options},
};
