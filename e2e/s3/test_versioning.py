import concurrent.futures
import datetime
import hashlib
import signal

import pytest

from helpers import code, headers, pattern, put_document, raw, refused, signed, status
from node import Node
from test_multipart import Upload

# Nothing that a server could have given out as a version id.
MALFORMED = ["!", "not a version", "../../etc/passwd", "\u00fc"]


def turn(s3, bucket, to):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": to})


def put(s3, bucket, body, key="k", **arguments):
    return s3.put_object(Bucket=bucket, Key=key, Body=body, **arguments)["VersionId"]


def read(s3, bucket, version=None, key="k"):
    return s3.get_object(Bucket=bucket, Key=key, **({"VersionId": version} if version else {}))["Body"].read()


def listed(s3, bucket):
    """Ids of the versions that are there, newest first for each key."""
    return [entry["VersionId"] for entry in s3.list_object_versions(Bucket=bucket).get("Versions", [])]


def gone(s3, bucket, key="k"):
    """The id of a version that there was once."""
    version = put(s3, bucket, b"gone", key)
    s3.delete_object(Bucket=bucket, Key=key, VersionId=version)
    return version


def test_a_new_bucket_says_nothing_of_versioning(s3, bucket):
    answer = s3.get_bucket_versioning(Bucket=bucket)
    assert "Status" not in answer and "MFADelete" not in answer


@pytest.mark.parametrize("states", [["Enabled"], ["Suspended"], ["Enabled", "Suspended"], ["Enabled", "Suspended", "Enabled"],
                                    ["Enabled", "Enabled"]], ids="-".join)
def test_the_last_state_that_was_set_is_told(s3, bucket, states):
    for state in states:
        assert status(s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": state})) == 200
        assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == state


@pytest.mark.parametrize("state", ["Disabled", "enabled", "Unversioned"])
def test_there_is_no_way_back_and_no_other_state(s3, versioned, state):
    with refused("MalformedXML", 400):
        turn(s3, versioned, state)
    assert s3.get_bucket_versioning(Bucket=versioned)["Status"] == "Enabled"


def test_a_configuration_without_a_state_is_refused(s3, versioned):
    with refused("IllegalVersioningConfigurationException", 400):
        s3.put_bucket_versioning(Bucket=versioned, VersioningConfiguration={})
    assert s3.get_bucket_versioning(Bucket=versioned)["Status"] == "Enabled"


def test_a_configuration_that_is_no_xml_is_refused(node, s3, bucket):
    answer = put_document(node, f"/{bucket}?versioning", b"<VersioningConfiguration><Status>Enabled")
    assert (answer[0], code(answer[2])) == (400, "MalformedXML")
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)


def test_versioning_of_no_bucket_is_refused(s3):
    with refused("NoSuchBucket", 404):
        s3.get_bucket_versioning(Bucket="there-is-none")
    with refused("NoSuchBucket", 404):
        turn(s3, "there-is-none", "Enabled")


def test_an_unversioned_bucket_gives_no_ids(s3, bucket):
    assert "VersionId" not in s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert "VersionId" not in s3.get_object(Bucket=bucket, Key="k")
    assert "VersionId" not in s3.head_object(Bucket=bucket, Key="k")
    copied = s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "k"})
    assert "VersionId" not in copied and "CopySourceVersionId" not in copied
    deleted = s3.delete_object(Bucket=bucket, Key="k")
    assert "VersionId" not in deleted and "DeleteMarker" not in deleted


def test_the_object_of_an_unversioned_bucket_is_its_null_version(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert read(s3, bucket, "null") == b"x"
    s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    with refused("NoSuchKey", 404):
        read(s3, bucket)


def test_every_write_has_an_id_of_its_own(s3, versioned):
    written = [put(s3, versioned, b"the same bytes") for _ in range(10)]
    assert len(set(written)) == 10 and "null" not in written
    assert listed(s3, versioned) == written[::-1]


@pytest.mark.parametrize("length", [0, 1, 4096, 700_000])
def test_every_version_keeps_its_bytes(s3, versioned, length):
    bodies = [pattern(length, seed) for seed in range(8)]
    versions = [put(s3, versioned, body) for body in bodies]
    for version, body in reversed(list(zip(versions, bodies))):
        answer = s3.get_object(Bucket=versioned, Key="k", VersionId=version)
        assert answer["Body"].read() == body
        assert (answer["VersionId"], answer["ETag"]) == (version, f'"{hashlib.md5(body).hexdigest()}"')
    assert read(s3, versioned) == bodies[-1]


def test_many_versions_of_one_key_are_each_readable(s3, versioned):
    versions = {put(s3, versioned, b"version %d" % n): b"version %d" % n for n in range(120)}
    assert len(versions) == 120
    for version, body in versions.items():
        assert read(s3, versioned, version) == body


def test_versions_of_different_keys_do_not_mix(s3, versioned):
    keys = ["a", "a/", "a/b", "ab", "A"]
    versions = {(key, n): put(s3, versioned, f"{key} {n}".encode(), key) for n in range(3) for key in keys}
    for (key, n), version in versions.items():
        assert read(s3, versioned, version, key) == f"{key} {n}".encode()


def test_headers_and_metadata_belong_to_the_version(s3, versioned):
    first = put(s3, versioned, b"1", ContentType="text/plain", Metadata={"n": "1"})
    second = put(s3, versioned, b"22", ContentType="text/html", Metadata={"n": "2"})
    for version, expected in [(first, ("text/plain", {"n": "1"}, 1)), (second, ("text/html", {"n": "2"}, 2))]:
        head = s3.head_object(Bucket=versioned, Key="k", VersionId=version)
        assert (head["ContentType"], head["Metadata"], head["ContentLength"]) == expected
        assert head["VersionId"] == version
    assert s3.head_object(Bucket=versioned, Key="k")["VersionId"] == second


def test_ranges_and_conditions_hold_for_the_version(s3, versioned):
    first = put(s3, versioned, b"0123456789")
    put(s3, versioned, b"abcdefghij")
    assert s3.get_object(Bucket=versioned, Key="k", VersionId=first, Range="bytes=2-4")["Body"].read() == b"234"
    etag = f'"{hashlib.md5(b"0123456789").hexdigest()}"'
    assert s3.get_object(Bucket=versioned, Key="k", VersionId=first, IfMatch=etag)["VersionId"] == first
    with refused("PreconditionFailed", 412):
        s3.get_object(Bucket=versioned, Key="k", IfMatch=etag)
    with refused("304", 304):
        s3.get_object(Bucket=versioned, Key="k", VersionId=first, IfNoneMatch=etag)


def test_an_overwritten_version_keeps_its_date(s3, versioned):
    first = put(s3, versioned, b"1")
    before = s3.head_object(Bucket=versioned, Key="k")["LastModified"]
    put(s3, versioned, b"2")
    assert s3.head_object(Bucket=versioned, Key="k", VersionId=first)["LastModified"] == before
    hour = datetime.timedelta(hours=1)
    with refused("PreconditionFailed", 412):
        s3.get_object(Bucket=versioned, Key="k", VersionId=first, IfUnmodifiedSince=before - hour)


def test_a_multipart_upload_makes_a_version(s3, versioned):
    first = put(s3, versioned, b"before")
    upload = Upload(s3, versioned)
    upload.part(1, pattern(5 << 20))
    upload.part(2, b"end")
    assert read(s3, versioned) == b"before"
    done = upload.complete()["VersionId"]
    assert done not in (first, "null")
    assert read(s3, versioned, done) == pattern(5 << 20) + b"end"
    assert read(s3, versioned, first) == b"before"
    assert listed(s3, versioned) == [done, first]


def test_of_many_writers_each_makes_a_version(s3, versioned):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda n: put(s3, versioned, b"writer %d" % n), range(40)))
    assert sorted(listed(s3, versioned)) == sorted(versions)
    for n, version in enumerate(versions):
        assert read(s3, versioned, version) == b"writer %d" % n
    assert s3.head_object(Bucket=versioned, Key="k")["VersionId"] == listed(s3, versioned)[0]


def test_what_was_there_before_is_the_null_version(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"before")
    turn(s3, bucket, "Enabled")
    answer = s3.get_object(Bucket=bucket, Key="k")
    assert (answer["Body"].read(), answer["VersionId"]) == (b"before", "null")
    newer = put(s3, bucket, b"after")
    assert listed(s3, bucket) == [newer, "null"]
    assert (read(s3, bucket), read(s3, bucket, newer), read(s3, bucket, "null")) == (b"after", b"after", b"before")
    assert s3.head_object(Bucket=bucket, Key="k", VersionId="null")["VersionId"] == "null"


def test_while_suspended_the_null_version_is_replaced(s3, versioned):
    kept = put(s3, versioned, b"kept")
    turn(s3, versioned, "Suspended")
    for n in range(3):
        assert put(s3, versioned, b"null %d" % n) == "null"
        assert listed(s3, versioned) == ["null", kept]
        assert read(s3, versioned) == read(s3, versioned, "null") == b"null %d" % n
    assert read(s3, versioned, kept) == b"kept"


def test_the_null_version_from_before_is_replaced_while_suspended(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"before")
    turn(s3, bucket, "Enabled")
    kept = put(s3, bucket, b"kept")
    turn(s3, bucket, "Suspended")
    assert put(s3, bucket, b"suspended") == "null"
    # Replaced, and so newer than what was written while versions were kept.
    assert listed(s3, bucket) == ["null", kept]
    assert read(s3, bucket, "null") == b"suspended"


def test_enabling_again_keeps_the_null_version(s3, versioned):
    turn(s3, versioned, "Suspended")
    put(s3, versioned, b"null")
    turn(s3, versioned, "Enabled")
    versions = [put(s3, versioned, b"new %d" % n) for n in range(2)]
    assert listed(s3, versioned) == [versions[1], versions[0], "null"]
    assert read(s3, versioned, "null") == b"null"


def test_a_multipart_upload_and_a_copy_replace_the_null_version_while_suspended(s3, versioned):
    turn(s3, versioned, "Suspended")
    put(s3, versioned, b"first")
    upload = Upload(s3, versioned)
    upload.part(1, b"second")
    assert upload.complete()["VersionId"] == "null"
    assert (listed(s3, versioned), read(s3, versioned)) == (["null"], b"second")
    put(s3, versioned, b"third", "source")
    copied = s3.copy_object(Bucket=versioned, Key="k", CopySource={"Bucket": versioned, "Key": "source"})
    assert (copied["VersionId"], read(s3, versioned, "null")) == ("null", b"third")
    assert listed(s3, versioned) == ["null", "null"]


@pytest.mark.parametrize("version", MALFORMED)
def test_what_is_no_version_id_is_refused(s3, versioned, version):
    put(s3, versioned, b"x")
    where = {"Bucket": versioned, "Key": "k", "VersionId": version}
    for call in (s3.get_object, s3.delete_object, s3.get_object_tagging):
        with refused("InvalidArgument", 400):
            call(**where)
    with refused("400", 400):
        s3.head_object(**where)
    with refused("InvalidArgument", 400):
        s3.copy_object(Bucket=versioned, Key="c", CopySource=where)
    assert read(s3, versioned) == b"x"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_empty_version_id_is_refused(node, s3, versioned, method):
    put(s3, versioned, b"x")
    path = f"/{versioned}/k?versionId="
    answer = raw(node, method, path, signed(node, method, path))
    assert (answer[0], code(answer[2])) == (400, "InvalidArgument")
    assert len(listed(s3, versioned)) == 1 and read(s3, versioned) == b"x"


def test_a_version_that_is_not_there_is_not_found(s3, versioned):
    unknown = gone(s3, versioned)
    put(s3, versioned, b"x")
    for version in (unknown, "null"):
        where = {"Bucket": versioned, "Key": "k", "VersionId": version}
        with refused("NoSuchVersion", 404) as caught:
            s3.get_object(**where)
        assert "x-amz-delete-marker" not in headers(caught.value.response)
        with refused("404", 404):
            s3.head_object(**where)
        with refused("NoSuchVersion", 404):
            s3.copy_object(Bucket=versioned, Key="c", CopySource=where)
        # Deleting what is not there is no error, as without versions, and makes no marker.
        assert status(s3.delete_object(**where)) == 204
    assert read(s3, versioned) == b"x"
    assert "DeleteMarkers" not in s3.list_object_versions(Bucket=versioned)


def test_a_version_of_another_key_is_not_found(s3, versioned):
    other = put(s3, versioned, b"other", "other")
    put(s3, versioned, b"x")
    with refused("NoSuchVersion", 404):
        read(s3, versioned, other)
    s3.delete_object(Bucket=versioned, Key="k", VersionId=other)
    assert read(s3, versioned, other, "other") == b"other"


def test_conditional_writes_look_at_the_current_version(s3, versioned):
    first = s3.put_object(Bucket=versioned, Key="k", Body=b"1")
    second = s3.put_object(Bucket=versioned, Key="k", Body=b"2")
    for condition in ({"IfMatch": first["ETag"]}, {"IfNoneMatch": "*"}):
        with refused("PreconditionFailed", 412):
            s3.put_object(Bucket=versioned, Key="k", Body=b"3", **condition)
    assert listed(s3, versioned) == [second["VersionId"], first["VersionId"]]
    assert s3.put_object(Bucket=versioned, Key="k", Body=b"3", IfMatch=second["ETag"])["VersionId"]
    s3.delete_object(Bucket=versioned, Key="k")
    # Under a delete marker there is nothing to match, and nothing in the way.
    with refused("NoSuchKey", 404):
        s3.put_object(Bucket=versioned, Key="k", Body=b"4", IfMatch="*")
    s3.put_object(Bucket=versioned, Key="k", Body=b"4", IfNoneMatch="*")
    assert read(s3, versioned) == b"4"


def test_versions_and_markers_survive_a_restart_and_a_kill(tmp_path):
    node = Node(data=tmp_path)
    try:
        s3 = node.client()
        s3.create_bucket(Bucket="bucket")
        s3.put_object(Bucket="bucket", Key="k", Body=b"null")
        turn(s3, "bucket", "Enabled")
        versions = {put(s3, "bucket", pattern(90_000, n)): pattern(90_000, n) for n in range(5)} | {"null": b"null"}
        marker = s3.delete_object(Bucket="bucket", Key="k")["VersionId"]
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()
    finally:
        node.close()
    for _ in range(2):
        node = Node(data=tmp_path)
        try:
            s3 = node.client()
            assert s3.get_bucket_versioning(Bucket="bucket")["Status"] == "Enabled"
            for version, body in versions.items():
                assert read(s3, "bucket", version) == body
            answer = s3.list_object_versions(Bucket="bucket")
            assert [entry["VersionId"] for entry in answer["Versions"]] == [*list(versions)[-2::-1], "null"]
            assert [(entry["VersionId"], entry["IsLatest"]) for entry in answer["DeleteMarkers"]] == [(marker, True)]
        finally:
            node.close()
