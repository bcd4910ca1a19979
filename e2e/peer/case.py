"""What must hold after every attack, whatever it was."""

import unittest

from node import BUCKET, HTTP, STAGING_MIB, Bystander, Node, eventually, pattern
from session import Session
from signed import Request
from verbs import REMOTE_READ, REMOTE_WRITE

# Of many chunks, so that an attack can come in the middle.
LARGE, SMALL = 12 << 20, 100_000


class World:
    """One storage node and one bystander for all tests."""

    node = bystander = None
    secrets = []

    @classmethod
    def begin(cls):
        cls.node = Node()
        cls.node.put("small", pattern(1, SMALL))
        cls.node.put("large", pattern(2, LARGE))
        cls.bystander = Bystander()
        cls.bystander.start()

    @classmethod
    def end(cls):
        """The storage node ends orderly, with nothing left on the device."""
        cls.bystander.end()
        eventually("no queue pair is left", lambda: cls.node.resources("qp"))
        return cls.node.stop()


class Attack(unittest.TestCase):
    """A test is an attack; its end is the proof that it did no harm."""

    maxDiff = 2000

    def shortDescription(self):
        """Names, not the first lines of docstrings."""
        return None

    def setUp(self):
        self.node, self.bystander = World.node, World.bystander
        self.before = self.bystander.rounds
        self.sessions = []

    def session(self, **options):
        session = Session(HTTP, **options)
        self.sessions.append(session)
        World.secrets += [session.id]
        return session

    def window(self, session, method, size=SMALL):
        """For a GET of zeros, for a PUT of bytes that are nowhere else."""
        content, access = (bytes(size), REMOTE_WRITE) if method == "GET" else (pattern(99, size), REMOTE_READ)
        window = session.queue_pair.window(content, access)
        World.secrets += [session.token(window)]
        return window

    def path(self, method, large=False):
        return f"/{BUCKET}/{'new' if method == 'PUT' else 'large' if large else 'small'}"

    def refused(self, answer, status, code, why=""):
        self.assertEqual(answer.told, (status, code), f"{why} {answer}")

    def no_byte_moved(self, window, method):
        self.assertEqual(window.memory.content, bytes(window.size) if method == "GET" else pattern(99, window.size), "bytes moved")

    def is_alive(self, session):
        """It serves who plays by the rules."""
        answer, got = session.get("/bucket/small", SMALL)
        self.assertEqual((answer.status, answer["x-amz-rdma-reply"], answer["x-amz-rdma-bytes-transferred"]), (200, "200", str(SMALL)), answer)
        self.assertEqual(got, pattern(1, SMALL))

    def is_dead(self, session):
        window = self.window(session, "GET")
        self.refused(session.request("GET", "/bucket/small", session.token(window)).sign().send(), 404, "NoSuchRdmaSession")
        self.no_byte_moved(window, "GET")

    def tearDown(self):
        """No wrong byte stored, no half object, no leak, no panic, no secret told, and nobody else troubled."""
        for session in self.sessions:
            session.end()
        node = self.node
        eventually("the node keeps one queue pair, the bystander's", lambda: [] if len(queue_pairs := node.resources("qp")) == 1 else [queue_pairs, "none"])
        eventually("sessions and queue pairs are given back", lambda: [
            count for name in ("rdma_sessions", "rdma_queue_pairs") if (count := node.metric(name)) != 1])
        with self.bystander.calm:
            eventually("staging memory is given back", lambda: node.metric("rdma_staging_bytes"))
            eventually("no file of a half object is left", lambda: node.files() != len(node.keys()))
            keys = node.keys()
            # So that the tests after this one do not fail for it.
            Request(HTTP, "DELETE", "/bucket/new").sign().send()
            self.assertEqual(keys, ["bystander", "large", "small"])
        # Staging memory, which stays registered, and the node's first trial.
        self.assertIn(len(node.resources("mr")), range(1, STAGING_MIB + 2), "regions of the storage node")
        for key, seed, size in ("small", 1, SMALL), ("large", 2, LARGE):
            self.assertEqual(node.get(key).body, pattern(seed, size), f"{key} is not what was stored")
        log = node.log()
        self.assertNotIn("panicked", log)
        self.assertIsNone(node.process.poll(), "the storage node has ended")
        for secret in World.secrets:
            self.assertNotIn(secret, log, "the log holds a token or the id of a session")
        rounds = self.bystander.rounds
        eventually("the bystander goes on", lambda: not self.bystander.complaints and self.bystander.rounds < rounds + 2)
        self.assertEqual(self.bystander.complaints, [])

