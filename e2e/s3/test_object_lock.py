import datetime
import time
import uuid

import pytest

from helpers import code, headers, put_document, raw, refused, signed, status
from test_multipart import Upload
from test_versioning import gone, put

DAY = datetime.timedelta(days=1)


def now():
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


def until(**delta):
    return now() + datetime.timedelta(**delta)


def retention(mode, date):
    return {"Retention": {"Mode": mode, "RetainUntilDate": date}}


def lock(s3, bucket, mode, date, version=None, **arguments):
    where = {"Bucket": bucket, "Key": "k", **({"VersionId": version} if version else {})}
    return s3.put_object_retention(**where, **retention(mode, date), **arguments)


def hold(s3, bucket, state, **arguments):
    return s3.put_object_legal_hold(Bucket=bucket, Key="k", LegalHold={"Status": state}, **arguments)


def locked_put(s3, bucket, mode, date, body=b"x", **arguments):
    return put(s3, bucket, body, ObjectLockMode=mode, ObjectLockRetainUntilDate=date, **arguments)


def delete(s3, bucket, version, **arguments):
    return s3.delete_object(Bucket=bucket, Key="k", VersionId=version, **arguments)


def wait_for(date):
    time.sleep(max(0, (date - datetime.datetime.now(datetime.timezone.utc)).total_seconds()) + 1.1)


def found(s3, bucket, version=None):
    answer = s3.get_object_retention(Bucket=bucket, Key="k", **({"VersionId": version} if version else {}))["Retention"]
    return answer["Mode"], answer["RetainUntilDate"]


def test_a_bucket_with_object_lock_keeps_versions(s3, locked):
    assert s3.get_bucket_versioning(Bucket=locked)["Status"] == "Enabled"
    assert s3.get_object_lock_configuration(Bucket=locked)["ObjectLockConfiguration"] == {"ObjectLockEnabled": "Enabled"}


def test_versioning_of_a_bucket_with_object_lock_cannot_be_suspended(s3, locked):
    with refused("InvalidBucketState", 409):
        s3.put_bucket_versioning(Bucket=locked, VersioningConfiguration={"Status": "Suspended"})
    assert s3.get_bucket_versioning(Bucket=locked)["Status"] == "Enabled"


def test_a_bucket_without_object_lock_says_so(s3, bucket):
    with refused("ObjectLockConfigurationNotFoundError", 404):
        s3.get_object_lock_configuration(Bucket=bucket)
    with refused("NoSuchBucket", 404):
        s3.get_object_lock_configuration(Bucket="there-is-none")


@pytest.mark.parametrize("mode", ["GOVERNANCE", "COMPLIANCE"])
@pytest.mark.parametrize("period", [{"Days": 1}, {"Days": 36500}, {"Years": 1}, {"Years": 100}], ids=str)
def test_a_default_retention_is_kept(s3, locked, mode, period):
    configuration = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": mode, **period}}}
    assert status(s3.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration=configuration)) == 200
    assert s3.get_object_lock_configuration(Bucket=locked)["ObjectLockConfiguration"] == configuration


def test_a_default_retention_can_be_taken_away(s3, locked):
    configuration = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}}
    s3.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration=configuration)
    s3.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"})
    assert "Rule" not in s3.get_object_lock_configuration(Bucket=locked)["ObjectLockConfiguration"]
    delete(s3, locked, put(s3, locked, b"x"))


@pytest.mark.parametrize("period, days", [({"Days": 1}, [1]), ({"Days": 30}, [30]), ({"Years": 1}, [365, 366])], ids=str)
@pytest.mark.parametrize("way", ["put", "multipart", "copy"])
def test_new_objects_get_the_default_retention(s3, locked, period, days, way):
    old = put(s3, locked, b"old", "old")
    configuration = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", **period}}}
    s3.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration=configuration)
    before = now()
    if way == "put":
        version = put(s3, locked, b"x")
    elif way == "multipart":
        upload = Upload(s3, locked)
        upload.part(1, b"x")
        version = upload.complete()["VersionId"]
    else:
        version = s3.copy_object(Bucket=locked, Key="k", CopySource={"Bucket": locked, "Key": "old"})["VersionId"]
    head = s3.head_object(Bucket=locked, Key="k", VersionId=version)
    assert head["ObjectLockMode"] == "GOVERNANCE"
    assert any(-5 <= (head["ObjectLockRetainUntilDate"] - before - count * DAY).total_seconds() <= 60 for count in days)
    with refused("AccessDenied", 403):
        delete(s3, locked, version)
    # What was there before is not locked.
    assert "ObjectLockMode" not in s3.head_object(Bucket=locked, Key="old", VersionId=old)


def test_an_objects_own_retention_goes_before_the_default(s3, locked):
    configuration = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}}
    s3.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration=configuration)
    date = until(hours=1)
    locked_put(s3, locked, "GOVERNANCE", date)
    assert found(s3, locked) == ("GOVERNANCE", date)


@pytest.mark.parametrize("rule", [
    {"Mode": "GOVERNANCE", "Days": 1, "Years": 1}, {"Mode": "GOVERNANCE"}, {"Mode": "governance", "Days": 1}, {"Mode": "abc", "Years": 1},
    {"Days": 1},
], ids=str)
def test_a_default_retention_that_is_none_is_malformed(s3, locked, rule):
    configuration = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": rule}}
    with refused("MalformedXML", 400):
        s3.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration=configuration)
    assert "Rule" not in s3.get_object_lock_configuration(Bucket=locked)["ObjectLockConfiguration"]


@pytest.mark.parametrize("period", [{"Days": 0}, {"Days": -1}, {"Years": 0}, {"Years": -1}, {"Days": 36501}, {"Years": 101}], ids=str)
def test_a_default_period_out_of_range_is_refused(s3, locked, period):
    configuration = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", **period}}}
    with pytest.raises(s3.exceptions.ClientError) as caught:
        s3.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration=configuration)
    assert status(caught.value.response) == 400
    assert caught.value.response["Error"]["Code"] in ("InvalidArgument", "InvalidRetentionPeriod")


def test_object_lock_is_never_disabled(s3, locked):
    with refused("MalformedXML", 400):
        s3.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration={"ObjectLockEnabled": "Disabled"})


@pytest.mark.parametrize("state", [None, "Suspended"])
def test_object_lock_needs_versions(s3, bucket, state):
    if state:
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": state})
    with refused("InvalidBucketState", 409):
        s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"})


def test_object_lock_can_be_enabled_on_a_bucket_with_versions(s3):
    name = f"test-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    s3.put_object_lock_configuration(Bucket=name, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"})
    version = locked_put(s3, name, "GOVERNANCE", until(hours=1))
    with refused("AccessDenied", 403):
        delete(s3, name, version)
    delete(s3, name, version, BypassGovernanceRetention=True)
    s3.delete_bucket(Bucket=name)


def test_without_object_lock_nothing_is_locked(s3, versioned):
    with refused("InvalidRequest", 400):
        locked_put(s3, versioned, "GOVERNANCE", until(hours=1))
    with refused("InvalidRequest", 400):
        put(s3, versioned, b"x", ObjectLockLegalHoldStatus="ON")
    with refused("InvalidRequest", 400):
        Upload(s3, versioned, ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until(hours=1))
    put(s3, versioned, b"x")
    for call in (lambda: lock(s3, versioned, "GOVERNANCE", until(hours=1)), lambda: hold(s3, versioned, "ON"),
                 lambda: s3.get_object_retention(Bucket=versioned, Key="k"), lambda: s3.get_object_legal_hold(Bucket=versioned, Key="k")):
        with refused("InvalidRequest", 400):
            call()


def test_an_object_that_is_not_locked_says_so(s3, locked):
    put(s3, locked, b"x")
    with refused("NoSuchObjectLockConfiguration", 404):
        s3.get_object_retention(Bucket=locked, Key="k")
    with refused("NoSuchObjectLockConfiguration", 404):
        s3.get_object_legal_hold(Bucket=locked, Key="k")
    head = s3.head_object(Bucket=locked, Key="k")
    assert not [name for name in head if name.startswith("ObjectLock")]


def test_retention_is_told_where_the_object_is_read(s3, locked):
    date = until(hours=1)
    version = locked_put(s3, locked, "GOVERNANCE", date, ObjectLockLegalHoldStatus="ON")
    for answer in (s3.head_object(Bucket=locked, Key="k"), s3.get_object(Bucket=locked, Key="k", VersionId=version)):
        assert headers(answer)["x-amz-object-lock-mode"] == "GOVERNANCE"
        assert headers(answer)["x-amz-object-lock-legal-hold"] == "ON"
        assert answer["ObjectLockRetainUntilDate"] == date
    assert found(s3, locked) == ("GOVERNANCE", date)
    assert s3.get_object_legal_hold(Bucket=locked, Key="k")["LegalHold"]["Status"] == "ON"
    hold(s3, locked, "OFF")


@pytest.mark.parametrize("way", ["multipart", "copy"])
def test_retention_comes_with_other_writes_too(s3, locked, way):
    date = until(hours=1)
    arguments = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": date, "ObjectLockLegalHoldStatus": "OFF"}
    if way == "multipart":
        upload = Upload(s3, locked, **arguments)
        upload.part(1, b"x")
        version = upload.complete()["VersionId"]
    else:
        put(s3, locked, b"x", "source")
        version = s3.copy_object(Bucket=locked, Key="k", CopySource={"Bucket": locked, "Key": "source"}, **arguments)["VersionId"]
    assert found(s3, locked, version) == ("GOVERNANCE", date)
    with refused("AccessDenied", 403):
        delete(s3, locked, version)


def test_a_copy_is_not_locked_as_its_source_is(s3, locked):
    locked_put(s3, locked, "GOVERNANCE", until(hours=1), ObjectLockLegalHoldStatus="ON")
    s3.copy_object(Bucket=locked, Key="c", CopySource={"Bucket": locked, "Key": "k"})
    assert not [name for name in s3.head_object(Bucket=locked, Key="c") if name.startswith("ObjectLock")]
    hold(s3, locked, "OFF")


@pytest.mark.parametrize("arguments", [
    {"ObjectLockMode": "GOVERNANCE"}, {"ObjectLockRetainUntilDate": DAY}, {"ObjectLockMode": "abc", "ObjectLockRetainUntilDate": DAY},
    {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": -DAY}, {"ObjectLockLegalHoldStatus": "abc"},
], ids=["no date", "no mode", "bad mode", "past", "bad hold"])
def test_bad_headers_store_nothing(s3, locked, arguments):
    arguments = {name: now() + value if isinstance(value, datetime.timedelta) else value for name, value in arguments.items()}
    with refused("InvalidArgument", 400):
        put(s3, locked, b"x", **arguments)
    with refused("InvalidArgument", 400):
        s3.create_multipart_upload(Bucket=locked, Key="k", **arguments)
    assert s3.list_objects_v2(Bucket=locked)["KeyCount"] == 0


def test_a_locked_write_needs_a_digest(node, s3, locked):
    path = f"/{locked}/k"
    given = {"x-amz-object-lock-mode": "GOVERNANCE", "x-amz-object-lock-retain-until-date": until(hours=1).strftime("%Y-%m-%dT%H:%M:%SZ")}
    answer = raw(node, "PUT", path, signed(node, "PUT", path, given, b"x"), b"x")
    assert (answer[0], code(answer[2])) == (400, "InvalidRequest")
    assert s3.list_objects_v2(Bucket=locked)["KeyCount"] == 0


def test_what_is_no_retention_or_hold_is_refused(node, s3, locked):
    put(s3, locked, b"x")
    for mode in ("abc", "governance"):
        with refused("MalformedXML", 400):
            lock(s3, locked, mode, until(hours=1))
    with refused("MalformedXML", 400):
        s3.put_object_retention(Bucket=locked, Key="k", Retention={"Mode": "GOVERNANCE"})
    with refused("InvalidArgument", 400):
        lock(s3, locked, "GOVERNANCE", until(hours=-1))
    for state in ("abc", "on"):
        with refused("MalformedXML", 400):
            hold(s3, locked, state)
    for query in ("retention", "legal-hold"):
        answer = put_document(node, f"/{locked}/k?{query}", b"<Retention>")
        assert (answer[0], code(answer[2])) == (400, "MalformedXML")


def test_what_is_not_there_is_not_locked(s3, locked):
    unknown = gone(s3, locked)
    with refused("NoSuchKey", 404):
        lock(s3, locked, "GOVERNANCE", until(hours=1))
    put(s3, locked, b"x")
    with refused("NoSuchVersion", 404):
        lock(s3, locked, "GOVERNANCE", until(hours=1), unknown)
    with refused("NoSuchVersion", 404):
        hold(s3, locked, "ON", VersionId=unknown)
    marker = s3.delete_object(Bucket=locked, Key="k")["VersionId"]
    with refused("MethodNotAllowed", 405):
        lock(s3, locked, "GOVERNANCE", until(hours=1), marker)
    with refused("MethodNotAllowed", 405):
        hold(s3, locked, "ON", VersionId=marker)
