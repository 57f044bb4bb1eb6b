/* A process that connects and does not want to be known for what it is: disguise MODE PORT [MORE]. It says when it is
 * done, as lines key=value, and holds the socket until standard input ends. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { NOBODY = 65534, TICK_NS = 10000000 };

static struct sockaddr_in target = {.sin_family = AF_INET};

static int check(int result, const char *where)
{
    if (result < 0) {
        printf("error=%s: %s\n", where, strerror(errno));
        fflush(stdout);
        exit(1);
    }
    return result;
}

static void say(const char *key, long value)
{
    printf("%s=%ld\n", key, value);
    fflush(stdout);
}

/* Until standard input ends, or the other end of another pipe. */
static void hold_until_end(int fd)
{
    char byte;
    while (read(fd, &byte, 1) > 0)
        ;
}

static int new_socket(void)
{
    return check(socket(AF_INET, SOCK_STREAM, 0), "socket");
}

static int dial(int fd)
{
    check(connect(fd, (struct sockaddr *)&target, sizeof target), "connect");
    return fd;
}

static void connect_and_hold(void)
{
    dial(new_socket());
    say("connected", getpid());
    hold_until_end(STDIN_FILENO);
}

static void wait_for_line(void)
{
    char byte = 0;
    while (byte != '\n' && read(STDIN_FILENO, &byte, 1) > 0)
        ;
}

static void connect_again(void)
{
    dial(new_socket());
    say("again", getpid());
    hold_until_end(STDIN_FILENO);
}

/* Connects, waits to be told, and connects once more, as something else by then. */
static void twice(const char *change, char *port, char *program)
{
    gid_t other = 4;
    dial(new_socket());
    say("connected", getpid());
    wait_for_line();
    if (!strcmp(change, "ids")) {
        check(setgroups(0, NULL), "setgroups");
        check(setresgid(NOBODY, NOBODY, NOBODY), "setresgid");
        check(setresuid(NOBODY, NOBODY, NOBODY), "setresuid");
    } else if (!strcmp(change, "groups")) {
        check(setgroups(1, &other), "setgroups");
    } else if (!strcmp(change, "exec")) {
        check(execl(program, program, "again", port, NULL), "execl");
    }
    connect_again();
}

/* Writes over everything between the first and the last argument. */
static void rewrite_arguments(char **argv, int argc)
{
    char *end = argv[argc - 1] + strlen(argv[argc - 1]);
    size_t room = end - argv[0];
    memset(argv[0], 0, room);
    strncpy(argv[0], "/usr/bin/psql", room);
}

static void send_socket(int channel, int fd)
{
    char byte = 0;
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    check(sendmsg(channel, &message, 0), "sendmsg");
    close(fd);
}

static int receive_socket(int channel)
{
    char byte;
    int fd;
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    check(recvmsg(channel, &message, 0), "recvmsg");
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

/* The parent makes the socket, and connects it or not; the child gets it, and connects it if the parent did not. */
static void pass(int is_connected)
{
    int channel[2];
    check(socketpair(AF_UNIX, SOCK_STREAM, 0, channel), "socketpair");
    if (check(fork(), "fork") == 0) {
        int fd = receive_socket(channel[1]);
        if (!is_connected)
            dial(fd);
        say("receiver", getpid());
        hold_until_end(STDIN_FILENO);
        exit(0);
    }
    int fd = new_socket();
    send_socket(channel[0], is_connected ? dial(fd) : fd);
    hold_until_end(STDIN_FILENO);
    wait(NULL);
}

/* Connects as it was started, and is nobody afterwards. */
static void drop_ids(void)
{
    dial(new_socket());
    check(setgroups(0, NULL), "setgroups");
    check(setresgid(NOBODY, NOBODY, NOBODY), "setresgid");
    check(setresuid(NOBODY, NOBODY, NOBODY), "setresuid");
    say("dropped", getpid());
    hold_until_end(STDIN_FILENO);
}

/* The system call changes the calling thread alone; the C library would change all of them. */
static void *connect_as_nobody(void *unused)
{
    (void)unused;
    check(syscall(SYS_setresgid, NOBODY, NOBODY, NOBODY), "setresgid");
    check(syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY), "setresuid");
    connect_and_hold();
    return NULL;
}

static void *connect_as_it_is(void *unused)
{
    (void)unused;
    connect_and_hold();
    return NULL;
}

static void in_a_thread(void *(*what)(void *))
{
    pthread_t thread;
    pthread_create(&thread, NULL, what, NULL);
    pthread_join(thread, NULL);
}

/* The tracer does not ask for threads to come, so that only the first is traced. */
static void traced(int connects_in_a_thread)
{
    int status;
    pid_t child = check(fork(), "fork");
    if (child == 0) {
        check(ptrace(PTRACE_TRACEME, 0, NULL, NULL), "ptrace");
        raise(SIGSTOP);
        if (connects_in_a_thread)
            in_a_thread(connect_as_it_is);
        else
            connect_and_hold();
        exit(0);
    }
    waitpid(child, &status, 0);
    check(ptrace(PTRACE_CONT, child, NULL, NULL), "ptrace");
    waitpid(child, &status, 0);
}

/* The child connects; this process, its parent, waits to be killed. */
static void orphan(void)
{
    if (check(fork(), "fork") == 0) {
        connect_and_hold();
        exit(0);
    }
    wait(NULL);
}

static void wait_for_next_tick(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    long tick = now.tv_nsec / TICK_NS;
    while (now.tv_nsec / TICK_NS == tick)
        clock_gettime(CLOCK_BOOTTIME, &now);
}

/* A process that connected is gone, its socket is in another's hands, and its number is another program's. Or it waits
 * to be looked at before it goes, and the other program connects. */
static void reuse(char *trusted, char *port, int is_looked_at)
{
    int life[2], replaced[2];
    check(pipe(life), "pipe");
    pid_t first = check(fork(), "fork");
    if (first == 0) {
        close(life[1]);
        dial(new_socket());
        if (is_looked_at) {
            say("connected", getpid());
            wait_for_line();
        } else if (check(fork(), "fork") == 0) {
            hold_until_end(life[0]);
        }
        _exit(0);
    }
    waitpid(first, NULL, 0);
    wait_for_next_tick();
    check(pipe2(replaced, O_CLOEXEC), "pipe2");
    pid_t number = first;
    struct clone_args arguments = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&number, .set_tid_size = 1};
    if (check(syscall(SYS_clone3, &arguments, sizeof arguments), "clone3") == 0) {
        close(life[1]);
        dup2(life[0], STDIN_FILENO);
        execl(trusted, trusted, is_looked_at ? "again" : "hold", port, NULL);
        _exit(1);
    }
    close(replaced[1]);
    hold_until_end(replaced[0]);
    say("reused", first);
    hold_until_end(STDIN_FILENO);
    close(life[1]);
    waitpid(first, NULL, 0);
}

/* Connects as a process of this number, if nobody has it. */
static void numbered(pid_t number)
{
    struct clone_args arguments = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&number, .set_tid_size = 1};
    pid_t child = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child < 0 && errno == EEXIST) {
        say("taken", number);
        return;
    }
    if (check(child, "clone3") == 0) {
        /* The C library may not know its new number. */
        say("number", syscall(SYS_getpid));
        dial(new_socket());
        say("connected", 1);
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    const char *mode = strdup(argv[1]);
    target.sin_port = htons(atoi(argv[2]));
    inet_pton(AF_INET, "127.0.0.1", &target.sin_addr);
    if (!strcmp(mode, "plain")) {
        connect_and_hold();
    } else if (!strcmp(mode, "hold")) {
        hold_until_end(STDIN_FILENO);
    } else if (!strcmp(mode, "name")) {
        prctl(PR_SET_NAME, "x\nUid:\t0\t0");
        rewrite_arguments(argv, argc);
        connect_and_hold();
    } else if (!strcmp(mode, "bytes")) {
        prctl(PR_SET_NAME, "\xff) R 1 \xfe(");
        connect_and_hold();
    } else if (!strcmp(mode, "pass-connected")) {
        pass(1);
    } else if (!strcmp(mode, "pass-unconnected")) {
        pass(0);
    } else if (!strcmp(mode, "drop-ids")) {
        drop_ids();
    } else if (!strcmp(mode, "thread-as-nobody")) {
        in_a_thread(connect_as_nobody);
    } else if (!strcmp(mode, "traced")) {
        traced(0);
    } else if (!strcmp(mode, "traced-elsewhere")) {
        traced(1);
    } else if (!strcmp(mode, "orphan")) {
        orphan();
    } else if (!strcmp(mode, "reuse")) {
        reuse(argv[3], argv[2], 0);
    } else if (!strcmp(mode, "reuse-looked-at")) {
        reuse(argv[3], argv[2], 1);
    } else if (!strcmp(mode, "numbered")) {
        numbered(atoi(argv[3]));
    } else if (!strcmp(mode, "twice")) {
        twice(argv[3], argv[2], argv[argc - 1]);
    } else if (!strcmp(mode, "again")) {
        connect_again();
    } else {
        return 2;
    }
    return 0;
}
