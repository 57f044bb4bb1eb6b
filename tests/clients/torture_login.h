/* How sessions of torture.c begin: the server's end and the client's. Included where the sessions are. */

static const uint8_t COPY_QUERY[] = "Q\0\0\0\x16START_REPLICATION";
static const uint8_t COPY_BOTH[] = "W\0\0\0\x07\0\0\0";
/* AuthenticationOk, BackendKeyData with a key to come, ReadyForQuery. */
static const uint8_t LOGIN[] = "R\0\0\0\x08\0\0\0\0K\0\0\0\x0c........Z\0\0\0\x05I";
enum { KEY_AT = 14, LOGIN_BYTES = sizeof LOGIN - 1, QUERY_BYTES = sizeof COPY_QUERY, BOTH_BYTES = sizeof COPY_BOTH - 1 };

/* The server's part of a login, or the whole of a cancel request. */
static struct session *welcome(int fd)
{
    uint8_t length[4], packet[512], login[LOGIN_BYTES], query[QUERY_BYTES];
    unsigned long long seed;
    int bits, parked;
    if (!receive(fd, length, 4) || length[0] || length[1] || length[2] > 1)
        return NULL;
    size_t rest = length[2] * 256 + length[3] - 4;
    if (rest > sizeof packet || !receive(fd, packet, rest))
        return NULL;
    if (rest == 12) {
        memcpy(&seed, packet + 4, 8);
        printf("cancel seed=%016llx\n", seed);
        return NULL;
    }
    const char *name = memmem(packet, rest, "torture:", 8);
    if (!name || sscanf(name, "torture:%llx:%d:%d", &seed, &bits, &parked) != 3)
        return NULL;
    struct session *session = session_of(SERVER, seed, bits, parked);
    session->fd = fd;
    prepare(session);
    memcpy(login, LOGIN, LOGIN_BYTES);
    memcpy(login + KEY_AT, &session->script.seed, 8);
    int is_in = send(fd, login, LOGIN_BYTES, MSG_NOSIGNAL) == LOGIN_BYTES;
    if (is_in && session->script.shape == COPY)
        is_in = receive(fd, query, QUERY_BYTES) && send(fd, COPY_BOTH, BOTH_BYTES, MSG_NOSIGNAL) == BOTH_BYTES;
    if (is_in)
        return session;
    free(session);
    return NULL;
}

static void *attend(void *argument)
{
    int fd = (int)(intptr_t)argument;
    struct session *session = welcome(fd);
    pthread_detach(pthread_self());
    if (session)
        converse(session);
    else
        close(fd);
    free(session);
    return NULL;
}

static void serve(int port)
{
    int listener = listen_at(port, 1024);
    if (listener < 0)
        fail("listen");
    printf("serving=yes\n");
    struct pollfd either[] = {{.fd = 0, .events = POLLIN}, {.fd = listener, .events = POLLIN}};
    while (poll(either, 2, -1) > 0 && !either[0].revents) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            start(attend, (void *)(intptr_t)fd);
    }
}

/* Connects and does the client's part of a login. */
static int log_in(struct session *session, int bits, int parked)
{
    uint8_t login[LOGIN_BYTES], both[BOTH_BYTES];
    uint8_t packet[128] = {0, 0, 0, 0, 0, 3};
    size_t length = 8;
    session->fd = dial(session->port);
    if (session->fd < 0)
        return 0;
    prepare(session);
    length += 1 + sprintf((char *)packet + length, "user");
    length += 1 + sprintf((char *)packet + length, "torture");
    length += 1 + sprintf((char *)packet + length, "application_name");
    length += 2 + sprintf((char *)packet + length, "torture:%llx:%d:%d", (unsigned long long)session->script.seed, bits, parked);
    packet[3] = length;
    int is_in = send(session->fd, packet, length, MSG_NOSIGNAL) == (ssize_t)length && receive(session->fd, login, LOGIN_BYTES);
    if (is_in && session->script.shape == COPY)
        is_in = send(session->fd, COPY_QUERY, QUERY_BYTES, MSG_NOSIGNAL) == QUERY_BYTES && receive(session->fd, both, BOTH_BYTES);
    return is_in;
}

/* What the client's threads share. */
static struct {
    int port, count, at_once, bits, parked, next;
    uint64_t seed;
    pthread_barrier_t all_in;
} plan;

static void *take_turns(void *unused)
{
    int number;
    while ((number = __atomic_fetch_add(&plan.next, 1, __ATOMIC_RELAXED)) < plan.count) {
        uint64_t state = plan.seed + number;
        struct session *session = session_of(CLIENT, next(&state), plan.bits, plan.parked);
        session->port = plan.port;
        int is_in = log_in(session, plan.bits, plan.parked);
        if (plan.at_once == plan.count && pthread_barrier_wait(&plan.all_in) == PTHREAD_BARRIER_SERIAL_THREAD)
            printf("all_in=yes\n");
        if (is_in) {
            converse(session);
        } else {
            session->end = REFUSED;
            report(session);
            close(session->fd);
        }
        free(session);
    }
    return unused;
}

static void connect_all(char **argument)
{
    plan.port = atoi(argument[0]);
    plan.seed = strtoull(argument[1], NULL, 16);
    plan.count = atoi(argument[2]);
    plan.at_once = atoi(argument[3]);
    plan.bits = atoi(argument[4]);
    plan.parked = atoi(argument[5]);
    pthread_t *threads = calloc(plan.at_once, sizeof *threads);
    pthread_barrier_init(&plan.all_in, NULL, plan.at_once);
    for (int i = 0; i < plan.at_once; i++)
        threads[i] = start(take_turns, NULL);
    for (int i = 0; i < plan.at_once; i++)
        pthread_join(threads[i], NULL);
    free(threads);
}
