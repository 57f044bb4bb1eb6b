"""A client of a unix socket: unix.py WAY PATH [MORE]. Facts are lines key=value.

ask       logs in and asks one query; says what the socket calls its peer
relative  the same, by the path from the socket's own directory
cancel    runs a query that sleeps, and cancels it by the same path
late      the same, once standard input has a line
forget    sends a startup packet and is gone at once
half      sends all it has to say, ends its direction, and prints what comes
abort     logs in and closes with bytes unread when standard input has a line
hold      logs in and waits until standard input ends
again     connects; a child that is nobody tries the same socket again, and another path; with a line more it asks
dial      connects and says what came of it
rights    tries to send a descriptor, then asks"""
import array
import os
import socket
import struct
import sys

way, path = sys.argv[1:3]
user = os.environ.get("PGUSER", "postgres")


def packet(code, body):
    return struct.pack("!II", len(body) + 8, code) + body


def message(kind, body):
    return kind + struct.pack("!I", len(body) + 4) + body


def connect(name):
    if name.startswith("@"):
        name = "\0" + name[1:]
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(name)
    except OSError as error:
        print(f"error={error.strerror}", flush=True)
        sys.exit(1)
    return connection


def received(connection, length):
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            print("closed=yes", flush=True)
            sys.exit(1)
        data += more
    return data


def messages(connection):
    while True:
        kind, length = struct.unpack("!cI", received(connection, 5))
        body = received(connection, length - 4)
        if kind == b"E":
            fields = {field[:1]: field[1:].decode() for field in body.split(b"\0") if field}
            print(f"sqlstate={fields[b'C']}\nmessage={fields[b'M']}", flush=True)
        yield kind, body


def through(connection, end):
    rows = []
    for kind, body in messages(connection):
        if kind == b"D":
            rows.append(body[6:].decode())
        if kind == b"K":
            through.key = body
        if kind == end:
            return rows


STARTUP = packet(196608, b"user\0" + user.encode() + b"\0database\0postgres\0\0")


def logged_in(name):
    connection = connect(name)
    connection.sendall(STARTUP)
    through(connection, b"Z")
    return connection


def ask(connection, sql):
    connection.sendall(message(b"Q", sql.encode() + b"\0"))
    return through(connection, b"Z")


print(f"pid_own={os.getpid()}", flush=True)
if way == "dial":
    connect(path)
    print("connected=yes", flush=True)
elif way == "rights":
    connection = connect(path)
    descriptors = array.array("i", [0])
    try:
        connection.sendmsg([STARTUP], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    except OSError as error:
        print(f"refused={error.strerror}")
    connection.sendall(STARTUP)
    through(connection, b"Z")
    print(f"answer={ask(connection, 'select 42')[0]}")
elif way == "again":
    connection = connect(path)
    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        said = []
        for name in (path, "/nonexistent/socket"):
            try:
                connection.connect(name)
            except OSError as error:
                said.append(error.strerror)
        print(f"again={said}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    sys.stdin.readline()
    connection.sendall(STARTUP)
    through(connection, b"Z")
    print(f"peer={connection.getpeername()}")
    print(f"answer={ask(connection, 'select 42')[0]}")
elif way in ("ask", "relative"):
    name = path
    if way == "relative":
        os.chdir(os.path.dirname(path))
        name = os.path.basename(path)
    connection = logged_in(name)
    print(f"peer={connection.getpeername()}")
    print(f"answer={ask(connection, 'select 42')[0]}")
elif way in ("cancel", "late"):
    connection = logged_in(path)
    # A request that comes before the query runs would cancel nothing: the notice says that it does.
    sleep = b"do $$ begin raise notice 'asleep'; perform pg_sleep(600); end $$\0"
    connection.sendall(message(b"Q", sleep))
    through(connection, b"N")
    if way == "late":
        print("asleep=yes", flush=True)
        sys.stdin.readline()
    with connect(path) as cancel:
        cancel.sendall(packet(80877102, through.key))
        cancel.recv(1)
    through(connection, b"Z")
elif way == "forget":
    connect(path).sendall(STARTUP)
elif way == "half":
    connection = connect(path)
    connection.sendall(STARTUP + b"a question")
    connection.shutdown(socket.SHUT_WR)
    print(f"heard={b''.join(iter(lambda: connection.recv(4096), b''))}")
elif way == "abort":
    connection = logged_in(path)
    connection.sendall(message(b"Q", b"select repeat('x', 10000000)\0"))
    received(connection, 1)
    print("logged_in=yes", flush=True)
    sys.stdin.readline()
else:
    connection = logged_in(path)
    print("logged_in=yes", flush=True)
    sys.stdin.read()
