import concurrent.futures
import datetime

import pytest

from helpers import refused

OTHER = '"' + "0" * 32 + '"'


@pytest.fixture
def etag(s3, bucket):
    return s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]


@pytest.mark.parametrize("operation", ["get_object", "head_object"])
def test_if_match_reads_only_that_version(s3, bucket, etag, operation):
    read = getattr(s3, operation)
    assert read(Bucket=bucket, Key="k", IfMatch=etag)["ETag"] == etag
    assert read(Bucket=bucket, Key="k", IfMatch="*")["ETag"] == etag
    with refused("PreconditionFailed" if operation == "get_object" else "412", 412):
        read(Bucket=bucket, Key="k", IfMatch=OTHER)


@pytest.mark.parametrize("operation", ["get_object", "head_object"])
def test_if_none_match_says_not_modified(s3, bucket, etag, operation):
    read = getattr(s3, operation)
    assert read(Bucket=bucket, Key="k", IfNoneMatch=OTHER)["ETag"] == etag
    with refused("304", 304) as caught:
        read(Bucket=bucket, Key="k", IfNoneMatch=etag)
    assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["etag"] == etag


@pytest.mark.parametrize("operation", ["get_object", "head_object"])
def test_dates_are_compared(s3, bucket, etag, operation):
    read = getattr(s3, operation)
    hour = datetime.timedelta(hours=1)
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    assert read(Bucket=bucket, Key="k", IfModifiedSince=modified - hour)["ETag"] == etag
    assert read(Bucket=bucket, Key="k", IfUnmodifiedSince=modified)["ETag"] == etag
    with refused("304", 304):
        read(Bucket=bucket, Key="k", IfModifiedSince=modified)
    with refused("PreconditionFailed" if operation == "get_object" else "412", 412):
        read(Bucket=bucket, Key="k", IfUnmodifiedSince=modified - hour)


def test_an_entity_tag_wins_over_a_date(s3, bucket, etag):
    hour = datetime.timedelta(hours=1)
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    s3.get_object(Bucket=bucket, Key="k", IfMatch=etag, IfUnmodifiedSince=modified - hour)
    s3.get_object(Bucket=bucket, Key="k", IfNoneMatch=OTHER, IfModifiedSince=modified + hour)


def test_writing_only_where_there_is_nothing(s3, bucket, etag):
    with refused("PreconditionFailed", 412):
        s3.put_object(Bucket=bucket, Key="k", Body=b"y", IfNoneMatch="*")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    s3.put_object(Bucket=bucket, Key="new", Body=b"y", IfNoneMatch="*")


def test_writing_only_over_that_version(s3, bucket, etag):
    with refused("PreconditionFailed", 412):
        s3.put_object(Bucket=bucket, Key="k", Body=b"y", IfMatch=OTHER)
    s3.put_object(Bucket=bucket, Key="k", Body=b"y", IfMatch=etag)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"y"
    with refused("NoSuchKey", 404):
        s3.put_object(Bucket=bucket, Key="none", Body=b"y", IfMatch=etag)


def test_of_many_writers_one_wins(s3, bucket):
    def write(n):
        try:
            s3.put_object(Bucket=bucket, Key="race", Body=str(n).encode(), IfNoneMatch="*")
            return n
        except s3.exceptions.ClientError as error:
            assert error.response["Error"]["Code"] == "PreconditionFailed"
            return None

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        won = [n for n in pool.map(write, range(24)) if n is not None]
    assert len(won) == 1
    assert s3.get_object(Bucket=bucket, Key="race")["Body"].read() == str(won[0]).encode()
