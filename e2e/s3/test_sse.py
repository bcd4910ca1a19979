"""Encryption with keys of the customer's (SSE-C)."""

import hashlib
import uuid

import pytest

from helpers import headers, pattern, refused, status
from sse import KEY, OTHER, b64, from_key, on_disk, with_key
from test_tls import secure  # A fixture: keys of customers go over TLS only.

PARTS = [pattern(5 * (1 << 20) + 3, 1), pattern(5 << 20, 2), b"the end"]
ALL = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"]


class Vault:
    """A bucket over TLS."""

    def __init__(self, node, ca):
        self.node, self.s3, self.bucket = node, node.client(verify=ca), f"test-{uuid.uuid4().hex}"
        self.s3.create_bucket(Bucket=self.bucket)

    def put(self, body, key=None, name="k", **arguments):
        return self.s3.put_object(Bucket=self.bucket, Key=name, Body=body, **(with_key(key) if key else {}), **arguments)

    def get(self, key=None, name="k", **arguments):
        return self.s3.get_object(Bucket=self.bucket, Key=name, **(with_key(key) if key else {}), **arguments)

    def read(self, key=None, name="k", **arguments):
        return self.get(key, name, **arguments)["Body"].read()

    def head(self, key=None, name="k", **arguments):
        return self.s3.head_object(Bucket=self.bucket, Key=name, **(with_key(key) if key else {}), **arguments)

    def copy(self, name="c", **arguments):
        return self.s3.copy_object(Bucket=self.bucket, Key=name, CopySource={"Bucket": self.bucket, "Key": "k"}, **arguments)


@pytest.fixture
def vault(secure):
    return Vault(*secure)


def upload(vault, key, parts=PARTS, name="k"):
    """A multipart upload whose every part comes with the key."""
    where = {"Bucket": vault.bucket, "Key": name}
    created = vault.s3.create_multipart_upload(**where, **with_key(key))
    assert (created["SSECustomerAlgorithm"], created["SSECustomerKeyMD5"]) == ("AES256", with_key(key)["SSECustomerKeyMD5"])
    where["UploadId"] = created["UploadId"]
    done = []
    for number, part in enumerate(parts, 1):
        answer = vault.s3.upload_part(**where, PartNumber=number, Body=part, **with_key(key))
        assert answer["SSECustomerAlgorithm"] == "AES256"
        done.append({"PartNumber": number, "ETag": answer["ETag"]})
    return vault.s3.complete_multipart_upload(**where, MultipartUpload={"Parts": done}, **with_key(key))


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 65_536, 524_289, 3_000_001])
def test_what_is_written_with_a_key_is_read_with_it(vault, length):
    body = pattern(length, length)
    for answer in (vault.put(body, KEY, ContentType="text/plain", Metadata={"a": "1"}), vault.get(KEY), vault.head(KEY)):
        assert (answer["SSECustomerAlgorithm"], answer["SSECustomerKeyMD5"]) == ("AES256", with_key(KEY)["SSECustomerKeyMD5"])
        assert "x-amz-server-side-encryption-customer-key" not in headers(answer)
    answer = vault.get(KEY)
    assert answer["Body"].read() == body
    assert (answer["ContentLength"], answer["ContentType"], answer["Metadata"]) == (length, "text/plain", {"a": "1"})
    assert vault.head(KEY)["ContentLength"] == length


@pytest.mark.parametrize("asked, first, end", [
    ("bytes=0-0", 0, 1), ("bytes=15-16", 15, 17), ("bytes=65530-65545", 65_530, 65_546), ("bytes=524287-524288", 524_287, 524_289),
    ("bytes=1-1299998", 1, 1_299_999), ("bytes=-1", 1_299_999, 1_300_000), ("bytes=1048000-", 1_048_000, 1_300_000)])
def test_a_range_is_what_was_asked(vault, asked, first, end):
    vault.put(pattern(1_300_000), KEY)
    answer = vault.get(KEY, Range=asked)
    assert answer["ContentRange"] == f"bytes {first}-{end - 1}/1300000"
    assert answer["Body"].read() == pattern(1_300_000)[first:end]


def test_another_key_is_refused(vault):
    vault.put(b"secret", KEY)
    with refused("AccessDenied", 403):
        vault.get(OTHER)
    with refused("403", 403):
        vault.head(OTHER)
    assert vault.read(KEY) == b"secret"


def test_without_a_key_nothing_is_told(vault):
    vault.put(b"secret", KEY)
    with refused("InvalidRequest", 400) as caught:
        vault.get()
    assert "secret" not in str(caught.value.response)
    with refused("400", 400):
        vault.head()
    with refused("InvalidRequest", 400):
        vault.s3.get_object_attributes(Bucket=vault.bucket, Key="k", ObjectAttributes=ALL)


def test_a_key_for_what_is_not_encrypted_is_refused(vault):
    vault.put(b"open")
    with refused("InvalidRequest", 400):
        vault.get(KEY)
    with refused("400", 400):
        vault.head(KEY)
    assert vault.read() == b"open"


def test_attributes_are_told_with_the_key(vault):
    etag = vault.put(b"secret", KEY)["ETag"]
    answer = vault.s3.get_object_attributes(Bucket=vault.bucket, Key="k", ObjectAttributes=ALL, **with_key(KEY))
    assert (answer["ObjectSize"], answer["ETag"]) == (6, etag)
    with refused("AccessDenied", 403):
        vault.s3.get_object_attributes(Bucket=vault.bucket, Key="k", ObjectAttributes=ALL, **with_key(OTHER))


def test_listing_tagging_and_deleting_need_no_key(vault):
    vault.put(b"secret", KEY)
    [entry] = vault.s3.list_objects_v2(Bucket=vault.bucket)["Contents"]
    assert (entry["Key"], entry["Size"]) == ("k", 6)
    vault.s3.put_object_tagging(Bucket=vault.bucket, Key="k", Tagging={"TagSet": [{"Key": "a", "Value": "1"}]})
    vault.s3.delete_object(Bucket=vault.bucket, Key="k")
    with refused("NoSuchKey", 404):
        vault.get(KEY)


GOOD = with_key(KEY)


@pytest.mark.parametrize("given, errors", [
    ({**GOOD, "SSECustomerKeyMD5": b64(hashlib.md5(OTHER).digest())}, ["InvalidArgument", "InvalidRequest"]),
    ({**GOOD, "SSECustomerKeyMD5": "not base64"}, ["InvalidArgument", "InvalidDigest"]),
    ({**GOOD, "SSECustomerAlgorithm": "AES128"}, ["InvalidEncryptionAlgorithmError", "InvalidArgument"]),
    ({**GOOD, "SSECustomerAlgorithm": "aws:kms"}, ["InvalidEncryptionAlgorithmError", "InvalidArgument"]),
    (with_key(pattern(16)), ["InvalidArgument"]), (with_key(pattern(33)), ["InvalidArgument"]),
    ({**GOOD, "SSECustomerKey": "%%%"}, ["InvalidArgument"]),
    ({name: value for name, value in GOOD.items() if name != "SSECustomerAlgorithm"}, ["InvalidArgument", "InvalidRequest"]),
    ({"SSECustomerAlgorithm": "AES256"}, ["InvalidArgument", "InvalidRequest"]),
    ({**GOOD, "ServerSideEncryption": "AES256"}, ["InvalidArgument"]),
], ids=["other md5", "bad md5", "algorithm", "kms", "short", "long", "no base64", "no algorithm", "no key", "two kinds"])
@pytest.mark.parametrize("operation", ["put_object", "create_multipart_upload"])
def test_a_key_that_is_none_stores_nothing(vault, operation, given, errors):
    with pytest.raises(vault.s3.exceptions.ClientError) as caught:
        getattr(vault.s3, operation)(Bucket=vault.bucket, Key="k", **given)
    assert status(caught.value.response) == 400
    assert caught.value.response["Error"]["Code"] in errors, caught.value.response
    assert vault.s3.list_objects_v2(Bucket=vault.bucket)["KeyCount"] == 0
    assert "Uploads" not in vault.s3.list_multipart_uploads(Bucket=vault.bucket)


@pytest.mark.parametrize("source, target", [(KEY, KEY), (KEY, OTHER), (KEY, None), (None, KEY)], ids=["same", "other", "to none", "from none"])
def test_a_copy_is_encrypted_as_was_asked(vault, source, target):
    body = pattern(700_000)
    vault.put(body, source, Metadata={"a": "1"})
    copied = vault.copy(**(from_key(source) if source else {}), **(with_key(target) if target else {}))
    assert copied.get("SSECustomerKeyMD5") == (with_key(target)["SSECustomerKeyMD5"] if target else None)
    answer = vault.get(target, "c")
    assert (answer["Body"].read(), answer["Metadata"]) == (body, {"a": "1"})
    if target:
        with refused("InvalidRequest", 400):
            vault.get(name="c")


def test_an_object_is_encrypted_anew_by_copying_it_onto_itself(vault):
    vault.put(pattern(700_000), KEY)
    vault.copy("k", **from_key(KEY), **with_key(OTHER))
    assert vault.read(OTHER) == pattern(700_000)
    with refused("AccessDenied", 403):
        vault.get(KEY)


def test_a_copy_needs_the_key_of_its_source(vault):
    vault.put(b"secret", KEY)
    with refused("InvalidRequest", 400):
        vault.copy()
    with refused("InvalidRequest", 400):
        vault.copy(**with_key(KEY))
    with refused("AccessDenied", 403):
        vault.copy(**from_key(OTHER))
    with refused("NoSuchKey", 404):
        vault.get(name="c")


def test_a_multipart_upload_is_read_with_its_key(vault):
    done = upload(vault, KEY)
    answer = vault.get(KEY)
    assert answer["Body"].read() == b"".join(PARTS)
    assert (answer["ETag"], answer["SSECustomerKeyMD5"]) == (done["ETag"], with_key(KEY)["SSECustomerKeyMD5"])
    middle = len(PARTS[0])
    assert vault.read(KEY, Range=f"bytes={middle - 100}-{middle + 99}") == PARTS[0][-100:] + PARTS[1][:100]
    for number, part in enumerate(PARTS, 1):
        answer = vault.get(KEY, PartNumber=number)
        assert (answer["Body"].read(), answer["PartsCount"]) == (part, 3)
    with refused("AccessDenied", 403):
        vault.get(OTHER)
    with refused("InvalidRequest", 400):
        vault.get()


@pytest.mark.parametrize("created, given", [(KEY, None), (KEY, OTHER), (None, KEY)], ids=["no key", "other key", "unasked"])
def test_a_part_comes_with_the_key_of_its_upload(vault, created, given):
    where = {"Bucket": vault.bucket, "Key": "k"}
    where["UploadId"] = vault.s3.create_multipart_upload(**where, **(with_key(created) if created else {}))["UploadId"]
    with refused("InvalidRequest", 400):
        vault.s3.upload_part(**where, PartNumber=1, Body=b"x", **(with_key(given) if given else {}))
    assert "Parts" not in vault.s3.list_parts(**where)


def test_a_part_can_be_copied_between_keys(vault):
    vault.put(pattern(700_000), KEY)
    where = {"Bucket": vault.bucket, "Key": "c"}
    where["UploadId"] = vault.s3.create_multipart_upload(**where, **with_key(OTHER))["UploadId"]
    given = {**where, "PartNumber": 1, "CopySource": {"Bucket": vault.bucket, "Key": "k"}, "CopySourceRange": "bytes=65530-300000"}
    with refused("InvalidRequest", 400):
        vault.s3.upload_part_copy(**given, **with_key(OTHER))
    with refused("AccessDenied", 403):
        vault.s3.upload_part_copy(**given, **with_key(OTHER), **from_key(OTHER))
    copied = vault.s3.upload_part_copy(**given, **with_key(OTHER), **from_key(KEY))
    assert copied["SSECustomerKeyMD5"] == with_key(OTHER)["SSECustomerKeyMD5"]
    parts = [{"PartNumber": 1, "ETag": copied["CopyPartResult"]["ETag"]}]
    vault.s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts}, **with_key(OTHER))
    assert vault.read(OTHER, "c") == pattern(700_000)[65_530:300_001]


def test_each_version_has_its_own_key(vault):
    vault.s3.put_bucket_versioning(Bucket=vault.bucket, VersioningConfiguration={"Status": "Enabled"})
    versions = {key: vault.put(key, key)["VersionId"] for key in (KEY, OTHER)}
    for key, version in versions.items():
        assert vault.read(key, VersionId=version) == key
    with refused("AccessDenied", 403):
        vault.get(KEY)


@pytest.mark.parametrize("way", ["put", "multipart", "copy"])
def test_neither_bytes_nor_key_are_on_the_disk_or_in_the_log(vault, way):
    # Unlike any other body or key of this file.
    body, key = pattern(900_000, uuid.uuid4().int), pattern(32, uuid.uuid4().int)
    pieces = [body[at:at + 64] for at in range(1000, 900_000, 100_000)]
    vault.put(pieces[0] * 2000)
    assert on_disk(vault.node, pieces[0]), "this test would find nothing whatever was there"
    vault.s3.delete_object(Bucket=vault.bucket, Key="k")
    if way == "put":
        vault.put(body, key)
    elif way == "multipart":
        upload(vault, key, [body])
    else:
        vault.put(body, OTHER)
        vault.copy(**from_key(OTHER), **with_key(key))
    assert vault.read(key, name="c" if way == "copy" else "k") == body
    assert not [at for at, piece in enumerate(pieces[1:]) if on_disk(vault.node, piece)]
    assert not on_disk(vault.node, key) and not on_disk(vault.node, b64(key).encode())
    log = vault.node.log()
    assert "server-side-encryption-customer-key" in log, "this test would find no key whatever was logged"
    assert b64(key) not in log


def test_keys_do_not_go_over_plain_http(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for call in (lambda: s3.put_object(Bucket=bucket, Key="new", Body=b"x", **with_key(KEY)),
                 lambda: s3.get_object(Bucket=bucket, Key="k", **with_key(KEY)),
                 lambda: s3.create_multipart_upload(Bucket=bucket, Key="new", **with_key(KEY)),
                 lambda: s3.copy_object(Bucket=bucket, Key="new", CopySource={"Bucket": bucket, "Key": "k"}, **with_key(KEY)),
                 lambda: s3.copy_object(Bucket=bucket, Key="new", CopySource={"Bucket": bucket, "Key": "k"}, **from_key(KEY))):
        with refused("InvalidRequest", 400):
            call()
    with refused("400", 400):
        s3.head_object(Bucket=bucket, Key="k", **with_key(KEY))
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["k"]
