"""Runs the rows, prints a table and keeps one JSON object a row in target/bench/results.jsonl."""

import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import gateway
import gpu
import local
import mount
import peers
import rdma
import reconcile
import s3
import vectors

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "target/bench/results.jsonl"
ROWS = [*s3.ROWS, *local.ROWS, *gateway.ROWS, *rdma.ROWS, *gpu.ROWS, *mount.ROWS, *reconcile.ROWS, *vectors.ROWS]


def show(result):
    def number(value):
        return "-" if value is None else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"

    ratio = "-" if result["ratio"] is None else f"{result['ratio']:.2f}x"
    goal = "" if result["goal"] is None else f" (goal {result['goal']:.2f}x)"
    cpu = "" if result["cpu_s_per_gib_ours"] is None else (
        f"; CPU s/GiB {result['cpu_s_per_gib_ours']:.2f} to {number(result['cpu_s_per_gib_peer'])}")
    print(f"{result['row']:<18} {number(result['ours']):>9} {result['unit']:<7} {result['peer_name']:<22} "
          f"{number(result['peer']):>9}  {ratio:>7}{goal}{cpu}", flush=True)


def build():
    print("==> release binaries", flush=True)
    # The whole workspace's features, so that `make images` need not compile the dependencies again.
    subprocess.run(["cargo", "build", "--release", "--workspace", "--bin", "penstock-store", "--bin", "penstock-csi",
                    "--example", "transfer", "--example", "rdma_transfer", "--example", "gpu_transfer"],
                   cwd=ROOT, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", default=".", help="only rows whose name matches this regular expression")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    options = parser.parse_args()
    # What was started is stopped and unmounted on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rows = [(name, measure) for name, measure in ROWS if re.search(options.row, name)]
    if options.list:
        print("\n".join(name for name, _ in rows))
        return
    if not rows:
        sys.exit(f"no row matches {options.row!r}; the rows are: {', '.join(name for name, _ in ROWS)}")
    if "PENSTOCK_BENCH_BINARIES" in os.environ:
        print(f"==> NO RESULT: these are the binaries of {peers.BINARIES}", flush=True)
    else:
        build()
    if any(row in [*s3.ROWS, *mount.ROWS] for row in rows):
        peers.rclone_binary()
    if any(row in mount.ROWS for row in rows):
        peers.install_mountpoint()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with open(RESULTS, "w", encoding="utf-8") as kept:
        for name, measure in rows:
            print(f"==> {name}", flush=True)
            for result in measure(name):
                kept.write(json.dumps(result) + "\n")
                kept.flush()
                show(result)
    print(f"==> {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
