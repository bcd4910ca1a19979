import uuid

import pytest

from helpers import code, put_document, raw, refused, signed, status
from node import Node


def missing():
    return f"test-{uuid.uuid4().hex}"


LIFECYCLE = {"Rules": [{"ID": "a", "Status": "Enabled", "Filter": {"Prefix": "x/"}, "Expiration": {"Days": 1}}]}
CORS = {"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]}
TAGS = {"TagSet": [{"Key": "a", "Value": "b"}]}
OWNERSHIP = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
BLOCKED = {"BlockPublicAcls": True, "IgnorePublicAcls": False, "BlockPublicPolicy": True, "RestrictPublicBuckets": False}

# What is put, read and deleted: the argument that puts it, and what reading it answers where there is none.
CONFIGURATIONS = {
    "bucket_cors": ({"CORSConfiguration": CORS}, "NoSuchCORSConfiguration"),
    "bucket_lifecycle_configuration": ({"LifecycleConfiguration": LIFECYCLE}, "NoSuchLifecycleConfiguration"),
    "bucket_tagging": ({"Tagging": TAGS}, "NoSuchTagSet"),
    "public_access_block": ({"PublicAccessBlockConfiguration": BLOCKED}, "NoSuchPublicAccessBlockConfiguration"),
    "bucket_ownership_controls": ({"OwnershipControls": OWNERSHIP}, "OwnershipControlsNotFoundError"),
}
# A bucket has these from the beginning.
BORN_WITH = ("public_access_block", "bucket_ownership_controls")


DELETE = {"bucket_lifecycle_configuration": "delete_bucket_lifecycle"}


def content(answer):
    return {name: value for name, value in answer.items() if name not in ("ResponseMetadata", "TransitionDefaultMinimumObjectSize")}


def get(s3, bucket, name):
    return content(getattr(s3, f"get_{name}")(Bucket=bucket))


def delete(s3, bucket, name):
    return getattr(s3, DELETE.get(name, f"delete_{name}"))(Bucket=bucket)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_is_put_read_and_deleted(s3, bucket, name):
    arguments, error = CONFIGURATIONS[name]
    assert status(getattr(s3, f"put_{name}")(Bucket=bucket, **arguments)) in (200, 204)
    [given] = arguments.values()
    read = get(s3, bucket, name)
    assert read in (given, arguments)
    assert status(delete(s3, bucket, name)) == 204
    with refused(error, 404):
        get(s3, bucket, name)
    # Deleting what is not there is no error.
    assert status(delete(s3, bucket, name)) == 204


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if name not in BORN_WITH])
def test_a_new_bucket_has_no_configuration(s3, bucket, name):
    with refused(CONFIGURATIONS[name][1], 404):
        get(s3, bucket, name)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_of_no_bucket_is_refused(s3, name):
    arguments, _ = CONFIGURATIONS[name]
    for call in (lambda: get(s3, missing(), name), lambda: delete(s3, missing(), name),
                 lambda: getattr(s3, f"put_{name}")(Bucket=missing(), **arguments)):
        with refused("NoSuchBucket", 404):
            call()


@pytest.mark.parametrize("query", ["cors", "lifecycle", "tagging", "publicAccessBlock", "ownershipControls", "versioning"])
@pytest.mark.parametrize("document", [b"", b"not xml", b"<unfinished>", b"<Other/>"])
def test_what_is_no_configuration_is_refused(node, bucket, query, document):
    answer = put_document(node, f"/{bucket}?{query}", document)
    assert answer[0] == 400
    assert code(answer[2]) in ("MalformedXML", "MissingRequestBodyError" if not document else "MalformedXML")


@pytest.mark.parametrize("document", [b"<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;'>]><Tagging><TagSet><Tag><Key>&b;</Key>"
                                      b"<Value>v</Value></Tag></TagSet></Tagging>",
                                      b"<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><Tagging><TagSet><Tag><Key>k</Key>"
                                      b"<Value>&a;</Value></Tag></TagSet></Tagging>"], ids=["nested", "file"])
def test_entities_of_a_document_are_not_followed(node, s3, bucket, document):
    assert put_document(node, f"/{bucket}?tagging", document)[0] == 400
    with refused("NoSuchTagSet", 404):
        s3.get_bucket_tagging(Bucket=bucket)


def test_a_new_bucket_of_the_same_name_has_nothing_of_the_old_one(s3):
    bucket = missing()
    s3.create_bucket(Bucket=bucket)
    s3.delete_public_access_block(Bucket=bucket)
    for name, (arguments, _) in CONFIGURATIONS.items():
        if name not in BORN_WITH:
            getattr(s3, f"put_{name}")(Bucket=bucket, **arguments)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.delete_bucket(Bucket=bucket)
    s3.create_bucket(Bucket=bucket)
    for name, (_, error) in CONFIGURATIONS.items():
        if name not in BORN_WITH:
            with refused(error, 404):
                get(s3, bucket, name)
    with refused("NoSuchBucketPolicy", 404):
        s3.get_bucket_policy(Bucket=bucket)
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    s3.delete_bucket(Bucket=bucket)


def test_configurations_survive_a_restart(tmp_path):
    node = Node(data=tmp_path)
    try:
        s3 = node.client()
        s3.create_bucket(Bucket="bucket")
        for name, (arguments, _) in CONFIGURATIONS.items():
            getattr(s3, f"put_{name}")(Bucket="bucket", **arguments)
        before = {name: get(s3, "bucket", name) for name in CONFIGURATIONS}
    finally:
        node.close()
    node = Node(data=tmp_path)
    try:
        assert {name: get(node.client(), "bucket", name) for name in CONFIGURATIONS} == before
    finally:
        node.close()


@pytest.mark.parametrize("blocked", [BLOCKED, {name: not value for name, value in BLOCKED.items()}, dict.fromkeys(BLOCKED, False)],
                         ids=["two", "the others", "none"])
def test_blocked_public_access_is_what_was_put(s3, bucket, blocked):
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=blocked)
    assert s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"] == blocked


def test_what_is_not_said_to_be_blocked_is_not(s3, bucket):
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration={"BlockPublicAcls": True})
    found = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert found == {**dict.fromkeys(BLOCKED, False), "BlockPublicAcls": True}


def test_an_unknown_ownership_is_refused(s3, bucket):
    with refused("MalformedXML", 400):
        s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls={"Rules": [{"ObjectOwnership": "Nobody"}]})


def test_the_owner_pays_for_requests(s3, bucket):
    assert s3.get_bucket_request_payment(Bucket=bucket)["Payer"] == "BucketOwner"
    s3.put_bucket_request_payment(Bucket=bucket, RequestPaymentConfiguration={"Payer": "BucketOwner"})
    assert s3.get_bucket_request_payment(Bucket=bucket)["Payer"] == "BucketOwner"
    with refused("NotImplemented", 501):
        s3.put_bucket_request_payment(Bucket=bucket, RequestPaymentConfiguration={"Payer": "Requester"})


def test_there_is_no_logging(s3, bucket):
    assert content(s3.get_bucket_logging(Bucket=bucket)) == {}
    s3.put_bucket_logging(Bucket=bucket, BucketLoggingStatus={})
    assert content(s3.get_bucket_logging(Bucket=bucket)) == {}


def test_there_are_no_notifications(s3, bucket):
    assert content(s3.get_bucket_notification_configuration(Bucket=bucket)) == {}
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})
    assert content(s3.get_bucket_notification_configuration(Bucket=bucket)) == {}


def test_there_is_no_acceleration(s3, bucket):
    assert content(s3.get_bucket_accelerate_configuration(Bucket=bucket)) == {}


def owner_only(answer):
    [grant] = answer["Grants"]
    assert (grant["Permission"], grant["Grantee"]["Type"]) == ("FULL_CONTROL", "CanonicalUser")
    assert grant["Grantee"]["ID"] == answer["Owner"]["ID"] != ""


def test_everything_belongs_to_its_owner(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for answer in (s3.get_bucket_acl(Bucket=bucket), s3.get_object_acl(Bucket=bucket, Key="k")):
        owner_only(answer)
    assert s3.get_bucket_acl(Bucket=bucket)["Owner"]["ID"] == s3.list_buckets()["Owner"]["ID"]


def test_private_is_taken_as_an_acl(s3, bucket):
    s3.put_bucket_acl(Bucket=bucket, ACL="private")
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ACL="private")
    s3.put_object_acl(Bucket=bucket, Key="k", ACL="private")
    owner_only(s3.get_object_acl(Bucket=bucket, Key="k"))
    name = missing()
    s3.create_bucket(Bucket=name, ACL="private")
    owner_only(s3.get_bucket_acl(Bucket=name))
    s3.delete_bucket(Bucket=name)


def test_what_is_not_there_has_no_acl(s3, versioned):
    with refused("NoSuchKey", 404):
        s3.get_object_acl(Bucket=versioned, Key="none")
    with refused("NoSuchBucket", 404):
        s3.get_bucket_acl(Bucket=missing())
    version = s3.put_object(Bucket=versioned, Key="k", Body=b"x")["VersionId"]
    owner_only(s3.get_object_acl(Bucket=versioned, Key="k", VersionId=version))
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    with refused("MethodNotAllowed", 405):
        s3.get_object_acl(Bucket=versioned, Key="k", VersionId=marker)


@pytest.mark.parametrize("name", ["request_payment", "logging", "notification_configuration", "accelerate_configuration", "encryption",
                                  "policy", "policy_status"])
def test_settings_of_no_bucket_are_not_told(s3, name):
    with refused("NoSuchBucket", 404):
        getattr(s3, f"get_bucket_{name}")(Bucket=missing())


@pytest.mark.parametrize("name, error", [
    ("website", "NoSuchWebsiteConfiguration"), ("replication", "ReplicationConfigurationNotFoundError"),
    ("inventory_configuration", "NoSuchConfiguration"), ("analytics_configuration", "NoSuchConfiguration"),
    ("metrics_configuration", "NoSuchConfiguration"), ("intelligent_tiering_configuration", "NoSuchConfiguration")])
def test_what_is_not_there_or_not_built_is_no_success(s3, bucket, name, error):
    arguments = {"Id": "x"} if name.endswith("configuration") else {}
    with pytest.raises(s3.exceptions.ClientError) as caught:
        getattr(s3, f"get_bucket_{name}")(Bucket=bucket, **arguments)
    assert (status(caught.value.response), caught.value.response["Error"]["Code"]) in ((404, error), (501, "NotImplemented"))


@pytest.mark.parametrize("query", ["website", "replication", "inventory&id=x", "analytics&id=x", "metrics&id=x", "intelligent-tiering&id=x"])
def test_what_is_not_built_is_not_taken_for_an_object_or_a_bucket(node, s3, bucket, query):
    """A query that is not understood must not fall through to CreateBucket, ListObjects or DeleteBucket."""
    path = f"/{bucket}?{query}"
    for method in ("GET", "PUT", "POST"):
        state, _, answer = raw(node, method, path, signed(node, method, path))
        assert state >= 400, (method, answer)
    state, _, answer = raw(node, "DELETE", path, signed(node, "DELETE", path))
    # AWS says 204 where there is nothing to delete.
    assert state == 204 or state >= 400, answer
    assert status(s3.head_bucket(Bucket=bucket)) == 200
