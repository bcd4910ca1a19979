"""Whole objects by RDMA, client and storage node in one guest with a soft-RoCE device, against perftest on that device there."""

import json

import peers
from measure import GIB, Measured, against, shell

FOLDER = peers.ROOT / "target/release"
WORK = peers.ROOT / "e2e/bench/guest/rdma.py"
RUNS = 3
MEASURED = {}


def in_guest(kind):
    """What the guest has measured for `get` or `put`: name to Measured, and name to processor seconds a GiB of the other end."""
    if kind not in MEASURED:
        command = [peers.ROOT / "e2e/guest/run", "--memory", "6144", "--limit", "1800", "--with-python", "--with-tree", WORK,
                   "--with", FOLDER / "penstock-store", "--with", FOLDER / "examples/rdma_transfer",
                   "--with", "ib_write_bw", "--with", "ib_read_bw", "python3", WORK, kind, str(RUNS)]
        told = shell(command).splitlines()
        runs = [json.loads(line.removeprefix("run: ")) for line in told if line.startswith("run: ")]
        names = list(dict.fromkeys(run["name"] for run in runs))
        if len(runs) != RUNS * len(names):
            raise RuntimeError("the guest says: " + "\n".join(told[-30:]))
        of = {name: [run for run in runs if run["name"] == name] for name in names}
        MEASURED[kind] = {name: (
            Measured([run["bytes"] / GIB / run["seconds"] * 1024 for run in of[name]],
                     [run["server_cpu"] / (run["bytes"] / GIB) for run in of[name]]),
            sorted(run["client_cpu"] / (run["bytes"] / GIB) for run in of[name])[RUNS // 2]) for name in names}
    return MEASURED[kind]


def compare(name, kind, ours, peer, goal):
    results = in_guest(kind)
    note = f"emulated; the clients' processor s/GiB {results[ours][1]:.2f} to {results[peer][1]:.2f}"
    yield from against(name, "MiB/s", {"penstock": results[ours][0], peer: results[peer][0]}, goals={peer: goal}, note=note, runs=RUNS)


def get(name):
    """GET of 64 MiB into registered memory, checksum compared, against RDMA WRITEs of perftest."""
    yield from compare(name, "get", "one client", "ib_write_bw", 0.95)
    yield from compare(name, "get", "unverified", "ib_write_bw", None)


def get_many(name):
    """The same by eight clients at once, each with the device, a session and an object for itself, against one of them."""
    yield from compare(name, "get", "eight clients", "one client", 1.0)


def put(name):
    """PUT of 64 MiB out of registered memory, durable and with its checksums when answered, against RDMA READs of perftest."""
    yield from compare(name, "put", "one client", "ib_read_bw", 0.9)


def put_many(name):
    """The same by eight clients at once, against one of them."""
    yield from compare(name, "put", "eight clients", "one client", 1.0)


ROWS = [("rdma-get", get), ("rdma-get-8", get_many), ("rdma-put", put), ("rdma-put-8", put_many)]
