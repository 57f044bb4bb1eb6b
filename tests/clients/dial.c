/* Connects where it is told on standard input ("ADDRESS PORT") and answers each line with the socket. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Standard input is a Unix socket. */
enum { CHANNEL = 0 };

static int dial(const char *address, int port)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port)};
    int is_six = strchr(address, ':') != NULL;
    int fd = socket(is_six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (is_six)
        inet_pton(AF_INET6, address, &six.sin6_addr);
    else
        inet_pton(AF_INET, address, &four.sin_addr);
    struct sockaddr *target = is_six ? (struct sockaddr *)&six : (struct sockaddr *)&four;
    if (connect(fd, target, is_six ? sizeof six : sizeof four) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static void hand_over(int fd, int error)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec data = {.iov_base = &error, .iov_len = sizeof error};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (fd >= 0) {
        memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
    }
    if (sendmsg(CHANNEL, &message, 0) < 0)
        exit(1);
}

int main(void)
{
    char address[64];
    int port;
    while (scanf("%63s %d", address, &port) == 2) {
        int fd = dial(address, port);
        hand_over(fd, fd < 0 ? errno : 0);
        close(fd);
    }
    return 0;
}
