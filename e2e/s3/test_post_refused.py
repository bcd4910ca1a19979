"""Forms that store nothing."""

import base64
import json

import pytest

from helpers import code, pattern, raw
from node import ACCESS, SECRET
from test_post_policy import BOUNDARY, form, in_an_hour, policy, post, refusal, sign, signed_fields, upload


def test_a_policy_ends(node, s3, bucket):
    document = {**policy(bucket), "expiration": in_an_hour(-1)}
    assert refusal(s3, bucket, post(node, bucket, {"key": "k", **signed_fields(document)})) == (403, "AccessDenied")


@pytest.mark.parametrize("change", ["secret", "signature", "policy", "date"])
def test_what_was_changed_after_signing_is_refused(node, s3, bucket, change):
    fields = {"key": "k", **signed_fields(policy(bucket), secret="wrong-secret-key" if change == "secret" else SECRET)}
    if change == "signature":
        fields["x-amz-signature"] = fields["x-amz-signature"][:-1] + ("0" if fields["x-amz-signature"][-1] != "0" else "1")
    elif change == "policy":
        fields["policy"] = base64.b64encode(json.dumps({**policy(bucket), "expiration": in_an_hour(24)}).encode()).decode()
    elif change == "date":
        fields["x-amz-credential"] = fields["x-amz-credential"].replace(fields["x-amz-date"][:8], "20200101")
    expected = [(403, "SignatureDoesNotMatch")] + ([(403, "AccessDenied"), (400, "InvalidArgument")] if change == "date" else [])
    assert refusal(s3, bucket, post(node, bucket, fields)) in expected


def test_an_unknown_key_is_refused(node, s3, bucket):
    answer = post(node, bucket, {"key": "k", **signed_fields(policy(bucket), access="somebody-else")})
    assert refusal(s3, bucket, answer) == (403, "InvalidAccessKeyId")


@pytest.mark.parametrize("missing", ["x-amz-signature", "x-amz-credential", "x-amz-date", "x-amz-algorithm"])
def test_a_signature_without_its_fields_is_refused(node, s3, bucket, missing):
    fields = {"key": "k", **signed_fields(policy(bucket))}
    del fields[missing]
    status, error = refusal(s3, bucket, post(node, bucket, fields))
    assert (status, error) in ((400, "InvalidArgument"), (403, "AccessDenied"))


def test_a_form_without_a_policy_is_anonymous(node, s3, bucket):
    assert refusal(s3, bucket, post(node, bucket, {"key": "k"})) == (403, "AccessDenied")


def test_a_signature_without_a_policy_is_refused(node, s3, bucket):
    fields = {"key": "k", **signed_fields(policy(bucket))}
    fields["x-amz-signature"] = sign("", fields["x-amz-date"])
    del fields["policy"]
    status, _ = refusal(s3, bucket, post(node, bucket, fields))
    assert status in (400, 403)


def test_an_older_signature_is_refused(node, s3, bucket):
    document = base64.b64encode(json.dumps(policy(bucket)).encode()).decode()
    status, _ = refusal(s3, bucket, post(node, bucket, {"key": "k", "AWSAccessKeyId": ACCESS, "policy": document, "signature": "c2lnbmF0dXJl"}))
    assert status in (400, 403)


@pytest.mark.parametrize("document", [
    b"not json", b"[]", b"{}", b'"text"', lambda good: {name: value for name, value in good.items() if name != "expiration"},
    lambda good: {name: value for name, value in good.items() if name != "conditions"}, lambda good: {**good, "expiration": "tomorrow"},
    lambda good: {**good, "expiration": 1}, lambda good: {**good, "conditions": "none"},
    lambda good: {"conditions": good["conditions"], "EXPIRATION": good["expiration"]},
], ids=["no json", "list", "nothing", "text", "no expiration", "no conditions", "no date", "number", "no list", "case"])
def test_what_is_no_policy_is_refused(node, s3, bucket, document):
    given = document(policy(bucket)) if callable(document) else document
    assert refusal(s3, bucket, post(node, bucket, {"key": "k", **signed_fields(given)})) == (400, "InvalidPolicyDocument")


@pytest.mark.parametrize("condition", [
    ["resembles", "$key", "k"], ["eq", "$key"], ["eq", "key", "k"], ["content-length-range", 0], ["content-length-range", -1, 10],
    ["content-length-range", "a", "b"], 5, []], ids=str)
def test_what_is_no_condition_does_not_hold(node, s3, bucket, condition):
    answer = post(node, bucket, {"key": "k", **signed_fields(policy(bucket, condition))})
    # AWS says the first of conditions that it cannot interpret, Ceph the second.
    assert refusal(s3, bucket, answer) in ((403, "AccessDenied"), (400, "InvalidPolicyDocument"))


def test_a_policy_that_is_no_base64_is_refused(node, s3, bucket):
    fields = {"key": "k", **signed_fields(policy(bucket)), "policy": "%%%"}
    fields["x-amz-signature"] = sign("%%%", fields["x-amz-date"])
    assert refusal(s3, bucket, post(node, bucket, fields)) == (400, "InvalidPolicyDocument")


@pytest.mark.parametrize("conditions", [
    lambda bucket: [["eq", "$key", "k"]], lambda bucket: [{"bucket": bucket}], lambda bucket: []], ids=["no bucket", "no key", "none"])
def test_a_policy_must_name_the_bucket_and_the_key(node, s3, bucket, conditions):
    document = {"expiration": in_an_hour(), "conditions": conditions(bucket)}
    assert refusal(s3, bucket, post(node, bucket, {"key": "k", **signed_fields(document)})) == (403, "AccessDenied")


def test_a_policy_is_for_its_bucket(node, s3, bucket):
    other = f"{bucket}-2"[-63:]
    s3.create_bucket(Bucket=other)
    try:
        answer = post(node, other, {"key": "k", **signed_fields(policy(bucket))})
        assert refusal(s3, other, answer) == (403, "AccessDenied")
    finally:
        s3.delete_bucket(Bucket=other)


def test_a_form_for_no_bucket_is_refused(node):
    answer = post(node, "there-is-none", {"key": "k", **signed_fields(policy("there-is-none"))})
    assert (answer[0], code(answer[2])) == (404, "NoSuchBucket")


def test_a_form_without_a_key_is_refused(node, s3, bucket):
    assert refusal(s3, bucket, post(node, bucket, signed_fields(policy(bucket)))) == (400, "InvalidArgument")


def test_a_form_without_a_file_is_refused(node, s3, bucket):
    assert refusal(s3, bucket, upload(node, bucket, content=None)) == (400, "InvalidArgument")


def test_a_form_with_two_files_is_refused(node, s3, bucket):
    body = form({"key": "k", **signed_fields(policy(bucket))})
    second = form({}, b"second")
    both = body[:-len(f"--{BOUNDARY}--\r\n")] + second
    answer = raw(node, "POST", f"/{bucket}", {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}, both)
    # AWS ignores all that is behind the first file; a server may also refuse it, but never store the second.
    if answer[0] == 204:
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"content"
    else:
        assert refusal(s3, bucket, answer)[0] == 400


def test_a_key_behind_the_file_is_none(node, s3, bucket):
    answer = post(node, bucket, signed_fields(policy(bucket)), after=[("key", "k")])
    assert refusal(s3, bucket, answer) == (400, "InvalidArgument")


def test_a_key_that_is_too_long_is_refused(node, s3, bucket):
    assert refusal(s3, bucket, upload(node, bucket, key="k" * 1025)) == (400, "KeyTooLongError")


def test_a_field_that_is_too_long_is_refused(node, s3, bucket):
    """The fields before the file are at most 20 KB."""
    long = "x" * 30_000
    answer = upload(node, bucket, ["starts-with", "$x-amz-meta-a", ""], fields={"x-amz-meta-a": long})
    status, error = refusal(s3, bucket, answer)
    assert (status, error) in ((400, "MaxPostPreDataLengthExceeded"), (400, "MaxPostPreDataLengthExceededError"), (400, "MetadataTooLarge"))


@pytest.mark.parametrize("content_type", ["multipart/form-data", "application/x-www-form-urlencoded", "multipart/form-data; boundary=other"])
def test_what_is_no_form_is_refused(node, s3, bucket, content_type):
    body = form({"key": "k", **signed_fields(policy(bucket))})
    answer = raw(node, "POST", f"/{bucket}", {"Content-Type": content_type}, body)
    status, _ = refusal(s3, bucket, answer)
    assert status in (400, 403, 405, 412)


@pytest.mark.parametrize("length", [7, 1_000_000])
def test_a_form_that_ends_early_stores_nothing(node, s3, bucket, length):
    body = form({"key": "k", **signed_fields(policy(bucket))}, pattern(length))
    for cut in (len(f"\r\n--{BOUNDARY}--\r\n"), length // 2 + len(f"\r\n--{BOUNDARY}--\r\n")):
        answer = raw(node, "POST", f"/{bucket}", {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}, body[:-cut])
        assert refusal(s3, bucket, answer)[0] == 400


def test_a_form_is_for_buckets_only(node, s3, bucket):
    body = form({"key": "k", **signed_fields(policy(bucket))})
    answer = raw(node, "POST", f"/{bucket}/k", {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}, body)
    assert answer[0] in (400, 403, 405, 501)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
