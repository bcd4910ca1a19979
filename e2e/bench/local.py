"""A client on the storage node's host: lent files against nginx over loopback, against our own HTTP, and under a mount."""

import contextlib
import json
import os
import time

import mount
import peers
import s3
from measure import GIB, RUNS, Measured, against, cpu_seconds, shell

TRANSFER = peers.ROOT / "target/release/examples/transfer"
TIMES = 4


@contextlib.contextmanager
def penstock(path):
    """Our storage node with a socket beside its port."""
    port, data, socket = peers.free_port(), path / "penstock", path / "penstock.sock"
    command = [peers.BINARIES / "penstock-store", "serve", "--data", data, "--listen", f"127.0.0.1:{port}",
               "--local-socket", socket]
    environment = {**os.environ, "PENSTOCK_ROOT_ACCESS_KEY": peers.KEY, "PENSTOCK_ROOT_SECRET_KEY": peers.SECRET,
                   "RUST_LOG": "warn"}
    with peers.running(command, port, path / "penstock.log", env=environment) as process:
        yield peers.Server("penstock", process.pid, f"http://127.0.0.1:{port}")


def transfer(server, socket, *work):
    """Runs the client; its own clock starts when it is connected and its memory is there."""
    keys = {**os.environ, "AWS_ACCESS_KEY_ID": peers.KEY, "AWS_SECRET_ACCESS_KEY": peers.SECRET}
    done = json.loads(shell([TRANSFER, server.url, socket, *map(str, work)], env=keys))
    expected = "http" if socket == "-" else "shm"
    if done["via"] != expected:
        raise RuntimeError(f"the bytes came by {done['via']} and not by {expected}")
    return done


def in_turns(contestants):
    """As measure.taking_turns, for work that says its own amount and seconds."""
    speeds, costs = {name: [] for name in contestants}, {name: [] for name in contestants}
    for _ in range(RUNS):
        for name, (work, pid) in contestants.items():
            before = cpu_seconds(pid)
            amount, seconds = work()
            speeds[name].append(amount / seconds)
            costs[name].append((cpu_seconds(pid) - before) / amount)
    return {name: Measured(speeds[name], costs[name]) for name in contestants}


def get_large(name):
    """GET of 1 GiB into memory: lent by the storage node, against nginx over loopback with curl."""
    with peers.folder() as path, s3.filled(path, [penstock, peers.nginx], True) as ((ours, nginx), _):
        def lent():
            done = transfer(ours, path / "penstock.sock", "large", "bench", "large", TIMES)
            return done["bytes"] / GIB, done["seconds"]

        def looped():
            start = time.monotonic()
            for _ in range(TIMES):
                shell(["curl", "-sSf", "-o", "/dev/null", nginx.get_url("large")])
            return TIMES * s3.LARGE / GIB, time.monotonic() - start
        results = in_turns({"penstock": (lent, ours.pid), "nginx sendfile": (looped, nginx.pid)})
    yield from against(name, "GiB/s", results, goals={"nginx sendfile": 3.0},
                       note="ours compares the checksum; curl drops the bytes")


def get_small(name):
    """GETs of 16 KiB into memory, 16 at a time, by the same client: lent, against our own HTTP."""
    with peers.folder() as path, s3.filled(path, [penstock], False) as ((ours,), _):
        def by(socket):
            def work():
                done = transfer(ours, socket, "small", "bench", "small-", s3.SMALL_COUNT, s3.SECONDS, s3.CONNECTIONS)
                return done["requests"], done["seconds"]
            return work
        results = in_turns({"penstock": (by(path / "penstock.sock"), ours.pid), "our own HTTP": (by("-"), ours.pid)})
    yield from against(name, "req/s", results, gib_per_unit=s3.SMALL / GIB, goals={"our own HTTP": 2.0})


def mount_read(name):
    """Reading a file of 512 MiB in a mount on the storage node's host, against the file itself; all in the page cache."""
    with peers.folder() as path, penstock(path) as server:
        server.s3.create_bucket(Bucket="ours")
        block = os.urandom(1 << 20)
        server.s3.put_object(Bucket="ours", Key="file", Body=block * (mount.SIZE >> 20))
        # The same pages of the same file, without a file system of ours before them.
        (raw,) = (path / "penstock/data").glob("*/*")
        environment = {**os.environ, "AWS_ACCESS_KEY_ID": peers.KEY, "AWS_SECRET_ACCESS_KEY": peers.SECRET,
                       "RUST_LOG": "warn"}
        command = [peers.ROOT / "target/release/penstock-csi", "mount", "ours", path / "mnt", "--endpoint", server.url,
                   "--local-socket", path / "penstock.sock", "--state-dir", path / "state"]
        with mount.mounted(command, path / "mnt", path / "mnt.log", env=environment) as pid:
            def reading(file):
                def work():
                    start = time.monotonic()
                    got = sum(mount.read_all(file) for _ in range(TIMES))
                    return got / GIB, time.monotonic() - start
                return work
            results = in_turns({"penstock": (reading(path / "mnt/file"), pid), "the file itself": (reading(raw), os.getpid())})
    yield from against(name, "GiB/s", results, goals={"the file itself": 0.9}, note="kernel passthrough; processor time is the mount's")


ROWS = [("local-get-large", get_large), ("local-get-16k", get_small), ("local-mount-read", mount_read)]
