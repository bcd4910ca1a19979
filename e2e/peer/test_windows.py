"""Windows and queue pairs that are not what the request says. Nothing is stored, nothing lands, the session is dead."""

from case import LARGE, SMALL, Attack
from pyverbs import enums
from session import Refused
from verbs import REMOTE_READ, REMOTE_WRITE, gids

METHODS = "GET", "PUT"


class Windows(Attack):
    def fails(self, method, why, **lies):
        """One request whose token lies, by a session of its own."""
        session = self.session()
        window = self.window(session, method)
        lies = {name: lie(getattr(window, name)) for name, lie in lies.items()}
        answer = session.request(method, self.path(method), session.token(window, **lies)).sign().send()
        self.refused(answer, 500, "RdmaTransferFailed", f"{method} {why}")
        self.assertEqual(answer["x-amz-rdma-reply"], "500")
        self.no_byte_moved(window, method)
        self.is_dead(session)

    def test_tokens_that_lie(self):
        for method in METHODS:
            self.fails(method, "another rkey", rkey=lambda rkey: rkey ^ 1)
            self.fails(method, "another region", rkey=lambda rkey: (rkey + 0x100) & 0xffffffff)
            self.fails(method, "before it", address=lambda address: address - 4096)
            self.fails(method, "the first page", address=lambda _: 4096)
            self.fails(method, "the kernel's", address=lambda _: 0xffff888000000000)
        # A GET moves as many bytes as there are, so only a PUT reaches beyond.
        self.fails("PUT", "one more", size=lambda size: size + 1)
        self.fails("PUT", "64 MiB", size=lambda _: 64 << 20)

    def test_windows_that_are_too_small_stay_as_they_are(self):
        session = self.session()
        window = self.window(session, "GET")
        answer = session.request("GET", "/bucket/small", session.token(window, size=SMALL - 1)).sign().send()
        self.refused(answer, 400, "RdmaWindowTooSmall")
        self.assertEqual(answer["x-amz-rdma-object-size"], str(SMALL))
        # The end of the window is that of the memory: what is written beyond what the token says would be noticed.
        answer = session.request("GET", "/bucket/small", session.token(window, size=10), [("range", "bytes=0-9")]).sign().send()
        self.assertEqual(answer.status, 206)
        self.assertEqual(window.memory.content[10:], bytes(SMALL - 10))
        self.is_alive(session)

    def test_windows_without_the_right(self):
        for method, access in ("GET", REMOTE_READ), ("PUT", REMOTE_WRITE):
            session = self.session()
            content = bytes(SMALL) if method == "GET" else b"x" * SMALL
            window = session.queue_pair.window(content, access)
            self.refused(session.request(method, self.path(method), session.token(window)).sign().send(), 500, "RdmaTransferFailed")
            self.assertEqual(window.memory.content, content)

    def test_windows_of_another_session(self):
        """The queue pair of a session reaches its own protection domain only."""
        for method in METHODS:
            owner, other = self.session(), self.session()
            window = self.window(owner, method)
            answer = other.request(method, self.path(method), other.token(window)).sign().send()
            self.refused(answer, 500, "RdmaTransferFailed")
            self.no_byte_moved(window, method)
            self.is_dead(other)
            self.is_alive(owner)

    def test_queue_pairs_that_are_not_there(self):
        """Connect names what the storage node cannot check; the first operation shows it."""
        lies = {
            "a number of nobody": {"number": 0xfffff0}, "another psn": {"psn": 0x00abcd}, "the psn before": {"psn": 0xffffff},
            "an address of nobody": {"gid": bytes(10) + b"\xff\xff" + bytes([10, 9, 0, 77])},
            "a multicast address": {"gid": bytes([0xff, 0x02]) + bytes(13) + b"\x01"}, "loopback": {"gid": bytes(15) + b"\x01"},
            "no route": {"gid": bytes([0x20, 0x01, 0x0d, 0xb8]) + bytes(11) + b"\x01"},
        }
        for name, lie in lies.items():
            try:
                session = self.session(lie=lie)
            except Refused as refused:
                # The driver knew that nothing is there.
                self.refused(refused.answer, 400, "InvalidRdmaToken", name)
                continue
            window = self.window(session, "GET")
            answer = session.request("GET", "/bucket/small", session.token(window)).sign().send()
            if answer.status != 200:
                self.refused(answer, 500, "RdmaTransferFailed", name)
                self.no_byte_moved(window, "GET")
                self.is_dead(session)
            else:
                # Who lies of the PSN that it sends is found out by READs and not by WRITEs; the bytes are right, then.
                self.assertIn("psn", name)
                self.is_alive(session)

    def test_a_client_that_never_connects_its_end(self):
        session = self.session(connected=False)
        window = self.window(session, "PUT")
        self.refused(session.request("PUT", "/bucket/new", session.token(window)).sign().send(), 500, "RdmaTransferFailed")
        self.is_dead(session)

    def test_every_address_of_the_port_is_reached_or_refused(self):
        for gid in set(gids().values()):
            try:
                session = self.session(lie={"gid": gid})
            except Refused as refused:
                self.refused(refused.answer, 400, "InvalidRdmaToken", gid.hex())
                continue
            window = self.window(session, "GET")
            answer = session.request("GET", "/bucket/small", session.token(window)).sign().send()
            self.assertIn(answer.told, [(200, ""), (500, "RdmaTransferFailed")])
            print(f"    GID {gid.hex()}: {answer.status}", flush=True)

    def test_a_client_that_attacks_the_server(self):
        """The storage node's queue pair grants nothing: what a peer sends, writes or reads there fails at the peer."""
        for operation in "SEND", "WRITE", "READ":
            for rkey in [window for number in range(1, 4) for window in (number << 8, number << 8 | 7)]:
                session = self.session()
                local = session.queue_pair.window(b"attack" * 100, enums.IBV_ACCESS_LOCAL_WRITE)
                status = session.queue_pair.attack(operation, local, 0x7f0000000000, rkey)
                self.assertNotEqual(status, enums.IBV_WC_SUCCESS, operation)
                self.assertEqual(local.memory.content, b"attack" * 100)
                session.end()
                self.sessions.remove(session)
                if operation == "SEND":
                    break
        self.is_alive(self.session())

    def test_large_objects_are_right_where_small_ones_are(self):
        answer, got = self.session().get("/bucket/large", LARGE)
        self.assertEqual(answer.status, 200)
        self.assertTrue(got == self.node.get("large").body)
