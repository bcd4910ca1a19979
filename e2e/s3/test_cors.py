import pytest

from helpers import code, raw, refused, signed

RULES = [
    {"ID": "app", "AllowedMethods": ["GET", "PUT"], "AllowedOrigins": ["https://app.example.com", "https://*.apps.example.com"],
     "AllowedHeaders": ["Content-Type", "x-amz-*"], "ExposeHeaders": ["ETag", "x-amz-version-id"], "MaxAgeSeconds": 300},
    {"AllowedMethods": ["HEAD"], "AllowedOrigins": ["*"]},
    {"AllowedMethods": ["DELETE"], "AllowedOrigins": ["http://any.example.com:8080"], "AllowedHeaders": ["*"]},
]
APP = "https://app.example.com"


@pytest.fixture
def shared(s3, bucket):
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": RULES})
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    return bucket


def preflight(node, path, origin=APP, method="GET", asked=None):
    given = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": asked}
    return raw(node, "OPTIONS", path, {name: value for name, value in given.items() if value is not None})


def words(value):
    return {word.strip().lower() for word in value.split(",")}


def test_rules_come_back_in_their_order(s3, shared):
    assert s3.get_bucket_cors(Bucket=shared)["CORSRules"] == RULES


@pytest.mark.parametrize("path", ["/{}/k", "/{}/none", "/{}", "/{}/k?versionId=x&uploads"])
@pytest.mark.parametrize("origin, method, asked", [
    (APP, "GET", None), (APP, "PUT", "content-type"), (APP, "PUT", "Content-Type, X-Amz-Date,x-amz-meta-a"),
    ("https://a.apps.example.com", "GET", None), ("https://a.b.apps.example.com", "GET", None),
    ("http://any.example.com:8080", "DELETE", "anything,x-at-all"),
])
def test_a_preflight_that_a_rule_allows(node, shared, path, origin, method, asked):
    state, headers, body = preflight(node, path.format(shared), origin, method, asked)
    assert (state, body) == (200, b"")
    assert headers["access-control-allow-origin"] == origin
    assert method.lower() in words(headers["access-control-allow-methods"])
    if asked:
        assert words(asked) <= words(headers["access-control-allow-headers"])
    assert "origin" in words(headers["vary"])


def test_a_preflight_tells_what_its_rule_says(node, shared):
    _, headers, _ = preflight(node, f"/{shared}/k")
    assert headers["access-control-max-age"] == "300"
    assert words(headers["access-control-expose-headers"]) == {"etag", "x-amz-version-id"}
    assert headers["access-control-allow-credentials"] == "true"
    _, headers, _ = preflight(node, f"/{shared}/k", "http://any.example.com:8080", "DELETE")
    assert "access-control-max-age" not in headers and "access-control-expose-headers" not in headers


def test_a_rule_for_all_origins_names_none(node, shared):
    state, headers, _ = preflight(node, f"/{shared}/k", "http://whoever.example.com", "HEAD")
    assert (state, headers["access-control-allow-origin"]) == (200, "*")
    # No browser takes both.
    assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize("origin, method, asked", [
    ("https://app.example.com.evil.example", "GET", None), ("http://app.example.com", "GET", None), ("https://APP.example.com", "GET", None),
    ("https://apps.example.com", "GET", None), (APP, "DELETE", None), (APP, "POST", None), (APP, "PUT", "authorization"),
    (APP, "PUT", "content-type,authorization"), ("http://any.example.com", "DELETE", None), ("null", "GET", None),
    ("http://whoever.example.com", "HEAD", "content-type"),
])
def test_a_preflight_that_no_rule_allows(node, shared, origin, method, asked):
    state, headers, body = preflight(node, f"/{shared}/k", origin, method, asked)
    assert (state, code(body)) == (403, "AccessForbidden")
    assert not [name for name in headers if name.startswith("access-control-allow")]


def test_a_preflight_of_a_bucket_without_rules_is_refused(node, bucket):
    state, headers, body = preflight(node, f"/{bucket}/k")
    assert (state, code(body)) == (403, "AccessForbidden")
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("origin, method", [(None, "GET"), (APP, None), (None, None), (APP, "BREW")])
def test_a_preflight_without_its_headers_is_refused(node, shared, origin, method):
    state, _, body = preflight(node, f"/{shared}/k", origin, method)
    assert (state, code(body)) == (400, "BadRequest")


def test_a_preflight_of_no_bucket_lets_nobody_in(node):
    state, headers, _ = preflight(node, "/there-is-none/k")
    assert state in (403, 404) and "access-control-allow-origin" not in headers


def request(node, method, path, origin, body=b""):
    return raw(node, method, path, {**signed(node, method, path, body=body), **({"Origin": origin} if origin else {})}, body)


@pytest.mark.parametrize("method, path, state", [("GET", "/{}/k", 200), ("PUT", "/{}/new", 200), ("GET", "/{}", 200), ("GET", "/{}/none", 404)])
def test_what_a_rule_allows_can_be_read_by_its_origin(node, shared, method, path, state):
    answered, headers, _ = request(node, method, path.format(shared), APP)
    assert (answered, headers["access-control-allow-origin"]) == (state, APP)
    assert words(headers["access-control-expose-headers"]) == {"etag", "x-amz-version-id"}
    assert headers["access-control-allow-credentials"] == "true"
    assert "origin" in words(headers["vary"])


def test_a_refusal_can_be_read_by_its_origin_too(node, shared):
    state, headers, body = raw(node, "GET", f"/{shared}/k", {"Origin": APP})
    assert (state, code(body)) == (403, "AccessDenied")
    assert headers["access-control-allow-origin"] == APP


@pytest.mark.parametrize("method, origin", [("GET", None), ("GET", "https://evil.example"), ("DELETE", APP)])
def test_what_no_rule_allows_is_answered_without_the_headers(node, shared, method, origin):
    state, headers, _ = request(node, method, f"/{shared}/k", origin)
    assert state in (200, 204)
    assert not [name for name in headers if name.startswith("access-control-")]


def test_all_origins_are_told_by_a_star(node, shared):
    state, headers, _ = request(node, "HEAD", f"/{shared}/k", "http://whoever.example.com")
    assert (state, headers["access-control-allow-origin"]) == (200, "*")


def test_without_rules_nothing_is_shared(node, s3, shared):
    s3.delete_bucket_cors(Bucket=shared)
    _, headers, _ = request(node, "GET", f"/{shared}/k", APP)
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("pattern, allowed, refused_ones", [
    ("*suffix", ["suffix", "foo.suffix"], ["foo.suffix.get", "suffi"]),
    ("start*end", ["startend", "start12end"], ["0start12end", "start", "startendx"]),
    ("prefix*", ["prefix", "prefix.suffix"], ["bla.prefix", "prefi"]),
])
def test_a_star_stands_for_anything(node, s3, bucket, pattern, allowed, refused_ones):
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": [pattern]}]})
    for origin in allowed:
        state, headers, _ = preflight(node, f"/{bucket}/k", origin)
        assert (state, headers["access-control-allow-origin"]) == (200, origin)
    for origin in refused_ones:
        assert preflight(node, f"/{bucket}/k", origin)[0] == 403


@pytest.mark.parametrize("rule, error", [
    ({"AllowedMethods": ["PATCH"], "AllowedOrigins": ["*"]}, "InvalidRequest"),
    ({"AllowedMethods": ["get"], "AllowedOrigins": ["*"]}, "InvalidRequest"),
    ({"AllowedMethods": ["GET"], "AllowedOrigins": ["http://*.*"]}, "InvalidRequest"),
    ({"AllowedMethods": ["GET"], "AllowedOrigins": ["*"], "AllowedHeaders": ["x-*-*"]}, "InvalidRequest"),
    ({"AllowedMethods": ["GET"], "AllowedOrigins": ["*"], "ExposeHeaders": ["x-*"]}, "InvalidRequest"),
    ({"AllowedMethods": ["GET"], "AllowedOrigins": []}, "MalformedXML"),
    ({"AllowedMethods": [], "AllowedOrigins": ["*"]}, "MalformedXML"),
], ids=["method", "case", "origin", "header", "expose", "no origin", "no method"])
def test_a_rule_that_is_none_is_refused(s3, shared, rule, error):
    with refused(error, 400):
        s3.put_bucket_cors(Bucket=shared, CORSConfiguration={"CORSRules": [rule]})
    assert s3.get_bucket_cors(Bucket=shared)["CORSRules"] == RULES


def test_there_are_at_most_100_rules_and_at_least_one(s3, bucket):
    rule = {"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule] * 100})
    for rules in ([rule] * 101, []):
        with pytest.raises(s3.exceptions.ClientError) as caught:
            s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": rules})
        assert caught.value.response["Error"]["Code"] in ("MalformedXML", "InvalidRequest")
    assert len(s3.get_bucket_cors(Bucket=bucket)["CORSRules"]) == 100
