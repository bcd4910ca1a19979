import json

import pytest

from helpers import code, raw, refused, status


def arn(bucket, path=None):
    return f"arn:aws:s3:::{bucket}" + ("" if path is None else f"/{path}")


def statement(bucket, action="s3:GetObject", path="*", effect="Allow", **arguments):
    resource = arn(bucket) if path is None else arn(bucket, path)
    return {"Effect": effect, "Principal": "*", "Action": action, "Resource": resource, **arguments}


def policy(*statements):
    return {"Version": "2012-10-17", "Statement": list(statements)}


def put(s3, bucket, *statements):
    return s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy(*statements)))


@pytest.fixture
def opened(s3, bucket):
    """A bucket whose policy may let everybody in, with an object. Its policy goes before its clean-up."""
    s3.delete_public_access_block(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="open/k", Body=b"open")
    s3.put_object(Bucket=bucket, Key="k", Body=b"closed")
    yield bucket
    s3.delete_bucket_policy(Bucket=bucket)


def anonymous(node, method, path, body=b"", **headers):
    state, _, answer = raw(node, method, path, headers, body)
    return state, answer


def test_a_policy_is_put_read_and_deleted(s3, opened):
    with refused("NoSuchBucketPolicy", 404):
        s3.get_bucket_policy(Bucket=opened)
    assert status(put(s3, opened, statement(opened))) == 204
    assert json.loads(s3.get_bucket_policy(Bucket=opened)["Policy"]) == policy(statement(opened))
    put(s3, opened, statement(opened, "s3:PutObject"))
    assert json.loads(s3.get_bucket_policy(Bucket=opened)["Policy"]) == policy(statement(opened, "s3:PutObject"))
    assert status(s3.delete_bucket_policy(Bucket=opened)) == 204
    with refused("NoSuchBucketPolicy", 404):
        s3.get_bucket_policy(Bucket=opened)
    assert status(s3.delete_bucket_policy(Bucket=opened)) == 204


@pytest.mark.parametrize("given", [
    lambda b: statement(b, ["s3:GetObject", "s3:PutObject"]), lambda b: statement(b, "s3:*"), lambda b: statement(b, "s3:Get*"),
    lambda b: statement(b, Sid="Named", Principal={"AWS": "*"}), lambda b: statement(b, Principal={"AWS": ["*"]}),
    lambda b: statement(b, "s3:ListBucket", None), lambda b: statement(b, "*", Resource=[arn(b), arn(b, "*")]),
    lambda b: statement(b, path="a/*/c?.txt"), lambda b: statement(b, effect="Deny", Condition={"Bool": {"aws:SecureTransport": "false"}},
                                                                    Action="s3:DeleteBucketWebsite", Resource=arn(b)),
], ids=["actions", "all", "pattern", "named", "principals", "bucket", "resources", "paths", "condition"])
def test_what_is_a_policy_is_taken(s3, opened, given):
    put(s3, opened, given(opened))
    assert json.loads(s3.get_bucket_policy(Bucket=opened)["Policy"]) == policy(given(opened))


@pytest.mark.parametrize("given", [
    lambda b: "", lambda b: "not json", lambda b: "[]", lambda b: "{}", lambda b: json.dumps(policy(statement(b)))[:-1],
    lambda b: json.dumps({**policy(statement(b)), "Version": "2020-01-01"}),
    lambda b: json.dumps({**policy(statement(b)), "Extra": 1}),
    lambda b: json.dumps(policy()),
    *(lambda b, name=name: json.dumps(policy({key: value for key, value in statement(b).items() if key != name}))
      for name in ("Effect", "Principal", "Action", "Resource")),
    lambda b: json.dumps(policy(statement(b, effect="Permit"))),
    lambda b: json.dumps(policy(statement(b, "s3:Fly"))),
    lambda b: json.dumps(policy(statement(b, "s3:ListBucket", "*"))),
    lambda b: json.dumps(policy(statement(b, "s3:GetObject", None))),
    lambda b: json.dumps(policy(statement("another-bucket"))),
    lambda b: json.dumps(policy(statement(b, Resource="everything"))),
    lambda b: json.dumps(policy(statement(b, Principal={"AWS": "not an account"}))),
    lambda b: json.dumps(policy(statement(b, Condition={"StringResembles": {"s3:prefix": "a"}}))),
], ids=["empty", "no json", "list", "nothing", "cut off", "version", "unknown part", "no statement", "no effect", "no principal", "no action",
        "no resource", "bad effect", "bad action", "bucket action", "object action", "another bucket", "bad resource", "bad principal",
        "bad condition"])
def test_what_is_no_policy_is_malformed(s3, opened, given):
    put(s3, opened, statement(opened))
    with pytest.raises(s3.exceptions.ClientError) as caught:
        s3.put_bucket_policy(Bucket=opened, Policy=given(opened))
    assert status(caught.value.response) == 400
    assert caught.value.response["Error"]["Code"] in ("MalformedPolicy", *(["MissingRequestBodyError"] if not given(opened) else []))
    assert json.loads(s3.get_bucket_policy(Bucket=opened)["Policy"]) == policy(statement(opened))


@pytest.mark.parametrize("given, public", [
    (lambda b: statement(b), True), (lambda b: statement(b, Principal={"AWS": "*"}), True),
    (lambda b: statement(b, effect="Deny", action="s3:DeleteObject"), False),
    (lambda b: statement(b, Condition={"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}), False),
], ids=["all", "all accounts", "deny", "some addresses"])
def test_the_status_says_whether_a_policy_is_public(s3, opened, given, public):
    with refused("NoSuchBucketPolicy", 404):
        s3.get_bucket_policy_status(Bucket=opened)
    put(s3, opened, given(opened))
    assert s3.get_bucket_policy_status(Bucket=opened)["PolicyStatus"]["IsPublic"] is public


def test_a_policy_lets_everybody_read_what_it_names(node, s3, opened):
    assert anonymous(node, "GET", f"/{opened}/open/k")[0] == 403
    put(s3, opened, statement(opened, path="open/*"))
    assert anonymous(node, "GET", f"/{opened}/open/k") == (200, b"open")
    assert anonymous(node, "HEAD", f"/{opened}/open/k") == (200, b"")
    for method, path in [("GET", "/{}/k"), ("PUT", "/{}/open/k"), ("DELETE", "/{}/open/k"), ("GET", "/{}"), ("GET", "/{}?policy"),
                         ("DELETE", "/{}"), ("GET", "/{}/open/k?tagging"), ("GET", "/{}/open/k?acl")]:
        state, answer = anonymous(node, method, path.format(opened))
        assert (state, code(answer)) == (403, "AccessDenied"), (method, path)
    # Whether there is an object is not told to who may not list.
    assert anonymous(node, "GET", f"/{opened}/open/none")[0] == 403
    s3.delete_bucket_policy(Bucket=opened)
    assert anonymous(node, "GET", f"/{opened}/open/k")[0] == 403


def test_a_policy_lets_everybody_list(node, s3, opened):
    put(s3, opened, statement(opened, "s3:ListBucket", None, Condition={"StringEquals": {"s3:prefix": "open/"}}), statement(opened))
    state, answer = anonymous(node, "GET", f"/{opened}?list-type=2&prefix=open/")
    assert state == 200 and b"<Key>open/k</Key>" in answer
    assert anonymous(node, "GET", f"/{opened}?list-type=2")[0] == 403
    put(s3, opened, statement(opened, "s3:ListBucket", None), statement(opened))
    assert anonymous(node, "GET", f"/{opened}?list-type=2")[0] == 200
    state, answer = anonymous(node, "GET", f"/{opened}/none")
    assert (state, code(answer)) == (404, "NoSuchKey")


def test_a_policy_lets_everybody_write_and_delete(node, s3, opened):
    put(s3, opened, statement(opened, ["s3:PutObject", "s3:DeleteObject"], "inbox/*"))
    assert anonymous(node, "PUT", f"/{opened}/inbox/k", b"by nobody")[0] == 200
    assert s3.get_object(Bucket=opened, Key="inbox/k")["Body"].read() == b"by nobody"
    assert anonymous(node, "GET", f"/{opened}/inbox/k")[0] == 403
    assert anonymous(node, "PUT", f"/{opened}/k", b"by nobody")[0] == 403
    assert anonymous(node, "DELETE", f"/{opened}/inbox/k")[0] == 204
    assert s3.get_object(Bucket=opened, Key="k")["Body"].read() == b"closed"


def test_a_denial_goes_before_what_is_allowed(node, s3, opened):
    put(s3, opened, statement(opened), statement(opened, path="open/*", effect="Deny"))
    assert anonymous(node, "GET", f"/{opened}/k") == (200, b"closed")
    assert anonymous(node, "GET", f"/{opened}/open/k")[0] == 403


def test_a_denial_holds_for_the_owner_too(s3, opened):
    put(s3, opened, statement(opened, "s3:DeleteObject", effect="Deny"))
    with refused("AccessDenied", 403):
        s3.delete_object(Bucket=opened, Key="k")
    answer = s3.delete_objects(Bucket=opened, Delete={"Objects": [{"Key": "k"}]})
    assert [(entry["Key"], entry["Code"]) for entry in answer["Errors"]] == [("k", "AccessDenied")]
    assert s3.get_object(Bucket=opened, Key="k")["Body"].read() == b"closed"
    s3.delete_bucket_policy(Bucket=opened)
    s3.delete_object(Bucket=opened, Key="k")


def test_the_owner_cannot_lock_itself_out(s3, opened):
    put(s3, opened, statement(opened, "s3:*", effect="Deny", Resource=[arn(opened), arn(opened, "*")]))
    with refused("AccessDenied", 403):
        s3.list_objects_v2(Bucket=opened)
    assert status(s3.delete_bucket_policy(Bucket=opened)) == 204
    assert s3.list_objects_v2(Bucket=opened)["KeyCount"] == 2


@pytest.mark.parametrize("condition, state", [
    ({"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}, 200), ({"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}, 403),
    ({"NotIpAddress": {"aws:SourceIp": "127.0.0.0/8"}}, 403), ({"Bool": {"aws:SecureTransport": "false"}}, 200),
    ({"Bool": {"aws:SecureTransport": "true"}}, 403), ({"StringLike": {"aws:Referer": "https://good.example/*"}}, 200),
    ({"StringLike": {"aws:Referer": "https://other.example/*"}}, 403), ({"StringNotEquals": {"aws:Referer": "https://good.example/page"}}, 403),
    ({"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}, "Bool": {"aws:SecureTransport": "true"}}, 403),
    ({"IpAddress": {"aws:SourceIp": ["192.0.2.0/24", "127.0.0.1/32"]}}, 200),
    ({"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, 200), ({"DateLessThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, 403),
], ids=str)
def test_a_statement_holds_only_where_its_condition_does(node, s3, opened, condition, state):
    if node.sockets and "aws:SourceIp" in str(condition) and "Bool" not in condition:
        # What comes over a socket has no address: only what must not have one holds.
        state = 200 if "NotIpAddress" in condition else 403
    put(s3, opened, statement(opened, Condition=condition))
    assert anonymous(node, "GET", f"/{opened}/open/k", Referer="https://good.example/page")[0] == state


def test_versions_are_read_by_a_right_of_their_own(node, s3, opened):
    s3.put_bucket_versioning(Bucket=opened, VersioningConfiguration={"Status": "Enabled"})
    version = s3.put_object(Bucket=opened, Key="k", Body=b"version")["VersionId"]
    put(s3, opened, statement(opened))
    assert anonymous(node, "GET", f"/{opened}/k") == (200, b"version")
    assert anonymous(node, "GET", f"/{opened}/k?versionId={version}")[0] == 403
    put(s3, opened, statement(opened, "s3:GetObjectVersion"))
    assert anonymous(node, "GET", f"/{opened}/k?versionId={version}") == (200, b"version")


def test_public_policies_can_be_blocked(node, s3, opened):
    def block(**arguments):
        s3.put_public_access_block(Bucket=opened, PublicAccessBlockConfiguration=arguments)

    block(BlockPublicPolicy=True)
    with refused("AccessDenied", 403):
        put(s3, opened, statement(opened))
    with refused("NoSuchBucketPolicy", 404):
        s3.get_bucket_policy(Bucket=opened)
    put(s3, opened, statement(opened, "s3:DeleteObject", "none", effect="Deny"))
    block(BlockPublicPolicy=False)
    put(s3, opened, statement(opened))
    assert anonymous(node, "GET", f"/{opened}/k")[0] == 200
    block(RestrictPublicBuckets=True)
    assert anonymous(node, "GET", f"/{opened}/k")[0] == 403
    assert s3.get_object(Bucket=opened, Key="k")["Body"].read() == b"closed"


def test_what_a_presigned_answer_would_say_is_not_for_everybody(node, s3, opened):
    put(s3, opened, statement(opened))
    for name in ("content-type", "content-language", "expires", "cache-control", "content-disposition", "content-encoding"):
        state, answer = anonymous(node, "GET", f"/{opened}/k?response-{name}=x")
        assert (state, code(answer)) == (400, "InvalidRequest"), name
