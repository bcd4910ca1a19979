import hashlib
import io

import pytest
from boto3.s3.transfer import TransferConfig

from helpers import pattern, refused

MIB = 1 << 20


class Upload:
    def __init__(self, s3, bucket, key="k", **arguments):
        self.s3, self.where = s3, {"Bucket": bucket, "Key": key}
        self.where["UploadId"] = s3.create_multipart_upload(**self.where, **arguments)["UploadId"]
        self.parts = []

    def part(self, number, body):
        etag = self.s3.upload_part(**self.where, PartNumber=number, Body=body)["ETag"]
        self.parts.append({"PartNumber": number, "ETag": etag})
        return etag

    def complete(self, parts=None, **arguments):
        parts = self.parts if parts is None else parts
        return self.s3.complete_multipart_upload(**self.where, MultipartUpload={"Parts": parts}, **arguments)


def test_parts_become_one_object(s3, bucket):
    bodies = [pattern(5 * MIB, 1), pattern(5 * MIB + 7, 2), pattern(3, 3)]
    upload = Upload(s3, bucket, ContentType="video/mp4", Metadata={"a": "1"})
    for number in (2, 3, 1):
        assert upload.part(number, bodies[number - 1]) == f'"{hashlib.md5(bodies[number - 1]).hexdigest()}"'
    with refused("NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="k")
    upload.parts.sort(key=lambda part: part["PartNumber"])
    done = upload.complete()
    digest = hashlib.md5(b"".join(hashlib.md5(body).digest() for body in bodies)).hexdigest()
    assert done["ETag"] == f'"{digest}-3"'
    answer = s3.get_object(Bucket=bucket, Key="k")
    assert answer["Body"].read() == b"".join(bodies)
    assert (answer["ContentType"], answer["Metadata"], answer["ETag"]) == ("video/mp4", {"a": "1"}, done["ETag"])


def test_the_transfer_manager_uploads_and_downloads_in_parts(s3, bucket):
    body = pattern(23 * MIB + 5)
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=4)
    s3.upload_fileobj(io.BytesIO(body), bucket, "k", Config=config)
    assert s3.head_object(Bucket=bucket, Key="k")["ETag"].endswith('-5"')
    read = io.BytesIO()
    s3.download_fileobj(bucket, "k", read, Config=config)
    assert read.getvalue() == body


def test_parts_can_leave_numbers_out_and_be_replaced(s3, bucket):
    upload = Upload(s3, bucket)
    upload.part(10_000, b"first try")
    upload.parts.clear()
    upload.part(17, pattern(5 * MIB))
    upload.part(10_000, b"second try")
    upload.complete()
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == pattern(5 * MIB) + b"second try"


def test_parts_that_are_not_named_are_dropped(node, s3, bucket):
    upload = Upload(s3, bucket)
    upload.part(1, b"kept")
    upload.part(2, pattern(MIB))
    upload.complete(upload.parts[:1])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"kept"


@pytest.mark.parametrize("number", [0, 10_001, -1])
def test_part_numbers_go_from_1_to_10000(s3, bucket, number):
    upload = Upload(s3, bucket)
    with refused("InvalidArgument", 400):
        upload.part(number, b"x")


def test_parts_in_the_wrong_order_are_refused(s3, bucket):
    upload = Upload(s3, bucket)
    upload.part(2, b"x")
    upload.part(1, pattern(5 * MIB))
    with refused("InvalidPartOrder", 400):
        upload.complete()


def test_a_part_with_another_etag_is_refused(s3, bucket):
    upload = Upload(s3, bucket)
    upload.part(1, b"x")
    with refused("InvalidPart", 400):
        upload.complete([{"PartNumber": 1, "ETag": '"' + "0" * 32 + '"'}])
    with refused("InvalidPart", 400):
        upload.complete([{"PartNumber": 2, "ETag": upload.parts[0]["ETag"]}])
    upload.complete()


def test_a_small_part_that_is_not_the_last_is_refused(s3, bucket):
    upload = Upload(s3, bucket)
    upload.part(1, b"small")
    upload.part(2, b"last")
    with refused("EntityTooSmall", 400):
        upload.complete()


def test_completing_without_parts_is_refused(s3, bucket):
    upload = Upload(s3, bucket)
    with refused("MalformedXML", 400):
        upload.complete([])


def test_an_aborted_upload_is_gone(node, s3, bucket):
    upload = Upload(s3, bucket)
    upload.part(1, pattern(MIB))
    s3.abort_multipart_upload(**upload.where)
    for call in (lambda: upload.part(2, b"x"), upload.complete, lambda: s3.list_parts(**upload.where),
                 lambda: s3.abort_multipart_upload(**upload.where)):
        with refused("NoSuchUpload", 404):
            call()


def test_completing_again_answers_as_the_first_time(node, s3, bucket):
    upload = Upload(s3, bucket)
    upload.part(1, pattern(5 * MIB))
    upload.part(2, b"end")
    first = upload.complete()
    assert upload.complete()["ETag"] == first["ETag"]
    with refused("NoSuchUpload", 404):
        upload.complete(upload.parts[:1])
    s3.put_object(Bucket=bucket, Key="k", Body=b"another")
    with refused("NoSuchUpload", 404):
        upload.complete()
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"another"


def test_an_upload_of_another_key_is_not_found(s3, bucket):
    upload = Upload(s3, bucket)
    with refused("NoSuchUpload", 404):
        s3.upload_part(Bucket=bucket, Key="other", UploadId=upload.where["UploadId"], PartNumber=1, Body=b"x")


def test_parts_are_listed_in_pages(s3, bucket):
    upload = Upload(s3, bucket)
    for number in (4, 1, 3, 2):
        upload.part(number, b"x" * number)
    pages = list(s3.get_paginator("list_parts").paginate(**upload.where, PaginationConfig={"PageSize": 3}))
    parts = [(part["PartNumber"], part["Size"]) for page in pages for part in page["Parts"]]
    assert len(pages) == 2 and parts == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_unfinished_uploads_are_listed(s3, bucket):
    uploads = [Upload(s3, bucket, key) for key in ("b", "a", "b", "c/d")]
    pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, PaginationConfig={"PageSize": 2})
    listed = [(entry["Key"], entry["UploadId"]) for page in pages for entry in page["Uploads"]]
    assert sorted(listed) == sorted((upload.where["Key"], upload.where["UploadId"]) for upload in uploads)
    assert [key for key, _ in listed] == ["a", "b", "b", "c/d"]
    assert [entry["Key"] for entry in s3.list_multipart_uploads(Bucket=bucket, Prefix="c/")["Uploads"]] == ["c/d"]


def test_a_bucket_with_an_unfinished_upload_is_not_deleted(s3, bucket):
    Upload(s3, bucket)
    with refused("BucketNotEmpty", 409):
        s3.delete_bucket(Bucket=bucket)


def test_a_part_can_be_copied_from_an_object(s3, bucket):
    source = pattern(6 * MIB)
    s3.put_object(Bucket=bucket, Key="source", Body=source)
    upload = Upload(s3, bucket)
    copied = s3.upload_part_copy(**upload.where, PartNumber=1, CopySource={"Bucket": bucket, "Key": "source"})
    ranged = s3.upload_part_copy(**upload.where, PartNumber=2, CopySource={"Bucket": bucket, "Key": "source"}, CopySourceRange="bytes=10-19")
    upload.complete([{"PartNumber": 1, "ETag": copied["CopyPartResult"]["ETag"]},
                     {"PartNumber": 2, "ETag": ranged["CopyPartResult"]["ETag"]}])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == source + source[10:20]


def test_a_part_copied_from_beyond_the_end_is_refused(s3, bucket):
    s3.put_object(Bucket=bucket, Key="source", Body=b"0123456789")
    upload = Upload(s3, bucket)
    with refused("InvalidRange", 416):
        s3.upload_part_copy(**upload.where, PartNumber=1, CopySource={"Bucket": bucket, "Key": "source"}, CopySourceRange="bytes=5-10")
    with refused("InvalidArgument", 400):
        s3.upload_part_copy(**upload.where, PartNumber=1, CopySource={"Bucket": bucket, "Key": "source"}, CopySourceRange="bytes=5-")


def test_completing_only_where_there_is_nothing(s3, bucket):
    upload = Upload(s3, bucket)
    upload.part(1, b"new")
    s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    with refused("PreconditionFailed", 412):
        upload.complete(IfNoneMatch="*")
    s3.delete_object(Bucket=bucket, Key="k")
    upload.complete(IfNoneMatch="*")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"new"
