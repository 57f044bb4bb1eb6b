"""A server's unix socket without a server: unix_server.py WAY PATH. Facts are lines key=value.

name      answers every startup packet with an error that says PATH
echo      reads until its client ends, says what it heard, and answers at length
deaf      never accepts: its queue is as short as can be"""
import os
import socket
import struct
import sys

way, path = sys.argv[1:3]
server = socket.socket(socket.AF_UNIX)
server.bind("\0" + path[1:] if path[0] == "@" else path)
server.listen(0 if way == "deaf" else 16)
if path[0] != "@":
    os.chmod(path, 0o777)
print("ready=yes", flush=True)
while way == "deaf":
    sys.stdin.read()
    sys.exit(0)
while True:
    client, _ = server.accept()
    with client:
        if way == "name":
            client.recv(4096)
            fields = b"SFATAL\0VFATAL\0C08004\0M" + path.encode() + b"\0\0"
            client.sendall(b"E" + struct.pack("!I", len(fields) + 4) + fields)
        else:
            heard = b"".join(iter(lambda: client.recv(4096), b""))
            print(f"heard={heard[-10:]}", flush=True)
            client.sendall(b"a long answer")
