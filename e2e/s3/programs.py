"""Programs that people use with S3, run against a storage node with their default settings."""

import hashlib
import os
import pathlib
import subprocess
import sys
import urllib.parse

from helpers import pattern
from node import ACCESS, REGION, SECRET

ROOT = pathlib.Path(__file__).resolve().parents[2]
MIB = 1 << 20
# Names that clients escape, each in a way of its own, and that a server must not read twice.
NAMES = ["plain.txt", "a space.txt", "plus+plus.txt", "100%.txt", "%41.txt", "%2F.txt", "ünï→.txt", "e\u0301.txt", "it's & <b>.txt",
         "ques?tion#hash.txt", "semi;colon=at@.txt", "[bracket]{brace}.txt", "deep/er/and deeper/file", "tilde~!$(),.txt"]


class Program:
    """Runs one program with its settings in the environment. What it writes is returned as bytes."""

    def __init__(self, command, **environment):
        self.command, self.environment = command, {**os.environ, "LC_ALL": "C.UTF-8", **environment}

    def run(self, *arguments, stdin=b"", fails=False):
        done = subprocess.run([*self.command, *map(str, arguments)], input=stdin, capture_output=True, env=self.environment,
                              timeout=120, check=False)
        assert (done.returncode != 0) == fails, (arguments, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
        assert SECRET.encode() not in done.stdout + done.stderr
        return done.stderr if fails else done.stdout


def aws(node, ca=None, **more):
    """The AWS CLI. Nothing is tried twice: what fails once is to be seen."""
    environment = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": REGION,
                   "AWS_ENDPOINT_URL": node.endpoint, "AWS_MAX_ATTEMPTS": "1", "PYTHONUTF8": "1", **more}
    if ca:
        environment["AWS_CA_BUNDLE"] = ca
    return Program([sys.executable, pathlib.Path(sys.executable).with_name("aws")], **environment)


def rclone(node, ca=None):
    """rclone, whose remote `node:` is the storage node."""
    built = subprocess.run([ROOT / "e2e/rclone/build"], check=True, stdout=subprocess.PIPE, text=True)
    remote = {"TYPE": "s3", "PROVIDER": "Other", "ACCESS_KEY_ID": ACCESS, "SECRET_ACCESS_KEY": SECRET, "REGION": REGION,
              "ENDPOINT": node.endpoint}
    environment = {f"RCLONE_CONFIG_NODE_{name}": value for name, value in remote.items()}
    if ca:
        environment["RCLONE_CA_CERT"] = ca
    return Program([built.stdout.strip()], RCLONE_CONFIG="/dev/null", RCLONE_RETRIES="1", RCLONE_LOW_LEVEL_RETRIES="1", **environment)


def write_tree(folder, names=NAMES, seed=1):
    """Writes files below `folder`, of different lengths with different contents."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pattern(1 + number * 997, seed * 1000 + number))


def digest(content):
    return hashlib.sha256(content).hexdigest()


def hashes_in(folder):
    """SHA-256 of every file, by its name below `folder`."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digest(path.read_bytes()) for path in files}


def hashes_of(s3, bucket, prefix=""):
    """SHA-256 of every object, by its key after `prefix`, as boto3 reads them."""
    found = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            body = s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            found[entry["Key"].removeprefix(prefix)] = digest(body)
    return found


def curl(url, *arguments):
    """What curl gets; the status is looked at."""
    assert urllib.parse.urlsplit(url).scheme in ("http", "https")
    done = subprocess.run(["curl", "--silent", "--show-error", "--fail", "--globoff", *arguments, url], capture_output=True,
                          timeout=60, check=True)
    return done.stdout
