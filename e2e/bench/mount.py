"""A mounted bucket against those of rclone and Mountpoint for Amazon S3: one storage node (ours), the same bytes, one run."""

import contextlib
import os
import pathlib
import subprocess
import time

import peers
from measure import GIB, RUNS, against, taking_turns

SIZE = 512 << 20
FILES, FILE_SIZE = 500, 16 << 10
OURS, RCLONE, MOUNTPOINT = "penstock", "rclone mount", "mountpoint-s3"
GOALS = {RCLONE: 1.0, MOUNTPOINT: 1.0}


class Mount:
    """A bucket that is mounted: where, by which process, and how to see what the storage node has of it."""

    def __init__(self, server, bucket, folder, pid):
        self.server, self.bucket, self.folder, self.pid = server, bucket, folder, pid

    def put(self, key, body):
        self.server.s3.put_object(Bucket=self.bucket, Key=key, Body=body)

    def wait_stored(self, prefix, count, size):
        """Returns when so many objects of that size are in the bucket: some mounts upload after close(2) returned."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            page = self.server.s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix)
            if sum(found["Size"] == size for found in page.get("Contents", [])) == count:
                return
            time.sleep(0.02)
        raise RuntimeError(f"{self.folder}: {count} objects of {size} bytes under {prefix} did not come into the bucket")


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
def mounts():
    """Name to Mount, each of a bucket of its own on one storage node."""
    with peers.folder() as path, peers.penstock(path) as server, contextlib.ExitStack() as stack:
        # Settings of whoever runs this, as AWS_PROFILE or AWS_CA_BUNDLE, are not for these servers.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
            "AWS_ACCESS_KEY_ID": peers.KEY, "AWS_SECRET_ACCESS_KEY": peers.SECRET, "RUST_LOG": "warn",
            "RCLONE_CONFIG": "/dev/null"}

        def mount(bucket, command):
            server.s3.create_bucket(Bucket=bucket)
            folder = path / f"mnt-{bucket}"
            pid = stack.enter_context(mounted(command(folder), folder, path / f"{bucket}.log", env=environment))
            return Mount(server, bucket, folder, pid)

        all_of_them = {
            OURS: mount("ours", lambda folder: [
                peers.ROOT / "target/release/penstock-csi", "mount", "ours", folder, "--endpoint", server.url,
                "--state-dir", path / "state"]),
            # What a program may do with a file is the same as with ours only with this cache mode. Uploads begin at once and
            # not after 5 s, as they are waited for.
            RCLONE: mount("rclone", lambda folder: [
                peers.rclone_binary(), "mount", ":s3:rclone", folder, "--s3-provider=Other", f"--s3-endpoint={server.url}",
                "--s3-env-auth", "--vfs-cache-mode=writes", "--vfs-write-back=0", "--dir-cache-time=1s",
                f"--cache-dir={path / 'rclone-cache'}"]),
        }
        if peers.MOUNTPOINT.exists():
            all_of_them[MOUNTPOINT] = mount(
                "mountpoint", lambda folder: [peers.MOUNTPOINT, "mountpoint", folder, server.url])
        yield all_of_them


def forget_pages(path):
    """What the kernel keeps of a file's bytes goes; the storage node's own files stay cached."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def read_all(path):
    with open(path, "rb", buffering=0) as file:
        buffer, got = bytearray(1 << 20), 0
        while length := file.readinto(buffer):
            got += length
    return got


def write_file(path, size):
    block = os.urandom(1 << 20)
    with open(path, "wb", buffering=0) as file:
        for _ in range(size >> 20):
            file.write(block)


def compared(name, unit, work, gib_per_unit, note, prepare=None):
    """Rows of `work(mount, number of the run)`, which returns how much it did."""
    with mounts() as all_of_them:
        for mount in all_of_them.values():
            if prepare:
                prepare(mount)
        results = taking_turns({
            who: (lambda number, mount=mount: work(mount, number), mount.pid) for who, mount in all_of_them.items()})
    yield from against(name, unit, results, gib_per_unit=gib_per_unit, goals=GOALS, note=note)


def read_sequential(name):
    """One object of 512 MiB from front to back, with 1 MiB reads."""
    def work(mount, _):
        forget_pages(mount.folder / "large")
        got = read_all(mount.folder / "large")
        if got != SIZE:
            raise RuntimeError(f"{mount.folder}: {got} bytes of {SIZE}")
        return SIZE / GIB
    yield from compared(name, "GiB/s", work, 1.0, "nothing cached in the mount, all cached in the storage node",
                        lambda mount: mount.put("large", os.urandom(SIZE)))


def write_sequential(name):
    """One file of 512 MiB, until it is an object in the bucket."""
    def work(mount, number):
        write_file(mount.folder / f"written-{number}", SIZE)
        mount.wait_stored(f"written-{number}", 1, SIZE)
        return SIZE / GIB
    yield from compared(name, "GiB/s", work, 1.0, "until the object is in the bucket")


def write_small(name):
    """Many small files by one program, one after the other, until all are objects in the bucket."""
    block = os.urandom(FILE_SIZE)
    def work(mount, number):
        folder = mount.folder / f"run-{number}"
        folder.mkdir()
        for file in range(FILES):
            (folder / f"f{file}").write_bytes(block)
        mount.wait_stored(f"run-{number}/f", FILES, FILE_SIZE)
        return FILES
    yield from compared(name, "files/s", work, FILE_SIZE / GIB, "until the objects are in the bucket")


def read_small(name):
    """Many small files by one program, one after the other, each for the first time."""
    def prepare(mount):
        body = os.urandom(FILE_SIZE)
        for number in range(RUNS):
            for file in range(FILES):
                mount.put(f"run-{number}/f{file}", body)

    def work(mount, number):
        for file in range(FILES):
            path = mount.folder / f"run-{number}/f{file}"
            if read_all(path) != FILE_SIZE:
                raise RuntimeError(f"{path} is not whole")
        return FILES
    yield from compared(name, "files/s", work, FILE_SIZE / GIB, "each for the first time", prepare)


ROWS = [("mount-read", read_sequential), ("mount-write", write_sequential), ("mount-write-16k", write_small),
        ("mount-read-16k", read_small)]
