import base64
import functools
import hashlib
import zlib

import pytest
from botocore.config import Config

from helpers import headers, pattern, refused
from test_checksums import BODY, CHECKSUMS, b64, crc32c, crc64nvme, trailer

DIGESTS = {
    "CRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"), "CRC32C": crc32c, "CRC64NVME": crc64nvme,
    "SHA1": lambda data: hashlib.sha1(data).digest(), "SHA256": lambda data: hashlib.sha256(data).digest(),
}
COMPOSITE = [(name, "COMPOSITE") for name in ("CRC32", "CRC32C", "SHA1", "SHA256")]
FULL = [(name, "FULL_OBJECT") for name in ("CRC32", "CRC32C", "CRC64NVME")]
PARTS = [pattern(5 << 20, 1), pattern(1000, 2)]


@functools.cache
def checksum(name, data):
    return b64(DIGESTS[name](data))


def composite(name, parts):
    return b64(DIGESTS[name](b"".join(base64.b64decode(checksum(name, part)) for part in parts))) + f"-{len(parts)}"


def expected(name, kind, parts):
    return composite(name, parts) if kind == "COMPOSITE" else checksum(name, b"".join(parts))


class Upload:
    """A multipart upload whose parts carry their checksums."""

    def __init__(self, s3, bucket, name, kind=None, parts=PARTS, key="k"):
        self.s3, self.name, self.where = s3, name, {"Bucket": bucket, "Key": key}
        self.created = s3.create_multipart_upload(**self.where, ChecksumAlgorithm=name, **({"ChecksumType": kind} if kind else {}))
        self.where["UploadId"] = self.created["UploadId"]
        self.parts = []
        for number, part in enumerate(parts, 1):
            answer = s3.upload_part(**self.where, PartNumber=number, Body=part, **{f"Checksum{name}": checksum(name, part)})
            assert answer[f"Checksum{name}"] == checksum(name, part)
            self.parts.append({"PartNumber": number, "ETag": answer["ETag"], f"Checksum{name}": answer[f"Checksum{name}"]})

    def complete(self, parts=None, **arguments):
        return self.s3.complete_multipart_upload(**self.where, MultipartUpload={"Parts": self.parts if parts is None else parts}, **arguments)


def kept(s3, bucket, name, value, kind, key="k"):
    """The checksum is told by HEAD and GET when asked, and by HEAD only then."""
    for read in (s3.head_object, s3.get_object):
        answer = read(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        assert (answer[f"Checksum{name}"], answer["ChecksumType"]) == (value, kind)
        assert headers(answer)[f"x-amz-checksum-{name.lower()}"] == value
    answer = s3.head_object(Bucket=bucket, Key=key)
    assert f"Checksum{name}" not in answer and "ChecksumType" not in answer


@pytest.mark.parametrize("name", CHECKSUMS)
def test_the_checksum_of_an_object_is_kept(s3, bucket, name):
    written = s3.put_object(Bucket=bucket, Key="k", Body=BODY, **{f"Checksum{name}": CHECKSUMS[name]})
    assert (written[f"Checksum{name}"], written["ChecksumType"]) == (CHECKSUMS[name], "FULL_OBJECT")
    kept(s3, bucket, name, CHECKSUMS[name], "FULL_OBJECT")


@pytest.mark.parametrize("name", ["CRC32", "SHA1", "SHA256"])
def test_the_checksum_that_boto3_computes_is_kept(s3, bucket, name):
    s3.put_object(Bucket=bucket, Key="k", Body=BODY, ChecksumAlgorithm=name)
    kept(s3, bucket, name, CHECKSUMS[name], "FULL_OBJECT")


@pytest.mark.parametrize("name", CHECKSUMS)
def test_a_checksum_in_a_trailer_is_kept(node, s3, bucket, name):
    status, _, answer = trailer(node, bucket, CHECKSUMS[name], f"x-amz-checksum-{name.lower()}")
    assert status == 200, answer
    kept(s3, bucket, name, CHECKSUMS[name], "FULL_OBJECT")


@pytest.mark.parametrize("name", CHECKSUMS)
def test_nothing_has_a_checksum_too(s3, bucket, name):
    s3.put_object(Bucket=bucket, Key="k", Body=b"", **{f"Checksum{name}": checksum(name, b"")})
    kept(s3, bucket, name, checksum(name, b""), "FULL_OBJECT")


def test_an_object_that_came_without_a_checksum_gets_one(node, s3, bucket):
    old = node.client(config=Config(request_checksum_calculation="when_required"))
    old.put_object(Bucket=bucket, Key="k", Body=BODY)
    kept(s3, bucket, "CRC64NVME", CHECKSUMS["CRC64NVME"], "FULL_OBJECT")


def test_an_overwritten_object_has_the_new_checksum(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=BODY, ChecksumSHA256=CHECKSUMS["SHA256"])
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ChecksumSHA1=checksum("SHA1", b"x"))
    kept(s3, bucket, "SHA1", checksum("SHA1", b"x"), "FULL_OBJECT")
    assert "ChecksumSHA256" not in s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")


@pytest.mark.parametrize("name", CHECKSUMS)
def test_a_range_is_not_taken_for_the_whole(s3, bucket, name):
    s3.put_object(Bucket=bucket, Key="k", Body=BODY, **{f"Checksum{name}": CHECKSUMS[name]})
    answer = s3.get_object(Bucket=bucket, Key="k", Range="bytes=10-19", ChecksumMode="ENABLED")
    assert answer["Body"].read() == BODY[10:20]
    assert answer.get(f"Checksum{name}") in (None, checksum(name, BODY[10:20]))


def test_each_version_has_its_checksum(s3, versioned):
    bodies = [b"1", b"22"]
    versions = [s3.put_object(Bucket=versioned, Key="k", Body=body, ChecksumAlgorithm="SHA256")["VersionId"] for body in bodies]
    for version, body in zip(versions, bodies):
        head = s3.head_object(Bucket=versioned, Key="k", VersionId=version, ChecksumMode="ENABLED")
        assert head["ChecksumSHA256"] == checksum("SHA256", body)


@pytest.mark.parametrize("name, kind", COMPOSITE + FULL)
def test_a_multipart_upload_has_the_checksum_that_was_chosen(s3, bucket, name, kind):
    upload = Upload(s3, bucket, name, kind)
    assert (upload.created["ChecksumAlgorithm"], upload.created["ChecksumType"]) == (name, kind)
    done = upload.complete()
    assert (done[f"Checksum{name}"], done["ChecksumType"]) == (expected(name, kind, PARTS), kind)
    kept(s3, bucket, name, expected(name, kind, PARTS), kind)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"".join(PARTS)


@pytest.mark.parametrize("name, kind", [*COMPOSITE, ("CRC64NVME", "FULL_OBJECT")])
def test_without_a_choice_the_algorithm_says_the_type(s3, bucket, name, kind):
    upload = Upload(s3, bucket, name, parts=[b"one"])
    assert upload.created["ChecksumType"] == kind
    assert upload.complete()[f"Checksum{name}"] == expected(name, kind, [b"one"])


@pytest.mark.parametrize("name, kind", [("SHA1", "FULL_OBJECT"), ("SHA256", "FULL_OBJECT"), ("CRC64NVME", "COMPOSITE"), ("MD4", "COMPOSITE")])
def test_a_type_that_an_algorithm_cannot_have_is_refused(s3, bucket, name, kind):
    with refused("InvalidRequest", 400):
        s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm=name, ChecksumType=kind)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


@pytest.mark.parametrize("name, kind", COMPOSITE + FULL)
def test_the_checksum_that_holds_is_taken_at_completion(s3, bucket, name, kind):
    value = expected(name, kind, [b"one"])
    done = Upload(s3, bucket, name, kind, [b"one"]).complete(**{f"Checksum{name}": value}, ChecksumType=kind)
    assert done[f"Checksum{name}"] == value


@pytest.mark.parametrize("name, kind", COMPOSITE + FULL)
def test_a_checksum_that_does_not_hold_completes_nothing(s3, bucket, name, kind):
    upload = Upload(s3, bucket, name, kind, [b"one"])
    with refused("BadDigest", 400):
        upload.complete(**{f"Checksum{name}": expected(name, kind, [b"two"])})
    with refused("NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="k")
    # The upload is still there.
    upload.complete()
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"one"


@pytest.mark.parametrize("name, kind", COMPOSITE + FULL)
def test_a_part_is_not_completed_with_another_checksum(s3, bucket, name, kind):
    upload = Upload(s3, bucket, name, kind, [b"one"])
    with pytest.raises(s3.exceptions.ClientError) as caught:
        upload.complete([{**upload.parts[0], f"Checksum{name}": checksum(name, b"two")}])
    assert caught.value.response["Error"]["Code"] in ("InvalidPart", "BadDigest")
    upload.complete()


@pytest.mark.parametrize("name, kind", COMPOSITE)
def test_parts_of_a_composite_checksum_are_completed_with_theirs(s3, bucket, name, kind):
    upload = Upload(s3, bucket, name, kind, [b"one"])
    with refused("InvalidRequest", 400):
        upload.complete([{"PartNumber": 1, "ETag": upload.parts[0]["ETag"]}])


@pytest.mark.parametrize("name, kind", FULL)
def test_parts_of_a_full_checksum_may_be_completed_without(s3, bucket, name, kind):
    upload = Upload(s3, bucket, name, kind, [b"one"])
    done = upload.complete([{"PartNumber": 1, "ETag": upload.parts[0]["ETag"]}])
    assert done[f"Checksum{name}"] == checksum(name, b"one")


@pytest.mark.parametrize("name", ["CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_a_part_with_a_checksum_of_another_algorithm_is_refused(s3, bucket, name):
    upload = Upload(s3, bucket, name, parts=[])
    with refused("InvalidRequest", 400):
        s3.upload_part(**upload.where, PartNumber=1, Body=b"one", ChecksumCRC32=checksum("CRC32", b"one"))
    assert "Parts" not in s3.list_parts(**upload.where)


def test_two_checksums_of_one_body_are_refused(s3, bucket):
    both = {f"Checksum{name}": checksum(name, b"one") for name in ("SHA1", "SHA256")}
    with refused("InvalidRequest", 400):
        s3.put_object(Bucket=bucket, Key="k", Body=b"one", **both)
    upload = Upload(s3, bucket, "SHA256", parts=[])
    with refused("InvalidRequest", 400):
        s3.upload_part(**upload.where, PartNumber=1, Body=b"one", **both)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0 and "Parts" not in s3.list_parts(**upload.where)


@pytest.mark.parametrize("name, kind", COMPOSITE + FULL)
def test_parts_of_a_composite_checksum_come_with_theirs(node, bucket, name, kind):
    old = node.client(config=Config(request_checksum_calculation="when_required"))
    upload = Upload(old, bucket, name, kind, parts=[])
    if kind == "COMPOSITE":
        with refused("InvalidRequest", 400):
            old.upload_part(**upload.where, PartNumber=1, Body=b"one")
        assert "Parts" not in old.list_parts(**upload.where)
    else:
        etag = old.upload_part(**upload.where, PartNumber=1, Body=b"one")["ETag"]
        done = upload.complete([{"PartNumber": 1, "ETag": etag}])
        assert (done[f"Checksum{name}"], done["ChecksumType"]) == (checksum(name, b"one"), kind)


def test_an_upload_is_completed_as_the_type_that_it_has(s3, bucket):
    upload = Upload(s3, bucket, "CRC32", "FULL_OBJECT", [b"one"])
    with refused("InvalidRequest", 400):
        upload.complete(ChecksumType="COMPOSITE")


def test_an_upload_without_an_algorithm_gets_a_checksum(node, bucket):
    old = node.client(config=Config(request_checksum_calculation="when_required"))
    where = {"Bucket": bucket, "Key": "k"}
    where["UploadId"] = old.create_multipart_upload(**where)["UploadId"]
    parts = [{"PartNumber": number, "ETag": old.upload_part(**where, PartNumber=number, Body=part)["ETag"]} for number, part in enumerate(PARTS, 1)]
    done = old.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    assert (done["ChecksumCRC64NVME"], done["ChecksumType"]) == (expected("CRC64NVME", "FULL_OBJECT", PARTS), "FULL_OBJECT")
    kept(old, bucket, "CRC64NVME", expected("CRC64NVME", "FULL_OBJECT", PARTS), "FULL_OBJECT")


@pytest.mark.parametrize("wrong", [0, 2, 4, 1 << 40])
def test_a_size_that_does_not_hold_completes_nothing(s3, bucket, wrong):
    upload = Upload(s3, bucket, "CRC32", parts=[b"one"])
    with refused("InvalidRequest", 400):
        upload.complete(MpuObjectSize=wrong)
    with refused("NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="k")
    upload.complete(MpuObjectSize=3)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"one"


@pytest.mark.parametrize("name, kind", COMPOSITE + FULL)
def test_unfinished_uploads_and_their_parts_tell_their_checksums(s3, bucket, name, kind):
    upload = Upload(s3, bucket, name, kind, [b"one", b"two"])
    listed = s3.list_parts(**upload.where)
    assert (listed["ChecksumAlgorithm"], listed["ChecksumType"]) == (name, kind)
    assert [part[f"Checksum{name}"] for part in listed["Parts"]] == [checksum(name, b"one"), checksum(name, b"two")]
    [entry] = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert (entry["ChecksumAlgorithm"], entry["ChecksumType"]) == (name, kind)


@pytest.mark.parametrize("name", CHECKSUMS)
def test_a_listing_tells_the_algorithm(s3, bucket, name):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", **{f"Checksum{name}": checksum(name, b"x")})
    for answer in (s3.list_objects_v2(Bucket=bucket), s3.list_objects(Bucket=bucket)):
        [entry] = answer["Contents"]
        assert (entry["ChecksumAlgorithm"], entry["ChecksumType"]) == ([name], "FULL_OBJECT")


@pytest.mark.parametrize("name", CHECKSUMS)
def test_a_copy_keeps_the_checksum(s3, bucket, name):
    s3.put_object(Bucket=bucket, Key="from", Body=BODY, **{f"Checksum{name}": CHECKSUMS[name]})
    copied = s3.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "from"})["CopyObjectResult"]
    assert (copied[f"Checksum{name}"], copied["ChecksumType"]) == (CHECKSUMS[name], "FULL_OBJECT")
    kept(s3, bucket, name, CHECKSUMS[name], "FULL_OBJECT")


@pytest.mark.parametrize("name", CHECKSUMS)
def test_a_copy_can_have_another_checksum(s3, bucket, name):
    source = "SHA1" if name == "SHA256" else "SHA256"
    s3.put_object(Bucket=bucket, Key="from", Body=BODY, **{f"Checksum{source}": CHECKSUMS[source]})
    copied = s3.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "from"}, ChecksumAlgorithm=name)["CopyObjectResult"]
    assert copied[f"Checksum{name}"] == CHECKSUMS[name]
    kept(s3, bucket, name, CHECKSUMS[name], "FULL_OBJECT")
    assert f"Checksum{source}" not in s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")


def test_a_copied_part_has_its_checksum(s3, bucket):
    s3.put_object(Bucket=bucket, Key="from", Body=BODY)
    upload = Upload(s3, bucket, "SHA256", parts=[])
    copied = s3.upload_part_copy(**upload.where, PartNumber=1, CopySource={"Bucket": bucket, "Key": "from"}, CopySourceRange="bytes=5-99")
    assert copied["CopyPartResult"]["ChecksumSHA256"] == checksum("SHA256", BODY[5:100])
    part = {"PartNumber": 1, "ETag": copied["CopyPartResult"]["ETag"], "ChecksumSHA256": checksum("SHA256", BODY[5:100])}
    assert upload.complete([part])["ChecksumSHA256"] == composite("SHA256", [BODY[5:100]])
