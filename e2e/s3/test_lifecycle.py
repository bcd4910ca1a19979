"""The process: what survives it, what it refuses, and a disk that is full."""

import os
import shutil
import signal
import subprocess
import tempfile

import pytest

from helpers import pattern, refused
from node import Node


def test_objects_survive_a_restart_and_a_kill(tmp_path):
    bodies = {f"k{n}": pattern(n * 50_000, n) for n in range(8)}
    node = Node(data=tmp_path)
    try:
        s3 = node.client()
        s3.create_bucket(Bucket="bucket")
        for key, body in bodies.items():
            s3.put_object(Bucket="bucket", Key=key, Body=body)
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()
    finally:
        node.close()
    for _ in range(2):
        node = Node(data=tmp_path)
        try:
            s3 = node.client()
            for key, body in bodies.items():
                assert s3.get_object(Bucket="bucket", Key=key)["Body"].read() == body
        finally:
            node.close()
        assert node.process.returncode == 0


def test_a_second_process_on_the_same_folder_is_refused(tmp_path):
    node = Node(data=tmp_path)
    try:
        with pytest.raises(RuntimeError, match="is in use by another process"):
            Node(data=tmp_path)
    finally:
        node.close()


def run(*arguments, **environment):
    environment = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run([os.environ["PENSTOCK_STORE_BINARY"], *arguments], capture_output=True, text=True, timeout=20, env=environment)


def test_bad_input_is_one_line_and_a_failure(tmp_path):
    for arguments, environment, expected in [
        (["serve", "--data", "/proc/nowhere"], {}, "the data folder /proc/nowhere cannot be used"),
        (["serve", "--data", str(tmp_path), "--listen", "192.0.2.1:1"], {}, "cannot listen on 192.0.2.1:1"),
        (["serve", "--data", str(tmp_path)], {"PENSTOCK_ROOT_ACCESS_KEY": "abc"}, "without the root secret key"),
        (["serve", "--data", str(tmp_path), "--root-access-key-file", "/none", "--root-secret-key-file", "/none"], {}, "the key file /none"),
    ]:
        ended = run(*arguments, **environment)
        errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
        assert ended.returncode != 0 and len(errors) == 1 and expected in errors[0], ended.stderr


def test_it_says_what_it_is():
    assert run("--version").stdout.startswith("penstock-store ")
    assert "--data" in run("serve", "--help").stdout


def test_a_pair_of_keys_is_made_and_told(tmp_path):
    binary = os.environ["PENSTOCK_STORE_BINARY"]
    process = subprocess.Popen([binary, "serve", "--data", tmp_path, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True, env={"PATH": os.environ["PATH"]})
    try:
        told = process.stdout.readline().strip()
        endpoint = process.stdout.readline().split(" serves S3 at ")[1].strip()
        path = told.removeprefix("root credentials: ")
        keys = dict(line.split("=", 1) for line in open(path).read().splitlines())
        assert os.stat(path).st_mode & 0o777 == 0o600
        import boto3
        s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1",
                          aws_access_key_id=keys["PENSTOCK_ROOT_ACCESS_KEY"], aws_secret_access_key=keys["PENSTOCK_ROOT_SECRET_KEY"])
        assert s3.list_buckets()["Buckets"] == []
    finally:
        process.terminate()
        process.wait(15)
        process.stdout.close()


def test_a_full_disk_refuses_writes_and_goes_on_reading():
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tempfile.mkdtemp(prefix="penstock-full-")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], check=True)
    try:
        node = Node(data=folder)
        try:
            s3 = node.client()
            s3.create_bucket(Bucket="bucket")
            kept = 0
            with refused("InsufficientStorage", 507):
                for kept in range(100):
                    s3.put_object(Bucket="bucket", Key=f"k{kept}", Body=pattern(3_000_000, kept))
            assert kept > 5
            for n in range(kept):
                assert s3.get_object(Bucket="bucket", Key=f"k{n}")["Body"].read() == pattern(3_000_000, n)
            assert s3.list_objects_v2(Bucket="bucket")["KeyCount"] == kept
            for n in range(3):
                s3.delete_object(Bucket="bucket", Key=f"k{n}")
            s3.put_object(Bucket="bucket", Key="again", Body=pattern(3_000_000, 7))
            assert s3.get_object(Bucket="bucket", Key="again")["Body"].read() == pattern(3_000_000, 7)
        finally:
            node.close()
    finally:
        subprocess.run(["umount", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)
