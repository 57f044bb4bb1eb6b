/* A program that sends its socket to another one: lend connected|unconnected PORT BORROWER. The borrower is this program
 * too, by another path; it connects the socket if that was not done, says who wants in, and prints what it is told. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* The borrower's end of the Unix socket survives exec. */
enum { CHANNEL = 8 };

/* StartupMessage of protocol 3.0 for user postgres. */
static const char STARTUP[] = "\0\0\0\x29\0\3\0\0user\0postgres\0database\0postgres\0";

static int check(int result, const char *where)
{
    if (result >= 0)
        return result;
    printf("error=%s: %s\n", where, strerror(errno));
    fflush(stdout);
    exit(1);
}

static void dial(int fd, int port)
{
    struct sockaddr_in target = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, "127.0.0.1", &target.sin_addr);
    check(connect(fd, (struct sockaddr *)&target, sizeof target), "connect");
}

/* A message with room for a descriptor, and one byte that it travels with. */
struct parcel {
    char byte;
    struct iovec data;
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message;
};

static void wrap(struct parcel *parcel, int fd)
{
    *parcel = (struct parcel){
        .control.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    parcel->data = (struct iovec){.iov_base = &parcel->byte, .iov_len = 1};
    parcel->message = (struct msghdr){.msg_iov = &parcel->data, .msg_iovlen = 1, .msg_control = &parcel->control,
                                      .msg_controllen = sizeof parcel->control};
    memcpy(CMSG_DATA(&parcel->control.header), &fd, sizeof fd);
}

static int lend(const char *state, const char *port, char *borrower)
{
    int channel[2], status;
    struct parcel parcel;
    check(socketpair(AF_UNIX, SOCK_STREAM, 0, channel), "socketpair");
    if (check(fork(), "fork") == 0) {
        check(dup2(channel[1], CHANNEL), "dup2");
        execl(borrower, borrower, "--borrow", state, port, NULL);
        check(-1, "exec");
    }
    int fd = check(socket(AF_INET, SOCK_STREAM, 0), "socket");
    if (!strcmp(state, "connected"))
        dial(fd, atoi(port));
    wrap(&parcel, fd);
    check(sendmsg(channel[0], &parcel.message, 0), "sendmsg");
    wait(&status);
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

/* Prints the SQLSTATE of an ErrorResponse, or that there is another answer. */
static int say_answer(int fd)
{
    static char answer[65536];
    ssize_t length = check(read(fd, answer, sizeof answer - 1), "read");
    if (length < 5 || answer[0] != 'E') {
        printf("answer=%c\n", answer[0]);
        return length < 5;
    }
    for (const char *field = answer + 5; *field; field += strlen(field) + 1)
        if (*field == 'C')
            printf("refused=%s\n", field + 1);
    return 1;
}

static int borrow(const char *state, const char *port)
{
    struct parcel parcel;
    int fd;
    wrap(&parcel, -1);
    check(recvmsg(CHANNEL, &parcel.message, 0), "recvmsg");
    memcpy(&fd, CMSG_DATA(&parcel.control.header), sizeof fd);
    if (strcmp(state, "connected"))
        dial(fd, atoi(port));
    check(write(fd, STARTUP, sizeof STARTUP), "write");
    return say_answer(fd);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    if (!strcmp(argv[1], "--borrow"))
        return borrow(argv[2], argv[3]);
    return lend(argv[1], argv[2], argv[3]);
}
