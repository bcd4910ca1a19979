import pytest

from helpers import refused

KEYS = ["a", "a b", "a+b", "dir/", "dir/one", "dir/sub/x", "dir/sub/y", "dir/two", "dir0", "ctrl\x01key", "z/", "ü/ö"]


@pytest.fixture
def filled(s3, bucket):
    for key in KEYS:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    return bucket


def ordered(keys):
    return sorted(keys, key=lambda key: key.encode())


@pytest.mark.parametrize("operation", ["list_objects_v2", "list_objects"])
@pytest.mark.parametrize("page", [1, 2, 5, 1000])
def test_all_keys_come_in_byte_order_page_by_page(s3, filled, operation, page):
    pages = s3.get_paginator(operation).paginate(Bucket=filled, PaginationConfig={"PageSize": page})
    assert [entry["Key"] for answer in pages for entry in answer.get("Contents", [])] == ordered(KEYS)


@pytest.mark.parametrize("operation", ["list_objects_v2", "list_objects"])
@pytest.mark.parametrize("page", [1, 2, 1000])
def test_a_delimiter_rolls_up(s3, filled, operation, page):
    keys, prefixes = [], []
    for answer in s3.get_paginator(operation).paginate(Bucket=filled, Delimiter="/", PaginationConfig={"PageSize": page}):
        keys += [entry["Key"] for entry in answer.get("Contents", [])]
        prefixes += [entry["Prefix"] for entry in answer.get("CommonPrefixes", [])]
    assert keys == ordered(["a", "a b", "a+b", "ctrl\x01key", "dir0"])
    assert prefixes == ["dir/", "z/", "ü/"]


def test_a_prefix_and_a_delimiter_show_one_folder(s3, filled):
    answer = s3.list_objects_v2(Bucket=filled, Prefix="dir/", Delimiter="/")
    assert [entry["Key"] for entry in answer["Contents"]] == ["dir/", "dir/one", "dir/two"]
    assert [entry["Prefix"] for entry in answer["CommonPrefixes"]] == ["dir/sub/"]
    assert (answer["KeyCount"], answer["IsTruncated"], answer["Prefix"], answer["Delimiter"]) == (4, False, "dir/", "/")


def test_a_delimiter_may_be_longer_than_one_character(s3, filled):
    answer = s3.list_objects_v2(Bucket=filled, Delimiter="/su")
    assert [entry["Prefix"] for entry in answer["CommonPrefixes"]] == ["dir/su"]


def test_a_listing_says_what_an_object_is(s3, filled):
    entry = s3.list_objects_v2(Bucket=filled, Prefix="dir/one")["Contents"][0]
    head = s3.head_object(Bucket=filled, Key="dir/one")
    assert (entry["Size"], entry["ETag"], entry["StorageClass"]) == (head["ContentLength"], head["ETag"], "STANDARD")
    assert abs((entry["LastModified"] - head["LastModified"]).total_seconds()) < 1
    assert "Owner" not in entry
    assert s3.list_objects_v2(Bucket=filled, Prefix="dir/one", FetchOwner=True)["Contents"][0]["Owner"]["ID"]


def test_start_after_begins_behind_a_key(s3, filled):
    answer = s3.list_objects_v2(Bucket=filled, StartAfter="dir/sub/x")
    assert answer["Contents"][0]["Key"] == "dir/sub/y"
    assert answer["StartAfter"] == "dir/sub/x"


def test_a_marker_that_is_no_key_begins_behind_where_it_would_be(s3, filled):
    assert s3.list_objects(Bucket=filled, Marker="dir/sub/xx")["Contents"][0]["Key"] == "dir/sub/y"
    assert "Contents" not in s3.list_objects(Bucket=filled, Marker="\U0010ffff")


def test_truncation_is_told_and_continues(s3, filled):
    first = s3.list_objects_v2(Bucket=filled, MaxKeys=3)
    assert (first["IsTruncated"], first["KeyCount"], first["MaxKeys"]) == (True, 3, 3)
    second = s3.list_objects_v2(Bucket=filled, MaxKeys=1000, ContinuationToken=first["NextContinuationToken"])
    keys = [entry["Key"] for entry in first["Contents"] + second["Contents"]]
    assert keys == ordered(KEYS) and not second["IsTruncated"]


def test_exactly_one_page_is_not_truncated(s3, filled):
    assert not s3.list_objects_v2(Bucket=filled, MaxKeys=len(KEYS))["IsTruncated"]


def test_a_page_of_nothing_is_empty(s3, filled):
    answer = s3.list_objects_v2(Bucket=filled, MaxKeys=0)
    assert (answer["KeyCount"], answer["IsTruncated"]) == (0, False)


def test_more_than_1000_keys_take_more_than_one_page(s3, filled):
    assert s3.list_objects_v2(Bucket=filled, MaxKeys=5000)["MaxKeys"] == 1000


def test_what_is_no_token_or_limit_is_refused(s3, filled):
    with refused("InvalidArgument", 400):
        s3.list_objects_v2(Bucket=filled, ContinuationToken="!!")
    with refused("InvalidArgument", 400):
        s3.list_objects_v2(Bucket=filled, MaxKeys=-1)


def test_an_empty_bucket_lists_nothing(s3, bucket):
    answer = s3.list_objects_v2(Bucket=bucket)
    assert (answer["KeyCount"], "Contents" in answer) == (0, False)


def test_a_listing_shows_writes_and_deletions_at_once(s3, bucket):
    for n in range(20):
        s3.put_object(Bucket=bucket, Key=f"k{n:02}", Body=b"")
        assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == n + 1
    for n in range(20):
        s3.delete_object(Bucket=bucket, Key=f"k{n:02}")
        assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 19 - n
