"""A tour through psycopg 3 and psycopg2: tour.py CONNINFO. Facts are printed as lines key=value."""

import os
import sys

import psycopg
import psycopg2

conninfo = sys.argv[1]
print(f"pid={os.getpid()}")

with psycopg.connect(conninfo, prepare_threshold=0) as connection:
    with connection.pipeline(), connection.cursor() as cursor:
        cursor.execute("create temporary table numbers (n int, text text)")
        cursor.executemany("insert into numbers values (%s, %s)", [(n, f"é{n}") for n in range(1000)])
    with connection.cursor() as cursor:
        with cursor.copy("copy numbers from stdin") as copy:
            for n in range(1000, 2000):
                copy.write_row((n, f"é{n}"))
        cursor.execute("select count(*), sum(n), max(text) from numbers")
        print("psycopg3={} {} {}".format(*cursor.fetchone()))
    with connection.cursor("server_side") as cursor:
        cursor.itersize = 7
        cursor.execute("select n from numbers order by n")
        print(f"cursor={sum(row[0] for row in cursor)}")

connection = psycopg2.connect(conninfo)
with connection, connection.cursor() as cursor:
    cursor.execute("select %s || %s", ("psycopg", "2"))
    print(f"psycopg2={cursor.fetchone()[0]}")
try:
    with connection, connection.cursor() as cursor:
        cursor.execute("select 1 / 0")
except psycopg2.Error as error:
    print(f"psycopg2_error={error.pgcode}")
connection.close()
