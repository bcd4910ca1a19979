"""What object lock forbids, and what it does not."""

import pytest

from helpers import pattern, refused, status
from test_object_lock import delete, found, hold, lock, locked_put, until, wait_for
from test_versioning import listed, put, read


def test_a_governed_version_is_deleted_only_past_its_guard(s3, locked):
    version = locked_put(s3, locked, "GOVERNANCE", until(hours=1))
    with refused("AccessDenied", 403):
        delete(s3, locked, version)
    assert read(s3, locked, version) == b"x"
    assert status(delete(s3, locked, version, BypassGovernanceRetention=True)) == 204
    with refused("NoSuchVersion", 404):
        read(s3, locked, version)


def test_a_version_locked_for_compliance_is_deleted_only_after_its_time(s3, locked):
    date = until(seconds=4)
    version = locked_put(s3, locked, "COMPLIANCE", date)
    for arguments in ({}, {"BypassGovernanceRetention": True}):
        with refused("AccessDenied", 403):
            delete(s3, locked, version, **arguments)
    assert read(s3, locked, version) == b"x"
    wait_for(date)
    # It goes on saying what held it.
    assert found(s3, locked, version) == ("COMPLIANCE", date)
    assert status(delete(s3, locked, version)) == 204


def test_a_governed_version_is_deleted_after_its_time(s3, locked):
    date = until(seconds=2)
    version = locked_put(s3, locked, "GOVERNANCE", date)
    wait_for(date)
    assert status(delete(s3, locked, version)) == 204


@pytest.mark.parametrize("locking", ["GOVERNANCE", "hold"])
def test_a_plain_deletion_still_makes_a_marker(s3, locked, locking):
    version = put(s3, locked, b"x")
    if locking == "hold":
        hold(s3, locked, "ON")
    else:
        lock(s3, locked, locking, until(hours=1))
    answer = s3.delete_object(Bucket=locked, Key="k")
    assert (status(answer), answer["DeleteMarker"]) == (204, True)
    with refused("NoSuchKey", 404):
        read(s3, locked)
    with refused("AccessDenied", 403):
        delete(s3, locked, version)
    # The marker is not locked.
    delete(s3, locked, answer["VersionId"])
    assert read(s3, locked) == b"x"
    if locking == "hold":
        hold(s3, locked, "OFF")


def test_overwriting_adds_a_version_that_is_not_locked(s3, locked):
    old = locked_put(s3, locked, "GOVERNANCE", until(hours=1), pattern(600_000))
    new = put(s3, locked, b"new")
    assert status(delete(s3, locked, new)) == 204
    assert read(s3, locked) == pattern(600_000)
    with refused("AccessDenied", 403):
        delete(s3, locked, old)


def test_deleting_many_tells_what_is_locked(s3, locked):
    first = locked_put(s3, locked, "GOVERNANCE", until(hours=1))
    second = put(s3, locked, b"y")
    named = {"Objects": [{"Key": "k", "VersionId": first}, {"Key": "k", "VersionId": second}]}
    answer = s3.delete_objects(Bucket=locked, Delete=named)
    assert [(entry["Key"], entry["VersionId"]) for entry in answer["Deleted"]] == [("k", second)]
    assert [(entry["Key"], entry["VersionId"], entry["Code"]) for entry in answer["Errors"]] == [("k", first, "AccessDenied")]
    assert listed(s3, locked) == [first]
    answer = s3.delete_objects(Bucket=locked, Delete={"Objects": named["Objects"][:1]}, BypassGovernanceRetention=True)
    assert "Errors" not in answer and [entry["VersionId"] for entry in answer["Deleted"]] == [first]
    assert listed(s3, locked) == []


def test_a_hold_keeps_a_version_whatever_is_asked(s3, locked):
    version = put(s3, locked, b"x", ObjectLockLegalHoldStatus="ON")
    for arguments in ({}, {"BypassGovernanceRetention": True}):
        with refused("AccessDenied", 403):
            delete(s3, locked, version, **arguments)
    assert status(hold(s3, locked, "OFF")) == 200
    assert s3.get_object_legal_hold(Bucket=locked, Key="k")["LegalHold"] == {"Status": "OFF"}
    assert s3.head_object(Bucket=locked, Key="k")["ObjectLockLegalHoldStatus"] == "OFF"
    assert status(delete(s3, locked, version)) == 204


def test_a_hold_belongs_to_its_version(s3, locked):
    first, second = put(s3, locked, b"1"), put(s3, locked, b"2")
    hold(s3, locked, "ON", VersionId=first)
    assert s3.get_object_legal_hold(Bucket=locked, Key="k", VersionId=first)["LegalHold"] == {"Status": "ON"}
    assert status(delete(s3, locked, second)) == 204
    with refused("AccessDenied", 403):
        delete(s3, locked, first)
    hold(s3, locked, "OFF", VersionId=first)


def test_a_hold_outlasts_the_retention(s3, locked):
    date = until(seconds=2)
    version = locked_put(s3, locked, "COMPLIANCE", date, ObjectLockLegalHoldStatus="ON")
    wait_for(date)
    with refused("AccessDenied", 403):
        delete(s3, locked, version)
    hold(s3, locked, "OFF")
    delete(s3, locked, version)


def test_without_a_hold_the_retention_goes_on(s3, locked):
    version = locked_put(s3, locked, "GOVERNANCE", until(hours=1), ObjectLockLegalHoldStatus="ON")
    hold(s3, locked, "OFF")
    with refused("AccessDenied", 403):
        delete(s3, locked, version)


def test_retention_belongs_to_its_version(s3, locked):
    first, second = put(s3, locked, b"1"), put(s3, locked, b"2")
    date = until(hours=1)
    assert status(lock(s3, locked, "GOVERNANCE", date, first)) == 200
    assert found(s3, locked, first) == ("GOVERNANCE", date)
    with refused("NoSuchObjectLockConfiguration", 404):
        found(s3, locked)
    assert status(delete(s3, locked, second)) == 204
    with refused("AccessDenied", 403):
        delete(s3, locked, first)


@pytest.mark.parametrize("arguments", [{}, {"BypassGovernanceRetention": True}], ids=["plain", "bypass"])
def test_governed_retention_can_be_lengthened(s3, locked, arguments):
    locked_put(s3, locked, "GOVERNANCE", until(hours=1))
    longer = until(hours=2)
    lock(s3, locked, "GOVERNANCE", longer, **arguments)
    assert found(s3, locked) == ("GOVERNANCE", longer)


def test_governed_retention_is_shortened_only_past_its_guard(s3, locked):
    long, short = until(hours=2), until(hours=1)
    locked_put(s3, locked, "GOVERNANCE", long)
    with refused("AccessDenied", 403):
        lock(s3, locked, "GOVERNANCE", short)
    assert found(s3, locked) == ("GOVERNANCE", long)
    lock(s3, locked, "GOVERNANCE", short, BypassGovernanceRetention=True)
    assert found(s3, locked) == ("GOVERNANCE", short)


def test_governed_retention_is_taken_away_only_past_its_guard(s3, locked):
    version = locked_put(s3, locked, "GOVERNANCE", until(hours=1))
    with refused("AccessDenied", 403):
        s3.put_object_retention(Bucket=locked, Key="k", Retention={})
    s3.put_object_retention(Bucket=locked, Key="k", Retention={}, BypassGovernanceRetention=True)
    with refused("NoSuchObjectLockConfiguration", 404):
        found(s3, locked)
    assert status(delete(s3, locked, version)) == 204


def test_governance_becomes_compliance_only_past_its_guard(s3, locked):
    date = until(seconds=4)
    version = locked_put(s3, locked, "GOVERNANCE", date)
    with refused("AccessDenied", 403):
        lock(s3, locked, "COMPLIANCE", date)
    lock(s3, locked, "COMPLIANCE", date, BypassGovernanceRetention=True)
    assert found(s3, locked) == ("COMPLIANCE", date)
    with refused("AccessDenied", 403):
        delete(s3, locked, version, BypassGovernanceRetention=True)
    wait_for(date)
    delete(s3, locked, version)


def test_compliance_is_neither_shortened_nor_weakened_nor_taken_away(s3, locked):
    date = until(seconds=9)
    version = locked_put(s3, locked, "COMPLIANCE", date)
    for arguments in ({}, {"BypassGovernanceRetention": True}):
        with refused("AccessDenied", 403):
            lock(s3, locked, "COMPLIANCE", until(seconds=2), **arguments)
        with refused("AccessDenied", 403):
            lock(s3, locked, "GOVERNANCE", date, **arguments)
        with refused("AccessDenied", 403):
            s3.put_object_retention(Bucket=locked, Key="k", Retention={}, **arguments)
    assert found(s3, locked) == ("COMPLIANCE", date)
    wait_for(date)
    delete(s3, locked, version)


def test_compliance_can_be_lengthened(s3, locked):
    date = until(seconds=2)
    version = locked_put(s3, locked, "COMPLIANCE", date)
    longer = until(seconds=5)
    lock(s3, locked, "COMPLIANCE", longer)
    assert found(s3, locked) == ("COMPLIANCE", longer)
    wait_for(date)
    with refused("AccessDenied", 403):
        delete(s3, locked, version)
    wait_for(longer)
    delete(s3, locked, version)


def test_the_bypass_is_for_buckets_with_object_lock(s3, versioned):
    version = put(s3, versioned, b"x")
    with refused("InvalidArgument", 400):
        delete(s3, versioned, version, BypassGovernanceRetention=True)
    assert read(s3, versioned, version) == b"x"


def test_a_bucket_with_a_locked_version_is_not_deleted(s3, locked):
    locked_put(s3, locked, "GOVERNANCE", until(hours=1))
    s3.delete_object(Bucket=locked, Key="k")
    with refused("BucketNotEmpty", 409):
        s3.delete_bucket(Bucket=locked)
