"""A client of `s3rdma-rc-1`, written from `docs/protocol.md` and nothing else."""

import random
import struct

from signed import Request
from verbs import REMOTE_READ, REMOTE_WRITE, QueuePair, token

CONNECT, DISCONNECT = "/.s3rdma-rc/connect", "/.s3rdma-rc/disconnect"
PROTOCOL = "s3rdma-rc-1"


def connect_request(address, text, psn, caps="mtu=4096;rd=16;imm=0", protocol=PROTOCOL):
    headers = [("x-amz-rdma-protocol", protocol), ("x-amz-rdma-token", text), ("x-amz-rdma-psn", psn)]
    if caps is not None:
        headers.append(("x-amz-rdma-caps", caps))
    return Request(address, "POST", CONNECT, headers)


def disconnect(address, session):
    return Request(address, "POST", DISCONNECT, [("x-amz-rdma-session", session)]).sign().send()


class Refused(Exception):
    def __init__(self, answer):
        super().__init__(repr(answer))
        self.answer = answer


class Session:
    """Sections 3 and 4. `lie` changes what connect says of the queue pair, `reach` what ours is told of the server's."""

    def __init__(self, address, caps="mtu=4096;rd=16;imm=0", lie=None, reach=None, connected=True):
        self.address, self.sequence = address, 0
        self.queue_pair = QueuePair()
        psn = random.randrange(1, 1 << 24)
        said = {"number": self.queue_pair.number, "gid": self.queue_pair.gid, "psn": psn, **(lie or {})}
        self.connecting = connect_request(address, token(number=said["number"], gid=said["gid"]), f"{said['psn']:06x}", caps).sign()
        answer = self.connecting.send()
        if answer.status != 200:
            self.queue_pair.close()
            raise Refused(answer)
        self.answer, self.id = answer, answer["x-amz-rdma-session"]
        code, text = answer["x-amz-rdma-reply"].split(":")
        assert code == "200" and len(text) == 88, text
        transport, number, gid, rkey, at, length, port, _ = struct.unpack("<BI16sIQQBH", bytes.fromhex(text))
        assert (transport, rkey, at, length) == (1, 0, 0, 0) and port >= 1, text
        self.grant = dict(pair.split("=") for pair in answer["x-amz-rdma-caps"].split(";"))
        peer = {"number": number, "gid": gid, "psn": int(answer["x-amz-rdma-psn"], 16), **(reach or {})}
        if connected:
            self.queue_pair.connect(peer["number"], peer["gid"], psn, peer["psn"], int(self.grant["mtu"]), int(self.grant["rd"]))

    def token(self, window, **lies):
        """Section 2.2."""
        field = {"address": window.address, "size": window.size, "rkey": window.rkey, "session": self.id, **lies}
        return f"rc:{field['session']}:{field['address']:016x}:{field['size']:08x}:{field['rkey']:08x}"

    def request(self, method, path, text, headers=(), query="", sequence=None):
        """A request with a token, not signed yet."""
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        return Request(self.address, method, path, [("x-amz-rdma-token", text), ("x-amz-rdma-seq", str(sequence)), *headers], query)

    def get(self, path, size, headers=()):
        """The answer, and what is in a window of `size` bytes afterwards."""
        window = self.queue_pair.window(bytes(size), REMOTE_WRITE)
        answer = self.request("GET", path, self.token(window), headers).sign().send()
        window.close()
        return answer, window.memory.content

    def put(self, path, content, headers=(), query=""):
        window = self.queue_pair.window(content, REMOTE_READ)
        answer = self.request("PUT", path, self.token(window), headers, query).sign().send()
        window.close()
        return answer

    def end(self):
        answer = disconnect(self.address, self.id)
        self.queue_pair.close()
        return answer
