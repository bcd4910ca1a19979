"""Builds of an index by a real Milvus, by where it keeps its files: the storage node by its gateway, the storage node directly, and its own disk.

Milvus listens on every address there is, so each run is in a network namespace of its own, with the storage node and the gateway in it.
"""

import json
import pathlib
import statistics

import peers
from measure import row, shell

HERE = pathlib.Path(__file__).resolve().parent


def build(name):
    """IVF_FLAT over 200,000 vectors of 128 numbers, in segments of 24 MB: the cheapest index to compute, so that files count most."""
    milvus = shell([HERE.parent / "cluster/milvus"]).strip()
    python = shell([HERE.parent / "python-env", HERE.parent / "vectors/requirements.txt"]).strip()
    seconds = {}
    for way in ("gateway", "direct", "local"):
        with peers.folder() as path:
            command = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", python, "-W", "ignore",
                       HERE / "vectors_build.py", way, milvus, peers.BINARIES, path]
            lines = shell(command).splitlines()
        seconds[way] = json.loads(lines[-1])
    ours = seconds["gateway"]
    for peer, what in (("direct", "the storage node by HTTP"), ("local", "Milvus' own disk")):
        theirs = seconds[peer]
        yield row(name, "s", round(statistics.median(ours["builds"]), 3), what, round(statistics.median(theirs["builds"]), 3), runs=len(ours["builds"]),
                  note=f"ours {ours['builds']}, theirs {theirs['builds']}; of ours {ours['computing']:.0%} was computing", less=True)


ROWS = [("vectors-build", build)]
