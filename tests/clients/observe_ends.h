/* The cases of observe.c about ends, and about calls that are asleep when something happens. */

static void socket_error(int fd)
{
    int error = -1;
    socklen_t length = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    printf("error:%s ", error ? strerrorname_np(error) : "0");
}

static void error_of_reset(int fd)
{
    socket_error(fd);
    go_on(fd);
    show_events("woken", events_within(fd, 0, PATIENCE_MS));
    show_events("reset", events_within(fd, POLLIN | POLLOUT | POLLRDHUP, 0));
    socket_error(fd);
    socket_error(fd);
    show("recv", recv(fd, buffer, 10, 0));
    show("send", send(fd, buffer, 10, MSG_NOSIGNAL));
    show_events("after", events_within(fd, POLLIN | POLLOUT | POLLRDHUP, 0));
}

static void end_of_stream(int fd)
{
    settle(fd, 5);
    show_events("end", events_within(fd, POLLRDHUP, PATIENCE_MS));
    show_events("data", events_within(fd, POLLIN | POLLOUT | POLLRDHUP, 0));
    show("unread", unread(fd));
    show("read", recv(fd, buffer, 100, 0));
    show("end", recv(fd, buffer, 100, 0));
    show("again", recv(fd, buffer, 100, 0));
    show("send", send(fd, buffer, 100, MSG_NOSIGNAL));
    shutdown(fd, SHUT_WR);
    show_events("both", events_within(fd, POLLIN | POLLOUT | POLLRDHUP, 0));
    show("send", send(fd, buffer, 100, MSG_NOSIGNAL));
}

static int interrupted_fd;

/* Only what comes behind the signal ends the call. */
static void on_signal(int signal)
{
    (void)signal;
    send(interrupted_fd, "g", 1, MSG_NOSIGNAL);
}

static void interrupted(int fd, int flags)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    struct watcher watcher;
    interrupted_fd = fd;
    sigaction(SIGUSR1, &action, NULL);
    when_asleep(&watcher, fd, SIGUSR1);
    ssize_t result = is_nonblocking ? poll(&ready, 1, PATIENCE_MS) : recv(fd, buffer, 10, 0);
    show("asleep", result);
    if (result < 0)
        show("next", get(fd, 10, 0));
    pthread_join(watcher.watches, NULL);
}

static void interrupted_plain(int fd)
{
    interrupted(fd, 0);
}

static void interrupted_restart(int fd)
{
    interrupted(fd, SA_RESTART);
}

static void asleep_at_end(int fd)
{
    show("recv", get(fd, 10, 0));
}

static void *shut_down_soon(void *argument)
{
    usleep(200000);
    shutdown((int)(intptr_t)argument, SHUT_RDWR);
    return NULL;
}

static void asleep_at_own_shutdown(int fd)
{
    pthread_t thread;
    pthread_create(&thread, NULL, shut_down_soon, (void *)(intptr_t)fd);
    show("recv", get(fd, 10, 0));
    pthread_join(thread, NULL);
}

static void shut_reading(int fd)
{
    show("shutdown", shutdown(fd, SHUT_RD));
    show("recv", recv(fd, buffer, 10, 0));
    show_events("events", events_within(fd, POLLIN | POLLOUT | POLLRDHUP, 0));
    go_on(fd);
    settle(fd, 5);
    show("recv", recv(fd, buffer, 10, 0));
    show("recv", recv(fd, buffer, 10, 0));
}

static void shut_writing(int fd)
{
    show("shutdown", shutdown(fd, SHUT_WR));
    show("recv", get(fd, 5, MSG_WAITALL));
    show("end", get(fd, 5, MSG_WAITALL));
    show_events("events", events_within(fd, POLLIN | POLLOUT | POLLRDHUP, 0));
}
