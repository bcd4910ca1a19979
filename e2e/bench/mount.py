"""A mounted bucket against rclone mount, both on the same storage node (ours) and the same bytes, in the same run."""

import contextlib
import os
import pathlib
import subprocess
import time

import peers
from measure import GIB, cpu_seconds, row

SIZE = 512 << 20
FILES, FILE_SIZE = 500, 16 << 10
RUNS = 3


@contextlib.contextmanager
def mounted(command, folder, log, **options):
    """A mount in the foreground of a process; unmounted in any case."""
    folder.mkdir(parents=True)
    try:
        with peers.running(command, None, log, **options) as process:
            deadline = time.monotonic() + 30
            while not os.path.ismount(folder):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} does not mount: {pathlib.Path(log).read_text()[-2000:]}")
                time.sleep(0.05)
            yield process.pid
            subprocess.run(["umount", folder], check=True)
    finally:
        subprocess.run(["umount", "-l", folder], check=False, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def both(large):
    """(name, folder, pid) of our mount and rclone's, on two buckets of one storage node, each with object `large` if wanted."""
    with peers.folder() as path, peers.penstock(path) as server, contextlib.ExitStack() as stack:
        keys = {"AWS_ACCESS_KEY_ID": peers.KEY, "AWS_SECRET_ACCESS_KEY": peers.SECRET}
        for bucket in ("ours", "theirs"):
            server.s3.create_bucket(Bucket=bucket)
            if large:
                write_file(path / "large", SIZE)
                server.s3.upload_file(str(path / "large"), bucket, "large")
        ours = [peers.ROOT / "target/release/penstock-csi", "mount", "ours", path / "mnt-ours", "--endpoint", server.url,
                "--state-dir", path / "state"]
        theirs = [peers.RCLONE, "mount", ":s3:theirs", path / "mnt-theirs", "--s3-provider=Other",
                  f"--s3-endpoint={server.url}", "--s3-env-auth", "--vfs-cache-mode=writes", "--allow-other",
                  f"--cache-dir={path / 'rclone-cache'}", "--dir-cache-time=1s"]
        environment = {**os.environ, **keys, "RUST_LOG": "warn", "RCLONE_CONFIG": "/dev/null"}
        yield [
            (name, path / folder, stack.enter_context(
                mounted(command, path / folder, path / f"{folder}.log", env=environment)))
            for name, folder, command in [("penstock", "mnt-ours", ours), ("rclone mount", "mnt-theirs", theirs)]
        ]


def drop_caches():
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("1", encoding="ascii")


def read_all(path):
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass


def write_file(path, size):
    block = os.urandom(1 << 20)
    with open(path, "wb", buffering=0) as file:
        for _ in range(size >> 20):
            file.write(block)
        os.fsync(file.fileno())


def measured(work, pid):
    """Median seconds and processor seconds of `pid`, over the runs."""
    seconds, costs = [], []
    for number in range(RUNS):
        before, start = cpu_seconds(pid), time.monotonic()
        work(number)
        seconds.append(time.monotonic() - start)
        costs.append(cpu_seconds(pid) - before)
    return sorted(seconds)[RUNS // 2], sorted(costs)[RUNS // 2]


def compared(name, unit, amount, gib, load, note="", large=False):
    """One row: `amount` per second on our mount against rclone's; `load(folder)` returns the work of one run."""
    with both(large) as mounts:
        speeds = {}
        for who, folder, pid in mounts:
            seconds, cost = measured(load(folder), pid)
            speeds[who] = amount / seconds, cost / gib
        (ours, cpu), (peer, peer_cpu) = speeds["penstock"], speeds["rclone mount"]
        yield row(name, unit, round(ours, 3), "rclone mount", round(peer, 3), goal=1.0, cpu_ours=round(cpu, 3),
                  cpu_peer=round(peer_cpu, 3), runs=RUNS, note=note)


def read_sequential(name):
    def load(folder):
        def work(_):
            drop_caches()
            read_all(folder / "large")
        return work
    yield from compared(name, "GiB/s", SIZE / GIB, SIZE / GIB, load, "an object put by S3; page cache dropped before each run",
                        large=True)


def write_sequential(name):
    def load(folder):
        return lambda number: write_file(folder / f"written-{number}", SIZE)
    yield from compared(name, "GiB/s", SIZE / GIB, SIZE / GIB, load,
                        "with fsync; rclone answers fsync before the upload, ours after it")


def small_files(name):
    def load(folder):
        block = os.urandom(FILE_SIZE)
        def work(number):
            sub = folder / f"run-{number}"
            sub.mkdir()
            for file in range(FILES):
                (sub / f"f{file}").write_bytes(block)
            for file in range(FILES):
                (sub / f"f{file}").read_bytes()
        return work
    yield from compared(name, "files/s", FILES, FILES * FILE_SIZE / GIB, load,
                        "each written and read once; close() of ours is durable in the bucket, rclone uploads later")


ROWS = [("mount-read", read_sequential), ("mount-write", write_sequential), ("mount-16k-files", small_files)]
