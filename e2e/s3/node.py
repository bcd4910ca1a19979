"""The real storage node as a process."""

import os
import pathlib
import signal
import subprocess
import tempfile

import boto3

import gateway

ACCESS = "test-access-key"
SECRET = "test-secret-key"
REGION = "us-east-1"


class Node:
    """A storage node on a free loopback port, with a data folder of its own. Ends with `close`.

    Clients reach it as PENSTOCK_S3_VIA says; `direct` is the storage node's own address."""

    def __init__(self, *arguments, data=None, wrap=(), scheme="http", log="info"):
        self.folder = None if data else tempfile.TemporaryDirectory(prefix="penstock-s3-")
        self.data = pathlib.Path(data or self.folder.name)
        self.scheme = scheme
        self.gateway = self.sockets = None
        if gateway.way() == "gateway":
            self.sockets = tempfile.TemporaryDirectory(prefix="penstock-socket-")
            arguments = (*arguments, "--local-socket", f"{self.sockets.name}/s")
        binary = os.environ["PENSTOCK_STORE_BINARY"]
        command = [*wrap, binary, "serve", "--data", str(self.data), "--listen", "127.0.0.1:0",
                   "--admin-listen", "127.0.0.1:0", *arguments]
        environment = {
            **os.environ,
            "PENSTOCK_ROOT_ACCESS_KEY": ACCESS,
            "PENSTOCK_ROOT_SECRET_KEY": SECRET,
            "PENSTOCK_LOG_FORMAT": "json",
        }
        environment["RUST_LOG"] = log
        self.log_path = pathlib.Path(tempfile.mkstemp(prefix="penstock-s3-", suffix=".log")[1])
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        self.endpoint = None
        for line in self.process.stdout:
            if " serves S3 at " in line:
                self.endpoint = line.split(" serves S3 at ")[1].strip()
                break
        if self.endpoint is None:
            self.process.wait()
            raise RuntimeError(f"the storage node ended instead of serving: {self.log()}")
        self.direct = self.endpoint
        if gateway.way() != "direct":
            value = dict(zip(arguments, arguments[1:])).get
            self.gateway = gateway.Gateway(self.direct, value("--local-socket"), value("--tls-cert"), value("--tls-key"))
            self.endpoint = self.gateway.endpoint

    @property
    def address(self):
        host, port = self.endpoint.split("://")[1].rsplit(":", 1)
        return host, int(port)

    def log(self):
        log = self.log_path.read_text(errors="replace")
        return log + self.gateway.log() if self.gateway else log

    def admin(self):
        """The address of the admin endpoint, from the log."""
        import json
        for line in self.log().splitlines():
            entry = json.loads(line)
            if entry.get("message") == "admin endpoint":
                return "http://" + entry["address"]
        raise RuntimeError("no admin endpoint in the log")

    def client(self, access=ACCESS, secret=SECRET, endpoint=None, **options):
        """boto3 with its default settings."""
        return boto3.client(
            "s3", endpoint_url=endpoint or self.endpoint, region_name=REGION, aws_access_key_id=access,
            aws_secret_access_key=secret, **options)

    def close(self):
        if self.gateway:
            self.gateway.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self.log_path.unlink(missing_ok=True)
        for folder in (self.folder, self.sockets):
            if folder:
                folder.cleanup()
