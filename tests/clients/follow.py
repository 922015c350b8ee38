"""Follows a session with httpx-sse, which parses and leaves the reconnecting to us: the loop of docs/PROTOCOL.md.

    python follow.py <url>

Prints the id of each entry, and the gateway's own frames by their name; ends by itself at `closed` or 204.
"""

import sys
import time

import httpx
import httpx_sse


def say(line):
    print(line, flush=True)


def follow(client, url):
    last = None
    while True:
        headers = {"Last-Event-ID": last} if last else {}
        try:
            with httpx_sse.connect_sse(client, "GET", url, headers=headers) as source:
                status = source.response.status_code
                if status == 204:
                    return say("204")
                if status < 500 and status != 429:
                    source.response.raise_for_status()
                for sse in source.iter_sse():
                    if sse.event == "message":
                        sse.json()
                        last = sse.id
                        say(last)
                    elif sse.event == "reset":
                        say(f"reset {sse.data}")
                    else:
                        say(sse.event)
                    if sse.event == "closed":
                        return
        except httpx.TransportError:
            time.sleep(0.1)


with httpx.Client(timeout=httpx.Timeout(10, read=45)) as client:
    follow(client, sys.argv[1])
