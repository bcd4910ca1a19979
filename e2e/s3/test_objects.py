import hashlib
import re
import threading
import urllib.request

import pytest

from helpers import pattern, raw, refused, signed


@pytest.mark.parametrize("length", [0, 1, 4096, 524_288, 524_289, 5_000_003])
def test_what_is_written_is_read(s3, bucket, length):
    body = pattern(length, seed=length)
    written = s3.put_object(Bucket=bucket, Key="k", Body=body)
    assert written["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    answer = s3.get_object(Bucket=bucket, Key="k")
    assert answer["Body"].read() == body
    assert answer["ContentLength"] == length
    assert answer["ETag"] == written["ETag"]
    assert answer["AcceptRanges"] == "bytes"
    assert s3.head_object(Bucket=bucket, Key="k")["ContentLength"] == length


def test_a_writer_may_ask_for_an_entity_tag_that_costs_nothing_and_is_no_md5(node, s3, bucket):
    def put(value, body):
        headers = signed(node, "PUT", f"/{bucket}/k", {"x-penstock-etag-of": value}, body=body)
        return raw(node, "PUT", f"/{bucket}/k", headers, body)

    body = pattern(600_000)
    status, headers, _ = put("crc64nvme", body)
    assert status == 200
    # As multipart uploads have it, so that nobody takes it for an MD5.
    assert re.fullmatch(r'"[0-9a-f]{32}-1"', headers["etag"]), headers
    assert s3.head_object(Bucket=bucket, Key="k", IfMatch=headers["etag"])["ETag"] == headers["etag"]
    assert put("crc64nvme", body)[1]["etag"] == headers["etag"]
    status, _, answer = put("sha1", b"hello")
    assert status == 400 and b"x-penstock-etag-of" in answer


@pytest.mark.parametrize("key", [
    "a", "with space", "a+b", "a%2Fb", "ü/日本語/🎉", "a//b", "/leading", "trailing/", "?query=1&x", "#hash", "a;b:c,d=e@f$g!h'i(j)*k",
    "~tilde", "back\\slash", "tab\there", "new\nline", "..", "a/../b", "k" * 1024, "<xml>&amp;\"",
])
def test_every_key_works(s3, bucket, key):
    s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    s3.delete_object(Bucket=bucket, Key=key)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_key_that_is_too_long_is_refused(s3, bucket):
    with refused("KeyTooLongError", 400):
        s3.put_object(Bucket=bucket, Key="k" * 1025, Body=b"")


def test_an_object_is_overwritten_as_a_whole(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"long first version", Metadata={"a": "1"})
    s3.put_object(Bucket=bucket, Key="k", Body=b"short")
    answer = s3.get_object(Bucket=bucket, Key="k")
    assert (answer["Body"].read(), answer["Metadata"]) == (b"short", {})


def test_headers_and_metadata_come_back(s3, bucket):
    headers = {
        "ContentType": "text/plain; charset=utf-8", "ContentEncoding": "gzip", "ContentLanguage": "de",
        "ContentDisposition": 'attachment; filename="x y.txt"', "CacheControl": "max-age=5",
        "Metadata": {"color": "blue", "with-dash": "1 2"},
    }
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", **headers)
    for answer in (s3.get_object(Bucket=bucket, Key="k"), s3.head_object(Bucket=bucket, Key="k")):
        assert {name: answer[name] for name in headers} == headers


def test_the_content_type_of_an_object_without_one_is_binary(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert s3.head_object(Bucket=bucket, Key="k")["ContentType"] == "binary/octet-stream"


def test_response_headers_can_be_overridden(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentType="text/plain")
    answer = s3.get_object(Bucket=bucket, Key="k", ResponseContentType="image/png", ResponseCacheControl="no-store")
    assert (answer["ContentType"], answer["CacheControl"]) == ("image/png", "no-store")


def test_a_missing_object_is_told_from_a_missing_bucket(s3, bucket):
    with refused("NoSuchKey", 404):
        s3.get_object(Bucket=bucket, Key="none")
    with refused("404", 404):
        s3.head_object(Bucket=bucket, Key="none")


def test_deleting_twice_is_no_error(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for _ in range(2):
        assert s3.delete_object(Bucket=bucket, Key="k")["ResponseMetadata"]["HTTPStatusCode"] == 204
    with refused("NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="k")


def test_many_objects_are_deleted_at_once(s3, bucket):
    keys = [f"k{n:03}" for n in range(200)]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    named = [{"Key": key} for key in [*keys, "was-never-there"]]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": named})
    assert [entry["Key"] for entry in answer["Deleted"]] == [entry["Key"] for entry in named]
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_quiet_deletion_tells_only_errors(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}, {"Key": "v", "VersionId": "x"}], "Quiet": True})
    assert "Deleted" not in answer
    assert [(entry["Key"], entry["Code"]) for entry in answer["Errors"]] == [("v", "NoSuchVersion")]


def test_a_copy_keeps_bytes_and_headers(s3, bucket):
    body = pattern(700_000)
    s3.put_object(Bucket=bucket, Key="from ü", Body=body, ContentType="text/plain", Metadata={"a": "1"})
    copied = s3.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": bucket, "Key": "from ü"})
    assert copied["CopyObjectResult"]["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    s3.delete_object(Bucket=bucket, Key="from ü")
    answer = s3.get_object(Bucket=bucket, Key="to")
    assert answer["Body"].read() == body
    assert (answer["ContentType"], answer["Metadata"]) == ("text/plain", {"a": "1"})


def test_a_copy_can_replace_the_headers(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentType="text/plain", Metadata={"a": "1"})
    source = {"Bucket": bucket, "Key": "k"}
    s3.copy_object(Bucket=bucket, Key="k", CopySource=source, MetadataDirective="REPLACE", Metadata={"b": "2"}, ContentType="text/html")
    head = s3.head_object(Bucket=bucket, Key="k")
    assert (head["ContentType"], head["Metadata"]) == ("text/html", {"b": "2"})
    with refused("InvalidRequest", 400):
        s3.copy_object(Bucket=bucket, Key="k", CopySource=source)


def test_copying_nothing_is_refused(s3, bucket):
    with refused("NoSuchKey", 404):
        s3.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "none"})
    with refused("NoSuchBucket", 404):
        s3.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": "there-is-none", "Key": "none"})


def test_a_copy_moves_no_bytes(node, s3, bucket):
    size = lambda: sum(path.stat().st_size for path in (node.data / "data").rglob("*") if path.is_file())
    s3.put_object(Bucket=bucket, Key="k", Body=pattern(3_000_000))
    before = size()
    for n in range(10):
        s3.copy_object(Bucket=bucket, Key=f"copy{n}", CopySource={"Bucket": bucket, "Key": "k"})
    assert size() == before


@pytest.mark.parametrize("arguments", [
    {"ACL": "public-read"}, {"StorageClass": "GLACIER"}, {"ServerSideEncryption": "aws:kms"},
], ids=lambda arguments: next(iter(arguments)))
def test_what_would_be_ignored_is_refused(s3, bucket, arguments):
    with refused("NotImplemented", 501):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", **arguments)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_body_that_ends_early_stores_nothing(node, s3, bucket):
    import socket
    s3.put_object(Bucket=bucket, Key="k", Body=b"before")
    path = f"/{bucket}/k"
    headers = signed(node, "PUT", path, {"Content-Length": "1000000"}, payload="UNSIGNED-PAYLOAD")
    with socket.create_connection(node.address) as connection:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection.sendall(f"PUT {path} HTTP/1.1\r\n{head}\r\n".encode() + pattern(600_000))
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"before"


def test_expect_100_continue_is_answered_before_the_body(node, s3, bucket):
    import socket
    path = f"/{bucket}/k"
    headers = signed(node, "PUT", path, {"Content-Length": "5"}, body=b"hello")
    headers["Expect"] = "100-continue"
    with socket.create_connection(node.address, timeout=10) as connection:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection.sendall(f"PUT {path} HTTP/1.1\r\n{head}\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 100")
        connection.sendall(b"hello")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"hello"


def test_a_put_without_a_length_is_refused(node, bucket):
    path = f"/{bucket}/k"
    headers = signed(node, "PUT", path, payload="UNSIGNED-PAYLOAD")
    headers = {**headers, "Transfer-Encoding": "chunked"}
    status, _, body = raw(node, "PUT", path, headers, iter([b"abc"]))
    assert status == 411 and b"MissingContentLength" in body


def test_readers_see_one_version_while_writers_replace_it(s3, bucket):
    versions = [bytes([n]) * 900_000 for n in range(4)]
    s3.put_object(Bucket=bucket, Key="k", Body=versions[0])
    stop, mixed = threading.Event(), []

    def read():
        while not stop.is_set():
            if s3.get_object(Bucket=bucket, Key="k")["Body"].read() not in versions:
                mixed.append(True)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for n in range(24):
        s3.put_object(Bucket=bucket, Key="k", Body=versions[n % 4])
    stop.set()
    for reader in readers:
        reader.join()
    assert not mixed


def test_metrics_count_what_happened(node, s3, bucket):
    def metric(name):
        text = urllib.request.urlopen(node.admin() + "/metrics").read().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    before = metric('penstock_store_requests_total{operation="PutObject",status="200"}'), metric("penstock_store_sent_bytes_total{")
    s3.put_object(Bucket=bucket, Key="k", Body=b"12345")
    s3.get_object(Bucket=bucket, Key="k")["Body"].read()
    after = metric('penstock_store_requests_total{operation="PutObject",status="200"}'), metric("penstock_store_sent_bytes_total{")
    assert (after[0] - before[0], after[1] - before[1]) == (1, 5)
    assert metric("penstock_store_disk_free_bytes") > 0
    assert urllib.request.urlopen(node.admin() + "/readyz").status == 200
    assert urllib.request.urlopen(node.admin() + "/livez").status == 200
