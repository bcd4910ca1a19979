import pytest

from helpers import code, raw, refused, signed
from test_multipart import Upload

KEYS = ["a", "a", "a b", "dir/", "dir/one", "dir/one", "dir/sub/x", "dir/sub/y", "dir0", "z//x", "ü/ö"]


@pytest.fixture
def filled(s3, bucket):
    for key in KEYS:
        Upload(s3, bucket, key)
    return bucket


def listed(s3, bucket, page, **arguments):
    """Keys and common prefixes of all pages, each with those of its page, none larger than asked for."""
    keys, prefixes = [], []
    pages = s3.get_paginator("list_multipart_uploads").paginate(
        Bucket=bucket, PaginationConfig={"PageSize": page}, **arguments)
    for answer in pages:
        uploads, groups = answer.get("Uploads", []), answer.get("CommonPrefixes", [])
        assert 0 < len(uploads) + len(groups) <= page
        assert answer["MaxUploads"] == page
        keys += [upload["Key"] for upload in uploads]
        prefixes += [group["Prefix"] for group in groups]
    return keys, prefixes


@pytest.mark.parametrize("page", [1, 2, 3, 1000])
def test_a_delimiter_rolls_up(s3, filled, page):
    assert listed(s3, filled, page, Delimiter="/") == (["a", "a", "a b", "dir0"], ["dir/", "z/", "ü/"])


@pytest.mark.parametrize("page", [1, 2, 1000])
def test_a_prefix_and_a_delimiter_show_one_folder(s3, filled, page):
    assert listed(s3, filled, page, Delimiter="/", Prefix="dir/") == (["dir/", "dir/one", "dir/one"], ["dir/sub/"])
    assert listed(s3, filled, page, Delimiter="/", Prefix="di") == (["dir0"], ["dir/"])


@pytest.mark.parametrize("page", [1, 1000])
def test_a_delimiter_can_be_longer_than_one_character(s3, filled, page):
    keys, prefixes = listed(s3, filled, page, Delimiter="//")
    assert (len(keys), prefixes) == (len(KEYS) - 1, ["z//"])


@pytest.mark.parametrize("page", [1, 2, 4, 1000])
def test_without_a_delimiter_each_upload_is_told_once(s3, filled, page):
    assert listed(s3, filled, page) == (sorted(KEYS, key=str.encode), [])


def test_a_page_that_ends_with_a_common_prefix_names_no_upload(s3, filled):
    first = s3.list_multipart_uploads(Bucket=filled, Delimiter="/", Prefix="d", MaxUploads=1)
    assert (first["IsTruncated"], first["Delimiter"], first["NextKeyMarker"]) == (True, "/", "dir/")
    assert not first.get("NextUploadIdMarker") and "Uploads" not in first
    rest = s3.list_multipart_uploads(Bucket=filled, Delimiter="/", Prefix="d", KeyMarker="dir/")
    assert [upload["Key"] for upload in rest["Uploads"]] == ["dir0"]
    assert not rest["IsTruncated"] and "CommonPrefixes" not in rest and "NextKeyMarker" not in rest


def test_a_key_alone_as_marker_leaves_out_all_of_its_uploads(s3, filled):
    rest = s3.list_multipart_uploads(Bucket=filled, Delimiter="/", KeyMarker="a")
    assert [upload["Key"] for upload in rest["Uploads"]] == ["a b", "dir0"]
    inside = s3.list_multipart_uploads(Bucket=filled, Delimiter="/", KeyMarker="dir/one", Prefix="dir")
    assert [group["Prefix"] for group in inside["CommonPrefixes"]] == ["dir/"]


def test_aborting_page_by_page_leaves_nothing(s3, filled):
    marker = {}
    aborted = 0
    while True:
        page = s3.list_multipart_uploads(Bucket=filled, MaxUploads=1, **marker)
        for upload in page.get("Uploads", []):
            s3.abort_multipart_upload(Bucket=filled, Key=upload["Key"], UploadId=upload["UploadId"])
            aborted += 1
        if not page["IsTruncated"]:
            break
        marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
    assert aborted == len(KEYS)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=filled)


def test_names_are_encoded_on_request(node, s3, bucket):
    for key in ("sp ace+plus/x", "sp ace+plus", "a&<b>/x", "100%/ü"):
        Upload(s3, bucket, key)
    path = f"/{bucket}?delimiter=%2F&encoding-type=url&max-uploads=2&uploads="
    status, _, body = raw(node, "GET", path, signed(node, "GET", path))
    assert status == 200, body
    for expected in (b"<EncodingType>url</EncodingType>", b"<Prefix>100%25/</Prefix>", b"<Prefix>a%26%3Cb%3E/</Prefix>",
                     b"<NextKeyMarker>a%26%3Cb%3E/</NextKeyMarker>", b"<Delimiter>/</Delimiter>"):
        assert expected in body, (expected, body)
    # boto3 asks for it and decodes: what it is told is what was written.
    assert listed(s3, bucket, 1, Delimiter="/") == (["sp ace+plus"], ["100%/", "a&<b>/", "sp ace+plus/"])
    path = f"/{bucket}?encoding-type=base64&uploads="
    status, _, body = raw(node, "GET", path, signed(node, "GET", path))
    assert (status, code(body)) == (400, "InvalidArgument")


def test_a_page_of_no_uploads_is_the_last(s3, filled):
    page = s3.list_multipart_uploads(Bucket=filled, MaxUploads=0)
    assert not page["IsTruncated"] and "Uploads" not in page


def test_uploads_of_no_bucket_are_not_listed(s3):
    with refused("NoSuchBucket", 404):
        s3.list_multipart_uploads(Bucket="there-is-no-such-bucket", Delimiter="/")
