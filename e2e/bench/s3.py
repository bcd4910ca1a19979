"""The storage node against nginx (a ceiling for GET) and rclone serve s3 (a peer), on the same bytes in the same run."""

import contextlib
import os
import re

import peers
from measure import GIB, against, shell, taking_turns

LARGE = 1 << 30
SMALL, SMALL_COUNT = 16 << 10, 256
CONNECTIONS, SECONDS = 16, 4
UNSYNCED = "ours is on disk (fsync) before the answer, rclone's is not"


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


def transfer(*command):
    def work(_):
        shell(["curl", "-sSf", *command])
        return LARGE / GIB
    return work


def get_large(name):
    """GET of 1 GiB over one connection."""
    with peers.folder() as path, filled(path, [peers.penstock, peers.nginx, peers.rclone], True) as (servers, _):
        results = taking_turns({
            server.name: (transfer("-o", "/dev/null", server.get_url("large")), server.pid) for server in servers})
    yield from against(name, "GiB/s", results, goals={"nginx sendfile": 1.0, "rclone serve s3": 1.0},
                       note="nginx checks no signature and no checksum")


def put_large(name):
    """PUT of 1 GiB over one connection, durable when answered (rclone does not sync to disk)."""
    with peers.folder() as path, filled(path, [peers.penstock, peers.rclone], True) as (servers, payload):
        results = taking_turns({
            server.name: (transfer("-H", "Expect:", "-T", payload, server.put_url("put")), server.pid)
            for server in servers})
    yield from against(name, "GiB/s", results, note=UNSYNCED)


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
        results = under_load(path, servers, lambda server: [
            server.get_url(f"small-{number}") for number in range(SMALL_COUNT)], lua_get)
    yield from against(name, "req/s", results, gib_per_unit=SMALL / GIB, goals={"rclone serve s3": 1.0},
                       note="nginx checks no signature and no checksum")


def put_small(name):
    """Signed PUTs of 16 KiB over 16 connections, durable when answered (rclone does not sync to disk)."""
    with peers.folder() as path, filled(path, [peers.penstock, peers.rclone], False) as (servers, _):
        results = under_load(path, servers, lambda server: [
            server.put_url(f"new-{number}") for number in range(4 * SMALL_COUNT)], lua_put)
    yield from against(name, "req/s", results, gib_per_unit=SMALL / GIB, note=UNSYNCED)


def under_load(path, servers, urls, script):
    def contestant(server):
        signed = urls(server)
        return lambda _: wrk(path, server, signed, script), server.pid
    return taking_turns({server.name: contestant(server) for server in servers})


ROWS = [("s3-get-large", get_large), ("s3-put-large", put_large), ("s3-get-16k", get_small), ("s3-put-16k", put_small)]
