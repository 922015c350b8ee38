#!/usr/bin/env python3
"""A small agent that works in a Moorline session: the loop to copy into your own. Needs nothing but Python 3.9.

    examples/agent.py SESSION RUN [--words 50] [--pause 0.1]        MOORLINE_URL and MOORLINE_TOKEN: where, and as whom;
                                                                    MOORLINE_TOKEN_FILE: a file that always has a fresh one
    moorline tail SESSION                                           watch it; turn it in another direction:
    moorline command SESSION steer --run RUN --data '{"text":"the sea"}'
    moorline command SESSION stop --run RUN                         stop it

What an agent owes its users:

1. Start a run, with a lease. A run has one end that everybody sees. If this process dies, the lease runs out and the run
   ends as `lost`, instead of streaming for ever.
2. Say which attempt it is in all that it sends. After a takeover this process is refused, wherever it was stuck.
3. Ask how the run stands, and obey. A stop may reach a run by its name, its agent, its parent, or with all others, so it
   is the run's status that tells, not the command: each answer to an append says `stopping`.
4. Report outcomes, so that whoever asked for something learns what became of it. A stop needs no report: it is done when
   the run has ended.
"""

import argparse
import http.client
import json
import os
import queue
import random
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

URL = os.environ.get("MOORLINE_URL", "http://127.0.0.1:4770").rstrip("/")
TOKEN = os.environ.get("MOORLINE_TOKEN")
TOKEN_FILE = os.environ.get("MOORLINE_TOKEN_FILE")
NAME = "writer"
PATIENCE = 60.0  # seconds that a gateway may be away: a restart, a failover
SILENCE = 45.0  # a stream beats every 15 s; after three beats missed nobody is there


class Refused(Exception):
    """The gateway said no, and would say it again: a problem with a stable `code`."""

    def __init__(self, problem):
        super().__init__(problem.get("detail") or problem)
        self.code = problem.get("code")


class Stopped(Exception):
    """The run is asked to stop."""


def request(method, path, body=None, headers=(), timeout=30.0, accept="application/json"):
    """Opens a request under /v1/sessions. Raises Refused for what will not heal, OSError for what may."""
    headers = {"Accept": accept, "Content-Type": "application/json", **dict(headers)}
    if token := bearer():
        headers["Authorization"] = "Bearer " + token
    data = None if body is None else json.dumps(body).encode()
    opened = urllib.request.Request(f"{URL}/v1/sessions/{path}", data, headers, method=method)
    try:
        return urllib.request.urlopen(opened, timeout=timeout)
    except http.client.InvalidURL as error:
        # An HTTPException, but no outage: it would be wrong for ever.
        raise Refused({"detail": f"MOORLINE_URL {URL!r}: {error}"}) from None
    except urllib.error.HTTPError as error:
        if error.code >= 500 or error.code in (408, 425, 429):
            raise ConnectionError(f"{error.code} {error.reason}") from error
        try:
            raise Refused(json.load(error)) from None
        except ValueError:
            raise Refused({"detail": f"{error.code} {error.reason}"}) from None


def bearer():
    """The token of the moment: tokens end sooner than agents do."""
    if not TOKEN_FILE:
        return TOKEN
    with open(TOKEN_FILE, encoding="ascii") as file:
        return file.read().strip()


def call(method, path, body=None, headers=()):
    """Asks until there is an answer. For what can be asked twice: see `Agent.say` for how events can."""
    deadline, pause = time.monotonic() + PATIENCE, 0.25
    while True:
        try:
            with request(method, path, body, headers) as answer:
                return json.load(answer)
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() > deadline:
                raise
            note(f"{error}; again in {pause:.1f} s")
            time.sleep(pause * random.uniform(1, 1.5))
            pause = min(pause * 2, 5.0)


def text_of(data):
    """What a command says: `{"text": …}`, as the console sends it; a plain string will do, too. None: it says nothing."""
    text = data.get("text") if isinstance(data, dict) else data
    return text if isinstance(text, str) else None


def note(text):
    print("agent:", text, file=sys.stderr, flush=True)


class Agent:
    def __init__(self, session, run, lease_ms):
        # The gateway says what is wrong with a name; it must reach it as it is.
        self.session, self.run, self.lease_ms = urllib.parse.quote(session, safe=""), run, lease_ms
        self.topic = "the harbour"  # what the words are about; a steer changes it
        self.messages = 1  # deltas of one `id` are one message: what comes after a steer is another one, below it
        self.orders = queue.Queue()  # commands, and the error that ended a thread
        self.next_seq = 0
        self.over = threading.Event()

    def start(self):
        """Starts the run. False: it was stopped before it started."""
        # After a crash the same run is taken up again, and whoever still works on it is fenced off. This makes it safe
        # to ask twice, too: at worst this process takes over from itself.
        body = {"run": self.run, "agent": NAME, "lease_ms": self.lease_ms, "takeover": True}
        started = call("POST", f"{self.session}/runs", body)
        self.attempt = started["attempt"]
        if started["status"] == "cancelled":
            return False
        for work in (self.listen, self.beat):
            threading.Thread(target=self.guard, args=(work,), daemon=True).start()
        return True

    def guard(self, work):
        """What goes wrong in a thread is the main loop's to handle."""
        try:
            work()
        except Exception as error:  # noqa: BLE001
            self.orders.put(error)

    def say(self, kind, data):
        """Publishes an event. Numbered, so that it is stored once however often it is sent. Raises Stopped if so told."""
        # The attempt as the epoch: a new attempt begins to count anew, and an old one could not go on counting.
        headers = {
            "Run-Attempt": self.attempt,
            "Producer-Id": f"{self.run}-events",
            "Producer-Epoch": self.attempt,
            "Producer-Seq": self.next_seq,
        }
        query = urllib.parse.urlencode({"agent": NAME, "run": self.run})
        answer = call("POST", f"{self.session}/events?{query}", {"type": kind, "data": data}, headers)
        self.next_seq += 1
        self.check(answer.get("run"))

    def ask(self):
        """Renews the lease while there is nothing to say, and asks how the run stands."""
        return call("POST", f"{self.session}/runs/{self.run}/heartbeat", {}, {"Run-Attempt": self.attempt})

    @staticmethod
    def check(run):
        if run and run["status"] == "stopping":
            raise Stopped

    def beat(self):
        while not self.over.wait(self.lease_ms / 3000):
            self.check(self.ask())

    def listen(self):
        """The commands: first what was asked and not done, then what comes after it."""
        cursor, up_to_date = "0-0", False
        while not up_to_date:
            pending = call("GET", f"{self.session}/commands?pending=true&after={cursor}")
            for command in pending["events"]:
                self.orders.put(command)
            cursor, up_to_date = pending["next"], pending["up_to_date"]
        for command in self.follow("commands", cursor):
            self.orders.put(command)

    def follow(self, lane, cursor):
        """Gives the entries of a lane after `cursor` as they come, across any cut."""
        pause = 0.25
        while not self.over.is_set():
            try:
                headers = {"Last-Event-ID": cursor}
                with request("GET", f"{self.session}/{lane}", None, headers, SILENCE, "text/event-stream") as stream:
                    if stream.status == 204:
                        raise Refused({"detail": "the session was closed", "code": "session_closed"})
                    frame = {}
                    for line in stream:
                        line = line.decode().rstrip("\n")
                        if line and not line.startswith(":"):
                            field, _, value = line.partition(":")
                            frame[field] = value[1:] if value.startswith(" ") else value
                        elif not line:
                            if "id" in frame:
                                cursor, pause = frame["id"], 0.25
                            if "data" in frame and "event" not in frame:
                                yield json.loads(frame["data"])
                            frame = {}
            except (OSError, http.client.HTTPException) as error:
                note(f"{lane}: {error}; again in {pause:.1f} s")
            # An end that is no error is a gateway that goes down: another one serves the session.
            time.sleep(pause * random.uniform(1, 1.5))
            pause = min(pause * 2, 5.0)

    def obey(self, command):
        """Does what a command asks, if it is for us, and reports what became of it."""
        kind = command["type"]
        if kind == "stop":
            # Whoever it is for: our run's own status says whether it reaches us.
            return self.check(self.ask())
        # Without a run or an agent a command is for all of them.
        if kind == "decide" or command.get("run", self.run) != self.run or command.get("agent", NAME) != NAME:
            return None
        text = text_of(command.get("data"))
        if kind in ("steer", "message") and text is not None:
            self.topic, self.messages, outcome = text, self.messages + 1, {"outcome": "consumed"}
        else:
            outcome = {"outcome": "rejected", "reason": 'this agent knows stop, and steer or message with {"text": …}'}
        headers = {"Run-Attempt": self.attempt}
        # What we do continues the trace of whoever asked. Give it to your model's calls, too.
        if "traceparent" in command:
            headers["traceparent"] = command["traceparent"]
        try:
            call("POST", f"{self.session}/commands/{command['command']}/outcome", outcome, headers)
        except Refused as refused:
            # Somebody else was quicker, or its time was over; or our own report had arrived the first time.
            if refused.code != "command_ended":
                raise
        return None

    def work(self, words, pause):
        """The work itself: here a model that says a word now and then."""
        for n in range(1, words + 1):
            self.think(pause)
            self.delta(f"{self.topic} {n}. ")

    def delta(self, text):
        """Says a part of the message that it is at."""
        self.say("text-delta", {"id": f"{self.attempt}-{self.messages}", "delta": text})

    def think(self, seconds):
        """Waits for the model, and meanwhile does as it is told."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                order = self.orders.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                return
            if isinstance(order, Exception):
                raise order
            self.obey(order)

    def end(self, status, reason=None):
        """Ends the run, in our own name."""
        self.over.set()
        note(f"{status} {reason or ''}".strip())
        body = {"status": status, "reason": reason, "attempt": self.attempt}
        try:
            call("POST", f"{self.session}/runs/{self.run}/end", body)
        except Refused as refused:
            # It has ended without us: the grace was over, the lease was, another process took over; or the first of
            # two requests had arrived; or the session is closed, or gone. There is nothing left to say, and nothing
            # that we send would be taken.
            if refused.code not in ("run_ended", "stale_attempt", "session_closed", "unknown_run", "unknown_session"):
                raise
            note(refused)


def main():
    parser = argparse.ArgumentParser(description="A small agent that works in a Moorline session.")
    parser.add_argument("session")
    parser.add_argument("run")
    parser.add_argument("--words", type=int, default=50)
    parser.add_argument("--pause", type=float, default=0.1, metavar="SECONDS")
    parser.add_argument("--lease-ms", type=int, default=10000)
    arguments = parser.parse_args()
    if not URL.startswith(("http://", "https://")):
        parser.error(f"MOORLINE_URL {URL!r} is no address of a gateway, as http://127.0.0.1:4770")
    agent = Agent(arguments.session, arguments.run, arguments.lease_ms)
    return live(agent, lambda: agent.work(arguments.words, arguments.pause))


def live(agent, work):
    """An agent's whole life: starts its run, works, and ends the run, however the work went. Gives the exit code."""
    try:
        started = agent.start()
    except (Refused, OSError, http.client.HTTPException) as error:
        note(f"can't start {agent.run}: {error}")
        return 1
    if not started:
        note("the run was stopped before it started")
        return 0
    note(f"started attempt {agent.attempt} of {agent.run}")
    try:
        work()
    except Stopped:
        # The grace is for this: a last word, and an end in our own name.
        try:
            agent.delta("(stopped)")
        except (Stopped, Refused):
            pass
        agent.end("cancelled", "asked to stop")
    except Refused as refused:
        agent.end("failed", str(refused))
        return 1
    except (KeyboardInterrupt, Exception) as error:
        agent.end("failed", repr(error))
        raise
    else:
        agent.end("completed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
