"""The storage node against nginx (a ceiling for GET) and rclone serve s3 (a peer), on the same bytes in the same run."""

import contextlib
import os
import re

import peers
from measure import GIB, rates, row, shell

LARGE = 1 << 30
SMALL, SMALL_COUNT = 16 << 10, 256
CONNECTIONS, SECONDS = 16, 5


@contextlib.contextmanager
def filled(path, kinds, large):
    """The servers, each with the same objects in bucket `bench`."""
    payload = path / "payload"
    with open(payload, "wb") as out:
        block = os.urandom(16 << 20)
        for _ in range((LARGE if large else SMALL) // min(len(block), LARGE if large else SMALL)):
            out.write(block[:LARGE if large else SMALL])
    names = ["large"] if large else [f"small-{number}" for number in range(SMALL_COUNT)]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(kind(path)) for kind in kinds]
        for server in servers:
            if server.s3 is None:
                for name in names:
                    shell(["cp", payload, path / "nginx/bench" / name])
                continue
            server.s3.create_bucket(Bucket="bench")
            for name in names:
                server.s3.upload_file(str(payload), "bench", name)
        yield servers, payload


def get(server, key):
    shell(["curl", "-sSf", "-o", "/dev/null", server.get_url(key)])


def get_large(name):
    """GET of 1 GiB over one connection."""
    with peers.folder() as path, filled(path, [peers.penstock, peers.nginx, peers.rclone], True) as (servers, _):
        yield from against(name, "GiB/s", servers, lambda server: rates(
            lambda: get(server, "large"), LARGE / GIB, server.pid), goals={"nginx sendfile": 1.0, "rclone serve s3": 1.0})


def put_large(name):
    """PUT of 1 GiB over one connection, durable when answered (rclone does not sync to disk)."""
    with peers.folder() as path, filled(path, [peers.penstock, peers.rclone], True) as (servers, payload):
        def put(server):
            shell(["curl", "-sSf", "-H", "Expect:", "-T", payload, server.put_url("put")])
        yield from against(name, "GiB/s", servers, lambda server: rates(
            lambda: put(server), LARGE / GIB, server.pid), note="ours is synced to disk before the answer, rclone's is not")


def wrk(path, server, requests, script):
    """Requests per second of a closed loop over 16 connections."""
    lua = path / "load.lua"
    lua.write_text(script(requests))
    out = shell(["wrk", "-t2", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", lua, server.url])
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    if errors:
        raise RuntimeError(f"{server.name} answered {errors[1]} errors:\n{out}")
    return int(re.search(r"(\d+) requests in", out)[1])


def lua_get(urls):
    paths = ",".join('"/' + url.split("/", 3)[3] + '"' for url in urls)
    return f"""local paths = {{{paths}}}
local next = 0
request = function() next = next % #paths + 1; return wrk.format("GET", paths[next]) end"""


def lua_put(urls):
    paths = ",".join('"/' + url.split("/", 3)[3] + '"' for url in urls)
    return f"""local paths = {{{paths}}}
local next = 0
local body = string.rep("p", {SMALL})
request = function() next = next % #paths + 1; return wrk.format("PUT", paths[next], nil, body) end"""


def get_small(name):
    """Signed GETs of 16 KiB over 16 connections (nginx: without signatures)."""
    with peers.folder() as path, filled(path, [peers.penstock, peers.nginx, peers.rclone], False) as (servers, _):
        def load(server):
            urls = [server.get_url(f"small-{number}") for number in range(SMALL_COUNT)]
            return rates(lambda: wrk(path, server, urls, lua_get), None, server.pid)
        yield from against(name, "req/s", servers, load, per_request=SMALL, goals={"rclone serve s3": 1.0})


def put_small(name):
    """Signed PUTs of 16 KiB over 16 connections, durable when answered (rclone does not sync to disk)."""
    with peers.folder() as path, filled(path, [peers.penstock, peers.rclone], False) as (servers, _):
        def load(server):
            urls = [server.put_url(f"new-{number}") for number in range(4 * SMALL_COUNT)]
            return rates(lambda: wrk(path, server, urls, lua_put), None, server.pid)
        yield from against(name, "req/s", servers, load, per_request=SMALL,
                           note="ours is synced to disk before the answer, rclone's is not")


def against(name, unit, servers, load, *, per_request=None, goals=None, note=""):
    """One result per peer; the first server is ours."""
    speeds = {server.name: load(server) for server in servers}
    scale = GIB / per_request if per_request else 1
    ours, cpu = speeds.pop(servers[0].name)
    for peer, (speed, peer_cpu) in speeds.items():
        yield row(name, unit, round(ours, 3), peer, round(speed, 3), goal=(goals or {}).get(peer), runs=3, note=note,
                  cpu_ours=round(cpu * scale, 3), cpu_peer=round(peer_cpu * scale, 3))


ROWS = [("s3-get-large", get_large), ("s3-put-large", put_large), ("s3-get-16k", get_small), ("s3-put-16k", put_small)]
