import pytest

from helpers import code, headers, raw, refused, signed, status
from test_versioning import gone, listed, put, read, turn


def markers(s3, bucket):
    return [entry["VersionId"] for entry in s3.list_object_versions(Bucket=bucket).get("DeleteMarkers", [])]


@pytest.fixture
def deleted(s3, versioned):
    """A version, and the marker on top of it."""
    version = put(s3, versioned, b"x")
    return version, s3.delete_object(Bucket=versioned, Key="k")["VersionId"]


def test_a_deletion_makes_a_marker_and_says_so(s3, versioned):
    version = put(s3, versioned, b"x")
    answer = s3.delete_object(Bucket=versioned, Key="k")
    assert (status(answer), answer["DeleteMarker"]) == (204, True)
    assert answer["VersionId"] not in (version, "null")
    assert (listed(s3, versioned), markers(s3, versioned)) == ([version], [answer["VersionId"]])


def test_under_a_marker_there_is_no_object(s3, versioned, deleted):
    version, marker = deleted
    with refused("NoSuchKey", 404) as caught:
        s3.get_object(Bucket=versioned, Key="k")
    assert headers(caught.value.response)["x-amz-delete-marker"] == "true"
    assert headers(caught.value.response)["x-amz-version-id"] == marker
    with refused("404", 404) as caught:
        s3.head_object(Bucket=versioned, Key="k")
    assert headers(caught.value.response)["x-amz-delete-marker"] == "true"
    assert headers(caught.value.response)["x-amz-version-id"] == marker
    assert read(s3, versioned, version) == b"x"


def test_a_key_that_never_was_has_no_marker(s3, versioned):
    with refused("NoSuchKey", 404) as caught:
        s3.get_object(Bucket=versioned, Key="k")
    assert "x-amz-delete-marker" not in headers(caught.value.response)


@pytest.mark.parametrize("operation, error", [("get_object", "MethodNotAllowed"), ("head_object", "405")])
def test_a_marker_cannot_be_read(s3, versioned, deleted, operation, error):
    with refused(error, 405) as caught:
        getattr(s3, operation)(Bucket=versioned, Key="k", VersionId=deleted[1])
    answered = headers(caught.value.response)
    assert (answered["x-amz-delete-marker"], answered["allow"], answered["x-amz-version-id"]) == ("true", "DELETE", deleted[1])
    assert answered["last-modified"]


@pytest.mark.parametrize("operation", ["list_objects_v2", "list_objects"])
def test_a_listing_shows_only_what_is_current(s3, versioned, operation):
    put(s3, versioned, b"1", "a")
    put(s3, versioned, b"22", "a")
    put(s3, versioned, b"333", "b")
    s3.delete_object(Bucket=versioned, Key="b")
    put(s3, versioned, b"4444", "c/d")
    s3.delete_object(Bucket=versioned, Key="c/d")
    put(s3, versioned, b"55555", "e/f")
    answer = getattr(s3, operation)(Bucket=versioned)
    assert [(entry["Key"], entry["Size"]) for entry in answer["Contents"]] == [("a", 2), ("e/f", 5)]
    answer = getattr(s3, operation)(Bucket=versioned, Delimiter="/")
    assert [entry["Prefix"] for entry in answer["CommonPrefixes"]] == ["e/"]


@pytest.mark.parametrize("page", [1, 2, 3])
def test_pages_of_a_listing_do_not_count_what_is_deleted(s3, versioned, page):
    for n in range(9):
        put(s3, versioned, b"x", f"k{n}")
        if n % 3:
            s3.delete_object(Bucket=versioned, Key=f"k{n}")
    pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket=versioned, PaginationConfig={"PageSize": page}))
    assert [entry["Key"] for answer in pages for entry in answer.get("Contents", [])] == ["k0", "k3", "k6"]
    assert all(answer["KeyCount"] == len(answer["Contents"]) for answer in pages)


def test_deleting_the_marker_brings_the_object_back(s3, versioned, deleted):
    version, marker = deleted
    answer = s3.delete_object(Bucket=versioned, Key="k", VersionId=marker)
    assert (status(answer), answer["DeleteMarker"], answer["VersionId"]) == (204, True, marker)
    current = s3.get_object(Bucket=versioned, Key="k")
    assert (current["Body"].read(), current["VersionId"]) == (b"x", version)
    assert s3.list_objects_v2(Bucket=versioned)["KeyCount"] == 1


def test_every_deletion_makes_another_marker(s3, versioned, deleted):
    version, first = deleted
    second = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    assert second != first
    assert markers(s3, versioned) == [second, first]
    s3.delete_object(Bucket=versioned, Key="k", VersionId=second)
    with refused("NoSuchKey", 404) as caught:
        read(s3, versioned)
    assert headers(caught.value.response)["x-amz-version-id"] == first
    s3.delete_object(Bucket=versioned, Key="k", VersionId=first)
    assert read(s3, versioned) == b"x"


def test_a_marker_can_be_on_a_key_that_never_was(s3, versioned):
    answer = s3.delete_object(Bucket=versioned, Key="k")
    assert answer["DeleteMarker"] and markers(s3, versioned) == [answer["VersionId"]]
    s3.delete_object(Bucket=versioned, Key="k", VersionId=answer["VersionId"])
    assert markers(s3, versioned) == []


def test_a_write_goes_on_top_of_a_marker(s3, versioned, deleted):
    newer = put(s3, versioned, b"y")
    assert read(s3, versioned) == b"y"
    assert (listed(s3, versioned), markers(s3, versioned)) == ([newer, deleted[0]], [deleted[1]])


def test_deleting_a_version_for_good_promotes_the_one_before(s3, versioned):
    versions = [put(s3, versioned, b"%d" % n) for n in range(4)]
    for n in (3, 2, 1):
        answer = s3.delete_object(Bucket=versioned, Key="k", VersionId=versions[n])
        assert (status(answer), answer["VersionId"], "DeleteMarker" in answer) == (204, versions[n], False)
        current = s3.get_object(Bucket=versioned, Key="k")
        assert (current["Body"].read(), current["VersionId"]) == (b"%d" % (n - 1), versions[n - 1])
        with refused("NoSuchVersion", 404):
            read(s3, versioned, versions[n])
    s3.delete_object(Bucket=versioned, Key="k", VersionId=versions[0])
    with refused("NoSuchKey", 404) as caught:
        read(s3, versioned)
    assert "x-amz-delete-marker" not in headers(caught.value.response)
    assert s3.list_objects_v2(Bucket=versioned)["KeyCount"] == 0


def test_deleting_a_version_in_the_middle_leaves_the_others(s3, versioned):
    versions = [put(s3, versioned, b"%d" % n) for n in range(3)]
    s3.delete_object(Bucket=versioned, Key="k", VersionId=versions[1])
    assert listed(s3, versioned) == [versions[2], versions[0]]
    assert (read(s3, versioned), read(s3, versioned, versions[0])) == (b"2", b"0")


def test_deleting_the_last_version_can_promote_a_marker(s3, versioned, deleted):
    newer = put(s3, versioned, b"y")
    s3.delete_object(Bucket=versioned, Key="k", VersionId=newer)
    with refused("NoSuchKey", 404) as caught:
        read(s3, versioned)
    assert headers(caught.value.response)["x-amz-version-id"] == deleted[1]


def test_while_suspended_a_deletion_replaces_the_null_version_by_a_marker(s3, versioned):
    kept = put(s3, versioned, b"kept")
    turn(s3, versioned, "Suspended")
    put(s3, versioned, b"null")
    for _ in range(2):
        answer = s3.delete_object(Bucket=versioned, Key="k")
        assert (answer["DeleteMarker"], answer["VersionId"]) == (True, "null")
        # One null version only, whichever it is.
        assert (listed(s3, versioned), markers(s3, versioned)) == ([kept], ["null"])
    with refused("MethodNotAllowed", 405):
        read(s3, versioned, "null")
    with refused("NoSuchKey", 404):
        read(s3, versioned)
    assert put(s3, versioned, b"again") == "null"
    assert (listed(s3, versioned), markers(s3, versioned)) == (["null", kept], [])


def test_while_suspended_the_null_marker_can_be_deleted(s3, versioned):
    kept = put(s3, versioned, b"kept")
    turn(s3, versioned, "Suspended")
    s3.delete_object(Bucket=versioned, Key="k")
    answer = s3.delete_object(Bucket=versioned, Key="k", VersionId="null")
    assert (answer["DeleteMarker"], answer["VersionId"]) == (True, "null")
    assert (read(s3, versioned), listed(s3, versioned)) == (b"kept", [kept])


def test_while_suspended_versions_can_be_deleted_for_good(s3, versioned):
    versions = [put(s3, versioned, b"%d" % n) for n in range(2)]
    turn(s3, versioned, "Suspended")
    s3.delete_object(Bucket=versioned, Key="k", VersionId=versions[1])
    assert (read(s3, versioned), listed(s3, versioned)) == (b"0", versions[:1])


@pytest.mark.parametrize("left", ["version", "old version", "marker", "null"])
def test_a_bucket_with_versions_is_not_deleted(s3, versioned, left):
    if left == "null":
        turn(s3, versioned, "Suspended")
    version = put(s3, versioned, b"x")
    if left in ("old version", "marker"):
        s3.delete_object(Bucket=versioned, Key="k")
    if left == "marker":
        s3.delete_object(Bucket=versioned, Key="k", VersionId=version)
    with refused("BucketNotEmpty", 409):
        s3.delete_bucket(Bucket=versioned)
    assert len(listed(s3, versioned) + markers(s3, versioned)) == {"old version": 2}.get(left, 1)


def test_deleting_many_makes_markers_and_names_them(s3, versioned):
    for key in "ab":
        put(s3, versioned, b"x", key)
    answer = s3.delete_objects(Bucket=versioned, Delete={"Objects": [{"Key": key} for key in "abc"]})
    assert [entry["Key"] for entry in answer["Deleted"]] == ["a", "b", "c"]
    assert all(entry["DeleteMarker"] and "VersionId" not in entry for entry in answer["Deleted"])
    assert [entry["DeleteMarkerVersionId"] for entry in answer["Deleted"]] == markers(s3, versioned)
    assert len(listed(s3, versioned)) == 2


def test_deleting_many_versions_and_markers_names_them(s3, versioned, deleted):
    version, marker = deleted
    named = [{"Key": "k", "VersionId": version}, {"Key": "k", "VersionId": marker}]
    answer = s3.delete_objects(Bucket=versioned, Delete={"Objects": named})
    assert answer["Deleted"] == [
        {"Key": "k", "VersionId": version},
        {"Key": "k", "VersionId": marker, "DeleteMarker": True, "DeleteMarkerVersionId": marker}]
    assert "Errors" not in answer
    assert listed(s3, versioned) + markers(s3, versioned) == []


def test_many_versions_of_one_key_are_deleted_at_once(s3, versioned):
    versions = [put(s3, versioned, b"%d" % n) for n in range(30)]
    named = [{"Key": "k", "VersionId": version} for version in versions[1:]]
    answer = s3.delete_objects(Bucket=versioned, Delete={"Objects": named, "Quiet": True})
    assert "Deleted" not in answer and "Errors" not in answer
    assert (listed(s3, versioned), read(s3, versioned)) == (versions[:1], b"0")


def test_deleting_many_tells_what_is_no_version_and_goes_on(s3, versioned):
    unknown = gone(s3, versioned)
    version = put(s3, versioned, b"x")
    named = [{"Key": "k", "VersionId": given} for given in ("not a version", unknown, version)]
    answer = s3.delete_objects(Bucket=versioned, Delete={"Objects": named})
    assert [(entry["Key"], entry["VersionId"]) for entry in answer["Deleted"]] == [("k", unknown), ("k", version)]
    [error] = answer["Errors"]
    # Not InvalidArgument, as where one version is deleted.
    assert (error["Key"], error["VersionId"], error["Code"]) == ("k", "not a version", "NoSuchVersion")
    assert listed(s3, versioned) + markers(s3, versioned) == []


def test_the_header_of_a_marker_is_on_the_wire(node, s3, versioned):
    put(s3, versioned, b"x")
    path = f"/{versioned}/k"
    state, answered, body = raw(node, "DELETE", path, signed(node, "DELETE", path))
    assert (state, answered["x-amz-delete-marker"], body) == (204, "true", b"")
    path = f"/{versioned}/k?versionId={answered['x-amz-version-id']}"
    state, _, body = raw(node, "GET", path, signed(node, "GET", path))
    assert (state, code(body)) == (405, "MethodNotAllowed")
