"""Requests that say what they must not. Each is refused before anything moves."""

from case import SMALL, Attack
from node import HTTP
from session import connect_request, disconnect
from signed import Request
from verbs import QueuePair, token


class Headers(Attack):
    def test_tokens_that_are_not_well_formed(self):
        session = self.session()
        for method in "GET", "PUT":
            window = self.window(session, method)
            good = session.token(window)
            wrong = {
                "nothing": "", "its name alone": "rc", "cut": good[:-1], "one digit more": good + "0", "a field more": good + ":0",
                "capitals": good.upper(), "another name": "dc" + good[2:], "a sign": good[:36] + "+" + good[37:], "no digit": good[:-1] + "g",
                "size 0": session.token(window, size=0), "beyond the last address": session.token(window, address=(1 << 64) - 5),
                "one of connect": token(number=5, gid=session.queue_pair.gid), "long": "f" * 7000, "a space": good.replace(":", ": ", 1),
                "two in one": good + "," + good, "beyond ASCII": good[:-1] + "\u0663".encode().decode("latin-1"),
            }
            for name, text in wrong.items():
                answer = session.request(method, self.path(method), text).sign().send()
                self.assertIn(answer.told, [(400, "InvalidRdmaToken"), (403, "SignatureDoesNotMatch")] if "ASCII" in name
                              else [(400, "InvalidRdmaToken")], f"{method} {name}: {answer}")
                if len(text) > 10:
                    self.assertNotIn(text.encode("latin-1"), answer.body, "the answer repeats a token")
            for number in "", "0", "-1", "+1", "01", "1.0", "0x1", "18446744073709551616", "1 1":
                self.refused(session.request(method, self.path(method), good, sequence=number).sign().send(), 400, "InvalidRdmaToken", number)
            for missing in "x-amz-rdma-token", "x-amz-rdma-seq":
                request = session.request(method, self.path(method), good)
                request.headers = [(name, value) for name, value in request.headers if name != missing]
                self.refused(request.sign().send(), 400, "InvalidRdmaToken", f"without {missing}")
            self.no_byte_moved(window, method)
        self.is_alive(session)

    def test_what_was_not_signed_is_not_believed(self):
        session = self.session()
        for method in "GET", "PUT":
            window = self.window(session, method)
            good, path = session.token(window), self.path(method)
            for name in "x-amz-rdma-token", "x-amz-rdma-seq":
                self.refused(session.request(method, path, good).sign(leave_out=[name]).send(), 403, "AccessDenied", name)
            later = session.request(method, path, good).sign()
            later.headers.append(("x-amz-rdma-later", "1"))
            twice = session.request(method, path, good, [("x-amz-rdma-seq", "9")])
            self.refused(later.send(), 403, "AccessDenied")
            self.refused(twice.sign().send(), 403, "AccessDenied")
            self.refused(session.request(method, path, good).presign().send(), 403, "AccessDenied", "presigned")
            self.refused(session.request(method, path, good).send(), 403, "AccessDenied", "by nobody")
            self.refused(session.request(method, path, good).sign(secret="another-secret").send(), 403, "SignatureDoesNotMatch")
            self.refused(session.request(method, path, good).sign(access="somebody-else").send(), 403, "InvalidAccessKeyId")
            self.no_byte_moved(window, method)
        self.assertEqual(Request(HTTP, "POST", "/.s3rdma-rc/disconnect", [("x-amz-rdma-session", session.id)]).sign(
            access="somebody-else").send().status, 403)
        self.is_alive(session)

    def test_recordings_are_refused(self):
        session = self.session()
        for method in "GET", "PUT":
            window = self.window(session, method)
            recorded = session.request(method, self.path(method), session.token(window)).sign()
            if method == "GET":
                self.assertEqual(recorded.send().status, 200)
                window.memory.pages[:SMALL] = bytes(SMALL)
                self.refused(recorded.send(), 409, "RdmaSequenceConflict")
                self.no_byte_moved(window, method)
        self.refused(session.connecting.send(), 409, "RdmaSequenceConflict", "the same connect")
        self.is_alive(session)
        session.end()
        # What was recorded opens nothing when its session has ended, and a connect then makes a queue pair that nobody answers.
        self.refused(recorded.send(), 404, "NoSuchRdmaSession")
        answer = session.connecting.send()
        self.assertEqual(answer.status, 200)
        self.assertNotEqual((answer["x-amz-rdma-session"], answer["x-amz-rdma-psn"]), (session.id, session.answer["x-amz-rdma-psn"]))
        self.assertEqual(disconnect(HTTP, answer["x-amz-rdma-session"]).status, 204)

    def test_sessions_that_are_not_there(self):
        session = self.session()
        window = self.window(session, "GET")
        for text in session.token(window, session="0" * 32), session.token(window, session="f" * 32):
            self.refused(session.request("GET", "/bucket/small", text).sign().send(), 404, "NoSuchRdmaSession")
            # What does not exist is told before anything is said of sessions.
            self.refused(session.request("GET", "/bucket/missing", text).sign().send(), 404, "NoSuchKey")
        self.assertEqual(disconnect(HTTP, "0" * 32).status, 204)
        self.refused(disconnect(HTTP, "0" * 31), 400, "InvalidRdmaToken")
        self.no_byte_moved(window, "GET")
        self.is_alive(session)

    def test_connects_that_are_not_well_formed(self):
        ours = QueuePair()
        good = {"number": ours.number, "gid": ours.gid}
        tokens = {
            "cut": token(**good)[:-2], "long": token(**good) + "00", "capitals": token(**good).upper(), "another transport": token(2, **good),
            "number 0": token(number=0, gid=ours.gid), "25 bits": token(number=1 << 24, gid=ours.gid), "no gid": token(number=ours.number),
            "an rkey": token(rkey=1, **good), "an address": token(address=1, **good), "a length": token(length=1, **good),
            "port 0": token(port=0, **good),
        }
        for name, text in tokens.items():
            if text != token(**good):
                self.refused(connect_request(HTTP, text, "000001").sign().send(), 400, "InvalidRdmaToken", name)
        for psn in "", "0", "000000", "1000000", "00000A", "+00001", "0x0001":
            self.refused(connect_request(HTTP, token(**good), psn).sign().send(), 400, "InvalidRdmaToken", psn)
        for caps in "", "mtu", "mtu=1000", "mtu=8192", "rd=0", "rd=256", "imm=2", "mtu=1024;mtu=1024", "rd=1;", "rd=+1", "x=" + "1" * 300:
            self.refused(connect_request(HTTP, token(**good), "000001", caps).sign().send(), 400, "InvalidRdmaToken", caps)
        for protocol in "", "s3rdma-rc-2", "hipobj-rc-v2":
            answer = connect_request(HTTP, token(**good), "000001", protocol=protocol).sign().send()
            self.refused(answer, 501, "RDMANotSupported", protocol)
            self.assertEqual(answer["x-amz-rdma-protocol-status"], "unsupported")
        for name in "x-amz-rdma-protocol", "x-amz-rdma-token", "x-amz-rdma-psn", "x-amz-rdma-caps":
            self.refused(connect_request(HTTP, token(**good), "000001").sign(leave_out=[name]).send(), 403, "AccessDenied", name)
        ours.close()

    def test_a_flood_of_connects_is_bounded_and_ends(self):
        ours = QueuePair()
        made = refused = 0
        for number in range(1, 60):
            answer = connect_request(HTTP, token(number=ours.number, gid=ours.gid), f"{number:06x}").sign().send()
            if answer.status == 200:
                made += 1
            else:
                self.refused(answer, 503, "SlowDown")
                self.assertEqual(answer["retry-after"], "1")
                refused += 1
        # The bystander has one.
        self.assertGreaterEqual(made, 11)
        self.assertGreaterEqual(refused, 1)
        self.assertLessEqual(len(self.node.resources("qp")), 12)
        ours.close()
        # They end for idleness: the end of this test waits for it.
