"""A client written from the document alone is served, and what the document says of answers is so."""

import base64
import socket

from case import LARGE, SMALL, Attack
from node import HTTP, eventually, pattern
from pyverbs import enums
from signed import Request

POLYNOMIAL = 0x9a6c9329ac4bc9b5


def crc64nvme(content):
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        table.append(value)
    crc = (1 << 64) - 1
    for byte in content:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return base64.b64encode((crc ^ (1 << 64) - 1).to_bytes(8, "big")).decode()


class Rules(Attack):
    def test_objects_go_both_ways(self):
        self.assertEqual(crc64nvme(b"123456789"), base64.b64encode(bytes.fromhex("ae8b14860a799888")).decode())
        session = self.session()
        answer, got = session.get("/bucket/small", SMALL)
        self.assertEqual((answer.status, got), (200, pattern(1, SMALL)))
        self.assertEqual(answer["content-length"], "0")
        self.assertEqual(answer["x-amz-rdma-checksum"], "CRC64NVME " + crc64nvme(got))
        self.assertEqual(answer["x-amz-rdma-object-checksum"], "CRC64NVME " + crc64nvme(got))
        answer, got = session.get("/bucket/large", 4097, [("range", f"bytes=1048575-{1048575 + 4096}")])
        self.assertEqual((answer.status, answer["x-amz-rdma-reply"], got), (206, "206", pattern(2, LARGE)[1048575:1048575 + 4097]))
        self.assertEqual(answer["content-range"], f"bytes 1048575-{1048575 + 4096}/{LARGE}")
        self.assertEqual(answer["x-amz-rdma-checksum"], "CRC64NVME " + crc64nvme(got))
        content = pattern(7, 70_001)
        answer = session.put("/bucket/new", content, [("x-amz-checksum-crc64nvme", crc64nvme(content))])
        self.assertEqual((answer.status, answer["x-amz-rdma-reply"], answer["x-amz-rdma-bytes-transferred"]), (200, "200", "70001"), answer)
        self.assertEqual(self.node.get("new").body, content)
        answer = session.put("/bucket/new", pattern(8, 5000), [("x-amz-checksum-crc64nvme", crc64nvme(content))])
        self.refused(answer, 400, "BadDigest")
        self.assertEqual(self.node.get("new").body, content, "a PUT that was refused changed the object")
        self.assertEqual(Request(HTTP, "DELETE", "/bucket/new").sign().send().status, 204)
        self.is_alive(session)

    def test_numbers_may_overtake_each_other_and_are_used_once(self):
        session = self.session()
        window = self.window(session, "GET")
        ask = lambda number: session.request("GET", "/bucket/small", session.token(window), sequence=number).sign().send()
        self.assertEqual([ask(number).status for number in (2000, 1999, 977, 3000, (1 << 64) - 1)], [200] * 5)
        for number in (2000, 3000, (1 << 64) - 1, (1 << 64) - 1 - 1024):
            self.refused(ask(number), 409, "RdmaSequenceConflict", number)
        session.sequence = (1 << 64) - 10
        self.is_alive(session)

    def test_the_last_write_carries_what_was_agreed(self):
        session = self.session(caps="mtu=1024;rd=1;imm=1")
        self.assertEqual((session.grant["mtu"], session.grant["rd"], session.grant["imm"]), ("1024", "1", "1"))
        landing = session.queue_pair.receive()
        session.sequence = (5 << 32) + 0x01020304
        window = self.window(session, "GET", LARGE)
        answer = session.request("GET", "/bucket/large", session.token(window)).sign().send()
        self.assertEqual((answer.status, window.memory.content), (200, pattern(2, LARGE)))
        arrived = session.queue_pair.completion()
        self.assertEqual((arrived.status, arrived.opcode, socket.ntohl(arrived.imm_data)), (enums.IBV_WC_SUCCESS, enums.IBV_WC_RECV_RDMA_WITH_IMM, 0x01020305))
        self.assertEqual(landing.memory.content, bytes(4))

    def test_sessions_that_nobody_uses_end_by_themselves(self):
        session = self.session()
        self.is_alive(session)
        self.assertEqual(len(self.node.resources("qp")), 2, "this one's and the bystander's")
        eventually("an idle session ends", lambda: len(self.node.resources("qp")) != 1)
        self.is_dead(session)
