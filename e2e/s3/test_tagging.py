import urllib.parse

import pytest

from helpers import code, headers, put_document, refused, status
from test_multipart import Upload
from test_versioning import gone, put

ALLOWED = "abc XYZ 123 \u00fc\u65e5\u672c + - = . _ : / @"


def tag_set(tags):
    return {"TagSet": [{"Key": key, "Value": value} for key, value in tags.items()]}


def tags(s3, bucket, key="k", **arguments):
    listed = s3.get_object_tagging(Bucket=bucket, Key=key, **arguments)["TagSet"]
    found = {entry["Key"]: entry["Value"] for entry in listed}
    assert len(found) == len(listed)
    return found


def tag(s3, bucket, given, key="k", **arguments):
    return s3.put_object_tagging(Bucket=bucket, Key=key, Tagging=given if "TagSet" in given else tag_set(given), **arguments)


def numbered(count):
    return {f"key{n}": f"value{n}" for n in range(count)}


# A bad set of tags, and what refuses it in a document.
BAD = {
    "eleven": (tag_set(numbered(11)), "BadRequest"),
    "long key": (tag_set({"k" * 129: "v"}), "InvalidTag"),
    "long value": (tag_set({"k": "v" * 257}), "InvalidTag"),
    "duplicate": ({"TagSet": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]}, "InvalidTag"),
    "characters of a key": (tag_set({"a<b": "v"}), "InvalidTag"),
    "characters of a value": (tag_set({"a": "v|w"}), "InvalidTag"),
    "reserved": (tag_set({"aws:a": "v"}), "InvalidTag"),
}


@pytest.fixture
def written(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"a": "1"})
    return bucket


def test_an_object_without_tags_has_an_empty_set(s3, written):
    assert tags(s3, written) == {}


def test_tags_are_put_replaced_and_deleted(s3, written):
    assert status(tag(s3, written, {"a": "1", "b": "2"})) == 200
    assert tags(s3, written) == {"a": "1", "b": "2"}
    tag(s3, written, {"b": "3"})
    assert tags(s3, written) == {"b": "3"}
    assert status(s3.delete_object_tagging(Bucket=written, Key="k")) == 204
    assert tags(s3, written) == {}
    assert status(s3.delete_object_tagging(Bucket=written, Key="k")) == 204


def test_an_empty_set_takes_the_tags_away(s3, written):
    tag(s3, written, {"a": "1"})
    tag(s3, written, {})
    assert tags(s3, written) == {}


def test_tagging_changes_nothing_else(s3, written):
    before = s3.head_object(Bucket=written, Key="k")
    tag(s3, written, {"a": "1"})
    after = s3.get_object(Bucket=written, Key="k")
    assert after["Body"].read() == b"x"
    for name in ("ETag", "LastModified", "Metadata", "ContentType"):
        assert after[name] == before[name]


@pytest.mark.parametrize("given", [
    numbered(10), {"k" * 128: "v" * 256}, {"\u00fc" * 128: "\u65e5" * 256}, {ALLOWED: ALLOWED}, {"empty": ""}, {"A": "1", "a": "2"},
    {"awesome:a": "1"},
], ids=["ten", "long", "long in unicode", "characters", "empty value", "case", "almost reserved"])
def test_tags_up_to_the_limits_are_taken(s3, written, given):
    tag(s3, written, given)
    assert tags(s3, written) == given


@pytest.mark.parametrize("bad", BAD)
def test_tags_beyond_the_limits_are_refused(s3, written, bad):
    given, error = BAD[bad]
    tag(s3, written, {"kept": "yes"})
    with refused(error, 400):
        tag(s3, written, given)
    assert tags(s3, written) == {"kept": "yes"}


@pytest.mark.parametrize("document", [b"<Tagging><TagSet>", b"<Tagging></Tagging>", b"<Other/>",
                                      b"<Tagging><TagSet><Tag><Value>v</Value></Tag></TagSet></Tagging>"])
@pytest.mark.parametrize("path", ["/{}/k?tagging", "/{}?tagging"])
def test_what_is_no_set_of_tags_is_malformed(node, written, path, document):
    answer = put_document(node, path.format(written), document)
    assert (answer[0], code(answer[2])) == (400, "MalformedXML")


@pytest.mark.parametrize("path", ["/{}/k?tagging", "/{}?tagging"])
def test_a_tag_without_a_name_is_refused(node, written, path):
    document = b"<Tagging><TagSet><Tag><Key></Key><Value>v</Value></Tag></TagSet></Tagging>"
    answer = put_document(node, path.format(written), document)
    assert (answer[0], code(answer[2])) == (400, "InvalidTag")


@pytest.mark.parametrize("operation", ["get_object_tagging", "put_object_tagging", "delete_object_tagging"])
def test_what_is_not_there_has_no_tags(s3, bucket, operation):
    given = {"Tagging": tag_set({"a": "1"})} if operation.startswith("put") else {}
    with refused("NoSuchKey", 404):
        getattr(s3, operation)(Bucket=bucket, Key="none", **given)
    with refused("NoSuchBucket", 404):
        getattr(s3, operation)(Bucket="there-is-none", Key="none", **given)


@pytest.mark.parametrize("header, expected", [
    ("a=1", {"a": "1"}), ("a=1&b=2", {"a": "1", "b": "2"}), ("a=", {"a": ""}), ("a", {"a": ""}),
    (urllib.parse.urlencode({ALLOWED: ALLOWED}), {ALLOWED: ALLOWED}), ("a%20b=c%2Fd", {"a b": "c/d"}),
    (urllib.parse.urlencode(numbered(10)), numbered(10))])
def test_tags_come_with_the_object_in_a_header(s3, bucket, header, expected):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging=header)
    assert tags(s3, bucket) == expected


@pytest.mark.parametrize("header, errors", [
    ("a=1&a=2", ["InvalidArgument"]), ("=", ["InvalidArgument"]),
    (urllib.parse.urlencode(numbered(11)), ["BadRequest"]),
    ("k" * 129 + "=v", ["InvalidTag"]), ("k=" + "v" * 257, ["InvalidTag"]), ("=v", ["InvalidTag", "InvalidArgument"]),
    ("aws:a=1", ["InvalidTag"]), ("a=%7C", ["InvalidTag"])],
    ids=["duplicate", "nothing", "eleven", "long key", "long value", "empty key", "reserved", "characters"])
def test_bad_tags_in_a_header_store_nothing(s3, bucket, header, errors):
    for write in (lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging=header),
                  lambda: s3.create_multipart_upload(Bucket=bucket, Key="k", Tagging=header)):
        with pytest.raises(s3.exceptions.ClientError) as caught:
            write()
        assert status(caught.value.response) == 400
        assert caught.value.response["Error"]["Code"] in errors
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_overwriting_takes_the_tags_away(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1")
    s3.put_object(Bucket=bucket, Key="k", Body=b"y")
    assert tags(s3, bucket) == {}


def test_reads_count_the_tags(s3, written):
    for operation in (s3.get_object, s3.head_object):
        assert "x-amz-tagging-count" not in headers(operation(Bucket=written, Key="k"))
    tag(s3, written, numbered(7))
    for operation in (s3.get_object, s3.head_object):
        answer = operation(Bucket=written, Key="k")
        assert (answer["TagCount"], headers(answer)["x-amz-tagging-count"]) == (7, "7")
    s3.delete_object_tagging(Bucket=written, Key="k")
    for operation in (s3.get_object, s3.head_object):
        assert "x-amz-tagging-count" not in headers(operation(Bucket=written, Key="k"))


def test_tags_come_with_a_multipart_upload(s3, bucket):
    upload = Upload(s3, bucket, Tagging="a=1&b=2")
    upload.part(1, b"x")
    upload.complete()
    assert tags(s3, bucket) == {"a": "1", "b": "2"}
    assert s3.head_object(Bucket=bucket, Key="k")["TagCount"] == 2


@pytest.mark.parametrize("arguments, expected", [
    ({}, {"a": "1"}),
    ({"TaggingDirective": "COPY"}, {"a": "1"}),
    ({"TaggingDirective": "REPLACE", "Tagging": "b=2"}, {"b": "2"}),
    ({"TaggingDirective": "REPLACE"}, {}),
    ({"MetadataDirective": "REPLACE", "Metadata": {"c": "3"}}, {"a": "1"}),
    ({"MetadataDirective": "REPLACE", "TaggingDirective": "REPLACE", "Tagging": "b=2"}, {"b": "2"}),
], ids=["default", "copy", "replace", "replace by none", "other metadata", "other metadata and tags"])
def test_a_copy_keeps_or_replaces_the_tags(s3, written, arguments, expected):
    tag(s3, written, {"a": "1"})
    s3.copy_object(Bucket=written, Key="c", CopySource={"Bucket": written, "Key": "k"}, **arguments)
    assert tags(s3, written, "c") == expected
    assert tags(s3, written) == {"a": "1"}


def test_an_unknown_tagging_directive_is_refused(s3, written):
    with refused("InvalidArgument", 400):
        s3.copy_object(Bucket=written, Key="c", CopySource={"Bucket": written, "Key": "k"}, TaggingDirective="MERGE")


def test_a_copy_with_bad_tags_copies_nothing(s3, written):
    with refused("InvalidTag", 400):
        s3.copy_object(Bucket=written, Key="c", CopySource={"Bucket": written, "Key": "k"}, TaggingDirective="REPLACE",
                       Tagging="k=" + "v" * 257)
    with refused("NoSuchKey"):
        s3.get_object(Bucket=written, Key="c")


def test_each_version_has_its_tags(s3, versioned):
    first = put(s3, versioned, b"1", Tagging="n=1")
    second = put(s3, versioned, b"2", Tagging="n=2")
    assert tags(s3, versioned) == {"n": "2"}
    assert tags(s3, versioned, VersionId=first) == {"n": "1"}
    assert tag(s3, versioned, {"n": "one"}, VersionId=first)["VersionId"] == first
    assert tag(s3, versioned, {"n": "two"})["VersionId"] == second
    answer = s3.get_object_tagging(Bucket=versioned, Key="k", VersionId=first)
    assert (answer["VersionId"], answer["TagSet"]) == (first, [{"Key": "n", "Value": "one"}])
    assert s3.get_object_tagging(Bucket=versioned, Key="k")["VersionId"] == second
    assert s3.delete_object_tagging(Bucket=versioned, Key="k", VersionId=first)["VersionId"] == first
    assert (tags(s3, versioned, VersionId=first), tags(s3, versioned)) == ({}, {"n": "two"})
    assert len(s3.list_object_versions(Bucket=versioned)["Versions"]) == 2


def test_reads_of_a_version_count_its_tags(s3, versioned):
    first = put(s3, versioned, b"1", Tagging="a=1&b=2")
    put(s3, versioned, b"2", Tagging="a=1")
    assert s3.head_object(Bucket=versioned, Key="k", VersionId=first)["TagCount"] == 2
    assert s3.get_object(Bucket=versioned, Key="k")["TagCount"] == 1


def test_a_copy_of_a_version_has_that_versions_tags(s3, versioned):
    first = put(s3, versioned, b"1", Tagging="n=1")
    put(s3, versioned, b"2", Tagging="n=2")
    s3.copy_object(Bucket=versioned, Key="c", CopySource={"Bucket": versioned, "Key": "k", "VersionId": first})
    assert tags(s3, versioned, "c") == {"n": "1"}


@pytest.mark.parametrize("operation", ["get_object_tagging", "put_object_tagging", "delete_object_tagging"])
def test_markers_and_versions_that_are_not_there_have_no_tags(s3, versioned, operation):
    unknown = gone(s3, versioned)
    put(s3, versioned, b"x")
    given = {"Tagging": tag_set({"a": "1"})} if operation.startswith("put") else {}
    with refused("NoSuchVersion", 404):
        getattr(s3, operation)(Bucket=versioned, Key="k", VersionId=unknown, **given)
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    with refused("MethodNotAllowed", 405):
        getattr(s3, operation)(Bucket=versioned, Key="k", VersionId=marker, **given)


def bucket_tags(s3, bucket):
    return {entry["Key"]: entry["Value"] for entry in s3.get_bucket_tagging(Bucket=bucket)["TagSet"]}


def test_a_bucket_without_tags_has_no_set(s3, bucket):
    with refused("NoSuchTagSet", 404):
        s3.get_bucket_tagging(Bucket=bucket)
    assert status(s3.delete_bucket_tagging(Bucket=bucket)) == 204


def test_tags_of_a_bucket_are_put_replaced_and_deleted(s3, bucket):
    assert status(s3.put_bucket_tagging(Bucket=bucket, Tagging=tag_set({"a": "1", "b": "2"}))) in (200, 204)
    assert bucket_tags(s3, bucket) == {"a": "1", "b": "2"}
    s3.put_bucket_tagging(Bucket=bucket, Tagging=tag_set({"b": "3"}))
    assert bucket_tags(s3, bucket) == {"b": "3"}
    assert status(s3.delete_bucket_tagging(Bucket=bucket)) == 204
    with refused("NoSuchTagSet", 404):
        s3.get_bucket_tagging(Bucket=bucket)


def test_a_bucket_has_fifty_tags_at_most(s3, bucket):
    s3.put_bucket_tagging(Bucket=bucket, Tagging=tag_set(numbered(50)))
    assert bucket_tags(s3, bucket) == numbered(50)
    with pytest.raises(s3.exceptions.ClientError) as caught:
        s3.put_bucket_tagging(Bucket=bucket, Tagging=tag_set(numbered(51)))
    assert status(caught.value.response) == 400
    assert caught.value.response["Error"]["Code"] in ("BadRequest", "InvalidTag")
    assert bucket_tags(s3, bucket) == numbered(50)


@pytest.mark.parametrize("bad", [name for name in BAD if name != "eleven"])
def test_bad_tags_of_a_bucket_are_refused(s3, bucket, bad):
    with refused("InvalidTag", 400):
        s3.put_bucket_tagging(Bucket=bucket, Tagging=BAD[bad][0])
    with refused("NoSuchTagSet", 404):
        s3.get_bucket_tagging(Bucket=bucket)


def test_tags_of_a_bucket_are_not_those_of_its_objects(s3, written):
    s3.put_bucket_tagging(Bucket=written, Tagging=tag_set({"a": "1"}))
    assert tags(s3, written) == {}


def test_no_bucket_has_no_tags(s3):
    for call in (lambda: s3.get_bucket_tagging(Bucket="there-is-none"), lambda: s3.delete_bucket_tagging(Bucket="there-is-none"),
                 lambda: s3.put_bucket_tagging(Bucket="there-is-none", Tagging=tag_set({"a": "1"}))):
        with refused("NoSuchBucket", 404):
            call()
