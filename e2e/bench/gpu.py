"""Objects into and out of GPU memory, on the storage node's host: against the driver's own copies from pinned memory, and by HTTP."""

import json
import os
import pathlib
import statistics

import local
import peers
from measure import GIB, RUNS, cpu_seconds, row, shell

TRANSFER = peers.BINARIES / "examples/gpu_transfer"
SIZE, TIMES = 1 << 30, 8


def has_gpu():
    return pathlib.Path("/proc/driver/nvidia/version").exists() or any(pathlib.Path("/dev").glob("nvidia[0-9]*"))


def move(server, direction, socket, *, by_dma=False):
    """Speed in GiB/s, and processor seconds per GiB of client and storage node."""
    keys = {**os.environ, "AWS_ACCESS_KEY_ID": peers.KEY, "AWS_SECRET_ACCESS_KEY": peers.SECRET,
            "GPU_READS_FILES": str(int(by_dma))}
    before = cpu_seconds(server.pid)
    work = [TRANSFER, server.url, direction, "bench", SIZE, TIMES, *([socket] if socket else [])]
    done = json.loads(shell([str(word) for word in work], env=keys))
    expected = "shm" if socket else "http"
    if done["via"] != expected:
        raise RuntimeError(f"the bytes went by {done['via']} and not by {expected}")
    gib = done["bytes"] / GIB
    # Once more than counted: the first time is for connections and pinning.
    server_cpu = (cpu_seconds(server.pid) - before) * TIMES / (TIMES + 1)
    return gib / done["seconds"], done["cpu"] / gib, server_cpu / gib


def measure(name, direction, *, by_dma=False):
    if not has_gpu():
        print(f"==> {name} is not measured: this machine has no GPU", flush=True)
        return
    pinned, ours, http = [], [], []
    with peers.folder() as path, local.penstock(path) as server:
        socket = path / "penstock.sock"
        # What is read was written, and the bytes are in the page cache.
        move(server, "put", socket)
        for _ in range(RUNS):
            ceiling = json.loads(shell([str(TRANSFER), "ceiling", str(SIZE), str(TIMES)]))
            pinned.append(ceiling["in_pinned" if direction == "get" else "out_pinned"] / GIB)
            ours.append(move(server, direction, socket, by_dma=by_dma))
            http.append(move(server, direction, None))
    median = statistics.median
    speed, client, node = (median(values) for values in zip(*ours))
    http_speed, http_client, http_node = (median(values) for values in zip(*http))
    note = (f"{ceiling['gpu']}; ours {min(ours)[0]:.2f} to {max(ours)[0]:.2f}; processor time is that of client and storage node, "
            f"the client's {client:.3f} of ours")
    yield row(name, "GiB/s", round(speed, 3), "pinned copy by the driver", round(median(pinned), 3), runs=RUNS,
              cpu_ours=round(client + node, 3), note=note)
    yield row(name, "GiB/s", round(speed, 3), "our own HTTP", round(http_speed, 3), runs=RUNS,
              cpu_ours=round(client + node, 3), cpu_peer=round(http_client + http_node, 3), note=note)


ROWS = [("gpu-get-local", lambda name: measure(name, "get")), ("gpu-get-dma", lambda name: measure(name, "get", by_dma=True)),
        ("gpu-put-local", lambda name: measure(name, "put"))]
