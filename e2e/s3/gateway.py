"""The node gateway as a process in front of a storage node, for running the whole suite through it."""

import os
import pathlib
import re
import signal
import subprocess
import tempfile
import urllib.request

# How the suite reaches the storage node: directly, through a gateway that has its socket, or through one that has not.
WAYS = ("direct", "gateway", "gateway-http")


def way():
    chosen = os.environ.get("PENSTOCK_S3_VIA", "direct")
    if chosen not in WAYS:
        raise RuntimeError(f"PENSTOCK_S3_VIA is {chosen!r} and none of {', '.join(WAYS)}")
    return chosen


class Gateway:
    """A gateway on a free loopback port. Ends with `close`."""

    def __init__(self, upstream, socket=None, certificate=None, key=None):
        command = [os.environ["PENSTOCK_CSI_BINARY"], "gateway", "--endpoint", upstream, "--listen", "127.0.0.1:0",
                   "--admin-listen", "127.0.0.1:0"]
        if socket:
            command += ["--local-socket", str(socket)]
        if certificate:
            command += ["--ca-file", certificate, "--gateway-tls-cert", certificate, "--gateway-tls-key", key]
        environment = {**os.environ, "PENSTOCK_LOG_FORMAT": "json"}
        environment.pop("RUST_LOG", None)
        self.log_path = pathlib.Path(tempfile.mkstemp(prefix="penstock-gateway-", suffix=".log")[1])
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        line = self.process.stdout.readline()
        if " serves S3 at " not in line:
            self.process.wait()
            raise RuntimeError(f"the gateway ended instead of serving: {self.log()}")
        self.endpoint = line.split(" serves S3 at ")[1].strip()

    def log(self):
        return self.log_path.read_text(errors="replace")

    def metrics(self):
        """Values by their names with labels."""
        address = re.search(r'"admin endpoint","address":"([^"]+)"', self.log())
        with urllib.request.urlopen(f"http://{address[1]}/metrics", timeout=5) as answer:
            lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def moved(self, direction, via):
        """Bytes of bodies passed on."""
        return sum(value for name, value in self.metrics().items() if name.startswith("penstock_gateway_bytes_total{")
                   and f'direction="{direction}"' in name and f'via="{via}"' in name)

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self.log_path.unlink(missing_ok=True)
