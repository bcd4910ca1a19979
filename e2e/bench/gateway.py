"""The node gateway before a storage node on the same host, against the storage node itself; both over loopback and plain HTTP."""

import contextlib
import os
import resource
import time
import urllib.request

import local
import peers
import s3
from measure import GIB, RUNS, Measured, against, cpu_seconds, shell


@contextlib.contextmanager
def both(path, large):
    """The storage node, and a gateway that has its socket, with objects in bucket `bench`."""
    with s3.filled(path, [local.penstock], large) as ((node,), payload):
        port, admin = peers.free_port(), peers.free_port()
        command = [peers.BINARIES / "penstock-csi", "gateway", "--endpoint", node.url, "--listen", f"127.0.0.1:{port}",
                   "--local-socket", path / "penstock.sock", "--admin-listen", f"127.0.0.1:{admin}"]
        with peers.running(command, port, path / "gateway.log", env={**os.environ, "RUST_LOG": "warn"}) as process:
            gateway = peers.Server("gateway", process.pid, f"http://127.0.0.1:{port}")
            yield gateway, node, payload
            by_tcp = carried(admin, "http")
            if by_tcp or not carried(admin, "shm") + carried(admin, "socket"):
                raise RuntimeError(f"{by_tcp:.0f} bytes went between gateway and storage node by TCP")


def carried(admin, via):
    """Bytes of bodies that went between gateway and storage node by `via`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines
               if line.startswith("penstock_gateway_bytes_total{") and f'via="{via}"' in line)


def client_seconds():
    """Processor time of all clients so far: programs that were waited for, which servers are not before the end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compared(name, unit, contestants, gib_per_unit, note):
    """The row. `contestants`: name to (work, server's process ids); work() returns the amount done. Processor time of servers is that
    of all processes behind the address, so the gateway's is its own and the storage node's."""
    speeds, servers, clients = ({key: [] for key in contestants} for _ in range(3))
    for _ in range(RUNS):
        for key, (work, pids) in contestants.items():
            server, client, start = sum(map(cpu_seconds, pids)), client_seconds(), time.monotonic()
            amount = work()
            speeds[key].append(amount / (time.monotonic() - start))
            servers[key].append((sum(map(cpu_seconds, pids)) - server) / amount)
            clients[key].append((client_seconds() - client) / amount)
    results = {key: Measured(speeds[key], servers[key]) for key in contestants}
    ours, theirs = (round(Measured(speeds[key], clients[key]).cost / gib_per_unit, 3) for key in contestants)
    for result in against(name, unit, results, gib_per_unit=gib_per_unit,
                          note=f"{note}; client CPU s/GiB {ours} to {theirs}"):
        yield {**result, "client_cpu_s_per_gib_ours": ours, "client_cpu_s_per_gib_peer": theirs}


def large(name, transfer, note):
    with peers.folder() as path, both(path, True) as (gateway, node, payload):
        def of(server):
            def work():
                shell(["curl", "-sSf", *transfer(server, payload)])
                return s3.LARGE / GIB
            return work
        yield from compared(name, "GiB/s", {
            "gateway": (of(gateway), [gateway.pid, node.pid]), "the storage node": (of(node), [node.pid])}, 1.0, note)


def get_large(name):
    """GET of 1 GiB over one connection."""
    yield from large(name, lambda server, _: ["-o", "/dev/null", server.get_url("large")], "lent files, checksum compared")


def put_large(name):
    """PUT of 1 GiB over one connection, durable when answered."""
    yield from large(name, lambda server, payload: ["-H", "Expect:", "-T", str(payload), server.put_url("put")],
                     "by the storage node's socket")


def get_small(name):
    """Signed GETs of 16 KiB over 16 connections."""
    with peers.folder() as path, both(path, False) as (gateway, node, _):
        def of(server):
            urls = [server.get_url(f"small-{number}") for number in range(s3.SMALL_COUNT)]
            return lambda: s3.wrk(path, server, urls, s3.lua_get)
        yield from compared(name, "req/s", {
            "gateway": (of(gateway), [gateway.pid, node.pid]), "the storage node": (of(node), [node.pid])},
            s3.SMALL / GIB, "lent files")


ROWS = [("gateway-get-large", get_large), ("gateway-put-large", put_large), ("gateway-get-16k", get_small)]
