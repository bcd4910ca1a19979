"""What nobody signed changes nothing: headers beside a signature, documents beside a presigned URL, older signatures in disguise."""

import json
import urllib.parse

import pytest

from helpers import code, presigned_path, raw, refused, signed
from test_keys import make  # noqa: F401, a fixture
from test_post_policy import BOUNDARY, form, policy, signed_fields


@pytest.mark.parametrize("method, name, value", [
    ("PUT", "x-amz-copy-source", "{}/secret"), ("PUT", "x-amz-tagging", "a=b"), ("PUT", "x-amz-meta-a", "b"), ("PUT", "x-amz-acl", "private"),
    ("PUT", "x-amz-object-lock-legal-hold", "ON"), ("DELETE", "x-amz-bypass-governance-retention", "true"), ("GET", "x-amz-checksum-mode", "ENABLED")])
def test_a_presigned_url_is_for_what_was_signed_alone(node, s3, bucket, method, name, value):
    for key, content in (("secret", b"secret"), ("k", b"mine")):
        s3.put_object(Bucket=bucket, Key=key, Body=content)
    path = presigned_path(node, method, f"/{bucket}/k")
    state, _, answer = raw(node, method, path, {name: value.format(bucket)})
    assert (state, code(answer)) == (403, "AccessDenied")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"mine"


def test_a_part_that_was_presigned_copies_nothing(node, s3, bucket):
    s3.put_object(Bucket=bucket, Key="secret", Body=b"secret")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    url = s3.generate_presigned_url("upload_part", {"Bucket": bucket, "Key": "k", "UploadId": upload, "PartNumber": 1})
    if "X-Amz-Signature" in url:
        parts = urllib.parse.urlsplit(url)
        path = f"{parts.path}?{parts.query}"
    else:
        path = presigned_path(node, "PUT", f"/{bucket}/k?partNumber=1&uploadId={upload}")
    state, _, answer = raw(node, "PUT", path, {"x-amz-copy-source": f"{bucket}/secret"})
    assert (state, code(answer)) == (403, "AccessDenied")
    assert "Parts" not in s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)


def test_a_header_beside_a_signed_request_is_refused(node, s3, bucket):
    given = signed(node, "PUT", f"/{bucket}/k", body=b"x")
    state, _, answer = raw(node, "PUT", f"/{bucket}/k", {**given, "x-amz-meta-a": "b"}, b"x")
    assert (state, code(answer)) == (403, "AccessDenied")
    with refused("404", 404):
        s3.head_object(Bucket=bucket, Key="k")


@pytest.mark.parametrize("query", ["AWSAccessKeyId=test-access-key&Expires=9999999999&Signature=x",
                                   "%41WSAccessKeyId=test-access-key&Expires=9999999999&Signature=x", "Expires=9999999999&%53ignature=x"])
def test_an_older_signature_is_known_in_disguise(node, bucket, query):
    state, _, answer = raw(node, "GET", f"/{bucket}/k?{query}")
    assert (state, code(answer)) == (400, "InvalidRequest")


def test_an_administrator_signs_in_the_header(node):
    path, document = "/.penstock/v1/keys", json.dumps({"name": "stolen", "scopes": [{"bucket": "*", "access": "read"}]}).encode()
    state, _, answer = raw(node, "POST", presigned_path(node, "POST", path), {}, document)
    assert (state, code(answer)) == (403, "AccessDenied")
    assert b"stolen" not in raw(node, "GET", path, signed(node, "GET", path))[2]


@pytest.mark.parametrize("path", ["/{}/k", "/{}?x", "/{}", "/"])
@pytest.mark.parametrize("kind", ['multipart/form-data; boundary=x; a="é"', "MULTIPART/Form-Data; boundary=x", "multipart/form-data"])
def test_no_form_is_read_by_another_reader(node, bucket, path, kind):
    state, _, answer = raw(node, "POST", path.format(bucket), {"Content-Type": kind.encode()}, b"--x\r\n" + b"a" * 100)
    assert state in (400, 403, 405, 412) and code(answer) != "InternalError"


def test_a_condition_on_versions_is_of_the_version_that_is_meant(make, s3, versioned):  # noqa: F811
    first, second = (s3.put_object(Bucket=versioned, Key="k", Body=content)["VersionId"] for content in (b"1", b"2"))
    key = make("--read-write", versioned)

    def put(effect, action, version):
        s3.put_bucket_policy(Bucket=versioned, Policy=json.dumps({"Version": "2012-10-17", "Statement": [{
            "Effect": effect, "Principal": {"AWS": f"arn:aws:iam::penstock:user/{key.name}"}, "Action": f"s3:{action}",
            "Resource": f"arn:aws:s3:::{versioned}/k", "Condition": {"StringEquals": {"s3:VersionId": version}}}]}))

    put("Deny", "DeleteObjectVersion", first)
    both = [{"Key": "k", "VersionId": version} for version in (first, second)]
    answer = key.s3.delete_objects(Bucket=versioned, Delete={"Objects": both})
    assert [entry["VersionId"] for entry in answer["Deleted"]] == [second]
    assert [(entry["VersionId"], entry["Code"]) for entry in answer["Errors"]] == [(first, "AccessDenied")]
    put("Deny", "GetObjectVersion", first)
    with refused("AccessDenied", 403):
        key.s3.copy_object(Bucket=versioned, Key="copy", CopySource={"Bucket": versioned, "Key": "k", "VersionId": first})
    s3.delete_bucket_policy(Bucket=versioned)


def test_a_forms_tags_are_seen_by_policies(node, s3, bucket):
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [{
        "Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/*",
        "Condition": {"StringEquals": {"s3:RequestObjectTag/class": "secret"}}}]}))
    for value, state in (("secret", 403), ("public", 204)):
        document = f"<Tagging><TagSet><Tag><Key>class</Key><Value>{value}</Value></Tag></TagSet></Tagging>"
        fields = {"key": "k", "tagging": document, **signed_fields(policy(bucket, {"tagging": document}))}
        answer = raw(node, "POST", f"/{bucket}", {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}, form(fields))
        assert answer[0] == state, answer
    s3.delete_bucket_policy(Bucket=bucket)


def test_a_form_does_not_take_what_it_does_not_know(node, s3, bucket):
    for name in ("x-amz-grant-read", "x-amz-security-token", "x-amz-copy-source", "x-amz-rdma-token", "x-amz-decoded-content-length"):
        fields = {"key": "k", name: "1", **signed_fields(policy(bucket, {name: "1"}))}
        answer = raw(node, "POST", f"/{bucket}", {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}, form(fields))
        assert (answer[0], code(answer[2])) == (501, "NotImplemented"), name
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_copy_takes_tags_along_by_the_rights_to_tags(make, s3, bucket):  # noqa: F811
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="class=secret")
    s3.put_object(Bucket=bucket, Key="plain", Body=b"x")
    key = make("--read-write", bucket)
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [{
        "Effect": "Deny", "Principal": {"AWS": f"arn:aws:iam::penstock:user/{key.name}"}, "Action": "s3:GetObjectTagging",
        "Resource": f"arn:aws:s3:::{bucket}/*"}]}))
    with refused("AccessDenied", 403):
        key.s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/k")
    key.s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/k", TaggingDirective="REPLACE", Tagging="a=b")
    key.s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/plain")
    s3.delete_bucket_policy(Bucket=bucket)
