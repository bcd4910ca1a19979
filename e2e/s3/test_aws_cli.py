"""The AWS CLI as people use it."""

import json
import uuid

import pytest

from helpers import pattern
from programs import MIB, NAMES, aws, curl, digest, hashes_in, hashes_of, write_tree
from test_tls import secure  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def cli(node):
    return aws(node)


@pytest.fixture
def api(cli):
    """`aws s3api`, whose answers are documents."""
    def call(*arguments):
        answer = cli.run("s3api", *arguments)
        return json.loads(answer) if answer.strip() else {}
    return call


def test_a_bucket_is_made_listed_and_removed(cli, s3):
    name = f"test-{uuid.uuid4().hex}"
    cli.run("s3", "mb", f"s3://{name}")
    assert name in cli.run("s3", "ls").decode()
    cli.run("s3", "cp", "-", f"s3://{name}/k", stdin=b"x")
    assert b"BucketNotEmpty" in cli.run("s3", "rb", f"s3://{name}", fails=True)
    cli.run("s3", "rb", "--force", f"s3://{name}")
    assert name not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]


@pytest.mark.parametrize("length", [0, 11, 64 * MIB + 1], ids=["empty", "small", "multipart"])
def test_a_file_is_copied_up_and_down(cli, s3, bucket, tmp_path, length):
    content = pattern(length)
    (tmp_path / "up.bin").write_bytes(content)
    cli.run("s3", "cp", tmp_path / "up.bin", f"s3://{bucket}/a/up.bin", "--no-progress")
    head = s3.head_object(Bucket=bucket, Key="a/up.bin")
    # 8 MiB a part, as it comes.
    parts = head["ETag"].strip('"').partition("-")[2]
    assert (head["ContentLength"], parts) == (length, "9" if length > 8 * MIB else "")
    cli.run("s3", "cp", f"s3://{bucket}/a/up.bin", tmp_path / "down.bin", "--no-progress")
    assert digest((tmp_path / "down.bin").read_bytes()) == digest(content)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


@pytest.mark.parametrize("length", [5, 20 * MIB + 3], ids=["small", "multipart"])
def test_streams_are_copied(cli, bucket, length):
    content = pattern(length)
    cli.run("s3", "cp", "-", f"s3://{bucket}/stream", stdin=content)
    assert digest(cli.run("s3", "cp", f"s3://{bucket}/stream", "-")) == digest(content)


def test_a_listing_adds_up(cli, s3, bucket):
    for key in ("a", "dir/one", "dir/sub/two"):
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    shallow = cli.run("s3", "ls", f"s3://{bucket}/").decode()
    assert [line.split()[-1] for line in shallow.splitlines()] == ["dir/", "a"]
    deep = cli.run("s3", "ls", "--recursive", "--summarize", f"s3://{bucket}").decode()
    assert [line.split()[2:] for line in deep.splitlines()[:3]] == [["1", "a"], ["7", "dir/one"], ["11", "dir/sub/two"]]
    assert "Total Objects: 3" in deep and "Total Size: 19" in deep
    cli.run("s3", "ls", f"s3://{bucket}/nothing", fails=True)


def test_names_survive_a_sync_both_ways(cli, s3, bucket, tmp_path):
    up, down = tmp_path / "up", tmp_path / "down"
    write_tree(up)
    cli.run("s3", "sync", up, f"s3://{bucket}/tree")
    assert hashes_of(s3, bucket, "tree/") == hashes_in(up)
    assert set(hashes_in(up)) == set(NAMES)
    cli.run("s3", "sync", f"s3://{bucket}/tree", down)
    assert hashes_in(down) == hashes_in(up)
    # What is the same is not copied again.
    assert cli.run("s3", "sync", up, f"s3://{bucket}/tree") == b""


def test_a_sync_deletes_what_is_not_there(cli, s3, bucket, tmp_path):
    up, down = tmp_path / "up", tmp_path / "down"
    write_tree(up)
    cli.run("s3", "sync", up, f"s3://{bucket}")
    cli.run("s3", "sync", f"s3://{bucket}", down)
    for name in ("100%.txt", "a space.txt", "deep/er/and deeper/file"):
        (up / name).unlink()
    (up / "plain.txt").write_bytes(b"of another length")
    cli.run("s3", "sync", "--delete", up, f"s3://{bucket}")
    assert hashes_of(s3, bucket) == hashes_in(up)
    cli.run("s3", "sync", "--delete", f"s3://{bucket}", down)
    assert hashes_in(down) == hashes_in(up)


def test_objects_are_moved_and_removed_by_prefix(cli, s3, bucket, tmp_path):
    write_tree(tmp_path / "up")
    expected = hashes_in(tmp_path / "up")
    cli.run("s3", "mv", "--recursive", tmp_path / "up", f"s3://{bucket}/from")
    assert hashes_in(tmp_path / "up") == {}
    cli.run("s3", "mv", "--recursive", f"s3://{bucket}/from", f"s3://{bucket}/to")
    assert hashes_of(s3, bucket, "to/") == expected and hashes_of(s3, bucket, "from/") == {}
    s3.put_object(Bucket=bucket, Key="tower", Body=b"stays")
    cli.run("s3", "rm", "--recursive", f"s3://{bucket}/to/")
    assert list(hashes_of(s3, bucket)) == ["tower"]


def test_a_large_object_is_moved_by_parts(cli, s3, bucket, tmp_path):
    content = pattern(18 * MIB)
    (tmp_path / "f").write_bytes(content)
    cli.run("s3", "mv", tmp_path / "f", f"s3://{bucket}/one", "--no-progress")
    cli.run("s3", "mv", f"s3://{bucket}/one", f"s3://{bucket}/two", "--no-progress")
    assert hashes_of(s3, bucket) == {"two": digest(content)}
    assert s3.head_object(Bucket=bucket, Key="two")["ETag"].endswith('-3"')


def test_a_presigned_url_opens_one_object(node, cli, bucket, tmp_path):
    content = pattern(100_000)
    # Version 1 of the CLI presigns with Signature Version 2 for endpoints that are not AWS's, unless it is told.
    (tmp_path / "config").write_text("[default]\ns3 =\n  signature_version = s3v4\n")
    presigning = aws(node, AWS_CONFIG_FILE=str(tmp_path / "config"))
    cli.run("s3", "cp", "-", f"s3://{bucket}/a b+c%/ü", stdin=content)
    url = presigning.run("s3", "presign", f"s3://{bucket}/a b+c%/ü", "--expires-in", "60").decode().strip()
    assert digest(curl(url)) == digest(content)
    assert url.count("/a%20b") == 1
    status = curl(url.replace("/a%20b", "/another"), "--no-fail", "--output", "/dev/null", "--write-out", "%{http_code}")
    assert status == b"403"


def test_writes_hold_their_conditions(cli, api, bucket, tmp_path):
    (tmp_path / "f").write_bytes(b"first")
    where = ("--bucket", bucket, "--key", "k", "--body", tmp_path / "f")
    first = api("put-object", *where, "--if-none-match", "*", "--content-type", "text/x-a", "--metadata", "a=1,b=2")
    refused = cli.run("s3api", "put-object", *where, "--if-none-match", "*", fails=True)
    assert b"PreconditionFailed" in refused
    (tmp_path / "f").write_bytes(b"second")
    api("put-object", *where, "--if-match", first["ETag"])
    assert b"PreconditionFailed" in cli.run("s3api", "put-object", *where, "--if-match", first["ETag"], fails=True)
    head = api("head-object", "--bucket", bucket, "--key", "k")
    assert (head["ContentLength"], head.get("Metadata")) == (6, {})
    assert b"404" in cli.run("s3api", "head-object", "--bucket", bucket, "--key", "other", fails=True)


def test_tags_are_put_and_read(api, bucket, tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    where = ("--bucket", bucket, "--key", "k")
    api("put-object", *where, "--body", tmp_path / "f", "--tagging", "a=1&sp%20ace=%2B%2F", "--content-type", "text/x-a",
        "--metadata", "a=1")
    head = api("head-object", *where)
    assert (head["ContentType"], head["Metadata"]) == ("text/x-a", {"a": "1"})
    assert api("get-object-tagging", *where)["TagSet"] == [{"Key": "a", "Value": "1"}, {"Key": "sp ace", "Value": "+/"}]
    api("put-object-tagging", *where, "--tagging", "TagSet=[{Key=b,Value=2}]")
    assert api("get-object-tagging", *where)["TagSet"] == [{"Key": "b", "Value": "2"}]
    api("delete-object-tagging", *where)
    assert api("get-object-tagging", *where)["TagSet"] == []


def test_an_older_version_is_restored(cli, api, bucket, tmp_path):
    api("put-bucket-versioning", "--bucket", bucket, "--versioning-configuration", "Status=Enabled")
    for content in (b"old", b"new"):
        cli.run("s3", "cp", "-", f"s3://{bucket}/a b+%", stdin=content)
    cli.run("s3", "rm", f"s3://{bucket}/a b+%")
    listed = api("list-object-versions", "--bucket", bucket, "--prefix", "a b+%")
    assert [entry["IsLatest"] for entry in listed["DeleteMarkers"]] == [True]
    new, old = (entry["VersionId"] for entry in listed["Versions"])
    api("delete-object", "--bucket", bucket, "--key", "a b+%", "--version-id", listed["DeleteMarkers"][0]["VersionId"])
    assert cli.run("s3", "cp", f"s3://{bucket}/a b+%", "-") == b"new"
    api("copy-object", "--bucket", bucket, "--key", "a b+%", "--copy-source", f"{bucket}/a b+%?versionId={old}")
    assert cli.run("s3", "cp", f"s3://{bucket}/a b+%", "-") == b"old"
    api("get-object", "--bucket", bucket, "--key", "a b+%", "--version-id", new, tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == b"new"


def test_it_works_over_tls_with_the_ca(secure, tmp_path):  # noqa: F811
    node, ca = secure
    cli = aws(node, ca)
    write_tree(tmp_path / "up")
    (tmp_path / "up" / "large").write_bytes(pattern(9 * MIB))
    cli.run("s3", "mb", "s3://aws-cli")
    cli.run("s3", "sync", tmp_path / "up", "s3://aws-cli")
    cli.run("s3", "sync", "s3://aws-cli", tmp_path / "down")
    assert hashes_in(tmp_path / "down") == hashes_in(tmp_path / "up")
    assert b"CERTIFICATE_VERIFY_FAILED" in aws(node).run("s3", "ls", fails=True)
