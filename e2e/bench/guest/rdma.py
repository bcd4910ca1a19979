"""Runs in the guest (e2e/guest): moves objects by RDMA with our client and our storage node, and as many bytes with perftest, by
turns. usage: rdma.py get|put RUNS. Prints a line `run: {…}` for each: name, bytes, seconds, processor seconds of both ends."""

import json
import os
import subprocess
import sys
import time

SIZE = 64 << 20
ADDRESS, PORT, PERFTEST_PORT = "10.9.0.1", 9000, 18515
ENDPOINT = f"http://{ADDRESS}:{PORT}"
KEYS = {"AWS_ACCESS_KEY_ID": "bench-access-key", "AWS_SECRET_ACCESS_KEY": "bench-secret-key-0123456789"}
# Of 64 KiB, 1 MiB and 8 MiB (the most that soft-RoCE takes), with 4 to 128 under way, the fastest by some percent; the path MTU is the
# one that our ends agree on.
PERFTEST = ["-d", "rxe0", "-F", "-s", str(8 << 20), "-n", str(2 * SIZE >> 23), "-t", "8", "-m", "4096"]


def ticks(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def listening(port):
    """Whether somebody does, without connecting: perftest serves its first connection and no other."""
    for table in "/proc/net/tcp", "/proc/net/tcp6":
        with open(table, encoding="utf-8") as lines:
            if any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines):
                return True
    return False


def until_listening(port, process):
    for _ in range(1200):
        if listening(port):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    sys.exit(f"nothing listens on {port}")


def perftest(program):
    """The end that asks is where the work is, as with ours the storage node: it counts as the server."""
    passive = subprocess.Popen([program, *PERFTEST], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until_listening(PERFTEST_PORT, passive)
    active = subprocess.Popen([program, *PERFTEST, ADDRESS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    output = active.stdout.read()
    ended = os.wait4(active.pid, 0)
    other = os.wait4(passive.pid, 0)
    if ended[1] or other[1]:
        sys.exit(f"{program} failed: {output}")
    rows = [line.split() for line in output.splitlines() if line.split()[:1] == [PERFTEST[4]]]
    # bytes, iterations, peak, average in MiB/s, messages
    seconds = 2 * SIZE / (float(rows[0][3]) * (1 << 20))
    cost = [usage.ru_utime + usage.ru_stime for _, _, usage in (ended, other)]
    return 2 * SIZE, seconds, cost[0], cost[1]


def ours(store, kind, times, clients):
    before = ticks(store.pid)
    done = subprocess.run(["rdma_transfer", ENDPOINT, kind, "bench", str(SIZE), str(times), str(clients)], env={**os.environ, **KEYS},
                          stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout)
    return told["bytes"], told["seconds"], ticks(store.pid) - before, told["cpu"]


def main():
    kind, runs = sys.argv[1], int(sys.argv[2])
    environment = {**os.environ, "PENSTOCK_ROOT_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"],
                   "PENSTOCK_ROOT_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"], "RUST_LOG": "warn"}
    store = subprocess.Popen(["penstock-store", "serve", "--data", "/tmp/store", "--listen", f"{ADDRESS}:{PORT}", "--rdma", "require"],
                             env=environment)
    until_listening(PORT, store)
    # Every object is there, and everything has been touched once, before the clock runs.
    ours(store, "put", 1, 8)
    peer = "ib_write_bw" if kind == "get" else "ib_read_bw"
    contestants = {peer: lambda: perftest(peer), "one client": lambda: ours(store, kind, 2, 1),
                   "eight clients": lambda: ours(store, kind, 1, 8)}
    if kind == "get":
        contestants["unverified"] = lambda: ours(store, "get-unverified", 2, 1)
    for _ in range(runs):
        for name, work in contestants.items():
            names = "name", "bytes", "seconds", "server_cpu", "client_cpu"
            print("run: " + json.dumps(dict(zip(names, (name, *work())))), flush=True)
    store.terminate()
    store.wait()


if __name__ == "__main__":
    main()
