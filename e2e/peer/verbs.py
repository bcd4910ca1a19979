"""Queue pairs and windows by pyverbs: a client's end as `docs/protocol.md` has it, and every way to misuse it."""

import ctypes
import mmap
import pathlib
import socket
import struct
import time

from pyverbs import enums
from pyverbs.addr import GID, AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.pyverbs_error import PyverbsRDMAError
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, RecvWR, SendWR

DEVICE, PORT = "rxe0", 1
MTU = {256: enums.IBV_MTU_256, 512: enums.IBV_MTU_512, 1024: enums.IBV_MTU_1024, 2048: enums.IBV_MTU_2048, 4096: enums.IBV_MTU_4096}
REMOTE_WRITE = enums.IBV_ACCESS_LOCAL_WRITE | enums.IBV_ACCESS_REMOTE_WRITE
REMOTE_READ = enums.IBV_ACCESS_REMOTE_READ


def gids():
    """The GIDs of the port: index to sixteen bytes."""
    found = {}
    for entry in pathlib.Path(f"/sys/class/infiniband/{DEVICE}/ports/{PORT}/gids").iterdir():
        value = socket.inet_pton(socket.AF_INET6, entry.read_text().strip())
        if value != bytes(16):
            found[int(entry.name)] = value
    return found


class Memory:
    """Bytes of this process at an address that can be named."""

    def __init__(self, content):
        self.size = len(content)
        self.pages = mmap.mmap(-1, -(-self.size // mmap.PAGESIZE) * mmap.PAGESIZE)
        self.pages[:self.size] = content
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.pages))

    @property
    def content(self):
        return bytes(self.pages[:self.size])

    def waits_for_change(self, old, patience=20):
        """Returns once the first bytes are others than `old`."""
        end = time.monotonic() + patience
        while self.pages[:len(old)] == old:
            if time.monotonic() > end:
                raise TimeoutError("no byte arrives")
            time.sleep(0.0005)


class Window:
    """Memory that a peer may reach, by one right."""

    def __init__(self, domain, memory, access):
        self.memory, self.address, self.size = memory, memory.address, memory.size
        self.region = MR(domain, memory.size, access, address=memory.address)
        self.rkey = self.region.rkey

    def close(self):
        self.region.close()


class QueuePair:
    """An RC queue pair with a protection domain of its own."""

    def __init__(self, index=None):
        self.context = Context(name=DEVICE)
        self.domain = PD(self.context)
        self.completions = CQ(self.context, 64)
        capabilities = QPCap(max_send_wr=16, max_recv_wr=16)
        self.queue_pair = QP(self.domain, QPInitAttr(
            qp_type=enums.IBV_QPT_RC, scq=self.completions, rcq=self.completions, cap=capabilities, sq_sig_all=1))
        self.number = self.queue_pair.qp_num
        # The one that IPv4 has, as the storage node takes it where there is one.
        mapped = bytes(10) + b"\xff\xff"
        self.index = index if index is not None else next(index for index, gid in sorted(gids().items()) if gid.startswith(mapped))
        self.gid = gids()[self.index]

    def connect(self, number, gid, psn, peer_psn, mtu, reads):
        """To RTR and RTS. `psn` is the first that this end sends."""
        attributes = QPAttr(port_num=PORT)
        attributes.qp_access_flags = enums.IBV_ACCESS_REMOTE_WRITE | enums.IBV_ACCESS_REMOTE_READ
        attributes.dest_qp_num, attributes.rq_psn, attributes.sq_psn = number, peer_psn, psn
        attributes.path_mtu = MTU[mtu]
        attributes.max_dest_rd_atomic = reads
        attributes.max_rd_atomic = 1
        attributes.min_rnr_timer, attributes.timeout, attributes.retry_cnt, attributes.rnr_retry = 12, 14, 6, 6
        route = GlobalRoute(dgid=GID(":".join(gid[at:at + 2].hex() for at in range(0, 16, 2))), sgid_index=self.index, hop_limit=64)
        attributes.ah_attr = AHAttr(port_num=PORT, is_global=1, gr=route)
        self.queue_pair.to_rts(attributes)

    def window(self, content, access):
        return Window(self.domain, Memory(content), access)

    def kill(self):
        """To ERR."""
        self.queue_pair.modify(QPAttr(qp_state=enums.IBV_QPS_ERR), enums.IBV_QP_STATE)

    def receive(self):
        """Posts what a WRITE with an immediate takes."""
        landing = self.window(bytes(4), enums.IBV_ACCESS_LOCAL_WRITE)
        self.queue_pair.post_recv(RecvWR(num_sge=1, sg=[SGE(landing.address, landing.size, landing.region.lkey)]))
        return landing

    def attack(self, operation, local, address, rkey):
        """Posts a SEND, WRITE or READ of ours; returns its completion's status."""
        wish = {"SEND": enums.IBV_WR_SEND, "WRITE": enums.IBV_WR_RDMA_WRITE, "READ": enums.IBV_WR_RDMA_READ}[operation]
        request = SendWR(opcode=wish, num_sge=1, sg=[SGE(local.address, local.size, local.region.lkey)])
        if operation != "SEND":
            request.set_wr_rdma(rkey, address)
        self.queue_pair.post_send(request)
        return self.completion().status

    def completion(self, patience=30):
        end = time.monotonic() + patience
        while True:
            count, found = self.completions.poll(1)
            if count:
                return found[0]
            if time.monotonic() > end:
                raise TimeoutError("nothing completes")
            time.sleep(0.002)

    def close(self):
        """Everything of it; windows first."""
        for thing in self.queue_pair, self.completions, self.domain, self.context:
            try:
                thing.close()
            except PyverbsRDMAError:
                # A context closes what it made.
                pass


def token(transport=1, number=1, gid=bytes(16), rkey=0, address=0, length=0, port=PORT, lid=0):
    """Section 2.1 of the document."""
    return struct.pack("<BI16sIQQBH", transport, number, gid, rkey, address, length, port, lid).hex()
