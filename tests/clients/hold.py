"""Connects to 127.0.0.1 and the port it is told, says so, and holds the socket until standard input ends."""
import os
import socket
import sys

with socket.create_connection(("127.0.0.1", int(sys.argv[1]))):
    print(f"connected={os.getpid()}", flush=True)
    sys.stdin.read()
