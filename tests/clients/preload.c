/* A library that connects from within whatever program loads it, to 127.0.0.1 and the port that PRELOAD_PORT names. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

__attribute__((constructor)) static void connect_from_within(void)
{
    struct sockaddr_in target = {.sin_family = AF_INET};
    const char *port = getenv("PRELOAD_PORT");
    char byte;
    if (port == NULL)
        return;
    target.sin_port = htons(atoi(port));
    inet_pton(AF_INET, "127.0.0.1", &target.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&target, sizeof target) < 0)
        _exit(1);
    printf("connected=%d\n", getpid());
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
}
