/* libpq clients: libpq tour|value|crowd|short CONNINFO [NUMBER]. Facts are printed as lines key=value. */
#include <arpa/inet.h>
#include <libpq-fe.h>
#include <libpq/libpq-fs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void fail(PGconn *connection, const char *where)
{
    fprintf(stderr, "%s: %s\n", where, PQerrorMessage(connection));
    exit(1);
}

static PGconn *connect_to(const char *conninfo)
{
    PGconn *connection = PQconnectdb(conninfo);
    if (PQstatus(connection) != CONNECTION_OK)
        fail(connection, "connect");
    return connection;
}

/* Runs a statement and returns its first value, or an empty string. */
static char *value_of(PGconn *connection, const char *sql)
{
    PGresult *result = PQexec(connection, sql);
    if (PQresultStatus(result) != PGRES_TUPLES_OK && PQresultStatus(result) != PGRES_COMMAND_OK)
        fail(connection, sql);
    char *value = strdup(PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "");
    PQclear(result);
    return value;
}

static void print_peer(PGconn *connection)
{
    struct sockaddr_in peer;
    socklen_t length = sizeof peer;
    char text[64];
    if (getpeername(PQsocket(connection), (struct sockaddr *)&peer, &length) < 0)
        fail(connection, "getpeername");
    printf("peer=%s:%d\n", inet_ntop(AF_INET, &peer.sin_addr, text, sizeof text), ntohs(peer.sin_port));
    printf("hostaddr=%s\n", PQhostaddr(connection));
    printf("server=%s\n", value_of(connection, "select host(inet_server_addr()) || ':' || inet_server_port()"));
    printf("backend=%d\n", PQbackendPID(connection));
    printf("backend_asked=%s\n", value_of(connection, "select pg_backend_pid()"));
}

/* 500 statements in one go, one of them failing, answered in order after the synchronisation point. */
static void pipeline(PGconn *connection)
{
    int right = 0, aborted = 0, failed = 0;
    PQenterPipelineMode(connection);
    for (int i = 0; i < 500; i++) {
        char number[16];
        const char *parameter = number;
        snprintf(number, sizeof number, "%d", i == 400 ? 0 : i + 1);
        if (!PQsendQueryParams(connection, "select 1000 / $1::int", 1, NULL, &parameter, NULL, NULL, 0))
            fail(connection, "pipeline send");
    }
    PQpipelineSync(connection);
    for (int i = 0; i < 500; i++) {
        PGresult *result = PQgetResult(connection);
        if (PQresultStatus(result) == PGRES_TUPLES_OK)
            right += atoi(PQgetvalue(result, 0, 0)) == 1000 / (i + 1);
        failed += PQresultStatus(result) == PGRES_FATAL_ERROR;
        aborted += PQresultStatus(result) == PGRES_PIPELINE_ABORTED;
        PQclear(result);
        PQclear(PQgetResult(connection));
    }
    PGresult *sync = PQgetResult(connection);
    printf("pipeline=%d right, %d failed, %d aborted, %s\n", right, failed, aborted,
           PQresStatus(PQresultStatus(sync)));
    PQclear(sync);
    PQexitPipelineMode(connection);
}

/* Large objects travel as FunctionCall messages. */
static void large_object(PGconn *connection)
{
    static char out[1 << 20], in[1 << 20];
    for (size_t i = 0; i < sizeof out; i++)
        out[i] = (char)(i * 31 + i / 251);
    value_of(connection, "begin");
    Oid object = lo_create(connection, 0);
    int fd = lo_open(connection, object, INV_READ | INV_WRITE);
    int written = lo_write(connection, fd, out, sizeof out);
    lo_lseek(connection, fd, 0, SEEK_SET);
    int got = 0, step;
    while (got < (int)sizeof in && (step = lo_read(connection, fd, in + got, 65536)) > 0)
        got += step;
    printf("large_object=%s\n", written == sizeof out && got == written && !memcmp(in, out, sizeof in) ? "same" : "differs");
    lo_unlink(connection, object);
    value_of(connection, "commit");
}

/* The server speaks unasked to a client that waits. */
static void notify(PGconn *connection, const char *conninfo)
{
    value_of(connection, "listen news");
    PGconn *other = connect_to(conninfo);
    value_of(other, "notify news, 'extra'");
    PQfinish(other);
    PGnotify *news = NULL;
    while (news == NULL) {
        struct pollfd ready = {.fd = PQsocket(connection), .events = POLLIN};
        if (poll(&ready, 1, 60000) <= 0 || !PQconsumeInput(connection))
            fail(connection, "notify");
        news = PQnotifies(connection);
    }
    printf("notify=%s %s\n", news->relname, news->extra);
    PQfreemem(news);
}

static void note(void *running, const char *message)
{
    *(int *)running = strstr(message, "running") != NULL;
}

/* PQcancel returns after the cancel connection ended; the query then fails and the session goes on.
 * The notice tells that the query runs: a cancel request that overtakes its query has nothing to cancel. */
static void cancel(PGconn *connection)
{
    char error[256];
    int running = 0;
    PQsetNoticeProcessor(connection, note, &running);
    value_of(connection, "begin");
    if (!PQsendQuery(connection, "do $$ begin raise notice 'running'; perform pg_sleep(600); end $$"))
        fail(connection, "send");
    while (!running) {
        struct pollfd ready = {.fd = PQsocket(connection), .events = POLLIN};
        if (poll(&ready, 1, 60000) <= 0 || !PQconsumeInput(connection))
            fail(connection, "notice");
        PQisBusy(connection);
    }
    PGcancel *handle = PQgetCancel(connection);
    if (!PQcancel(handle, error, sizeof error))
        fail(connection, error);
    PQfreeCancel(handle);
    PGresult *result = PQgetResult(connection);
    printf("cancel=%s\n", PQresultErrorField(result, PG_DIAG_SQLSTATE));
    PQclear(result);
    PQclear(PQgetResult(connection));
    value_of(connection, "rollback");
    printf("after_cancel=%s\n", value_of(connection, "select 'alive'"));
}

static void tour(const char *conninfo)
{
    PGconn *connection = connect_to(conninfo);
    print_peer(connection);
    pipeline(connection);
    large_object(connection);
    notify(connection, conninfo);
    cancel(connection);
    PQfinish(connection);
}

/* One value of SIZE bytes to the server and back. */
static void value(const char *conninfo, int size)
{
    PGconn *connection = connect_to(conninfo);
    char *out = malloc(size);
    for (int i = 0; i < size; i++)
        out[i] = (char)(i * 2654435761u >> 24);
    const Oid bytea = 17;
    const char *parameter = out;
    int binary = 1;
    PGresult *result = PQexecParams(connection, "select $1, length($1)", 1, &bytea, &parameter, &size, &binary, 1);
    if (PQresultStatus(result) != PGRES_TUPLES_OK)
        fail(connection, "value");
    int same = PQgetlength(result, 0, 0) == size && memcmp(PQgetvalue(result, 0, 0), out, size) == 0;
    printf("value=%s\n", same ? "same" : "differs");
    PQclear(result);
    PQfinish(connection);
    free(out);
}

/* COUNT sessions at once, each asked before and after a line comes in on standard input. */
static void crowd(const char *conninfo, int count)
{
    PGconn **connections = calloc(count, sizeof *connections);
    long sum = 0;
    for (int i = 0; i < count; i++) {
        connections[i] = connect_to(conninfo);
        value_of(connections[i], "select 1");
    }
    printf("open=%d\n", count);
    fflush(stdout);
    getchar();
    for (int i = 0; i < count; i++)
        if (!PQsendQuery(connections[i], "select sum(n) from generate_series(1, 1000) n"))
            fail(connections[i], "crowd send");
    for (int i = 0; i < count; i++) {
        PGresult *result = PQgetResult(connections[i]);
        if (PQresultStatus(result) != PGRES_TUPLES_OK)
            fail(connections[i], "crowd result");
        sum += atol(PQgetvalue(result, 0, 0));
        PQclear(result);
        PQclear(PQgetResult(connections[i]));
        PQfinish(connections[i]);
    }
    printf("sum=%ld\n", sum);
}

/* COUNT sessions one after the other. */
static void short_ones(const char *conninfo, int count)
{
    int right = 0;
    for (int i = 0; i < count; i++) {
        PGconn *connection = connect_to(conninfo);
        right += strcmp(value_of(connection, "select 'one'"), "one") == 0;
        PQfinish(connection);
    }
    printf("right=%d\n", right);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    int number = argc > 3 ? atoi(argv[3]) : 0;
    if (!strcmp(argv[1], "tour"))
        tour(argv[2]);
    else if (!strcmp(argv[1], "value"))
        value(argv[2], number);
    else if (!strcmp(argv[1], "crowd"))
        crowd(argv[2], number);
    else if (!strcmp(argv[1], "short"))
        short_ones(argv[2], number);
    else
        return 2;
    return 0;
}
