/* The cases of observe.c about other ways to transfer, and about what a socket says of itself. */

static void splice_from(int fd)
{
    int ends[2];
    size_t got = 0, wrong = 0;
    if (pipe(ends) < 0)
        fail("pipe");
    while (got < 100000) {
        if (is_nonblocking)
            events_within(fd, POLLIN, PATIENCE_MS);
        ssize_t step = splice(fd, NULL, ends[1], NULL, 100000 - got, 0);
        if (step <= 0)
            break;
        for (ssize_t left = step; left > 0;) {
            ssize_t some = read(ends[0], buffer, left);
            for (ssize_t i = 0; i < some; i++)
                wrong += buffer[i] != (got + step - left + i) % 251;
            left -= some;
        }
        got += step;
    }
    printf("got:%zu wrong:%zu ", got, wrong);
    if (is_nonblocking)
        show("none", splice(fd, NULL, ends[1], NULL, 10, 0));
    close(ends[0]);
    close(ends[1]);
}

static void splice_to(int fd)
{
    int ends[2];
    size_t sent = 0;
    fill(buffer, 100000);
    if (pipe(ends) < 0)
        fail("pipe");
    while (sent < 100000) {
        size_t some = 100000 - sent < 4096 ? 100000 - sent : 4096;
        if (write(ends[1], buffer + sent, some) != (ssize_t)some)
            fail("pipe");
        for (size_t done = 0; done < some;) {
            events_within(fd, POLLOUT, PATIENCE_MS);
            ssize_t step = splice(ends[0], NULL, fd, NULL, some - done, 0);
            if (step < 0)
                return show("splice", step);
            done += step;
        }
        sent += some;
    }
    printf("sent:%zu ", sent);
    show("answer", get(fd, 1, 0));
    close(ends[0]);
    close(ends[1]);
}

static void send_file(int fd)
{
    FILE *file = tmpfile();
    off_t at = 0;
    fill(buffer, 100000);
    fwrite(buffer, 1, 100000, file);
    fflush(file);
    while (at < 100000) {
        events_within(fd, POLLOUT, PATIENCE_MS);
        ssize_t step = sendfile(fd, fileno(file), &at, 100000 - at);
        if (step <= 0)
            return show("sendfile", step);
    }
    printf("sent:%ld ", (long)at);
    show("answer", get(fd, 1, 0));
    fclose(file);
}

static void zero_copy(int fd)
{
    int yes = 1;
    uint8_t room[512];
    struct msghdr message = {.msg_control = room, .msg_controllen = sizeof room};
    fill(buffer, 50000);
    show("set", setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &yes, sizeof yes));
    show("send", send(fd, buffer, 50000, MSG_ZEROCOPY | MSG_NOSIGNAL));
    /* The completion may be told first, which wakes a poll as well. */
    struct pollfd answered = {.fd = fd, .events = POLLIN};
    for (int i = 0; i < PATIENCE_MS && poll(&answered, 1, PATIENCE_MS) == 1 && !(answered.revents & POLLIN); i++)
        usleep(1000);
    show("answer", get(fd, 1, 0));
    show_events("done", events_within(fd, 0, PATIENCE_MS));
    show("queue", recvmsg(fd, &message, MSG_ERRQUEUE));
    struct cmsghdr *control = CMSG_FIRSTHDR(&message);
    if (control) {
        struct sock_extended_err error;
        memcpy(&error, CMSG_DATA(control), sizeof error);
        printf("origin:%d from:%u to:%u copied:%d ", error.ee_origin, error.ee_info, error.ee_data, error.ee_code);
    }
}

static void more_to_come(int fd)
{
    show("more", send(fd, "abc", 3, MSG_MORE));
    show("last", send(fd, "def", 3, 0));
    show("answer", get(fd, 1, 0));
}

static void corked(int fd)
{
    int yes = 1, no = 0;
    setsockopt(fd, IPPROTO_TCP, TCP_CORK, &yes, sizeof yes);
    show("first", send(fd, "abc", 3, 0));
    show("last", send(fd, "def", 3, 0));
    setsockopt(fd, IPPROTO_TCP, TCP_CORK, &no, sizeof no);
    show("answer", get(fd, 1, 0));
}

static void vectors(int fd)
{
    struct iovec out[] = {{"abc", 3}, {"", 0}, {"defghi", 6}};
    struct iovec in[] = {{buffer, 4}, {buffer + 4, 4}, {buffer + 8, 4}};
    show("writev", writev(fd, out, 3));
    settle(fd, 9);
    show("readv", readv(fd, in, 3));
    show_bytes("bytes", 9, 0);
}

static void bytes_in_queue(int fd)
{
    int yes = 1, left = -1;
    uint8_t room[64];
    struct iovec part = {buffer, 300};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    settle(fd, 1000);
    show("set", setsockopt(fd, IPPROTO_TCP, TCP_INQ, &yes, sizeof yes));
    show("part", recvmsg(fd, &message, 0));
    for (struct cmsghdr *control = CMSG_FIRSTHDR(&message); control; control = CMSG_NXTHDR(&message, control))
        if (control->cmsg_level == IPPROTO_TCP && control->cmsg_type == TCP_CM_INQ)
            memcpy(&left, CMSG_DATA(control), sizeof left);
    printf("left:%d flags:%d ", left, message.msg_flags);
}

static void duplicated(int fd)
{
    int other = dup(fd);
    settle(fd, 10);
    show("one", recv(fd, buffer, 4, 0));
    show("other", recv(other, buffer, 100, 0));
    show_bytes("bytes", 6, 4);
    close(other);
    show("send", send(fd, "g", 1, 0));
}

static void forked(int fd)
{
    int status = 0;
    settle(fd, 10);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        _exit(recv(fd, buffer, 4, 0));
    waitpid(child, &status, 0);
    show("child", WEXITSTATUS(status));
    show("parent", recv(fd, buffer, 100, 0));
    show_bytes("bytes", 6, 4);
}

static void names(int fd)
{
    struct sockaddr_in own, peer;
    socklen_t length = sizeof own;
    char text[64];
    show("own", getsockname(fd, (struct sockaddr *)&own, &length));
    printf("address:%s ", inet_ntop(AF_INET, &own.sin_addr, text, sizeof text));
    show("peer", getpeername(fd, (struct sockaddr *)&peer, &length));
    printf("address:%s:%d ", inet_ntop(AF_INET, &peer.sin_addr, text, sizeof text), ntohs(peer.sin_port));
}

static struct tcp_info info_now(int fd)
{
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length);
    return info;
}

static void info(int fd)
{
    printf("open:%d ", info_now(fd).tcpi_state);
    go_on(fd);
    show("read", get(fd, 10, 0));
    go_on(fd);
    show_events("end", events_within(fd, POLLRDHUP, PATIENCE_MS));
    printf("ended:%d ", info_now(fd).tcpi_state);
    show("end", recv(fd, buffer, 10, 0));
}

static void info_of_reset(int fd)
{
    go_on(fd);
    show_events("reset", events_within(fd, 0, PATIENCE_MS));
    printf("reset:%d ", info_now(fd).tcpi_state);
}

static void info_bytes(int fd)
{
    struct {
        struct tcp_info info;
        uint8_t more[256];
    } before = {0}, after = {0};
    uint64_t received[2];
    socklen_t length = sizeof before;
    getsockopt(fd, IPPROTO_TCP, TCP_INFO, &before, &length);
    go_on(fd);
    show("read", get(fd, 1000, MSG_WAITALL));
    length = sizeof after;
    getsockopt(fd, IPPROTO_TCP, TCP_INFO, &after, &length);
    /* tcpi_bytes_received, which the C library's structure ends before. */
    memcpy(&received[0], (uint8_t *)&before + 128, 8);
    memcpy(&received[1], (uint8_t *)&after + 128, 8);
    printf("received:%llu ", (unsigned long long)(received[1] - received[0]));
}

static void option(int fd, const char *name, int level, int option, int to)
{
    int value = to;
    socklen_t length = sizeof value;
    if (to >= 0 && setsockopt(fd, level, option, &value, sizeof value) < 0)
        printf("%s:%s ", name, error_name());
    value = -1;
    if (getsockopt(fd, level, option, &value, &length) < 0)
        printf("%s:%s ", name, error_name());
    else
        printf("%s:%d ", name, value);
}

static void options(int fd)
{
    char text[16] = "";
    socklen_t length = sizeof text;
    option(fd, "type", SOL_SOCKET, SO_TYPE, -1);
    option(fd, "domain", SOL_SOCKET, SO_DOMAIN, -1);
    option(fd, "protocol", SOL_SOCKET, SO_PROTOCOL, -1);
    option(fd, "listening", SOL_SOCKET, SO_ACCEPTCONN, -1);
    option(fd, "error", SOL_SOCKET, SO_ERROR, -1);
    option(fd, "keepalive", SOL_SOCKET, SO_KEEPALIVE, -1);
    option(fd, "keepalive", SOL_SOCKET, SO_KEEPALIVE, 1);
    option(fd, "keepidle", IPPROTO_TCP, TCP_KEEPIDLE, 77);
    option(fd, "user_timeout", IPPROTO_TCP, TCP_USER_TIMEOUT, 7777);
    option(fd, "nodelay", IPPROTO_TCP, TCP_NODELAY, 0);
    option(fd, "lowat", SOL_SOCKET, SO_RCVLOWAT, -1);
    option(fd, "rcvbuf", SOL_SOCKET, SO_RCVBUF, 50000);
    option(fd, "sndbuf", SOL_SOCKET, SO_SNDBUF, 50000);
    option(fd, "priority", SOL_SOCKET, SO_PRIORITY, 3);
    option(fd, "mark", SOL_SOCKET, SO_MARK, -1);
    option(fd, "maxseg", IPPROTO_TCP, TCP_MAXSEG, -1);
    getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, text, &length);
    printf("congestion:%s ", text);
    memset(text, 0, sizeof text);
    length = sizeof text;
    printf("ulp:%d,%s ", getsockopt(fd, IPPROTO_TCP, TCP_ULP, text, &length), text);
}
