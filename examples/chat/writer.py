#!/usr/bin/env python3
"""The agent of the chat: answers one prompt of a session, in a run of its name. Started by chat.py.

It lives as `examples/agent.py` does: a lease, an attempt in all that it sends, `stopping` heeded, commands reported on. Here is
what it adds: the conversation so far, read from the session; a model; and a question that it puts to the users.
"""

import argparse
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from agent import Agent, Refused, call, live  # noqa: E402


class Writer(Agent):
    def __init__(self, options):
        super().__init__(options.session, options.run, options.lease_ms)
        self.pause, self.expires_ms = options.pause, options.expires_ms
        self.topic = None
        self.decision = None

    def answer(self):
        asked = self.conversation()
        for words in self.model(asked):
            self.think(self.pause)
            self.say("text-delta", {"delta": words})
        if "send" in asked[-1].lower():
            allowed = self.may_i("May I send this?")
            # What is done here once must be done once by itself, too: another attempt may come this far again.
            self.say("message", {"text": "I have sent it." if allowed else "I have not sent it."})

    def conversation(self):
        """The prompts up to the one to be answered. A model will want the answers between them, too: they are there as well."""
        asked, after = [], "0-0"
        while True:
            page = call("GET", f"{self.session}/events?type=prompt&limit=1000&after={after}")
            for prompt in page["events"]:
                asked.append(prompt["data"]["text"])
                if prompt.get("run") == self.run:
                    return asked
            if page["up_to_date"]:
                raise LookupError(f"there is no prompt for {self.run}")
            after = page["next"]

    def model(self, asked):
        """Gives the answer, piece by piece. Pretends: YOUR MODEL GOES HERE, and takes a steer as one more message of the user."""
        yield f"Message {len(asked)} of this chat says “{asked[-1]}”. "
        topic = self.topic
        for word in (TEXT * 2).split():
            if topic != self.topic:
                topic = self.topic
                yield f"— About {topic}, then: "
            yield word + " "

    def may_i(self, question):
        """Asks the users, and waits until one of them has decided, or the time for it is over."""
        approval = f"{self.run}-{self.attempt}"
        body = {"approval": approval, "run": self.run, "prompt": {"text": question}, "expires_ms": self.expires_ms}
        try:
            cursor = call("POST", f"{self.session}/approvals", body, {"Run-Attempt": self.attempt})["entry"]
        except Refused as refused:
            if refused.code != "approval_exists":
                raise
            cursor = "0-0"  # our own question, sent twice since its answer was lost
        follow = threading.Thread(target=self.guard, args=(lambda: self.hear(approval, cursor),), daemon=True)
        follow.start()
        while self.decision is None:
            self.think(0.1)  # stops and steers are heeded meanwhile, and the lease is renewed
        return self.decision == "approve"

    def hear(self, approval, cursor):
        """Decisions are events, and so is that nobody decided in time (`expired`, and what then holds)."""
        # Not our own clock: somebody may have decided in the last moment. The gateway says what came first.
        lane = f"events?type=approval.decided,approval.superseded&run={self.run}"
        for event in self.follow(lane, cursor):
            if event["data"]["approval"] == approval:
                self.decision = event["data"].get("decision", "superseded")
                return


TEXT = """A ship at her mooring is never quite still. The tide lifts her and lets her down, the wind leans on her side, and the
line takes up what both of them give. Cut the line and she is gone before anybody looks. So a good sailor trusts no single
rope: she is held by several, each can fail, and in the morning she lies where she lay. """


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Answers one prompt of a chat.")
    parser.add_argument("session")
    parser.add_argument("run", help="the id of the message to be answered")
    parser.add_argument("--pause", type=float, default=0.1)
    parser.add_argument("--lease-ms", type=int, default=15_000)
    parser.add_argument("--expires-ms", type=int, default=60_000)
    writer = Writer(parser.parse_args())
    sys.exit(live(writer, writer.answer))
