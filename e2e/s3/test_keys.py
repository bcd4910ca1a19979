"""Keys with scopes: made and revoked by the commands of an administrator, used by boto3."""

import datetime
import hashlib
import json
import os
import subprocess
import time
import urllib.request
import uuid

import pytest

from helpers import code, presigned_path, raw, refused, signed, status
from node import ACCESS, SECRET, Node


def command(node, *arguments, access=ACCESS, secret=SECRET):
    """What `penstock-store` says, of the storage node's own address."""
    environment = {**os.environ, "PENSTOCK_ENDPOINT": node.direct, "PENSTOCK_ROOT_ACCESS_KEY": access, "PENSTOCK_ROOT_SECRET_KEY": secret}
    return subprocess.run([os.environ["PENSTOCK_STORE_BINARY"], *arguments], env=environment, capture_output=True, text=True, timeout=30,
                          check=False)


class Key:
    """A key, and boto3 with it."""

    def __init__(self, node, *scopes, name=None, expires=None):
        self.node = node
        self.name = name or f"key-{uuid.uuid4().hex[:12]}"
        more = ["--expires", expires] if expires else []
        done = command(node, "key", "create", "--name", self.name, *scopes, *more, "--output", "json")
        assert done.returncode == 0, done.stderr
        self.told = json.loads(done.stdout)
        self.access, self.secret = self.told["accessKeyId"], self.told["secretAccessKey"]
        self.s3 = node.client(self.access, self.secret)

    def revoke(self):
        return command(self.node, "key", "revoke", self.access)


@pytest.fixture
def make(node):
    keys = []

    def make(*scopes, **arguments):
        keys.append(Key(node, *scopes, **arguments))
        return keys[-1]

    yield make
    for key in keys:
        key.revoke()


@pytest.fixture
def filled(s3, bucket):
    for key in ("a/1", "a/2", "b/1"):
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    return bucket


def body(s3, bucket, key):
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def test_a_key_that_reads_does_nothing_else(make, s3, filled):
    reader = make("--read", filled).s3
    assert body(reader, filled, "a/1") == b"a/1"
    assert reader.head_object(Bucket=filled, Key="a/1")["ContentLength"] == 3
    assert reader.list_objects_v2(Bucket=filled)["KeyCount"] == 3
    assert status(reader.head_bucket(Bucket=filled)) == 200
    assert reader.get_object_tagging(Bucket=filled, Key="a/1")["TagSet"] == []
    assert status(reader.get_bucket_versioning(Bucket=filled)) == 200
    with refused("NoSuchKey", 404):
        body(reader, filled, "none")
    upload = s3.create_multipart_upload(Bucket=filled, Key="a/1")["UploadId"]
    for call in [
        lambda: reader.put_object(Bucket=filled, Key="a/1", Body=b"x"), lambda: reader.delete_object(Bucket=filled, Key="a/1"),
        lambda: reader.copy_object(Bucket=filled, Key="c", CopySource=f"{filled}/a/1"),
        lambda: reader.create_multipart_upload(Bucket=filled, Key="c"),
        lambda: reader.upload_part(Bucket=filled, Key="a/1", UploadId=upload, PartNumber=1, Body=b"x"),
        lambda: reader.abort_multipart_upload(Bucket=filled, Key="a/1", UploadId=upload),
        lambda: reader.put_object_tagging(Bucket=filled, Key="a/1", Tagging={"TagSet": []}),
        lambda: reader.put_bucket_versioning(Bucket=filled, VersioningConfiguration={"Status": "Enabled"}),
        lambda: reader.delete_bucket(Bucket=filled), lambda: reader.create_bucket(Bucket="another-bucket"),
        lambda: reader.get_bucket_policy(Bucket=filled), lambda: reader.delete_bucket_policy(Bucket=filled),
    ]:
        with refused("AccessDenied", 403):
            call()
    answer = reader.delete_objects(Bucket=filled, Delete={"Objects": [{"Key": "a/1"}, {"Key": "none"}]})
    assert [entry["Code"] for entry in answer["Errors"]] == ["AccessDenied"] * 2
    assert body(s3, filled, "a/1") == b"a/1"


def test_a_key_that_writes_does_what_programs_do(make, s3, filled):
    writer = make("--read-write", filled).s3
    writer.put_object(Bucket=filled, Key="new", Body=b"new", Tagging="a=b")
    writer.copy_object(Bucket=filled, Key="copy", CopySource=f"{filled}/new")
    upload = writer.create_multipart_upload(Bucket=filled, Key="parts")["UploadId"]
    where = {"Bucket": filled, "Key": "parts", "UploadId": upload}
    part = writer.upload_part(**where, PartNumber=1, Body=b"part")
    assert len(writer.list_parts(**where)["Parts"]) == 1
    writer.complete_multipart_upload(**where, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    assert (body(writer, filled, "copy"), body(writer, filled, "parts")) == (b"new", b"part")
    answer = writer.delete_objects(Bucket=filled, Delete={"Objects": [{"Key": "new"}, {"Key": "copy"}, {"Key": "parts"}]})
    assert len(answer["Deleted"]) == 3 and "Errors" not in answer
    for call in (lambda: writer.delete_bucket(Bucket=filled), lambda: writer.put_bucket_cors(Bucket=filled, CORSConfiguration={
            "CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]})):
        with refused("AccessDenied", 403):
            call()


def test_a_prefix_is_the_end_of_a_scope(make, s3, filled):
    key = make("--read", f"{filled}/a/", "--read-write", f"{filled}/a/own/").s3
    assert body(key, filled, "a/1") == b"a/1"
    for call in (lambda: body(key, filled, "b/1"), lambda: body(key, filled, "a"), lambda: key.put_object(Bucket=filled, Key="a/1", Body=b"x"),
                 lambda: key.copy_object(Bucket=filled, Key="a/own/k", CopySource=f"{filled}/b/1"),
                 lambda: key.list_objects_v2(Bucket=filled), lambda: key.list_objects_v2(Bucket=filled, Prefix="b/"),
                 lambda: key.list_objects(Bucket=filled, Prefix="a"), lambda: key.list_object_versions(Bucket=filled),
                 lambda: key.list_multipart_uploads(Bucket=filled)):
        with refused("AccessDenied", 403):
            call()
    assert key.list_objects_v2(Bucket=filled, Prefix="a/")["KeyCount"] == 2
    key.copy_object(Bucket=filled, Key="a/own/k", CopySource=f"{filled}/a/1")
    assert body(key, filled, "a/own/k") == b"a/1"
    answer = key.delete_objects(Bucket=filled, Delete={"Objects": [{"Key": "a/own/k"}, {"Key": "a/1"}]})
    assert [entry["Key"] for entry in answer["Deleted"]] == ["a/own/k"] and [entry["Key"] for entry in answer["Errors"]] == ["a/1"]
    assert body(s3, filled, "a/1") == b"a/1"
    # Whether there is such an object is told of what may be listed alone.
    with refused("NoSuchKey", 404):
        body(key, filled, "a/none")
    with refused("AccessDenied", 403):
        body(key, filled, "b/none")


def test_buckets_of_others_are_not_told_of(make, s3, filled):
    other = f"other-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=other)
    key = make("--read", filled).s3
    assert [bucket["Name"] for bucket in key.list_buckets()["Buckets"]] == [filled]
    for call in (lambda: key.list_objects_v2(Bucket=other), lambda: body(key, other, "k"), lambda: key.list_objects_v2(Bucket="no-such-bucket")):
        with refused("AccessDenied", 403):
            call()
    with refused("403", 403):
        key.head_bucket(Bucket=other)
    beginning = make("--read", "other-*").s3
    assert other in [bucket["Name"] for bucket in beginning.list_buckets()["Buckets"]]
    assert beginning.list_objects_v2(Bucket=other)["KeyCount"] == 0
    s3.delete_bucket(Bucket=other)


def test_a_revoked_key_stops_working_at_once(make, node, filled):
    key = make("--read", filled)
    path = presigned_path(node, "GET", f"/{filled}/a/1", access=key.access, secret=key.secret)
    assert body(key.s3, filled, "a/1") == b"a/1" and raw(node, "GET", path)[0] == 200
    assert key.revoke().returncode == 0
    with refused("InvalidAccessKeyId", 403):
        body(key.s3, filled, "a/1")
    state, _, answer = raw(node, "GET", path)
    assert (state, code(answer)) == (403, "InvalidAccessKeyId")
    again = key.revoke()
    assert again.returncode == 1 and key.access in again.stderr and len(again.stderr.splitlines()) == 1


def test_a_key_ends_when_it_was_to(make, filled):
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=4)
    key = make("--read", filled, expires=soon.strftime("%Y-%m-%dT%H:%M:%SZ"))
    assert body(key.s3, filled, "a/1") == b"a/1"
    time.sleep(4.5)
    with refused("InvalidAccessKeyId", 403):
        body(key.s3, filled, "a/1")


def test_keys_outlive_the_storage_node_and_are_of_no_use_to_who_finds_its_disk(tmp_path):
    node = Node(data=tmp_path)
    node.client().create_bucket(Bucket="bucket")
    key = Key(node, "--read-write", "bucket")
    key.s3.put_object(Bucket="bucket", Key="k", Body=b"kept")
    revoked = Key(node, "--read", "bucket")
    revoked.revoke()
    log = node.log()
    node.close()
    for path in [*tmp_path.rglob("*")]:
        if path.is_file():
            content = path.read_bytes()
            assert key.secret.encode() not in content and bytes.fromhex(key.secret) not in content, path
    assert key.secret not in log and key.access in log
    node = Node(data=tmp_path)
    assert body(node.client(key.access, key.secret), "bucket", "k") == b"kept"
    with refused("InvalidAccessKeyId", 403):
        body(node.client(revoked.access, revoked.secret), "bucket", "k")
    node.close()


def test_a_master_key_that_is_lost_or_mistaken_is_told(tmp_path):
    node = Node(data=tmp_path)
    node.client().create_bucket(Bucket="bucket")
    node.client().put_object(Bucket="bucket", Key="open", Body=b"open")
    node.client().put_object(Bucket="bucket", Key="sealed", Body=b"sealed", ServerSideEncryption="AES256")
    key = Key(node, "--read-write", "bucket")
    node.close()
    other = tmp_path / "other-key"
    other.write_text("ab" * 32)
    with pytest.raises(RuntimeError, match="sealed with another master key"):
        Node("--master-key-file", str(other), data=tmp_path)
    kept = (tmp_path / "master-key").rename(tmp_path / "kept")
    with pytest.raises(RuntimeError, match="put it back"):
        Node(data=tmp_path)
    assert not (tmp_path / "master-key").exists()
    # Nothing was lost by trying.
    kept.rename(tmp_path / "master-key")
    node = Node(data=tmp_path)
    assert body(node.client(key.access, key.secret), "bucket", "sealed") == b"sealed"
    node.close()
    (tmp_path / "master-key").unlink()
    node = Node("--another-master-key", data=tmp_path)
    assert body(node.client(), "bucket", "open") == b"open"
    with refused("InternalError", 500):
        body(node.client(), "bucket", "sealed")
    with refused("InvalidAccessKeyId", 403):
        body(node.client(key.access, key.secret), "bucket", "open")
    again = Key(node, "--read-write", "bucket")
    node.close()
    # It is this one now.
    node = Node(data=tmp_path)
    assert body(node.client(again.access, again.secret), "bucket", "open") == b"open"
    node.close()


def test_a_key_is_limited_to_its_scopes_for_all_it_is_told_of(make, node, filled):
    """The administrator's side is for the root key alone."""
    key = make("--read-write", "*")
    for method, path in [("GET", "/.penstock/v1/keys"), ("POST", "/.penstock/v1/keys"), ("GET", "/.penstock/v1/stats"),
                         ("DELETE", f"/.penstock/v1/keys/{key.access}"), ("PUT", f"/.penstock/v1/quotas/{filled}"), ("GET", "/.penstock")]:
        for given in ({}, signed(node, method, path, access=key.access, secret=key.secret)):
            state, _, answer = raw(node, method, path, given)
            assert (state, code(answer)) == (403, "AccessDenied"), (method, path)
    listed = command(node, "key", "list", access=key.access, secret=key.secret)
    assert listed.returncode == 1 and "AccessDenied" in listed.stderr and len(listed.stderr.splitlines()) == 1


def test_keys_are_listed_without_their_secrets(make, node, filled):
    key = make("--read", f"{filled}/a/", "--read-write", "x*", expires="30d")
    done = command(node, "key", "list", "--output", "json")
    found = [entry for entry in json.loads(done.stdout) if entry["name"] == key.name]
    assert found == [{name: value for name, value in key.told.items() if name != "secretAccessKey"}]
    assert found[0]["scopes"] == [{"bucket": filled, "prefix": "a/", "access": "read"}, {"bucket": "x*", "access": "read-write"}]
    text = command(node, "key", "list").stdout
    assert f"read {filled}/a/" in text and key.secret not in text and key.secret not in done.stdout


@pytest.mark.parametrize("arguments, cause", [
    (["--name", "a/b", "--read", "b"], "cannot be the name of a key"), (["--name", "", "--read", "b"], "cannot be the name of a key"),
    (["--name", "good", "--read", "UPPER"], "names no bucket"), (["--name", "good", "--read", "a*b"], "names no bucket"),
    (["--name", "good", "--read", "b", "--expires", "2020-01-01T00:00:00Z"], "expired already"),
], ids=["name", "no name", "bucket", "star", "past"])
def test_a_key_that_cannot_be_is_refused_with_the_cause(node, arguments, cause):
    done = command(node, "key", "create", *arguments)
    assert done.returncode == 1 and cause in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_no_two_keys_have_one_name(make, node, filled):
    key = make("--read", filled)
    done = command(node, "key", "create", "--name", key.name, "--read", filled)
    assert done.returncode == 1 and "KeyAlreadyExists" in done.stderr
    key.revoke()
    make("--read", filled, name=key.name)


@pytest.mark.parametrize("document", [b"", b"{}", b"[]", b'{"name": "x", "scopes": [{"bucket": "b", "access": "all"}]}',
                                      b'{"name": "x", "scopes": [], "admin": true}'], ids=repr)
def test_a_document_that_is_no_key_is_refused(node, document):
    path = "/.penstock/v1/keys"
    state, _, answer = raw(node, "POST", path, signed(node, "POST", path, body=document), document)
    assert (state, code(answer)) == (400, "InvalidRequest")


def test_a_document_is_the_one_that_was_signed(node, filled):
    path, wanted = "/.penstock/v1/keys", json.dumps({"name": "stolen", "scopes": [{"bucket": "*", "access": "read"}]}).encode()
    other = hashlib.sha256(b"{}").hexdigest()
    for given in (signed(node, "POST", path, body=wanted, payload=other), signed(node, "POST", path, body=wanted, payload="UNSIGNED-PAYLOAD")):
        state, _, answer = raw(node, "POST", path, given, wanted)
        assert state == 400 and code(answer) in ("XAmzContentSHA256Mismatch", "InvalidRequest")
    assert "stolen" not in command(node, "key", "list").stdout


def test_a_policy_names_keys(make, node, s3, filled):
    key, other = make("--read", "no-bucket"), make("--read", filled)

    def put(effect, name, action="s3:GetObject"):
        s3.put_bucket_policy(Bucket=filled, Policy=json.dumps({"Version": "2012-10-17", "Statement": [{
            "Effect": effect, "Principal": {"AWS": f"arn:aws:iam::penstock:user/{name}"}, "Action": action, "Resource": f"arn:aws:s3:::{filled}/a/*"}]}))

    with refused("AccessDenied", 403):
        body(key.s3, filled, "a/1")
    put("Allow", key.name)
    assert body(key.s3, filled, "a/1") == b"a/1"
    assert raw(node, "GET", f"/{filled}/a/1")[0] == 403
    for call in (lambda: body(key.s3, filled, "b/1"), lambda: key.s3.put_object(Bucket=filled, Key="a/1", Body=b"x")):
        with refused("AccessDenied", 403):
            call()
    assert not s3.get_bucket_policy_status(Bucket=filled)["PolicyStatus"]["IsPublic"]
    put("Deny", other.name)
    with refused("AccessDenied", 403):
        body(other.s3, filled, "a/1")
    assert body(other.s3, filled, "b/1") == b"b/1"
    with refused("MalformedPolicy", 400):
        put("Allow", "no-such-key")
    s3.delete_bucket_policy(Bucket=filled)


def test_a_lock_for_governance_is_for_root_to_pass_over(make, s3, locked):
    writer = make("--read-write", locked).s3
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    held = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}
    version = writer.put_object(Bucket=locked, Key="k", Body=b"x", ChecksumAlgorithm="CRC32", **held)["VersionId"]
    with refused("AccessDenied", 403):
        writer.delete_object(Bucket=locked, Key="k", VersionId=version, BypassGovernanceRetention=True)
    answer = writer.delete_objects(Bucket=locked, BypassGovernanceRetention=True, Delete={"Objects": [{"Key": "k", "VersionId": version}]})
    assert [entry["Code"] for entry in answer["Errors"]] == ["AccessDenied"]
    s3.delete_object(Bucket=locked, Key="k", VersionId=version, BypassGovernanceRetention=True)


def test_a_quota_is_set_told_and_kept_to(node, s3, bucket):
    assert command(node, "bucket", "quota", bucket, "1Ki").returncode == 0
    s3.put_object(Bucket=bucket, Key="k", Body=b"x" * 1000)
    with refused("QuotaExceeded", 403):
        s3.put_object(Bucket=bucket, Key="more", Body=b"x" * 25)
    told = json.loads(command(node, "bucket", "list", "--output", "json").stdout)[bucket]
    assert told == {"objects": 1, "bytes": 1000, "quota": 1024}
    assert "1.0 KiB" in command(node, "bucket", "list").stdout
    assert command(node, "bucket", "quota", bucket, "--none").returncode == 0
    s3.put_object(Bucket=bucket, Key="more", Body=b"x" * 25)
    assert "quota" not in json.loads(command(node, "bucket", "list", "--output", "json").stdout)[bucket]
    missing = command(node, "bucket", "quota", "no-such-bucket", "1Gi")
    assert missing.returncode == 1 and "NoSuchBucket" in missing.stderr


def test_buckets_and_how_much_there_is(node, s3):
    name = f"test-{uuid.uuid4().hex}"
    assert command(node, "bucket", "create", name).returncode == 0
    s3.put_object(Bucket=name, Key="k", Body=b"x" * 10)
    full = command(node, "bucket", "delete", name)
    assert full.returncode == 1 and "BucketNotEmpty" in full.stderr
    stats = json.loads(command(node, "stats", "--output", "json").stdout)
    assert stats["buckets"][name] == {"objects": 1, "bytes": 10}
    assert stats["bytes"] >= 10 and 0 < stats["diskFree"] < stats["diskSize"]
    assert "disk free:" in command(node, "stats").stdout
    s3.delete_object(Bucket=name, Key="k")
    assert command(node, "bucket", "delete", name).returncode == 0


def test_commands_say_in_a_line_what_is_wrong(node):
    for access, secret, cause in [(ACCESS, "not-the-secret", "SignatureDoesNotMatch"), ("nobody", "not-the-secret", "InvalidAccessKeyId")]:
        done = command(node, "stats", access=access, secret=secret)
        assert done.returncode == 1 and cause in done.stderr and len(done.stderr.splitlines()) == 1
    nowhere = command(node, "stats", "--endpoint", "http://127.0.0.1:1")
    assert nowhere.returncode == 1 and "127.0.0.1:1" in nowhere.stderr and len(nowhere.stderr.splitlines()) == 1


def test_what_the_disk_has_spoiled_is_told(tmp_path):
    node = Node(data=tmp_path)
    s3 = node.client()
    s3.create_bucket(Bucket="bucket")
    for key, length in [("good", 1000), ("spoiled", 77_777)]:
        s3.put_object(Bucket="bucket", Key=key, Body=b"x" * length)
    clean = command(node, "check")
    assert (clean.returncode, clean.stdout) == (0, "2 objects, 76.9 KiB, 0 broken\n")
    [file] = [path for path in (tmp_path / "data").rglob("*") if path.is_file() and path.stat().st_size == 77_777]
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.unlink()
    file.write_bytes(content)
    found = command(node, "check", "--output", "json")
    assert found.returncode == 1 and "1 of the objects are broken" in found.stderr
    told = json.loads(found.stdout)
    assert [(entry["bucket"], entry["key"], entry["version"]) for entry in told["objectsBroken"]] == [("bucket", "spoiled", "null")]
    last = command(node, "check", "--last")
    assert last.returncode == 1 and "broken: bucket/spoiled: " in last.stdout
    assert "penstock_store_broken_objects 1" in raw_text(node.admin() + "/metrics")
    node.close()


def raw_text(url):
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()
