/* A tour through libpq, connected by the PG* environment. Facts are printed as lines key=value. */
#include <libpq-fe.h>
#include <libpq/libpq-fs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ODD_TEXT "é – 漢字 🐘 'quoted' \\ back\nnext line"

static PGconn *session;

static void fail(const char *where)
{
    fprintf(stderr, "%s: %s\n", where, PQerrorMessage(session));
    exit(1);
}

static PGconn *connect_once(void)
{
    PGconn *connection = PQconnectdb("");
    if (PQstatus(connection) != CONNECTION_OK) {
        fprintf(stderr, "connect: %s\n", PQerrorMessage(connection));
        exit(1);
    }
    return connection;
}

/* Prints a result's status, its SQLSTATE or tag, and its first value. */
static void fact(const char *name, PGresult *result)
{
    ExecStatusType status = PQresultStatus(result);
    printf("%s=%s", name, PQresStatus(status));
    if (status == PGRES_FATAL_ERROR)
        printf(" %s", PQresultErrorField(result, PG_DIAG_SQLSTATE));
    else
        printf(" %s", PQcmdStatus(result));
    if (PQntuples(result) > 0)
        printf(" %s", PQgetisnull(result, 0, 0) ? "null" : PQgetvalue(result, 0, 0));
    printf("\n");
    PQclear(result);
}

/* Prints every result of what was sent last. */
static void facts(const char *name)
{
    PGresult *result;
    while ((result = PQgetResult(session)) != NULL)
        fact(name, result);
}

static void simple(const char *name, const char *text)
{
    if (!PQsendQuery(session, text))
        fail(name);
    facts(name);
}

static PGresult *with_one(const char *text, const char *value, int binary_result)
{
    return PQexecParams(session, text, 1, NULL, &value, NULL, NULL, binary_result);
}

static void statements(void)
{
    const Oid types[] = {23, 0};
    const char four[] = {0, 0, 0, 4};
    const char *values[] = {four, NULL};
    const int lengths[] = {4, 0}, formats[] = {1, 0};
    simple("create", "create temporary table numbers (n int primary key, text text)");
    simple("several", "select 1; select 2, null;; insert into numbers values (-1, 'x')");
    simple("nothing", "");
    simple("blank", " ; -- nothing\n");
    fact("value", with_one("select $1::text", ODD_TEXT, 0));
    fact("null", with_one("select $1::int", NULL, 0));
    fact("binary", PQexecParams(session, "select $1 * 2, $2::text", 2, types, values, lengths, formats, 0));
    fact("prepare", PQprepare(session, "by name", "insert into numbers values ($1, $2)", 2, types));
    for (int i = 0; i < 2; i++)
        fact("prepared", PQexecPrepared(session, "by name", 2, values, lengths, formats, 0));
    fact("describe", PQdescribePrepared(session, "by name"));
    fact("prepare_again", PQprepare(session, "by name", "select 1", 0, NULL));
    simple("deallocate", "deallocate \"by name\"");
    fact("gone", PQexecPrepared(session, "by name", 2, values, lengths, formats, 0));
    fact("describe_gone", PQdescribePrepared(session, "by name"));
    fact("prepare_nothing", PQprepare(session, "", "", 0, NULL));
    fact("execute_nothing", PQexecPrepared(session, "", 0, NULL, NULL, NULL, 0));
}

static void failures(void)
{
    simple("syntax", "selec 1");
    fact("syntax_of_parse", with_one("selec $1", "1", 0));
    simple("several_in_parse", "select 'one is allowed'");
    fact("two_in_parse", with_one("select $1; select 2", "1", 0));
    fact("at_run_time", with_one("select 1 / $1::int", "0", 0));
    simple("in_the_middle", "select 1; select 1 / 0; select 3");
    fact("bad_value", with_one("select $1::int", "no number", 0));
    simple("parse_analysis", "select 1; select * from nowhere");
    fact("too_few", PQexecParams(session, "select $1::int, $2::int", 0, NULL, NULL, NULL, NULL, 0));
    simple("begin", "begin");
    simple("nothing_there", "select nothing");
    simple("in_a_failed_transaction", "select 1");
    fact("in_a_failed_transaction", with_one("select $1", "1", 0));
    simple("end", "commit");
    simple("begin", "begin; savepoint a; insert into numbers values (7, 'x'); rollback to a; commit");
    simple("late", "create temporary table child (n int references numbers deferrable initially deferred)");
    fact("deferred", with_one("insert into child values ($1)", "12345", 0));
    simple("deferred", "insert into child values (12345)");
}

static void cursors(void)
{
    simple("declare", "begin; declare \"a cursor\" cursor for select n from generate_series(1, 10) n");
    simple("fetch", "fetch 3 from \"a cursor\"");
    fact("describe_portal", PQdescribePortal(session, "a cursor"));
    simple("close", "close \"a cursor\"");
    fact("no_portal", PQdescribePortal(session, "a cursor"));
    simple("end", "rollback");
}

static void copy(const char *name, const char *data, const char *give_up)
{
    PQclear(PQexec(session, "copy numbers from stdin"));
    if (PQputCopyData(session, data, strlen(data)) != 1 || PQputCopyEnd(session, give_up) != 1)
        fail(name);
    facts(name);
}

static void copies(void)
{
    char *row;
    copy("copy_in", "100\té\n101\t\\N\n", NULL);
    copy("copy_of_nonsense", "nonsense\n", NULL);
    copy("copy_given_up", "102\tx\n", "I have changed my mind");
    PQclear(PQexec(session, "copy (select n from numbers where n >= 100) to stdout"));
    while (PQgetCopyData(session, &row, 0) > 0) {
        printf("copied=%s", row);
        PQfreemem(row);
    }
    facts("copy_out");
    /* Copies among other statements, of one text. */
    simple("among_others", "select 'before'; set local work_mem = '4MB'; select 'after'");
}

static void pipeline(void)
{
    if (!PQenterPipelineMode(session))
        fail("pipeline");
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 5; i++) {
            char number[16];
            const char *parameter = number;
            snprintf(number, sizeof number, "%d", round == 1 && i == 2 ? 0 : i + 1);
            PQsendQueryParams(session, "select 10 / $1::int", 1, NULL, &parameter, NULL, NULL, 0);
        }
        if (round == 2)
            PQsendFlushRequest(session);
        PQpipelineSync(session);
    }
    for (int nulls = 0, syncs = 0; syncs < 3 && nulls < 2;) {
        PGresult *result = PQgetResult(session);
        nulls = result == NULL ? nulls + 1 : 0;
        if (result == NULL)
            continue;
        syncs += PQresultStatus(result) == PGRES_PIPELINE_SYNC;
        fact("pipeline", result);
    }
    PQexitPipelineMode(session);
}

/* Large objects travel as FunctionCall messages. */
static void large_object(void)
{
    char in[16] = "";
    PQclear(PQexec(session, "begin"));
    Oid object = lo_create(session, 0);
    int fd = lo_open(session, object, INV_READ | INV_WRITE);
    int written = lo_write(session, fd, "large", 5);
    lo_lseek(session, fd, 0, SEEK_SET);
    int got = lo_read(session, fd, in, sizeof in);
    printf("large_object=%d %d %s\n", written, got, in);
    lo_unlink(session, object);
    printf("no_large_object=%d\n", lo_open(session, object, INV_READ));
    PQclear(PQexec(session, "rollback"));
}

static void wait_for_input(void)
{
    struct pollfd ready = {.fd = PQsocket(session), .events = POLLIN};
    if (poll(&ready, 1, 60000) <= 0 || !PQconsumeInput(session))
        fail("wait");
}

static void notify(void)
{
    PGnotify *news;
    const char *values[] = {"libpq_news", ODD_TEXT};
    PQclear(PQexec(session, "listen libpq_news"));
    PGconn *other = connect_once();
    PQclear(PQexecParams(other, "select pg_notify($1, $2)", 2, NULL, values, NULL, NULL, 0));
    PQfinish(other);
    while ((news = PQnotifies(session)) == NULL)
        wait_for_input();
    printf("notify=%s %s\n", news->relname, news->extra);
    PQfreemem(news);
}

static void note(void *running, const char *message)
{
    *(int *)running = strstr(message, "running") != NULL;
}

static void cancellations(void)
{
    char error[256];
    int running = 0;
    simple("timeout", "begin; set local statement_timeout = 300; select pg_sleep(600)");
    simple("end", "rollback");
    PQsetNoticeProcessor(session, note, &running);
    PQsendQuery(session, "do $$ begin raise notice 'running'; perform pg_sleep(600); end $$");
    /* The notice is there once PQisBusy has read it. */
    while (PQisBusy(session) && !running)
        wait_for_input();
    PGcancel *handle = PQgetCancel(session);
    if (!PQcancel(handle, error, sizeof error))
        fail(error);
    PQfreeCancel(handle);
    facts("cancel");
}

static void encodings(void)
{
    PQsetClientEncoding(session, "LATIN1");
    fact("latin1", with_one("select $1 || 'gr\374n'", "sch\366n ", 0));
    simple("latin1", "select 'gr\374n'");
    PQsetClientEncoding(session, "SJIS");
    /* The second byte of this character is a backslash's. */
    simple("sjis", "select '\225\\', length('\225\\')");
    PQsetClientEncoding(session, "UTF8");
    simple("not_utf8", "select '\377'");
    fact("not_utf8", with_one("select $1", "\377", 0));
}

int main(void)
{
    session = connect_once();
    printf("libpq=%d\n", PQlibVersion() / 10000);
    statements();
    failures();
    cursors();
    copies();
    pipeline();
    large_object();
    notify();
    cancellations();
    encodings();
    simple("prepare_by_sql", "prepare by_sql (int) as select $1 + 1");
    simple("execute_by_sql", "execute by_sql (41)");
    simple("discard", "discard all");
    simple("discarded", "execute by_sql (41)");
    simple("alive", "select 'still here'");
    PQfinish(session);
    return 0;
}
