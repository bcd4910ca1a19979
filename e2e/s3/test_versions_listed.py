import xml.etree.ElementTree

import pytest

from helpers import code, raw, refused, signed
from test_versioning import put, turn

XMLNS = "{http://s3.amazonaws.com/doc/2006-03-01/}"
# What is done in the order of this list; None is a deletion.
HISTORY = [("z", b"1"), ("dir/x", b"1"), ("a", b"1"), ("dir/y", b"1"), ("a b", b"1"), ("a", b"22"), ("z", None), ("dir/x", b"22"),
           ("a+b", b"1"), ("dir/x", None), ("a", b"333"), ("dir2/z", b"1"), ("\u00fc/<&>", b"1"), ("z", b"4444"), ("gone", None)]


class Filled:
    """A bucket with a history, and what a listing of it must show: (key, id, latest, size or None for a marker)."""

    def __init__(self, s3, bucket):
        self.bucket, versions = bucket, {}
        for key, body in HISTORY:
            if body is None:
                version = s3.delete_object(Bucket=bucket, Key=key)["VersionId"]
            else:
                version = put(s3, bucket, body, key)
            versions.setdefault(key, []).insert(0, (version, None if body is None else len(body)))
        self.entries = [(key, version, n == 0, size) for key in sorted(versions, key=str.encode)
                        for n, (version, size) in enumerate(versions[key])]

    def of(self, *keys):
        return [entry for entry in self.entries if entry[0] in keys]


@pytest.fixture
def filled(s3, versioned):
    return Filled(s3, versioned)


def listing(node, bucket, query=""):
    """The document as it is on the wire."""
    path = f"/{bucket}?{query}&versions=" if query else f"/{bucket}?versions="
    status, _, body = raw(node, "GET", path, signed(node, "GET", path))
    assert status == 200, body
    return xml.etree.ElementTree.fromstring(body)


def text(element, name):
    return element.findtext(XMLNS + name)


def entries(document):
    found = []
    for element in document:
        if element.tag in (XMLNS + "Version", XMLNS + "DeleteMarker"):
            assert text(element, "IsLatest") in ("true", "false")
            size = int(text(element, "Size")) if element.tag == XMLNS + "Version" else None
            found.append((text(element, "Key"), text(element, "VersionId"), text(element, "IsLatest") == "true", size))
    return found


def parsed(*answers):
    """Versions and markers of boto3's answers, which has them apart."""
    versions = [(e["Key"], e["VersionId"], e["IsLatest"], e["Size"]) for answer in answers for e in answer.get("Versions", [])]
    markers = [(e["Key"], e["VersionId"], e["IsLatest"], None) for answer in answers for e in answer.get("DeleteMarkers", [])]
    return versions, markers


def apart(found):
    return [entry for entry in found if entry[3] is not None], [entry for entry in found if entry[3] is None]


def test_an_empty_bucket_lists_no_versions(s3, versioned):
    answer = s3.list_object_versions(Bucket=versioned)
    assert "Versions" not in answer and "DeleteMarkers" not in answer and not answer["IsTruncated"]
    assert (answer["Name"], answer["MaxKeys"]) == (versioned, 1000)


def test_keys_come_in_byte_order_and_the_newest_first(node, filled):
    document = listing(node, filled.bucket)
    assert apart(entries(document)) == apart(filled.entries)
    assert text(document, "IsTruncated") == "false"


def test_versions_and_markers_are_told_apart(s3, filled):
    assert parsed(s3.list_object_versions(Bucket=filled.bucket)) == apart(filled.entries)


def test_an_entry_says_what_the_version_is(s3, filled):
    answer = s3.list_object_versions(Bucket=filled.bucket, Prefix="z")
    for entry in answer["Versions"]:
        head = s3.head_object(Bucket=filled.bucket, Key="z", VersionId=entry["VersionId"])
        assert (entry["ETag"], entry["Size"], entry["StorageClass"]) == (head["ETag"], head["ContentLength"], "STANDARD")
        assert abs((entry["LastModified"] - head["LastModified"]).total_seconds()) < 1
        assert entry["Owner"]["ID"]
    [marker] = answer["DeleteMarkers"]
    assert marker["Owner"]["ID"] and marker["LastModified"] and not marker["IsLatest"]
    assert "Size" not in marker and "ETag" not in marker


def test_an_unversioned_bucket_lists_null_versions(s3, bucket):
    for key in "ab":
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    answer = s3.list_object_versions(Bucket=bucket)
    assert parsed(answer) == ([("a", "null", True, 1), ("b", "null", True, 1)], [])


def test_the_null_version_is_listed_where_it_was_written(s3, versioned):
    first = put(s3, versioned, b"1")
    turn(s3, versioned, "Suspended")
    put(s3, versioned, b"22")
    turn(s3, versioned, "Enabled")
    last = put(s3, versioned, b"333")
    found = parsed(s3.list_object_versions(Bucket=versioned))
    assert found == ([("k", last, True, 3), ("k", "null", False, 2), ("k", first, False, 1)], [])


def test_another_version_is_the_latest_once_the_latest_is_deleted(s3, filled):
    (_, newest, _, _), (_, second, _, _), *_ = filled.of("a")
    s3.delete_object(Bucket=filled.bucket, Key="a", VersionId=newest)
    found, _ = parsed(s3.list_object_versions(Bucket=filled.bucket, Prefix="a", MaxKeys=2))
    assert [entry[1:3] for entry in found] == [(second, True), (filled.of("a")[2][1], False)]


@pytest.mark.parametrize("page", [1, 2, 3, 4, 7, 16, 1000])
def test_pages_go_on_to_the_end(s3, filled, page):
    pages = list(s3.get_paginator("list_object_versions").paginate(Bucket=filled.bucket, PaginationConfig={"PageSize": page}))
    assert parsed(*pages) == apart(filled.entries)
    counts = [len(answer.get("Versions", []) + answer.get("DeleteMarkers", [])) for answer in pages]
    assert all(count == page for count in counts[:-1]) and 0 < counts[-1] <= page
    assert [answer["IsTruncated"] for answer in pages] == [True] * (len(pages) - 1) + [False]
    assert all("NextKeyMarker" in answer and "NextVersionIdMarker" in answer for answer in pages[:-1])
    assert "NextKeyMarker" not in pages[-1] and "NextVersionIdMarker" not in pages[-1]


@pytest.mark.parametrize("page", range(1, len(HISTORY)))
def test_the_next_page_begins_right_behind_the_last_entry(node, filled, page):
    first = listing(node, filled.bucket, f"max-keys={page}")
    assert apart(entries(first)) == apart(filled.entries[:page])
    assert (text(first, "NextKeyMarker"), text(first, "NextVersionIdMarker")) == filled.entries[page - 1][:2]
    assert (text(first, "IsTruncated"), text(first, "MaxKeys")) == ("true", str(page))


def test_many_versions_of_one_key_take_more_than_one_page(s3, versioned):
    versions = [put(s3, versioned, b"x") for _ in range(25)]
    pages = list(s3.get_paginator("list_object_versions").paginate(Bucket=versioned, PaginationConfig={"PageSize": 10}))
    assert [len(answer["Versions"]) for answer in pages] == [10, 10, 5]
    assert [entry["VersionId"] for answer in pages for entry in answer["Versions"]] == versions[::-1]
    assert [entry["IsLatest"] for answer in pages for entry in answer["Versions"]] == [True] + [False] * 24


@pytest.mark.parametrize("prefix, keys", [
    ("a", ["a", "a b", "a+b"]), ("a ", ["a b"]), ("dir/", ["dir/x", "dir/y"]), ("dir", ["dir/x", "dir/y", "dir2/z"]),
    ("gone", ["gone"]), ("\u00fc", ["\u00fc/<&>"]), ("none", []), ("", sorted({key for key, _ in HISTORY}))])
def test_a_prefix_shows_the_versions_of_its_keys(s3, filled, prefix, keys):
    answer = s3.list_object_versions(Bucket=filled.bucket, Prefix=prefix)
    assert parsed(answer) == apart(filled.of(*keys))
    assert answer.get("Prefix", "") == prefix


def test_a_delimiter_rolls_versions_and_markers_up(s3, filled):
    answer = s3.list_object_versions(Bucket=filled.bucket, Delimiter="/")
    assert parsed(answer) == apart(filled.of("a", "a b", "a+b", "gone", "z"))
    assert [entry["Prefix"] for entry in answer["CommonPrefixes"]] == ["dir/", "dir2/", "\u00fc/"]
    assert answer["Delimiter"] == "/"


def test_a_folder_of_markers_only_is_rolled_up_too(s3, filled):
    s3.delete_object(Bucket=filled.bucket, Key="only/marker")
    answer = s3.list_object_versions(Bucket=filled.bucket, Delimiter="/", Prefix="o")
    assert [entry["Prefix"] for entry in answer["CommonPrefixes"]] == ["only/"]
    assert "DeleteMarkers" not in answer


def test_a_prefix_and_a_delimiter_show_the_versions_of_one_folder(s3, filled):
    answer = s3.list_object_versions(Bucket=filled.bucket, Prefix="dir/", Delimiter="/")
    assert parsed(answer) == apart(filled.of("dir/x", "dir/y"))
    assert "CommonPrefixes" not in answer


@pytest.mark.parametrize("page", [1, 2, 3, 5])
def test_pages_with_a_delimiter_go_on_to_the_end(s3, filled, page):
    pages = list(s3.get_paginator("list_object_versions").paginate(
        Bucket=filled.bucket, Delimiter="/", PaginationConfig={"PageSize": page}))
    assert parsed(*pages) == apart(filled.of("a", "a b", "a+b", "gone", "z"))
    prefixes = [entry["Prefix"] for answer in pages for entry in answer.get("CommonPrefixes", [])]
    assert prefixes == ["dir/", "dir2/", "\u00fc/"]
    for answer in pages:
        count = len(answer.get("Versions", []) + answer.get("DeleteMarkers", []) + answer.get("CommonPrefixes", []))
        assert 0 < count <= page


def test_a_key_marker_begins_behind_all_versions_of_its_key(s3, filled):
    answer = s3.list_object_versions(Bucket=filled.bucket, KeyMarker="a")
    assert parsed(answer) == apart([entry for entry in filled.entries if entry[0] != "a"])
    assert answer["KeyMarker"] == "a"


def test_a_key_marker_that_is_no_key_begins_behind_where_it_would_be(s3, filled):
    answer = s3.list_object_versions(Bucket=filled.bucket, KeyMarker="dir/xx")
    assert parsed(answer) == apart(filled.of("dir/y", "dir2/z", "gone", "z", "\u00fc/<&>"))
    assert parsed(s3.list_object_versions(Bucket=filled.bucket, KeyMarker="\U0010ffff")) == ([], [])


@pytest.mark.parametrize("position", range(0, len(HISTORY), 2))
def test_a_version_id_marker_begins_behind_that_version(node, s3, filled, position):
    key, version, *_ = filled.entries[position]
    answer = s3.list_object_versions(Bucket=filled.bucket, KeyMarker=key, VersionIdMarker=version)
    assert parsed(answer) == apart(filled.entries[position + 1:])
    assert (answer["KeyMarker"], answer["VersionIdMarker"]) == (key, version)


def test_a_version_id_marker_without_a_key_is_refused(s3, filled):
    with refused("InvalidArgument", 400):
        s3.list_object_versions(Bucket=filled.bucket, VersionIdMarker=filled.entries[0][1])


def test_a_marker_that_is_no_version_id_is_refused(s3, filled):
    for marker in ("not a version", "!"):
        with refused("InvalidArgument", 400):
            s3.list_object_versions(Bucket=filled.bucket, KeyMarker="a", VersionIdMarker=marker)


def test_a_page_can_begin_in_the_middle_of_a_key_after_a_deletion(s3, filled):
    """The marker of the next page may be a version that has been deleted meanwhile."""
    first = s3.list_object_versions(Bucket=filled.bucket, MaxKeys=2)
    s3.delete_object(Bucket=filled.bucket, Key="a", VersionId=first["NextVersionIdMarker"])
    answer = s3.list_object_versions(Bucket=filled.bucket, KeyMarker="a", VersionIdMarker=first["NextVersionIdMarker"])
    assert parsed(answer) == apart(filled.entries[2:])


def test_a_page_of_no_versions_is_empty(s3, filled):
    answer = s3.list_object_versions(Bucket=filled.bucket, MaxKeys=0)
    assert parsed(answer) == ([], []) and not answer["IsTruncated"]


def test_a_page_has_1000_entries_at_most(s3, filled):
    assert s3.list_object_versions(Bucket=filled.bucket, MaxKeys=5000)["MaxKeys"] == 1000


@pytest.mark.parametrize("query", ["max-keys=-1", "max-keys=x", "encoding-type=base64"])
def test_what_cannot_be_a_listing_is_refused(node, versioned, query):
    path = f"/{versioned}?{query}&versions="
    status, _, body = raw(node, "GET", path, signed(node, "GET", path))
    assert (status, code(body)) == (400, "InvalidArgument")


def test_keys_are_encoded_when_asked(node, s3, versioned):
    for key in ("a b", "a+b", "\u00fc&<x>", "ctrl\x01key", "d/x"):
        put(s3, versioned, b"x", key)
    document = listing(node, versioned, "delimiter=%2F&encoding-type=url&max-keys=4")
    assert [entry[0] for entry in entries(document)] == ["a+b", "a%2Bb", "ctrl%01key"]
    assert text(document.find(XMLNS + "CommonPrefixes"), "Prefix") == "d/"
    assert text(document, "EncodingType") == "url"
    assert text(document, "NextKeyMarker") == "d/"
    document = listing(node, versioned, "encoding-type=url&prefix=%C3%BC%26")
    assert text(document, "Prefix") == "%C3%BC%26"
    assert [entry[0] for entry in entries(document)] == ["%C3%BC%26%3Cx%3E"]


def test_versions_of_no_bucket_are_not_listed(s3):
    with refused("NoSuchBucket", 404):
        s3.list_object_versions(Bucket="there-is-none")
