"""Backups of the real process, and data folders from them (`penstock-store backup`, `restore`)."""

import json
import os
import pathlib
import shutil
import subprocess
import threading

import pytest

from helpers import raw, signed
from node import ACCESS, SECRET, Node


def body(s3, bucket, key):
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def command(node, *arguments, access=ACCESS, secret=SECRET):
    environment = {**os.environ, "PENSTOCK_ROOT_ACCESS_KEY": access, "PENSTOCK_ROOT_SECRET_KEY": secret}
    return subprocess.run([os.environ["PENSTOCK_STORE_BINARY"], *arguments, "--endpoint", node.direct],
                          env=environment, capture_output=True, text=True, timeout=60)


def restore(backup, data):
    return subprocess.run([os.environ["PENSTOCK_STORE_BINARY"], "restore", "--from", str(backup), "--data", str(data)],
                          capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    node = Node("--backups", str(folder / "backups"), data=folder / "data")
    node.client().create_bucket(Bucket="bucket")
    yield node, folder
    node.close()


def test_a_backup_is_made_while_objects_are_written_and_makes_a_storage_node(kept, tmp_path):
    node, folder = kept
    s3 = node.client()
    s3.put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket="bucket", Key="k", Body=b"old")
    s3.put_object(Bucket="bucket", Key="k", Body=b"new", Metadata={"a": "b"})
    s3.put_object(Bucket="bucket", Key="sealed", Body=b"sealed" * 30_000, ServerSideEncryption="AES256")
    made = command(node, "key", "create", "--name", "app", "--read", "bucket", "--output", "json")
    key = json.loads(made.stdout)
    ended = threading.Event()

    def write():
        client, number = node.client(), 0
        while not ended.is_set():
            client.put_object(Bucket="bucket", Key=f"load/{number % 20}", Body=os.urandom(20_000))
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        done = command(node, "backup", "create", "first")
    finally:
        ended.set()
        writer.join()
    assert done.returncode == 0 and done.stdout.startswith("first: "), done
    assert "files, 0 B copied" in done.stdout, "on one file system they are links"
    s3.delete_object(Bucket="bucket", Key="k")
    s3.put_object(Bucket="bucket", Key="later", Body=b"later")
    backup = folder / "backups" / "first"
    manifest = json.loads((backup / "backup.json").read_text())
    assert manifest["format"] == 3 and manifest["missing"] == 0 and len(manifest["masterKey"]) == 16
    assert backup.stat().st_mode & 0o777 == 0o700
    for path in backup.rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path
            assert path.name == "index.redb" or b"sealed" not in path.read_bytes(), path
    # As it is carried to another machine.
    away = shutil.copytree(backup, tmp_path / "away")
    data = tmp_path / "data"
    done = restore(away, data)
    assert done.returncode == 0 and ", 0 broken" in done.stdout, done
    with pytest.raises(RuntimeError, match="put it back"):
        Node(data=data)
    shutil.copy(folder / "data" / "master-key", data / "master-key")
    other = Node(data=data)
    try:
        s3 = other.client()
        found = s3.get_object(Bucket="bucket", Key="k")
        assert found["Body"].read() == b"new" and found["Metadata"] == {"a": "b"}
        versions = s3.list_object_versions(Bucket="bucket", Prefix="k")
        assert len(versions["Versions"]) == 2 and "DeleteMarkers" not in versions
        assert body(s3, "bucket", "sealed") == b"sealed" * 30_000
        assert "later" not in [entry["Key"] for entry in s3.list_objects_v2(Bucket="bucket")["Contents"]]
        assert body(other.client(key["accessKeyId"], key["secretAccessKey"]), "bucket", "k") == b"new"
        assert command(other, "check").returncode == 0
    finally:
        other.close()


def test_backups_are_listed_and_deleted(kept):
    node, folder = kept
    assert command(node, "backup", "create", "a").returncode == 0
    again = command(node, "backup", "create", "a")
    assert again.returncode == 1 and "there is a backup a already" in again.stderr
    assert command(node, "backup", "create").returncode == 0
    listed = json.loads(command(node, "backup", "list", "--output", "json").stdout)
    names = [backup["name"] for backup in listed["backups"]]
    assert "a" in names and names == sorted(names, key=lambda name: next(
        backup["created"] for backup in listed["backups"] if backup["name"] == name))
    assert listed["last"]["running"] is False and "error" not in listed["last"]
    assert command(node, "backup", "delete", "a").stdout == "deleted a\n"
    gone = command(node, "backup", "delete", "a")
    assert gone.returncode == 1 and "there is no backup a" in gone.stderr and len(gone.stderr.splitlines()) == 1
    assert command(node, "backup", "create", "b", "--keep", "1").returncode == 0
    left = json.loads(command(node, "backup", "list", "--output", "json").stdout)["backups"]
    assert [backup["name"] for backup in left] == ["b"]
    assert [path.name for path in (folder / "backups").iterdir()] == ["b"]


def test_only_the_root_key_makes_backups(kept):
    node, _ = kept
    made = command(node, "key", "create", "--name", "all", "--read-write", "*", "--output", "json")
    key = json.loads(made.stdout)
    for arguments in (("create",), ("list",), ("delete", "b")):
        done = command(node, "backup", *arguments, access=key["accessKeyId"], secret=key["secretAccessKey"])
        assert done.returncode == 1 and "AccessDenied" in done.stderr, done
    for method, path in (("PUT", "/.penstock/v1/backups"), ("GET", "/.penstock/v1/backups/a"), ("DELETE", "/.penstock/v1/backups")):
        state, _, _ = raw(node, method, path, signed(node, method, path))
        assert state == 405, (method, path)


def test_without_a_place_there_are_no_backups(tmp_path):
    node = Node(data=tmp_path)
    done = command(node, "backup", "create")
    node.close()
    assert done.returncode == 1 and "--backups" in done.stderr, done


def test_a_backup_that_finds_no_room_is_told_and_harms_nothing(tmp_path):
    """A small disk of its own for backups."""
    place = tmp_path / "place"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=True)
    try:
        node = Node("--backups", str(place), data=tmp_path / "data")
        try:
            s3 = node.client()
            s3.create_bucket(Bucket="bucket")
            content = os.urandom(6 << 20)
            s3.put_object(Bucket="bucket", Key="k", Body=content)
            done = command(node, "backup", "create", "b")
            assert done.returncode == 1 and "no space is left" in done.stderr, done
            assert list(place.iterdir()) == [], "its room is free again"
            assert body(s3, "bucket", "k") == content
            s3.delete_object(Bucket="bucket", Key="k")
            done = command(node, "backup", "create", "b")
            assert done.returncode == 0, done
        finally:
            node.close()
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_crash_during_a_backup_leaves_none_and_no_lost_space(tmp_path):
    node = Node("--backups", str(tmp_path / "backups"), data=tmp_path / "data")
    node.client().create_bucket(Bucket="bucket")
    node.process.kill()
    node.close()
    # What a process leaves that dies in the middle of one.
    partial = tmp_path / "backups" / ".b.partial"
    partial.mkdir()
    (partial / "index.redb").write_bytes(b"half")
    aside = tmp_path / "data" / "tmp" / f"removed-0-{'0' * 32}"
    aside.write_bytes(b"deleted")
    node = Node("--backups", str(tmp_path / "backups"), data=tmp_path / "data")
    try:
        assert not partial.exists() and not aside.exists()
        assert command(node, "backup", "create", "b").returncode == 0
    finally:
        node.close()


def test_a_folder_is_refused_that_holds_something(kept, tmp_path):
    node, folder = kept
    assert command(node, "backup", "create", "c").returncode == 0
    done = restore(folder / "backups" / "c", folder / "data")
    assert done.returncode == 1 and "in use" in done.stderr and len(done.stderr.splitlines()) == 1, done
    done = restore(pathlib.Path("/nowhere"), tmp_path / "d")
    assert done.returncode == 1 and "no whole backup" in done.stderr, done
    assert not (tmp_path / "d").exists()
