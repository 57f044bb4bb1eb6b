/* Ways to connect: connect MODE ADDRESS PORT [MORE]; then one query in the plain protocol. Facts are lines key=value.
 * "connect --go-on" is what the exec modes become: it speaks on the socket that was connected before. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* The descriptor that survives exec. */
enum { KEPT = 9 };

/* StartupMessage of protocol 3.0 for user postgres. */
static const char STARTUP[] = "\0\0\0\x29\0\3\0\0user\0postgres\0database\0postgres\0";
/* Query "select 42". */
static const char QUERY[] = "Q\0\0\0\x0eselect 42";

static union {
    struct sockaddr any;
    struct sockaddr_in four;
    struct sockaddr_in6 six;
} target;
static socklen_t target_length;
/* The device that bound-device binds to, or the port that bound-source does. */
static const char *more;

static void die(const char *where)
{
    printf("error=%s: %s\n", where, strerror(errno));
    fflush(stdout);
    exit(1);
}

static int check(int result, const char *where)
{
    if (result < 0)
        die(where);
    return result;
}

static void set_target(const char *address, int port)
{
    if (strchr(address, ':')) {
        target.six = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port)};
        inet_pton(AF_INET6, address, &target.six.sin6_addr);
        target_length = sizeof target.six;
    } else {
        target.four = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
        inet_pton(AF_INET, address, &target.four.sin_addr);
        target_length = sizeof target.four;
    }
}

static int stream_socket(int flags, int protocol)
{
    return check(socket(target.any.sa_family, SOCK_STREAM | flags, protocol), "socket");
}

static void print_name(const char *key, int fd, int (*name)(int, struct sockaddr *, socklen_t *))
{
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    char text[64] = "";
    check(name(fd, (struct sockaddr *)&address, &length), key);
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&address;
    struct sockaddr_in *four = (struct sockaddr_in *)&address;
    int is_six = address.ss_family == AF_INET6;
    inet_ntop(address.ss_family, is_six ? (void *)&six->sin6_addr : (void *)&four->sin_addr, text, sizeof text);
    printf("%s=%s port %d\n", key, text, ntohs(is_six ? six->sin6_port : four->sin_port));
}

static void wait_for(int fd, short events)
{
    struct pollfd ready = {.fd = fd, .events = events};
    if (check(poll(&ready, 1, 60000), "poll") == 0) {
        errno = ETIMEDOUT;
        die("poll");
    }
}

static void read_exactly(int fd, char *bytes, size_t wanted)
{
    while (wanted > 0) {
        wait_for(fd, POLLIN);
        ssize_t got = check(read(fd, bytes, wanted), "read");
        if (got == 0) {
            errno = ECONNRESET;
            die("the server closed");
        }
        bytes += got;
        wanted -= got;
    }
}

/* Prints the SQLSTATE of an ErrorResponse and ends. */
static void end_refused(const char *fields)
{
    for (const char *field = fields; *field; field += strlen(field) + 1)
        if (*field == 'C')
            printf("refused=%s\n", field + 1);
    fflush(stdout);
    exit(1);
}

/* Reads through ReadyForQuery; prints the value of a row. */
static void read_answer(int fd)
{
    for (;;) {
        unsigned char head[5];
        static char body[65536];
        read_exactly(fd, (char *)head, sizeof head);
        size_t length = ((size_t)head[1] << 24 | head[2] << 16 | head[3] << 8 | head[4]) - 4;
        read_exactly(fd, body, length);
        if (head[0] == 'D')
            printf("answer=%.*s\n", (int)length - 6, body + 6);
        if (head[0] == 'E')
            end_refused(body);
        if (head[0] == 'Z')
            return;
    }
}

/* One query; WITH_STARTUP is off where the startup packet has travelled already. */
static void converse(int fd, int with_startup)
{
    if (with_startup)
        check(write(fd, STARTUP, sizeof STARTUP), "write");
    read_answer(fd);
    check(write(fd, QUERY, sizeof QUERY), "write");
    read_answer(fd);
    print_name("peer", fd, getpeername);
    print_name("own", fd, getsockname);
    check(write(fd, "X\0\0\0\4", 5), "write");
}

static int blocking(void)
{
    int fd = stream_socket(0, 0);
    check(connect(fd, &target.any, target_length), "connect");
    return fd;
}

static int non_blocking(void)
{
    int fd = stream_socket(SOCK_NONBLOCK, 0);
    if (connect(fd, &target.any, target_length) < 0 && errno != EINPROGRESS)
        die("connect");
    wait_for(fd, POLLOUT);
    socklen_t length = sizeof errno;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &errno, &length);
    if (errno != 0)
        die("connect");
    return fd;
}

static int fast_open_send(void)
{
    int fd = stream_socket(0, 0);
    check(sendto(fd, STARTUP, sizeof STARTUP, MSG_FASTOPEN, &target.any, target_length), "sendto");
    return fd;
}

static int with_option(int level, int option, const void *value, socklen_t length)
{
    int fd = stream_socket(0, 0);
    check(setsockopt(fd, level, option, value, length), "setsockopt");
    check(connect(fd, &target.any, target_length), "connect");
    return fd;
}

static int fast_open_connect(void)
{
    int on = 1;
    return with_option(IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof on);
}

static int bound_to_device(void)
{
    const char *device = more ? more : "lo";
    return with_option(SOL_SOCKET, SO_BINDTODEVICE, device, strlen(device) + 1);
}

static void reconnect(int fd)
{
    struct sockaddr nothing = {.sa_family = AF_UNSPEC};
    check(connect(fd, &nothing, sizeof nothing), "disconnect");
    check(connect(fd, &target.any, target_length), "connect again");
}

static int bound_to_device_again(void)
{
    int fd = bound_to_device();
    reconnect(fd);
    return fd;
}

/* A mark for the firewall and for routing. */
static int marked(void)
{
    int mark = 7;
    return with_option(SOL_SOCKET, SO_MARK, &mark, sizeof mark);
}

static int bound_source(void)
{
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_port = htons(more ? atoi(more) : 0)};
    inet_pton(AF_INET, "127.0.0.5", &source.sin_addr);
    int fd = stream_socket(0, 0);
    check(bind(fd, (struct sockaddr *)&source, sizeof source), "bind");
    check(connect(fd, &target.any, target_length), "connect");
    return fd;
}

static int multipath(void)
{
    int fd = stream_socket(0, IPPROTO_MPTCP);
    check(connect(fd, &target.any, target_length), "connect");
    return fd;
}

static int ring_with(unsigned ring_flags, unsigned request_flags)
{
    struct io_uring uring;
    struct io_uring_cqe *done;
    int fd = stream_socket(0, 0);
    errno = -io_uring_queue_init(4, &uring, ring_flags);
    if (errno != 0)
        die("io_uring");
    struct io_uring_sqe *request = io_uring_get_sqe(&uring);
    io_uring_prep_connect(request, fd, &target.any, target_length);
    io_uring_sqe_set_flags(request, request_flags);
    io_uring_submit_and_wait(&uring, 1);
    io_uring_wait_cqe(&uring, &done);
    errno = -done->res;
    if (done->res < 0)
        die("io_uring connect");
    io_uring_queue_exit(&uring);
    return fd;
}

static int ring(void)
{
    return ring_with(0, 0);
}

/* One of the kernel's worker threads connects. */
static int ring_worker(void)
{
    return ring_with(0, IOSQE_ASYNC);
}

/* The kernel's polling thread connects. */
static int ring_poller(void)
{
    return ring_with(IORING_SETUP_SQPOLL, 0);
}

static void *connect_in_thread(void *fd)
{
    pthread_setname_np(pthread_self(), "worker-thread");
    *(int *)fd = blocking();
    return NULL;
}

static int threaded(void)
{
    pthread_t thread;
    int fd = -1;
    pthread_create(&thread, NULL, connect_in_thread, &fd);
    pthread_join(thread, NULL);
    return fd;
}

/* Another address family's connect breaks the association; the next connect goes to 127.0.0.1 port argv[4]. */
static int again(int port)
{
    int fd = blocking();
    print_name("first_peer", fd, getpeername);
    set_target("127.0.0.1", port);
    reconnect(fd);
    print_name("peer", fd, getpeername);
    return fd;
}

/* Connects in a process that is gone before the first byte travels. */
static int orphaned(void)
{
    int fd = blocking();
    printf("pid=%d\n", getpid());
    fflush(stdout);
    if (fork() != 0)
        _exit(0);
    getchar();
    return fd;
}

static void wait_for_word(const char *state)
{
    printf("%s=yes\n", state);
    fflush(stdout);
    getchar();
}

/* Connects when it is told to. */
static int patient(void)
{
    wait_for_word("ready");
    return blocking();
}

/* Connects and becomes another program before the first byte travels, at once or when it is told to. */
static void replaced(char *program, int is_patient)
{
    check(dup2(blocking(), KEPT), "dup2");
    if (is_patient)
        wait_for_word("connected");
    execl(program, program, "--go-on", NULL);
    die("exec");
}

static void go_on(void)
{
    wait_for_word("replaced");
    converse(KEPT, 1);
}

static int open_by(const char *mode)
{
    static const struct {
        const char *name;
        int (*open)(void);
    } ways[] = {
        {"blocking", blocking}, {"non-blocking", non_blocking}, {"fast-open-send", fast_open_send},
        {"fast-open-connect", fast_open_connect}, {"thread", threaded}, {"orphaned", orphaned}, {"io-uring", ring},
        {"io-uring-worker", ring_worker}, {"io-uring-poller", ring_poller}, {"patient", patient},
        {"mptcp", multipath}, {"bound-source", bound_source}, {"bound-device", bound_to_device},
        {"bound-device-again", bound_to_device_again}, {"marked", marked},
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        if (!strcmp(mode, ways[i].name))
            return ways[i].open();
    exit(2);
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "--go-on")) {
        go_on();
        return 0;
    }
    if (argc < 4)
        return 2;
    set_target(argv[2], atoi(argv[3]));
    if (!strcmp(argv[1], "fork")) {
        int status;
        if (fork() == 0) {
            printf("child=%d\n", getpid());
            converse(blocking(), 1);
            exit(0);
        }
        wait(&status);
        return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    }
    if (!strcmp(argv[1], "again")) {
        again(atoi(argv[4]));
        return 0;
    }
    if (!strcmp(argv[1], "exec") || !strcmp(argv[1], "exec-when-told"))
        replaced(argv[4], strcmp(argv[1], "exec") != 0);
    if (argc > 4)
        more = argv[4];
    printf("pid_own=%d\n", getpid());
    converse(open_by(argv[1]), strcmp(argv[1], "fast-open-send") != 0);
    return 0;
}
