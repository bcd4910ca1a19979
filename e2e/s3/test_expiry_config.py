"""The configuration of what ends by itself; not its ending."""

import datetime

import pytest

from helpers import refused

MIDNIGHT = datetime.datetime(2099, 1, 1, tzinfo=datetime.timezone.utc)


def rule(**arguments):
    return {"ID": "rule", "Status": "Enabled", "Filter": {"Prefix": "x/"}, **arguments}


def put(s3, bucket, *rules):
    return s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": list(rules)})


def get(s3, bucket):
    return s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]


GOOD = {
    "days": rule(Expiration={"Days": 1}),
    "date": rule(Expiration={"Date": MIDNIGHT}),
    "disabled": rule(Status="Disabled", Expiration={"Days": 30}),
    "everything": rule(Filter={"Prefix": ""}, Expiration={"Days": 1}),
    "tag": rule(Filter={"Tag": {"Key": "a", "Value": "1"}}, Expiration={"Days": 1}),
    "size": rule(Filter={"ObjectSizeGreaterThan": 100}, Expiration={"Days": 1}),
    "and": rule(Filter={"And": {"Prefix": "x/", "Tags": [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}],
                                "ObjectSizeGreaterThan": 1, "ObjectSizeLessThan": 1000}}, Expiration={"Days": 1}),
    "noncurrent": rule(NoncurrentVersionExpiration={"NoncurrentDays": 3, "NewerNoncurrentVersions": 2}),
    "marker": rule(Expiration={"ExpiredObjectDeleteMarker": True}),
    "uploads": rule(AbortIncompleteMultipartUpload={"DaysAfterInitiation": 7}),
    "several": rule(Expiration={"Days": 1}, NoncurrentVersionExpiration={"NoncurrentDays": 3},
                    AbortIncompleteMultipartUpload={"DaysAfterInitiation": 7}),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_rule_comes_back_as_it_was_put(s3, bucket, name):
    put(s3, bucket, GOOD[name])
    assert get(s3, bucket) == [GOOD[name]]


def test_rules_replace_those_before(s3, bucket):
    put(s3, bucket, GOOD["days"])
    several = [rule(ID=f"rule {n}", Filter={"Prefix": f"{n}/"}, Expiration={"Days": n + 1}) for n in range(5)]
    put(s3, bucket, *several)
    assert get(s3, bucket) == several


def test_a_rule_without_a_name_gets_one(s3, bucket):
    unnamed = [{name: value for name, value in rule(Filter={"Prefix": f"{n}/"}, Expiration={"Days": 1}).items() if name != "ID"}
               for n in range(2)]
    put(s3, bucket, *unnamed)
    names = [entry["ID"] for entry in get(s3, bucket)]
    assert len(set(names)) == 2 and all(names)
    assert [entry["ID"] for entry in get(s3, bucket)] == names


def test_the_old_form_of_a_prefix_is_taken(s3, bucket):
    old = {"ID": "old", "Status": "Enabled", "Prefix": "x/", "Expiration": {"Days": 1}}
    put(s3, bucket, old)
    assert get(s3, bucket) == [old]


def test_a_name_of_255_characters_and_1000_rules_are_taken(s3, bucket):
    put(s3, bucket, *[rule(ID=f"{n:0255}", Filter={"Prefix": f"{n}/"}, Expiration={"Days": 1}) for n in range(1000)])
    assert len(get(s3, bucket)) == 1000


@pytest.mark.parametrize("rules, errors", [
    ([rule(Status="enabled", Expiration={"Days": 1})], ["MalformedXML"]),
    ([rule(ID="i" * 256, Expiration={"Days": 1})], ["InvalidArgument"]),
    ([rule(Expiration={"Days": 1}), rule(Filter={"Prefix": "y/"}, Expiration={"Days": 2})], ["InvalidArgument"]),
    ([rule(Expiration={"Days": 0})], ["InvalidArgument"]),
    ([rule(Expiration={"Days": -1})], ["InvalidArgument"]),
    ([rule(Expiration={"Date": MIDNIGHT + datetime.timedelta(hours=1)})], ["InvalidArgument"]),
    ([rule(Expiration={"Days": 1, "Date": MIDNIGHT})], ["MalformedXML", "InvalidArgument"]),
    ([rule(Expiration={"Days": 1, "ExpiredObjectDeleteMarker": True})], ["MalformedXML", "InvalidArgument"]),
    ([rule(Expiration={})], ["MalformedXML", "InvalidArgument"]),
    ([rule()], ["InvalidRequest", "InvalidArgument", "MalformedXML"]),
    ([rule(NoncurrentVersionExpiration={"NoncurrentDays": 0})], ["InvalidArgument"]),
    ([rule(AbortIncompleteMultipartUpload={"DaysAfterInitiation": 0})], ["InvalidArgument"]),
    ([rule(Filter={"Tag": {"Key": "a", "Value": "1"}}, AbortIncompleteMultipartUpload={"DaysAfterInitiation": 1})],
     ["InvalidRequest", "InvalidArgument"]),
    ([rule(Filter={"Tag": {"Key": "a", "Value": "1"}}, Expiration={"ExpiredObjectDeleteMarker": True})],
     ["InvalidRequest", "InvalidArgument", "MalformedXML"]),
    ([rule(Filter={"Prefix": "x/", "Tag": {"Key": "a", "Value": "1"}}, Expiration={"Days": 1})], ["MalformedXML"]),
    ([rule(Filter={"And": {"Prefix": "x/"}}, Expiration={"Days": 1})], ["MalformedXML", "InvalidRequest", "InvalidArgument"]),
    ([rule(Prefix="x/", Expiration={"Days": 1})], ["MalformedXML", "InvalidRequest"]),
    ([{"ID": "rule", "Status": "Enabled", "Expiration": {"Days": 1}}], ["MalformedXML"]),
    ([rule(Transitions=[{"Days": 1, "StorageClass": "ATTIC"}])], ["MalformedXML", "InvalidStorageClass", "NotImplemented"]),
    ([rule(ID=f"{n}", Filter={"Prefix": f"{n}/"}, Expiration={"Days": 1}) for n in range(1001)],
     ["MalformedXML", "InvalidRequest", "InvalidArgument"]),
    ([], ["MalformedXML"]),
], ids=["status", "long name", "same name", "0 days", "negative days", "no midnight", "days and date", "days and marker", "empty", "no action",
        "0 noncurrent days", "0 days of uploads", "uploads by tag", "markers by tag", "two filters", "and of one", "prefix twice", "no filter",
        "storage class", "too many", "no rule"])
def test_a_rule_that_is_none_is_refused(s3, bucket, rules, errors):
    put(s3, bucket, GOOD["days"])
    with pytest.raises(s3.exceptions.ClientError) as caught:
        put(s3, bucket, *rules)
    assert caught.value.response["Error"]["Code"] in errors, caught.value.response
    assert get(s3, bucket) == [GOOD["days"]]


def test_without_rules_there_is_no_configuration(s3, bucket):
    put(s3, bucket, GOOD["days"])
    s3.delete_bucket_lifecycle(Bucket=bucket)
    with refused("NoSuchLifecycleConfiguration", 404):
        get(s3, bucket)
