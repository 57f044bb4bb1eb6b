/* Connects at a steady rate, and runs queries in sessions that stay open, until its standard input ends.
 *
 * usage: hammer CONNINFO CONNECTS_PER_SECOND SESSIONS
 *
 * Says `ready` when its sessions are open and the first connects have been made, and at the end how many there were and
 * how many failed, with the first failure in words. */
#include <libpq-fe.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CONNECTORS 12
#define FIRST_CONNECTS 20

static const char *conninfo;
static long interval_ns;
static struct timespec begin;
static atomic_long slot, connects, failed, queries, broken;
static atomic_int open_sessions, is_over;
static pthread_mutex_t words = PTHREAD_MUTEX_INITIALIZER;
static char first_failure[512];

static void tell(const char *what, const char *why) {
    pthread_mutex_lock(&words);
    if (!first_failure[0])
        snprintf(first_failure, sizeof first_failure, "%s: %s", what, why);
    pthread_mutex_unlock(&words);
    for (char *c = first_failure; *c; c++)
        if (*c == '\n')
            *c = ' ';
}

/* Whether the session answers with what it was asked for. */
static int answers(PGconn *conn, long number) {
    char sql[64], expected[32];
    snprintf(sql, sizeof sql, "select %ld", number);
    snprintf(expected, sizeof expected, "%ld", number);
    PGresult *result = PQexec(conn, sql);
    int is_right = PQresultStatus(result) == PGRES_TUPLES_OK && !strcmp(PQgetvalue(result, 0, 0), expected);
    PQclear(result);
    return is_right;
}

static void wait_for_slot(long number) {
    struct timespec when = begin;
    when.tv_nsec += number * interval_ns % 1000000000;
    when.tv_sec += number * interval_ns / 1000000000 + when.tv_nsec / 1000000000;
    when.tv_nsec %= 1000000000;
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL);
}

static void *connect_again_and_again(void *unused) {
    (void)unused;
    while (!is_over) {
        long number = atomic_fetch_add(&slot, 1);
        wait_for_slot(number);
        PGconn *conn = PQconnectdb(conninfo);
        if (PQstatus(conn) != CONNECTION_OK || !answers(conn, number)) {
            failed++;
            tell("connect", PQerrorMessage(conn));
        }
        PQfinish(conn);
        connects++;
    }
    return NULL;
}

static void *query_all_the_time(void *unused) {
    (void)unused;
    PGconn *conn = PQconnectdb(conninfo);
    int is_open = PQstatus(conn) == CONNECTION_OK;
    open_sessions++;
    for (long number = 0; is_open && !is_over; number++) {
        is_open = answers(conn, number);
        queries++;
    }
    if (!is_open) {
        broken++;
        tell("session", PQerrorMessage(conn));
    }
    PQfinish(conn);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    conninfo = argv[1];
    interval_ns = 1000000000 / atol(argv[2]);
    int sessions = atoi(argv[3]);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    pthread_t threads[CONNECTORS + sessions];
    for (int i = 0; i < sessions; i++)
        pthread_create(&threads[CONNECTORS + i], NULL, query_all_the_time, NULL);
    for (int i = 0; i < CONNECTORS; i++)
        pthread_create(&threads[i], NULL, connect_again_and_again, NULL);
    while (open_sessions < sessions || connects < FIRST_CONNECTS)
        poll(NULL, 0, 5);
    puts("ready=1");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    is_over = 1;
    for (int i = 0; i < CONNECTORS + sessions; i++)
        pthread_join(threads[i], NULL);
    printf("connects=%ld\nfailed=%ld\nqueries=%ld\nbroken=%ld\nfirst_failure=%s\n", connects, failed, queries, broken,
           first_failure);
    return 0;
}
