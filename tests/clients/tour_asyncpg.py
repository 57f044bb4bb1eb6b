"""A tour through asyncpg, connected by the PG* environment. Facts are printed as lines key=value."""

import asyncio
import io
import os

import asyncpg

ODD_TEXT = "é – 漢字 🐘 'quoted' \\ back\nnext line"


def fact(name, value):
    print(f"{name}={value!r}")


async def connect():
    return await asyncpg.connect(server_settings={"application_name": os.environ["PGAPPNAME"]})


async def sqlstate(awaitable):
    """The SQLSTATE something fails with."""
    try:
        await awaitable
    except asyncpg.PostgresError as error:
        return error.sqlstate
    return None


async def statements(connection):
    fact("create", await connection.execute("create temporary table numbers (n int primary key, text text)"))
    fact("several", await connection.execute("select 1; select 2, null; insert into numbers values (-1, 'x')"))
    fact("value", tuple(await connection.fetchrow("select $1::text, $2::int, $3::bytea", ODD_TEXT, None, b"\0\xff")))
    for n in range(5):
        # Served from the statement cache from the second on.
        await connection.execute("insert into numbers values ($1, $2)", n, f"é{n}")
    prepared = await connection.prepare("select n from numbers where n = $1")
    fact("prepared", [await prepared.fetchval(n) for n in range(3)])
    fact("types", [kind.name for kind in prepared.get_parameters()])
    fact("array", await connection.fetchval("select $1::text[]", ["a", None, "'"]))
    fact("composite", tuple(await connection.fetchval("select row(1, 'x', null::text)")))
    fact("nothing", await connection.fetch(""))
    await connection.executemany("insert into numbers values ($1, $2)", [(n, f"é{n}") for n in range(1000, 1300)])
    fact("many", await connection.fetchval("select count(*) from numbers"))


async def failures(connection):
    fact("syntax", await sqlstate(connection.execute("selec 1")))
    fact("syntax_of_parse", await sqlstate(connection.fetch("selec $1", 1)))
    fact("at_run_time", await sqlstate(connection.fetch("select 1 / $1::int", 0)))
    fact("in_the_middle", await sqlstate(connection.execute("select 1; select 1 / 0; select 3")))
    fact("unknown_table", await sqlstate(connection.fetch("select * from nowhere where n = $1", 1)))
    fact("duplicate", await sqlstate(connection.execute("insert into numbers values ($1, 'again')", 1)))
    fact("of_many", await sqlstate(connection.executemany("select 1 / $1::int", [(1,), (0,), (2,)])))


async def transactions(connection):
    async with connection.transaction(isolation="serializable"):
        await connection.execute("insert into numbers values (100, 'kept')")
        inner = connection.transaction()
        await inner.start()
        await connection.execute("insert into numbers values ($1, 'dropped')", 101)
        await inner.rollback()
    fact("kept", await connection.fetchval("select count(*) from numbers where n between 100 and 199"))
    failed = connection.transaction()
    await failed.start()
    fact("nothing_there", await sqlstate(connection.execute("select nothing")))
    fact("in_a_failed_transaction", await sqlstate(connection.fetch("select $1::int", 1)))
    await failed.rollback()
    await connection.execute("create temporary table child (n int references numbers deferrable initially deferred)")
    # The error comes at the end of the transaction: for a statement on its own, at Sync.
    fact("deferred", await sqlstate(connection.execute("insert into child values ($1)", 12345)))


async def copies(connection):
    rows = [(n, f"é{n}") for n in range(2000, 3000)]
    fact("copy_in", await connection.copy_records_to_table("numbers", records=rows))
    fact("copy_text", await connection.copy_to_table("numbers", source=io.BytesIO("9000\té\n".encode())))
    out = io.BytesIO()
    fact("copy_out", await connection.copy_from_query("select n from numbers where n > $1", 2990, output=out))
    fact("copied", out.getvalue())
    fact("copy_of_nonsense", await sqlstate(connection.copy_to_table("numbers", source=io.BytesIO(b"nonsense\n"))))


async def cursors(connection):
    async with connection.transaction():
        total = 0
        async for row in connection.cursor("select n from numbers where n >= $1 order by n", 2000, prefetch=300):
            total += row["n"]
        fact("cursor", total)
        cursor = await connection.cursor("select n from numbers order by n")
        fact("fetched", [row["n"] for row in await cursor.fetch(3)])
        fact("skipped", await cursor.forward(2))
        fact("then", (await cursor.fetchrow())["n"])


async def notifications(connection):
    heard = asyncio.get_running_loop().create_future()
    await connection.add_listener("asyncpg_news", lambda *news: heard.set_result(news[2:]))
    other = await connect()
    await other.execute("select pg_notify('asyncpg_news', $1)", ODD_TEXT)
    await other.close()
    fact("notify", await heard)
    await connection.reset()


async def cancellations(connection):
    await connection.execute("set statement_timeout = 300")
    fact("timeout", await sqlstate(connection.fetch("select pg_sleep(600)")))
    await connection.execute("set statement_timeout = 0")
    running = asyncio.ensure_future(
        connection.execute("do $$ begin raise notice 'running'; perform pg_sleep(600); end $$")
    )
    connection.add_log_listener(lambda *_: running.cancel())
    try:
        await running
    except asyncio.CancelledError:
        fact("cancel", "cancelled")
    fact("alive", await connection.fetchval("select 'still ' || $1", "here"))


async def by_sql(connection):
    await connection.execute("prepare by_sql (int) as select $1 + 1")
    fact("execute_by_sql", await connection.fetchval("execute by_sql (41)"))
    await connection.execute("deallocate by_sql")
    fact("deallocated", await sqlstate(connection.execute("execute by_sql (41)")))
    await connection.execute("discard all")
    await connection.reload_schema_state()
    fact("discarded", await connection.fetchval("select 'after ' || $1", "all"))


async def tour():
    connection = await connect()
    for stop in statements, failures, transactions, copies, cursors, notifications, cancellations, by_sql:
        await stop(connection)
    await connection.close()


asyncio.run(tour())
