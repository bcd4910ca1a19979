"""Server access logs: what was asked for is told in the lines of AWS, in a bucket, and nothing that opens anything is."""

import re
import time
import urllib.parse
import uuid

import pytest

import gateway
from helpers import pattern, presigned_path, raw, refused, signed
from node import ACCESS, SECRET, Node
from test_keys import Key
from test_post_policy import policy, post, signed_fields

# As AWS's documentation takes a line apart.
FIELD = r'("[^"]*"|-|[^ ]*)'
LINE = re.compile(r"^([^ ]*) ([^ ]*) \[(.*?)\] " + " ".join([FIELD] * 23) + "$")
NAMES = ["owner", "bucket", "time", "address", "requester", "id", "operation", "key", "request", "status", "code", "sent", "size", "total",
         "turn_around", "referer", "agent", "version", "host_id", "signature", "cipher", "auth", "host", "tls", "access_point", "acl"]


class Log:
    """A bucket that keeps a log in another one, and the entries that have come."""

    def __init__(self, node):
        self.node, self.s3 = node, node.client()
        self.source, self.target = (f"test-{uuid.uuid4().hex}" for _ in range(2))
        for name in (self.source, self.target):
            self.s3.create_bucket(Bucket=name)
        self.keep(self.source, self.target)

    def keep(self, source, target, prefix="logs/"):
        enabled = {"TargetBucket": target, "TargetPrefix": prefix}
        self.s3.put_bucket_logging(Bucket=source, BucketLoggingStatus={"LoggingEnabled": enabled})

    def text(self, s3=None):
        s3 = s3 or self.s3
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=self.target, Prefix="logs/")
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        for key in keys:
            assert re.fullmatch(r"logs/\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d-[0-9A-F]{16}", key), key
        return "".join(s3.get_object(Bucket=self.target, Key=key)["Body"].read().decode() for key in keys)

    def entries(self, s3=None):
        found = []
        for line in self.text(s3).splitlines():
            parts = LINE.match(line)
            assert parts, line
            found.append({name: value.strip('"') for name, value in zip(NAMES, parts.groups(), strict=True)})
        return found

    def wait(self, holds, what):
        """The first entry of which `holds` is true."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = [entry for entry in self.entries() if holds(entry)]
            if found:
                return found[0]
            time.sleep(0.2)
        raise AssertionError(f"{what} is not in the log: {self.entries()}")

    def of(self, operation, key="-", **more):
        expected = {"operation": operation, "key": key, **more}
        return self.wait(lambda entry: all(entry[name] == value for name, value in expected.items()), expected)


@pytest.fixture(scope="module")
def every_second():
    node = Node("--access-log-every", "1")
    yield node
    node.close()


@pytest.fixture
def log(every_second):
    return Log(every_second)


def test_it_is_put_read_and_taken_away(every_second, log):
    read = log.s3.get_bucket_logging(Bucket=log.source)["LoggingEnabled"]
    assert read == {"TargetBucket": log.target, "TargetPrefix": "logs/"}
    log.s3.put_object(Bucket=log.source, Key="before", Body=b"x")
    log.of("REST.PUT.OBJECT", "before")
    log.s3.put_bucket_logging(Bucket=log.source, BucketLoggingStatus={})
    assert "LoggingEnabled" not in log.s3.get_bucket_logging(Bucket=log.source)
    log.s3.put_object(Bucket=log.source, Key="between", Body=b"x")
    log.keep(log.source, log.target)
    log.s3.put_object(Bucket=log.source, Key="after", Body=b"x")
    log.of("REST.PUT.OBJECT", "after")
    assert "between" not in log.text()


def test_a_target_that_is_not_there_is_refused(log):
    with refused("InvalidTargetBucketForLogging", 400):
        log.keep(log.source, "there-is-no-such-bucket")
    with refused("NoSuchBucket", 404):
        log.keep("there-is-no-such-bucket", log.target)
    assert log.s3.get_bucket_logging(Bucket=log.source)["LoggingEnabled"]["TargetBucket"] == log.target


@pytest.mark.parametrize("more", [
    {"TargetGrants": [{"Grantee": {"Type": "Group", "URI": "http://acs.amazonaws.com/groups/global/AllUsers"}, "Permission": "READ"}]},
    {"TargetObjectKeyFormat": {"PartitionedPrefix": {"PartitionDateSource": "EventTime"}}}], ids=["grants", "partitioned"])
def test_what_is_not_built_is_refused(log, more):
    enabled = {"TargetBucket": log.target, "TargetPrefix": "", **more}
    with refused("NotImplemented", 501):
        log.s3.put_bucket_logging(Bucket=log.source, BucketLoggingStatus={"LoggingEnabled": enabled})


def test_reads_and_writes_are_told_with_their_bytes(every_second, log):
    content = pattern(100_003)
    log.s3.put_object(Bucket=log.source, Key="a b/ü", Body=content)
    assert log.s3.get_object(Bucket=log.source, Key="a b/ü")["Body"].read() == content
    log.s3.get_object(Bucket=log.source, Key="a b/ü", Range="bytes=10-19")["Body"].read()
    log.s3.head_object(Bucket=log.source, Key="a b/ü")
    log.s3.copy_object(Bucket=log.source, Key="copy", CopySource={"Bucket": log.source, "Key": "a b/ü"})
    log.s3.list_objects_v2(Bucket=log.source)
    written = log.of("REST.PUT.OBJECT", "a%20b/%C3%BC", status="200")
    assert (written["owner"], written["requester"], written["bucket"]) == ("penstock", "penstock", log.source)
    assert (written["size"], written["code"], written["signature"], written["auth"]) == ("100003", "-", "SigV4", "AuthHeader")
    assert written["request"] == f"PUT /{log.source}/a%20b/%C3%BC HTTP/1.1"
    assert "Boto3" in written["agent"] and re.fullmatch(r"\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d \+0000", written["time"])
    assert int(written["total"]) >= int(written["turn_around"]) >= 0
    whole = log.of("REST.GET.OBJECT", "a%20b/%C3%BC", status="200")
    assert (whole["sent"], whole["size"]) == ("100003", "100003")
    part = log.of("REST.GET.OBJECT", "a%20b/%C3%BC", status="206")
    assert (part["sent"], part["size"]) == ("10", "100003")
    head = log.of("REST.HEAD.OBJECT", "a%20b/%C3%BC")
    assert (head["sent"], head["size"]) == ("-", "100003")
    log.of("REST.COPY.OBJECT", "copy")
    listing = log.of("REST.GET.BUCKET")
    assert int(listing["sent"]) > 100 and "list-type=2" in listing["request"]
    assert written["address"] == ("-" if gateway.way() == "gateway" else "127.0.0.1")


def test_uploads_by_parts_are_told(log):
    where = {"Bucket": log.source, "Key": "k"}
    upload = {**where, "UploadId": log.s3.create_multipart_upload(**where)["UploadId"]}
    etag = log.s3.upload_part(**upload, PartNumber=1, Body=b"part")["ETag"]
    log.s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
    assert log.of("REST.POST.UPLOADS", "k")["status"] == "200"
    assert log.of("REST.PUT.PART", "k")["size"] == "4"
    assert log.of("REST.POST.UPLOAD", "k")["status"] == "200"


def test_errors_are_told_with_their_codes(every_second, log):
    with refused("NoSuchKey"):
        log.s3.get_object(Bucket=log.source, Key="nothing")
    assert log.of("REST.GET.OBJECT", "nothing", status="404")["code"] == "NoSuchKey"
    path = f"/{log.source}/unsigned"
    assert raw(every_second, "GET", path)[0] == 403
    anonymous = log.of("REST.GET.OBJECT", "unsigned", status="403")
    assert (anonymous["code"], anonymous["requester"], anonymous["auth"]) == ("AccessDenied", "-", "-")
    assert raw(every_second, "GET", path, signed(every_second, "GET", path, secret="another"))[0] == 403
    # Nobody is believed to be who he has not proven to be.
    forged = log.of("REST.GET.OBJECT", "unsigned", code="SignatureDoesNotMatch")
    assert forged["requester"] == "-"


def test_each_deleted_key_is_told(log):
    for key in ("a", "b c"):
        log.s3.put_object(Bucket=log.source, Key=key, Body=b"x")
    log.s3.delete_objects(Bucket=log.source, Delete={"Objects": [{"Key": "a"}, {"Key": "b c"}], "Quiet": True})
    log.of("REST.POST.MULTI_OBJECT_DELETE", status="200")
    for key in ("a", "b%20c"):
        assert log.of("BATCH.DELETE.OBJECT", key)["status"] == "204"


def test_a_key_is_told_by_its_name(every_second, log):
    key = Key(every_second, "--read", log.source)
    try:
        key.s3.list_objects_v2(Bucket=log.source)
        with refused("AccessDenied"):
            key.s3.put_object(Bucket=log.source, Key="k", Body=b"x")
        requester = f"arn:aws:iam::penstock:user/{key.name}"
        log.of("REST.GET.BUCKET", requester=requester, status="200")
        log.of("REST.PUT.OBJECT", "k", requester=requester, status="403")
    finally:
        key.revoke()


def test_who_may_set_up_a_bucket_writes_by_that_into_no_other(every_second, log):
    key = Key(every_second, "--read-write", log.source)
    try:
        document = ('{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::penstock:user/%s"},'
                    '"Action":"s3:PutBucketLogging","Resource":"arn:aws:s3:::%s"}]}' % (key.name, log.source))
        log.s3.put_bucket_policy(Bucket=log.source, Policy=document)
        status = {"LoggingEnabled": {"TargetBucket": log.target, "TargetPrefix": "mine/"}}
        with refused("AccessDenied", 403):
            key.s3.put_bucket_logging(Bucket=log.source, BucketLoggingStatus=status)
        status["LoggingEnabled"]["TargetBucket"] = log.source
        key.s3.put_bucket_logging(Bucket=log.source, BucketLoggingStatus=status)
    finally:
        key.revoke()


def test_forms_and_preflights_are_told(every_second, log):
    fields = {"key": "k", **signed_fields(policy(log.source))}
    assert post(every_second, log.source, fields)[0] == 204
    form = log.of("REST.POST.OBJECT", status="204")
    assert form["requester"] == "penstock"
    asking = {"Origin": "http://page", "Access-Control-Request-Method": "GET"}
    assert raw(every_second, "OPTIONS", f"/{log.source}/k", asking)[0] == 403
    log.of("REST.OPTIONS.PREFLIGHT", "k", status="403")


def test_nothing_that_opens_anything_is_told(every_second, log):
    log.s3.put_object(Bucket=log.source, Key="k", Body=b"x")
    path = presigned_path(every_second, "GET", f"/{log.source}/k")
    assert raw(every_second, "GET", path)[0] == 200
    signature = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)["X-Amz-Signature"][0]
    asked = log.of("REST.GET.OBJECT", "k", auth="QueryString")
    assert "X-Amz-Signature=-" in asked["request"] and "X-Amz-Credential=" in asked["request"]
    raw(every_second, "GET", f"/{log.source}/k?X-Amz-Security-Token=the-token&x%2Damz-signature=the-signature")
    log.of("REST.GET.OBJECT", "k", status="403")
    text = log.text()
    for secret in (signature, "the-token", "the-signature", SECRET):
        assert secret not in text


def test_a_client_writes_no_line_of_its_own(every_second, log):
    path = f"/{log.source}/k"
    headers = {"User-Agent": 'x" 200 - "fake', "Referer": 'http://page/"', "X-Marker": "1"}
    assert raw(every_second, "GET", path, headers)[0] == 403
    asked = log.of("REST.GET.OBJECT", "k", status="403")
    assert (asked["agent"], asked["referer"]) == ("x%22 200 - %22fake", "http://page/%22")


def test_the_answer_has_the_id_of_its_line(every_second, log):
    answer = log.s3.list_objects_v2(Bucket=log.source)
    told = answer["ResponseMetadata"]["HTTPHeaders"]["x-amz-request-id"]
    log.of("REST.GET.BUCKET", id=told)


def test_other_buckets_and_the_log_itself_are_not_told(log):
    other = f"test-{uuid.uuid4().hex}"
    log.s3.create_bucket(Bucket=other)
    log.s3.put_object(Bucket=other, Key="k", Body=b"x")
    log.s3.put_object(Bucket=log.source, Key="last", Body=b"x")
    log.of("REST.PUT.OBJECT", "last")
    assert {entry["bucket"] for entry in log.entries()} == {log.source}


def test_lines_outlive_an_orderly_end_and_the_log_goes_on(tmp_path):
    node = Node(data=tmp_path)
    log = Log(node)
    log.s3.put_object(Bucket=log.source, Key="first", Body=b"x")
    assert log.entries() == []
    node.close()
    node = Node(data=tmp_path)
    try:
        s3 = node.client(ACCESS, SECRET)
        assert "first" in [entry["key"] for entry in log.entries(s3)]
        # What was set up before is in force without anybody saying so again.
        s3.put_object(Bucket=log.source, Key="second", Body=b"x")
    finally:
        node.close()
    node = Node(data=tmp_path)
    try:
        assert "second" in [entry["key"] for entry in log.entries(node.client())]
    finally:
        node.close()


def test_a_target_that_is_deleted_holds_up_nothing(every_second, log):
    log.s3.put_object(Bucket=log.source, Key="k", Body=b"x")
    log.of("REST.PUT.OBJECT", "k")
    for entry in log.s3.list_objects_v2(Bucket=log.target)["Contents"]:
        log.s3.delete_object(Bucket=log.target, Key=entry["Key"])
    deadline = time.monotonic() + 20
    while True:
        try:
            log.s3.delete_bucket(Bucket=log.target)
            break
        except log.s3.exceptions.ClientError:
            # A delivery was under way.
            assert time.monotonic() < deadline
            for entry in log.s3.list_objects_v2(Bucket=log.target).get("Contents", []):
                log.s3.delete_object(Bucket=log.target, Key=entry["Key"])
    log.s3.put_object(Bucket=log.source, Key="k", Body=b"y")
    time.sleep(1.5)
    assert log.s3.get_object(Bucket=log.source, Key="k")["Body"].read() == b"y"
    log.s3.create_bucket(Bucket=log.target)
    log.s3.put_object(Bucket=log.source, Key="again", Body=b"x")
    log.of("REST.PUT.OBJECT", "again")
