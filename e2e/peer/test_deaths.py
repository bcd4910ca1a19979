"""Clients, memory and ports that go away in the middle of a transfer."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from case import LARGE, Attack
from node import HTTP, eventually, pattern
from session import Refused, Session
from signed import Request
from verbs import REMOTE_READ, REMOTE_WRITE

METHODS = "GET", "PUT"
NETDEV = "dummy0"


class Asked(threading.Thread):
    """A request whose answer comes while this thread does other things."""

    def __init__(self, request):
        super().__init__(daemon=True)
        self.request, self.answer = request, None
        self.start()

    def run(self):
        self.answer = self.request.send()

    def ended(self):
        self.join(100)
        if self.answer is None:
            raise AssertionError("no answer within 100 s")
        return self.answer


class Deaths(Attack):
    def in_the_middle(self, session, method):
        """A transfer of many chunks that has begun: the window, and the request."""
        window = self.window(session, method, LARGE)
        asked = Asked(session.request(method, self.path(method, large=True), session.token(window)).sign())
        if method == "GET":
            window.memory.waits_for_change(bytes(64))
        else:
            eventually("the PUT has begun", lambda: not any("tmp" in str(path) for path in pathlib.Path("/tmp/node/tmp").rglob("*")))
        return window, asked

    def fails(self, asked, why):
        answer = asked.ended()
        self.refused(answer, 500, "RdmaTransferFailed", why)

    def test_a_queue_pair_that_goes_to_err(self):
        for method in METHODS:
            session = self.session()
            window, asked = self.in_the_middle(session, method)
            session.queue_pair.kill()
            # Section 8: nothing can land after this.
            then = window.memory.content
            self.fails(asked, method)
            self.assertTrue(window.memory.content == then, "bytes landed after the death of the queue pair")
            if method == "GET":
                # What is there is right as far as it goes, and the end is not there.
                self.assertNotEqual(then, pattern(2, LARGE))
            self.is_dead(session)

    def test_memory_that_is_taken_back(self):
        for method in METHODS:
            session = self.session()
            window, asked = self.in_the_middle(session, method)
            window.close()
            then = window.memory.content
            self.fails(asked, method)
            self.assertTrue(window.memory.content == then, "bytes landed in memory that was taken back")
            self.is_dead(session)

    def test_a_client_that_hangs_up_keeps_its_session(self):
        for method in METHODS:
            session = self.session()
            window = self.window(session, method, LARGE)
            connection = session.request(method, self.path(method, large=True), session.token(window)).sign().begin()
            if method == "GET":
                window.memory.waits_for_change(bytes(64))
            else:
                time.sleep(0.1)
            connection.close()
            eventually("staging memory is given back", lambda: self.node.metric("rdma_staging_bytes"))
            self.is_alive(session)

    def test_a_process_that_is_killed(self):
        for method in METHODS:
            child = subprocess.run([sys.executable, "-B", __file__, "vanish", method], check=False, timeout=120)
            self.assertEqual(child.returncode, -signal.SIGKILL)

    def test_a_port_that_goes_down(self):
        """Shortly: whatever becomes of it, no byte is wrong. For long: a transfer that was in the middle fails."""
        for method in METHODS:
            self.down_during(method, 0.3)
            # One that was through before the port was down proves nothing.
            self.assertTrue(any(self.down_during(method, 12) == 500 for _ in range(4)), f"no {method} fails")

    def down_during(self, method, seconds):
        with self.bystander.calm:
            session = self.session()
            window, asked = self.in_the_middle(session, method)
            self.link("down")
            time.sleep(seconds)
            self.link("up")
            answer = asked.ended()
            if answer.status == 200 and method == "GET":
                self.assertTrue(window.memory.content == pattern(2, LARGE), "the answer is 200 and the bytes are wrong")
            elif answer.status == 200:
                self.put_arrived()
            else:
                self.refused(answer, 500, "RdmaTransferFailed", f"{method} {seconds}")
                self.assertNotIn("new", self.node.keys())
            eventually("a session can be had again", self.cannot_connect)
            if not self.stands(self.bystander.session):
                self.bystander.session.queue_pair.close()
                self.bystander.session = self.session()
                self.sessions.remove(self.bystander.session)
        return answer.status

    def put_arrived(self):
        self.assertTrue(self.node.get("new").body == pattern(99, LARGE))
        self.assertEqual(Request(HTTP, "DELETE", "/bucket/new").sign().send().status, 204)

    def cannot_connect(self):
        try:
            self.is_alive(self.session())
        except Refused as refused:
            return repr(refused)
        return None

    def stands(self, session):
        answer, _ = session.get("/bucket/small", 100_000)
        return answer.status == 200

    @staticmethod
    def link(state):
        subprocess.run(["/usr/bin/ip", "link", "set", NETDEV, state], check=True)
        if state == "up":
            # The kernel drops it with the link.
            subprocess.run(["/usr/bin/ip", "-6", "address", "replace", "fd09::1/64", "dev", NETDEV, "nodad"], check=True)


def vanish(method):
    """A client in the middle of a transfer, and then none: no disconnect, no close of anything."""
    session = Session(HTTP)
    window = session.queue_pair.window(bytes(LARGE) if method == "GET" else pattern(99, LARGE), REMOTE_WRITE if method == "GET" else REMOTE_READ)
    connection = session.request(method, "/bucket/large" if method == "GET" else "/bucket/new", session.token(window)).sign().begin()
    if method == "GET":
        window.memory.waits_for_change(bytes(64))
    else:
        time.sleep(0.1)
    if connection.sock:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    vanish(sys.argv[2])
