"""The servers that are measured: ours and its peers, each on a loopback port of its own, each stopped in any case."""

import contextlib
import functools
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import boto3
from botocore.config import Config

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("PENSTOCK_CACHE") or pathlib.Path(
    os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "penstock")
# Elsewhere than in a release build only to try a row out: what is measured then is no result.
BINARIES = pathlib.Path(os.environ.get("PENSTOCK_BENCH_BINARIES", ROOT / "target/release"))
MOUNTPOINT_SOURCE = ROOT / "e2e/bench/mountpoint"
MOUNTPOINT = CACHE / "mountpoint/release/mount-s3"
KEY, SECRET = "AKIABENCHMARK", "benchmark-secret-key-0123456789abcdef012"


@functools.cache
def rclone_binary():
    """The path of rclone; built where it is missing."""
    built = subprocess.run([ROOT / "e2e/rclone/build"], check=True, stdout=subprocess.PIPE, text=True)
    return built.stdout.strip()


def install_mountpoint():
    """Builds Mountpoint for Amazon S3. It is large, and C in part: where it does not build, the rows go without it."""
    if not MOUNTPOINT.exists():
        print("==> building Mountpoint for Amazon S3 (many minutes, once)", flush=True)
        built = subprocess.run(["cargo", "build", "--quiet", "--release", "--locked", "--target-dir", MOUNTPOINT.parents[1]],
                               cwd=MOUNTPOINT_SOURCE, check=False)
        if built.returncode != 0:
            print("==> Mountpoint for Amazon S3 does not build here; the rows go without it", flush=True)


@contextlib.contextmanager
def folder():
    """A scratch folder on the disk that everything is measured on, outside the cluster's own, which `down` empties."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="penstock-bench-", dir="/var/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command, port, log, **options):
    """A server process that listens on `port`, stopped at the end, also when this program is killed."""
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", "--", *command], stdout=out,
                                   stderr=subprocess.STDOUT, **options)
    try:
        deadline = time.monotonic() + 30
        while port is not None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not listen: {pathlib.Path(log).read_text()[-2000:]}")
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Server:
    """A server under measurement: its process and an S3 client for it, where it speaks S3."""

    def __init__(self, name, pid, url, s3=True):
        self.name, self.pid, self.url = name, pid, url
        self.s3 = boto3.client(
            "s3", endpoint_url=url, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, signature_version="s3v4")) if s3 else None

    def get_url(self, key):
        """Where `bench/key` is read: presigned for an hour, or plain."""
        if self.s3 is None:
            return f"{self.url}/bench/{key}"
        return self.s3.generate_presigned_url("get_object", Params={"Bucket": "bench", "Key": key}, ExpiresIn=3600)

    def put_url(self, key):
        """Where `bench/key` is written."""
        return self.s3.generate_presigned_url("put_object", Params={"Bucket": "bench", "Key": key}, ExpiresIn=3600)


@contextlib.contextmanager
def penstock(path):
    """Our storage node, release build, plain HTTP as its peers."""
    port, data = free_port(), path / "penstock"
    command = [BINARIES / "penstock-store", "serve", "--data", data, "--listen", f"127.0.0.1:{port}"]
    environment = {**os.environ, "PENSTOCK_ROOT_ACCESS_KEY": KEY, "PENSTOCK_ROOT_SECRET_KEY": SECRET, "RUST_LOG": "warn"}
    with running(command, port, path / "penstock.log", env=environment) as process:
        yield Server("penstock", process.pid, f"http://127.0.0.1:{port}")


@contextlib.contextmanager
def rclone(path):
    """`rclone serve s3` over a local folder."""
    port, data = free_port(), path / "rclone"
    data.mkdir()
    command = [rclone_binary(), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", data]
    with running(command, port, path / "rclone.log", env={**os.environ, "RCLONE_CONFIG": "/dev/null"}) as process:
        yield Server("rclone serve s3", process.pid, f"http://127.0.0.1:{port}")


@contextlib.contextmanager
def nginx(path):
    """nginx with sendfile over plain files, without any authorisation: a ceiling for GET."""
    port, data = free_port(), path / "nginx"
    (data / "bench").mkdir(parents=True)
    config = path / "nginx.conf"
    config.write_text(f"""
        daemon off; worker_processes 2; pid {path}/nginx.pid; error_log {path}/nginx.err; user root;
        events {{ worker_connections 1024; }}
        http {{
          access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
          client_body_temp_path {path}/nb; proxy_temp_path {path}/np; fastcgi_temp_path {path}/nf;
          uwsgi_temp_path {path}/nu; scgi_temp_path {path}/ns;
          server {{ listen 127.0.0.1:{port}; root {data}; }}
        }}""")
    with running(["nginx", "-c", str(config), "-p", str(path)], port, path / "nginx.log") as process:
        yield Server("nginx sendfile", process.pid, f"http://127.0.0.1:{port}", s3=False)
