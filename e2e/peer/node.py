"""The storage node under attack, what it holds, and a well-behaved client beside the attacker."""

import json
import os
import pathlib
import re
import subprocess
import threading
import time
import urllib.request

from session import Session
from signed import ACCESS, SECRET, Request

HTTP, ADMIN = "127.0.0.1:9000", "127.0.0.1:9100"
DATA, LOG = pathlib.Path("/tmp/node"), pathlib.Path("/tmp/node.log")
BUCKET = "bucket"
# Small, so that what leaks is missed soon.
STAGING_MIB, SESSIONS, IDLE = 8, 12, 20


def pattern(seed, size):
    """Bytes that differ from seed to seed and from place to place."""
    block = b"".join(((seed * 2654435761 + number * 40503) & 0xffffffff).to_bytes(4, "little") for number in range(1031))
    return (block * (size // len(block) + 1))[:size]


def eventually(what, question, patience=60):
    """Waits until `question` has no complaint."""
    end = time.monotonic() + patience
    while complaint := question():
        if time.monotonic() > end:
            raise AssertionError(f"not within {patience} s: {what} ({complaint})")
        time.sleep(0.1)


class Node:
    def __init__(self):
        environment = {**os.environ, "PENSTOCK_ROOT_ACCESS_KEY": ACCESS, "PENSTOCK_ROOT_SECRET_KEY": SECRET, "RUST_LOG": "penstock=debug"}
        with open(LOG, "wb") as log:
            self.process = subprocess.Popen(
                ["penstock-store", "--admin-listen", ADMIN, "serve", "--data", DATA, "--listen", HTTP, "--rdma", "require",
                 "--rdma-staging", str(STAGING_MIB), "--rdma-sessions-per-key", str(SESSIONS), "--rdma-idle", str(IDLE)],
                env=environment, stdout=log, stderr=log)
        eventually("the storage node serves", lambda: "serves S3 at" not in self.log())
        answer = Request(HTTP, "PUT", f"/{BUCKET}").sign().send()
        assert answer.status == 200, answer

    def log(self):
        return LOG.read_text(encoding="utf-8", errors="replace")

    def metric(self, name):
        with urllib.request.urlopen(f"http://{ADMIN}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = re.search(rf"^penstock_store_{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return int(float(found[1])) if found else 0

    def resources(self, kind):
        """Queue pairs (`qp`) or memory regions (`mr`) of the storage node: what the kernel knows, but for its own and for what threads
        of this process made. (It names threads, and none any more where one has ended, so the storage node's cannot be asked for.)"""
        listed = subprocess.run(["/usr/bin/rdma", "-j", "resource", "show", kind], stdout=subprocess.PIPE, text=True, check=True)
        ours = {int(thread) for thread in os.listdir("/proc/self/task")}
        return [one for one in json.loads(listed.stdout or "[]") if one.get("comm") != "ib_core" and one.get("pid") not in ours]

    def put(self, key, content):
        """By HTTP."""
        answer = Request(HTTP, "PUT", f"/{BUCKET}/{key}", body=content).sign().send()
        assert answer.status == 200, answer

    def get(self, key):
        return Request(HTTP, "GET", f"/{BUCKET}/{key}").sign().send()

    def keys(self):
        answer = Request(HTTP, "GET", f"/{BUCKET}", query="list-type=2").sign().send()
        return sorted(re.findall(r"<Key>([^<]*)</Key>", answer.body.decode()))

    def files(self):
        """What is stored, and what was begun."""
        return sum(len(names) for folder in ("data", "tmp") for _, _, names in os.walk(DATA / folder))

    def stop(self):
        self.process.terminate()
        return self.process.wait(30)


class Bystander(threading.Thread):
    """Writes and reads objects of its own by a session of its own, all the time. What it finds wrong is in `complaints`."""

    SIZE = 40_000

    def __init__(self):
        super().__init__(daemon=True)
        self.session, self.rounds, self.complaints = Session(HTTP), 0, []
        self.calm, self.running = threading.Lock(), True

    def run(self):
        while self.running:
            with self.calm:
                try:
                    self.round()
                except Exception as error:  # pylint: disable=broad-except
                    self.complaints.append(repr(error))
                    return
            time.sleep(0.1)

    def round(self):
        content = pattern(self.rounds, self.SIZE)
        answer = self.session.put(f"/{BUCKET}/bystander", content)
        if answer.status != 200:
            raise AssertionError(f"PUT: {answer}")
        answer, got = self.session.get(f"/{BUCKET}/bystander", self.SIZE)
        if answer.status != 200 or got != content:
            raise AssertionError(f"GET: {answer}, bytes {'right' if got == content else 'WRONG'}")
        self.rounds += 1

    def end(self):
        self.running = False
        self.join(60)
        self.session.end()
