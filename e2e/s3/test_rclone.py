"""rclone as people use it."""

import hashlib
import json
import re
import uuid

import pytest

from helpers import headers, pattern
from programs import MIB, NAMES, digest, hashes_in, hashes_of, rclone, write_tree
from test_tls import secure  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def program(node):
    return rclone(node)


@pytest.fixture
def tree(tmp_path):
    write_tree(tmp_path / "up")
    return tmp_path / "up"


def test_a_copy_survives_both_ways(program, s3, bucket, tree, tmp_path):
    program.run("copy", tree, f"node:{bucket}/tree")
    assert hashes_of(s3, bucket, "tree/") == hashes_in(tree)
    assert set(hashes_in(tree)) == set(NAMES)
    program.run("copy", f"node:{bucket}/tree", tmp_path / "down")
    assert hashes_in(tmp_path / "down") == hashes_in(tree)


def test_a_sync_deletes_what_is_not_there(program, s3, bucket, tree, tmp_path):
    program.run("sync", tree, f"node:{bucket}")
    program.run("sync", f"node:{bucket}", tmp_path / "down")
    for name in ("100%.txt", "a space.txt", "deep/er/and deeper/file"):
        (tree / name).unlink()
    (tree / "plain.txt").write_bytes(b"another")
    program.run("sync", tree, f"node:{bucket}")
    assert hashes_of(s3, bucket) == hashes_in(tree)
    program.run("sync", f"node:{bucket}", tmp_path / "down")
    assert hashes_in(tmp_path / "down") == hashes_in(tree)


def test_what_is_the_same_by_its_checksum_is_not_copied_again(program, s3, bucket, tree):
    program.run("copy", "--checksum", tree, f"node:{bucket}")
    written = {entry["Key"]: entry["LastModified"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]}
    # Of the same length, so that only its checksum tells it.
    path = tree / "plus+plus.txt"
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    (tree / "plain.txt").touch()
    said = program.run("copy", "--checksum", "--stats-one-line", "--use-json-log", "-v", tree, f"node:{bucket}")
    assert said == b""
    changed = [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]
               if entry["LastModified"] != written[entry["Key"]]]
    assert set(changed) <= {"plus+plus.txt"}
    assert hashes_of(s3, bucket) == hashes_in(tree)


def test_a_check_reads_everything_and_finds_what_differs(program, s3, bucket, tree):
    program.run("copy", tree, f"node:{bucket}")
    program.run("check", "--download", tree, f"node:{bucket}")
    program.run("check", tree, f"node:{bucket}")
    body = s3.get_object(Bucket=bucket, Key="%41.txt")["Body"].read()
    s3.put_object(Bucket=bucket, Key="%41.txt", Body=bytes([body[0] ^ 1]) + body[1:])
    assert b"%41.txt: contents differ" in program.run("check", "--download", tree, f"node:{bucket}", fails=True)


def test_a_listing_has_names_sizes_and_hashes(program, bucket, tree):
    program.run("copy", tree, f"node:{bucket}")
    listed = json.loads(program.run("lsjson", "--recursive", "--files-only", "--hash", f"node:{bucket}"))
    assert {entry["Path"]: entry["Size"] for entry in listed} == {
        name: (tree / name).stat().st_size for name in NAMES}
    assert {entry["Path"]: entry["Hashes"]["md5"] for entry in listed} == {
        name: hashlib.md5((tree / name).read_bytes()).hexdigest() for name in NAMES}
    shallow = json.loads(program.run("lsjson", "--dirs-only", f"node:{bucket}"))
    assert [entry["Path"] for entry in shallow] == ["deep"]


def test_an_object_is_moved_in_the_storage_node(program, s3, bucket, tmp_path):
    content = pattern(3 * MIB)
    program.run("rcat", f"node:{bucket}/from+ü %.txt", stdin=content)
    before = s3.head_object(Bucket=bucket, Key="from+ü %.txt")
    log = tmp_path / "log"
    program.run("moveto", "-vv", "--dump", "headers", "--log-file", log, f"node:{bucket}/from+ü %.txt", f"node:{bucket}/to/ö+%.txt")
    told = log.read_text()
    assert "X-Amz-Copy-Source: " in told and re.search(r"Server Side Copies: +1 @ 3 MiB", told)
    after = s3.head_object(Bucket=bucket, Key="to/ö+%.txt")
    assert (after["ETag"], after["Metadata"]) == (before["ETag"], before["Metadata"])
    assert hashes_of(s3, bucket) == {"to/ö+%.txt": digest(content)}


@pytest.mark.parametrize("length", [0, 7, 11 * MIB + 5], ids=["empty", "small", "multipart"])
def test_a_stream_of_unknown_length_becomes_an_object(program, s3, bucket, length):
    content = pattern(length)
    program.run("rcat", "--streaming-upload-cutoff", "100Ki", f"node:{bucket}/a/stream", stdin=content)
    assert hashes_of(s3, bucket) == {"a/stream": digest(content)}
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_a_large_file_goes_by_parts(program, s3, bucket, tmp_path):
    content = pattern(64 * MIB + 1)
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "large").write_bytes(content)
    program.run("copy", "--s3-upload-cutoff", "16Mi", "--s3-chunk-size", "8Mi", tmp_path / "up", f"node:{bucket}")
    head = s3.head_object(Bucket=bucket, Key="large")
    assert head["ETag"].endswith('-9"') and head["ContentLength"] == len(content)
    # The MD5 of a multipart upload is not its entity tag: rclone keeps it itself.
    assert "x-amz-meta-md5chksum" in headers(head)
    program.run("check", "--download", tmp_path / "up", f"node:{bucket}")
    program.run("copy", "--multi-thread-cutoff", "16Mi", f"node:{bucket}", tmp_path / "down")
    assert hashes_in(tmp_path / "down") == {"large": digest(content)}


def test_buckets_are_made_and_purged(program, s3, tree):
    name = f"test-{uuid.uuid4().hex}"
    program.run("mkdir", f"node:{name}")
    program.run("copy", tree, f"node:{name}/a")
    program.run("copy", tree, f"node:{name}/b")
    program.run("purge", f"node:{name}/a")
    assert hashes_of(s3, name, "b/") == hashes_in(tree) and hashes_of(s3, name, "a/") == {}
    program.run("purge", f"node:{name}")
    assert name not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]


def test_it_works_over_tls_with_the_ca(secure, tree, tmp_path):  # noqa: F811
    node, ca = secure
    program = rclone(node, ca)
    (tree / "large").write_bytes(pattern(9 * MIB))
    program.run("mkdir", "node:rclone")
    program.run("sync", tree, "node:rclone")
    program.run("check", "--download", tree, "node:rclone")
    program.run("sync", "node:rclone", tmp_path / "down")
    assert hashes_in(tmp_path / "down") == hashes_in(tree)
    assert b"certificate" in rclone(node).run("lsjson", "node:", fails=True)
