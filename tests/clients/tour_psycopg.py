"""A tour through psycopg 3, connected by the PG* environment. Facts are printed as lines key=value."""

import psycopg
from psycopg import sql

ODD_TEXT = "é – 漢字 🐘 'quoted' \\ back\nnext line"


def fact(name, value):
    print(f"{name}={value!r}")


def sqlstate(connection, statement, parameters=None):
    """The SQLSTATE a statement fails with; an open transaction is rolled back."""
    try:
        connection.execute(statement, parameters)
    except psycopg.Error as error:
        connection.rollback()
        return error.sqlstate
    return None


def statements(connection):
    connection.execute("create temporary table numbers (n int primary key, text text)")
    cursor = connection.execute("select 1; select 2 as two, null; insert into numbers values (-1, 'x')")
    sets = [cursor.fetchall()]
    while cursor.nextset():
        sets.append(cursor.statusmessage)
    fact("several", sets)
    fact("value", connection.execute("select %s::text, %s::int", (ODD_TEXT, None)).fetchone())
    fact("binary", connection.execute("select %b::int8, %b::bytea", (2**40, b"\0\xff'"), binary=True).fetchone())
    for n in range(8):
        # Prepared on the server from the sixth on.
        connection.execute("insert into numbers values (%s, %s)", (n, f"é{n}"))
    for n in range(3):
        connection.execute("select n from numbers where n = %s", (n,), prepare=True)
    fact("client_side", psycopg.ClientCursor(connection).execute("select %s || %s", ("a'b", "\\")).fetchone())
    fact("nothing", connection.execute("").statusmessage)
    fact("comment", connection.execute("-- only a comment").statusmessage)
    connection.commit()


def failures(connection):
    fact("syntax", sqlstate(connection, "selec 1"))
    fact("syntax_of_parse", sqlstate(connection, "selec %s", (1,)))
    fact("at_run_time", sqlstate(connection, "select 1 / %s", (0,)))
    fact("in_the_middle", sqlstate(connection, "select 1; select 1 / 0; select 3"))
    fact("bad_value", sqlstate(connection, "select %s::int", ("no number",)))
    fact("unknown_table", sqlstate(connection, "select * from nowhere where n = %s", (1,)))
    fact("duplicate", sqlstate(connection, "insert into numbers values (%s, 'again')", (1,)))
    try:
        connection.execute("select nothing")
    except psycopg.Error:
        pass
    for statement, parameters in (("select 1", None), ("select %s", (1,))):
        try:
            connection.execute(statement, parameters)
        except psycopg.Error as error:
            fact("in_a_failed_transaction", error.sqlstate)
    connection.rollback()


def transactions(connection):
    with connection.transaction():
        connection.execute("insert into numbers values (100, 'kept')")
        try:
            with connection.transaction("inner"):
                connection.execute("insert into numbers values (101, 'dropped')")
                raise psycopg.Rollback
        except psycopg.Rollback:
            pass
    fact("kept", connection.execute("select count(*) from numbers where n >= 100").fetchone())
    connection.rollback()
    # The error comes at the end of the transaction: for a statement on its own, at Sync.
    connection.autocommit = True
    connection.execute("create temporary table child (n int references numbers deferrable initially deferred)")
    fact("deferred", sqlstate(connection, "insert into child values (%s)", (12345,)))
    fact("deferred_simple", sqlstate(connection, "insert into child values (12345)"))
    connection.autocommit = False


def copies(connection):
    with connection.cursor() as cursor:
        with cursor.copy("copy numbers from stdin") as copy:
            for n in range(1000, 2000):
                copy.write_row((n, f"é{n}"))
        fact("copy_in", cursor.statusmessage)
        with cursor.copy("copy (select n from numbers where n >= 1990) to stdout") as copy:
            fact("copy_out", [bytes(row) for row in copy])
    connection.commit()
    try:
        with connection.cursor() as cursor, cursor.copy("copy numbers from stdin") as copy:
            copy.write("no number\tx\n")
    except psycopg.Error as error:
        fact("copy_of_nonsense", error.sqlstate)
    connection.rollback()
    try:
        with connection.cursor() as cursor, cursor.copy("copy numbers from stdin") as copy:
            copy.write("1\tx\n")
            raise ValueError
    except psycopg.Error as error:
        fact("copy_given_up", error.sqlstate)
    connection.rollback()


def cursors_and_pipelines(connection):
    with connection.cursor("server_side") as cursor:
        cursor.itersize = 400
        cursor.execute("select n from numbers where n >= %s order by n", (1000,))
        fact("cursor", sum(row[0] for row in cursor))
    connection.commit()
    with connection.pipeline(), connection.cursor() as cursor:
        cursor.executemany("update numbers set text = %s where n = %s", [("new", n) for n in range(1000, 1200)])
    connection.commit()
    failed = []
    with connection.pipeline() as pipeline:
        try:
            # The last one fails: when the driver learns of it depends on time, what it sends does not.
            for n in 1, 2, 0:
                connection.execute("select 10 / %s", (n,))
            pipeline.sync()
        except psycopg.Error as error:
            failed.append(error.sqlstate)
    connection.rollback()
    fact("pipeline", failed)


def notifications(connection):
    connection.execute("listen psycopg_news")
    connection.commit()
    with psycopg.connect("", autocommit=True) as other:
        other.execute("select pg_notify(%s, %s)", ("psycopg_news", ODD_TEXT))
    for news in connection.notifies():
        fact("notify", (news.channel, news.payload))
        break
    connection.commit()


def cancellations(connection):
    fact("timeout", sqlstate(connection, "set local statement_timeout = 300; select pg_sleep(600)"))
    connection.add_notice_handler(lambda notice: connection.cancel())
    fact("cancel", sqlstate(connection, "do $$ begin raise notice 'running'; perform pg_sleep(600); end $$"))


def by_sql(connection):
    connection.autocommit = True
    connection.execute("prepare by_sql (int) as select $1 + 1")
    fact("execute_by_sql", connection.execute("execute by_sql (41)").fetchone())
    connection.execute("deallocate by_sql")
    fact("deallocated", sqlstate(connection, "execute by_sql (41)"))
    connection.execute(sql.SQL("set client_encoding to {}").format("LATIN1"))
    fact("latin1", connection.execute("select 'é', %s", ("ü",)).fetchone())
    connection.execute("discard all")
    fact("alive", connection.execute("select 'still', %s::text", ("here",)).fetchone())


with psycopg.connect("") as session:
    statements(session)
    failures(session)
    transactions(session)
    copies(session)
    cursors_and_pipelines(session)
    notifications(session)
    cancellations(session)
    by_sql(session)
