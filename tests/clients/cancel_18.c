/* cancel_18 CONNINFO: cancels a query the way libpq 17 and newer do, inside the encryption of its session. Built against
   version 18's library and this machine's older header, which does not know these functions yet. */
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct pg_cancel_conn PGcancelConn;
PGcancelConn *PQcancelCreate(PGconn *connection);
int PQcancelBlocking(PGcancelConn *cancel);
char *PQcancelErrorMessage(const PGcancelConn *cancel);
void PQcancelFinish(PGcancelConn *cancel);

int main(int argc, char **argv)
{
    PGconn *connection = argc > 1 ? PQconnectdb(argv[1]) : NULL;
    if (PQstatus(connection) != CONNECTION_OK) {
        fprintf(stderr, "connect: %s\n", connection ? PQerrorMessage(connection) : "no connection string");
        return 1;
    }
    PQsendQuery(connection, "select pg_sleep(60)");
    struct pollfd answer = {.fd = PQsocket(connection), .events = POLLIN};
    /* A request that comes before its query cancels nothing: ask until there is an answer. */
    do {
        PGcancelConn *cancel = PQcancelCreate(connection);
        if (!PQcancelBlocking(cancel)) {
            fprintf(stderr, "cancel: %s\n", PQcancelErrorMessage(cancel));
            return 1;
        }
        PQcancelFinish(cancel);
    } while (poll(&answer, 1, 200) == 0);
    PGresult *result = PQgetResult(connection);
    printf("sqlstate=%s\n", PQresultErrorField(result, PG_DIAG_SQLSTATE));
    PQclear(result);
    PQfinish(connection);
    return 0;
}
