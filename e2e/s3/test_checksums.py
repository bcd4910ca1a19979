import base64
import hashlib
import zlib

import pytest
from botocore.config import Config

from helpers import pattern, raw, refused, signed

BODY = pattern(300_000, seed=4)


def b64(digest):
    return base64.b64encode(digest).decode()


def crc32c(data):
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return (crc ^ 0xFFFFFFFF).to_bytes(4, "big")


def crc64nvme(data):
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x9A6C9329AC4BC9B5 if n & 1 else 0)
        table.append(n)
    crc = 0xFFFFFFFFFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return (crc ^ 0xFFFFFFFFFFFFFFFF).to_bytes(8, "big")


CHECKSUMS = {
    "CRC32": b64(zlib.crc32(BODY).to_bytes(4, "big")),
    "CRC32C": b64(crc32c(BODY)),
    "CRC64NVME": b64(crc64nvme(BODY)),
    "SHA1": b64(hashlib.sha1(BODY).digest()),
    "SHA256": b64(hashlib.sha256(BODY).digest()),
}


@pytest.mark.parametrize("name", CHECKSUMS)
def test_a_checksum_that_holds_is_taken_and_answered(s3, bucket, name):
    written = s3.put_object(Bucket=bucket, Key="k", Body=BODY, **{f"Checksum{name}": CHECKSUMS[name]})
    assert written[f"Checksum{name}"] == CHECKSUMS[name]
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == BODY


@pytest.mark.parametrize("name", CHECKSUMS)
def test_a_checksum_that_does_not_hold_stores_nothing(s3, bucket, name):
    wrong = b64(b"\0" * len(base64.b64decode(CHECKSUMS[name])))
    with refused("BadDigest", 400):
        s3.put_object(Bucket=bucket, Key="k", Body=BODY, **{f"Checksum{name}": wrong})
    with refused("NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="k")


@pytest.mark.parametrize("name", ["CRC32", "SHA1", "SHA256"])
def test_boto3_computes_the_named_checksum(s3, bucket, name):
    written = s3.put_object(Bucket=bucket, Key="k", Body=BODY, ChecksumAlgorithm=name)
    assert written[f"Checksum{name}"] == CHECKSUMS[name]


def trailer(node, bucket, value, name="x-amz-checksum-crc32", announced=None):
    """A PUT as boto3 sends it over TLS: unsigned aws-chunked with the checksum in the trailer."""
    path = f"/{bucket}/k"
    headers = signed(node, "PUT", path, {
        "content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(len(BODY)), "x-amz-trailer": announced or name,
    }, payload="STREAMING-UNSIGNED-PAYLOAD-TRAILER")
    chunks = b"".join(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in (BODY[:65_536], BODY[65_536:]))
    return raw(node, "PUT", path, headers, chunks + f"0\r\n{name}:{value}\r\n\r\n".encode())


@pytest.mark.parametrize("name", CHECKSUMS)
def test_a_trailer_that_holds_is_taken(node, s3, bucket, name):
    status, headers, answer = trailer(node, bucket, CHECKSUMS[name], f"x-amz-checksum-{name.lower()}")
    assert status == 200, answer
    assert headers[f"x-amz-checksum-{name.lower()}"] == CHECKSUMS[name]
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == BODY


@pytest.mark.parametrize("name", CHECKSUMS)
def test_a_trailer_that_does_not_hold_stores_nothing(node, s3, bucket, name):
    wrong = b64(b"\1" * len(base64.b64decode(CHECKSUMS[name])))
    status, _, answer = trailer(node, bucket, wrong, f"x-amz-checksum-{name.lower()}")
    assert status == 400 and b"<Code>BadDigest</Code>" in answer
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_trailer_that_is_missing_stores_nothing(node, s3, bucket):
    status, _, answer = trailer(node, bucket, CHECKSUMS["CRC32"], announced="x-amz-checksum-sha256")
    assert status == 400, answer
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_content_md5_is_compared(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=BODY, ContentMD5=b64(hashlib.md5(BODY).digest()))
    with refused("BadDigest", 400):
        s3.put_object(Bucket=bucket, Key="k", Body=b"other", ContentMD5=b64(hashlib.md5(BODY).digest()))
    with refused("InvalidDigest", 400):
        s3.put_object(Bucket=bucket, Key="k", Body=BODY, ContentMD5="bm90IGFuIG1kNQ==")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == BODY


def test_the_whole_objects_crc_is_told_when_asked(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (head["ChecksumCRC64NVME"], head["ChecksumType"]) == (CHECKSUMS["CRC64NVME"], "FULL_OBJECT")
    assert "ChecksumCRC64NVME" not in s3.head_object(Bucket=bucket, Key="k")


def test_the_crc_of_a_multipart_object_is_that_of_its_bytes(s3, bucket):
    parts = [pattern(5 << 20, 1), BODY]
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="CRC32")["UploadId"]
    listed = []
    for number, part in enumerate(parts, 1):
        answer = s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=number, Body=part, ChecksumAlgorithm="CRC32")
        assert answer["ChecksumCRC32"] == b64(zlib.crc32(part).to_bytes(4, "big"))
        listed.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": answer["ChecksumCRC32"]})
    s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload, MultipartUpload={"Parts": listed})
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head["ChecksumCRC64NVME"] == b64(crc64nvme(b"".join(parts)))


def test_a_part_with_a_wrong_checksum_is_refused(s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    with refused("BadDigest", 400):
        s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=BODY, ChecksumCRC32="AAAAAA==")
    assert "Parts" not in s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)


def test_checksums_only_when_required_work_too(node, bucket):
    old = node.client(config=Config(request_checksum_calculation="when_required", response_checksum_validation="when_required"))
    old.put_object(Bucket=bucket, Key="k", Body=BODY)
    assert old.get_object(Bucket=bucket, Key="k")["Body"].read() == BODY
