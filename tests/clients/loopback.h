/* What the tests' own peers do with sockets, whatever mode these are in. */

/* Reads all of it, and waits for each part of it for so long. */
static int receive_within(int fd, void *bytes, size_t count, int milliseconds)
{
    for (size_t done = 0; done < count;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        poll(&ready, 1, milliseconds);
        ssize_t more = recv(fd, (uint8_t *)bytes + done, count - done, MSG_DONTWAIT);
        if (more <= 0)
            return 0;
        done += more;
    }
    return 1;
}

/* A listener; a negative number if there can be none. */
static int listen_at(int port, int backlog)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) < 0 || listen(listener, backlog) < 0)
        return -1;
    return listener;
}
