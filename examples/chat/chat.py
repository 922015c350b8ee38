#!/usr/bin/env python3
"""A chat, end to end: the back end of a product whose users talk with an agent. Needs nothing but Python 3.9.

    openssl rand -hex 32 > secret
    moorline serve --auth-secret-file secret --cors-origin http://127.0.0.1:8000     --redis-url, for chats that outlive it
    examples/chat/chat.py --secret-file secret                                       then open http://127.0.0.1:8000

By this very address: it is the origin whose pages the gateway lets in. Who does what:

    moorline     the gateway: holds the session in which the other three meet; a chat is a session
    page.html    the browser: follows the session and shows it; asks the agent to stop, steers it, decides what it asks
    chat.py      this back end: knows the users, puts their words into the session, has one agent answer them, signs tokens
    writer.py    the agent, a process for each answer, with a life of its own: it goes on while this back end restarts

A message has an id that the page has chosen. It numbers the `prompt`, which is therefore stored once, and names the run that
answers it, which can't be had twice: the same POST again is harmless, whatever became of the first one.
"""

import argparse
import base64
import hmac
import http.client
import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLACES = re.compile(r"/chats/([A-Za-z0-9_-]{1,64})(/messages|/token)?")
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
MOST_BYTES = 64 * 1024  # of a message
AGENTS = {}  # (session, run) → the process that answers
AGENTS_LOCK = threading.Lock()


def sign(sub, session, can, seconds, agent=None):
    """A token for one session (JWT, HS256), signed with the secret that the gateway has, too."""
    rights = {"sessions": [session], "can": can, **({"agent": agent} if agent else {})}
    claims = {"sub": sub, "exp": int(time.time()) + seconds, "moorline": rights}
    parts = [base64url(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    # Read each time, as the gateway does when it changes.
    secret = Path(OPTIONS.secret_file).read_bytes().rstrip(b"\r\n")
    return b".".join([*parts, base64url(hmac.digest(secret, b".".join(parts), "sha256"))]).decode()


def base64url(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def ask(method, session, path="", body=None, headers=()):
    """Asks the gateway, in the back end's own name: it may append as any agent, here as the user. Once; the page comes again."""
    token = sign("back-end", session, ["append", "read"], 60)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", **dict(headers)}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{OPTIONS.gateway}/v1/sessions/{session}{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def have_answered(session, run):
    """Sees to it that one agent works on this answer, not two, and none if the answer has been given, or stopped."""
    # The lock is for two requests at once. Two back ends at once may both start one; the run then is the second one's,
    # since an attempt that begins fences off the one before it: what is shown is still one answer.
    with AGENTS_LOCK:
        for ended in [name for name, process in AGENTS.items() if process.poll() is not None]:
            del AGENTS[ended]
        if (session, run) in AGENTS:
            return
        runs = {known["run"]: known["status"] for known in ask("GET", session)["runs"]}
        # `expected`: stopped before it started. Starting it is what ends it.
        if runs.get(run) not in (None, "expected", "lost", "failed"):
            return
        # For an hour, in this session, as the writer. An agent that works for longer needs fresh ones: MOORLINE_TOKEN_FILE.
        token = sign("writer", session, ["append", "read"], 3600, agent="writer")
        command = [sys.executable, str(HERE / "writer.py"), session, run, "--pause", str(OPTIONS.pause)]
        command += ["--lease-ms", str(OPTIONS.lease_ms), "--expires-ms", str(OPTIONS.expires_ms)]
        environment = {**os.environ, "MOORLINE_URL": OPTIONS.gateway, "MOORLINE_TOKEN": token}
        environment.pop("MOORLINE_TOKEN_FILE", None)
        # In a session of its own (of the system's): what ends this back end does not end the answer.
        AGENTS[session, run] = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )


class BackEnd(BaseHTTPRequestHandler):
    def user_of(self, chat):
        """Who asks, or None if this chat is not for them. Pretends: your sign-in, and whose chat it is, go here."""
        return "ada"

    def do_GET(self):
        if self.path == "/":
            return self.answer(303, {"Location": f"/chats/{secrets.token_hex(8)}"})
        place = PLACES.fullmatch(self.path)
        if not place or place[2] == "/messages":
            return self.problem(404, "there is nothing here")
        user = self.user_of(place[1])
        if not user:
            return self.problem(403, "this chat is not for you")
        if place[2] == "/token":
            session = f"chat-{place[1]}"
            # To follow, and to ask something of the agent. Not to append: what is written in the user's name, we write.
            token = sign(user, session, ["read", "command"], OPTIONS.token_seconds)
            return self.answer(200, {}, {"token": token, "url": f"{OPTIONS.gateway}/v1/sessions/{session}"})
        # Nothing runs in the page but its own script, and nobody frames it to have "Approve" pressed.
        nonce = secrets.token_hex(16)
        page = (HERE / "page.html").read_bytes().replace(b"<script>", f'<script nonce="{nonce}">'.encode())
        policy = f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data:"
        policy += f"; connect-src 'self' {OPTIONS.gateway}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
        headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy}
        return self.answer(200, {**headers, "Referrer-Policy": "no-referrer"}, page)

    def do_POST(self):
        place = PLACES.fullmatch(self.path)
        if not place or place[2] != "/messages":
            return self.problem(404, "there is nothing here")
        user = self.user_of(place[1])
        if not user:
            return self.problem(403, "this chat is not for you")
        # Pages of other sites can't send this type without asking first, and get no yes.
        if self.headers.get_content_type() != "application/json":
            return self.problem(415, "send application/json")
        length = self.headers.get("Content-Length", "")
        if not (length.isdecimal() and int(length) <= MOST_BYTES):
            return self.problem(413, f"send at most {MOST_BYTES} bytes")
        try:
            message = json.loads(self.rfile.read(int(length)))
            name, text = message["id"], message["text"]
            if not (ID.fullmatch(name) and text.strip()):
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return self.problem(400, 'send {"id": a name of your choosing, "text": words}')

        session = f"chat-{place[1]}"
        prompt = {"type": "prompt", "agent": user, "run": name, "data": {"text": text}}
        # A producer for each message, of one event: a repetition is told from a message that is new.
        numbered = {"Producer-Id": f"prompt.{name}", "Producer-Epoch": 0, "Producer-Seq": 0}
        try:
            ask("POST", session, "/events", prompt, numbered)
            have_answered(session, name)
        except urllib.error.HTTPError as refused:
            # Its problems say what to do, and go on to the page; but if it is our token that is wrong, that is not the page's.
            status = 502 if refused.code in (401, 403) else refused.code
            return self.answer(status, {"Content-Type": "application/problem+json"}, refused.read())
        except (OSError, http.client.HTTPException) as error:
            return self.problem(503, f"not now: {error}")
        # The answer comes through the session, to all who follow it.
        return self.answer(202, {}, {"run": name})

    def problem(self, status, detail):
        self.answer(status, {}, {"detail": detail})

    def answer(self, status, headers, body=b""):
        if not isinstance(body, bytes):
            headers, body = {"Content-Type": "application/json", **headers}, json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Cache-Control": "no-store", "Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The back end of a chat whose answers come through Moorline.")
    parser.add_argument("--secret-file", required=True, help="the file that the gateway has as --auth-secret-file")
    parser.add_argument("--gateway", default="http://127.0.0.1:4770", help="as browsers and agents reach it")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--token-seconds", type=int, default=300, help="a page's token is good for so long")
    parser.add_argument("--pause", type=float, default=0.1, help="the pretended model's, before each word, in seconds")
    parser.add_argument("--lease-ms", type=int, default=15_000, help="an agent silent for so long counts as dead")
    parser.add_argument("--expires-ms", type=int, default=60_000, help="what nobody decides by then is denied")
    OPTIONS = parser.parse_args()
    if not os.access(OPTIONS.secret_file, os.R_OK):
        parser.error(f"{OPTIONS.secret_file} can't be read; openssl rand -hex 32 makes a secret")
    server = ThreadingHTTPServer(("127.0.0.1", OPTIONS.port), BackEnd)
    print(f"chat: open http://127.0.0.1:{server.server_port}/", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
