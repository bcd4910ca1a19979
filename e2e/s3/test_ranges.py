import pytest

from helpers import pattern, refused

SIZE = 1_300_000
BODY = pattern(SIZE, seed=9)


@pytest.mark.parametrize("asked, first, end", [
    ("bytes=0-0", 0, 1),
    ("bytes=0-", 0, SIZE),
    ("bytes=5-9", 5, 10),
    ("bytes=524287-524288", 524_287, 524_289),
    ("bytes=1299999-", SIZE - 1, SIZE),
    ("bytes=10-99999999", 10, SIZE),
    ("bytes=-1", SIZE - 1, SIZE),
    ("bytes=-600000", SIZE - 600_000, SIZE),
    ("bytes=-99999999", 0, SIZE),
])
def test_a_range_is_what_was_asked(s3, bucket, asked, first, end):
    s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    answer = s3.get_object(Bucket=bucket, Key="k", Range=asked)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert answer["ContentRange"] == f"bytes {first}-{end - 1}/{SIZE}"
    assert answer["ContentLength"] == end - first
    assert answer["Body"].read() == BODY[first:end]


@pytest.mark.parametrize("asked", ["bytes=1300000-", "bytes=9999999-99999999", "bytes=-0"])
def test_a_range_beyond_the_end_is_refused(s3, bucket, asked):
    s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    with refused("InvalidRange", 416) as caught:
        s3.get_object(Bucket=bucket, Key="k", Range=asked)
    assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["content-range"] == f"bytes */{SIZE}"


def test_no_range_of_an_empty_object_can_be_had(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    with refused("InvalidRange", 416):
        s3.get_object(Bucket=bucket, Key="k", Range="bytes=0-0")


def test_a_range_across_parts_is_whole(s3, bucket):
    parts = [pattern(5 << 20, 1), pattern(5 << 20, 2)]
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    etags = [s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=n + 1, Body=part)["ETag"]
             for n, part in enumerate(parts)]
    s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload, MultipartUpload={
        "Parts": [{"PartNumber": n + 1, "ETag": etag} for n, etag in enumerate(etags)]})
    middle = 5 << 20
    answer = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={middle - 1000}-{middle + 999}")
    assert answer["Body"].read() == (parts[0] + parts[1])[middle - 1000:middle + 1000]
