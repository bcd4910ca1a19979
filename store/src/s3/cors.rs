//! Which pages of other origins browsers let read what (Fetch standard, "CORS protocol"; S3 API, "Using cross-origin resource
//! sharing"). It gives nobody a right: who may do what is asked all the same.

use super::{
    Front,
    attributes::malformed,
    config::{CORS, documents},
    error,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use s3s::{
    Body, S3Error, S3Result,
    dto::{
        CORSConfiguration, CORSRule, DeleteBucketCorsInput, DeleteBucketCorsOutput, GetBucketCorsInput,
        GetBucketCorsOutput, PutBucketCorsInput, PutBucketCorsOutput,
    },
    s3_error,
};

const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "HEAD"];
/// The S3 API's limit.
const MOST_RULES: usize = 100;

documents! {
    CORS:
        get_bucket_cors(GetBucketCorsInput => GetBucketCorsOutput) |found|
            GetBucketCorsOutput { cors_rules: Some(found.cors_rules) },
        put_bucket_cors(PutBucketCorsInput => PutBucketCorsOutput) cors_configuration by checked,
        delete_bucket_cors(DeleteBucketCorsInput => DeleteBucketCorsOutput);
}

fn checked(configuration: CORSConfiguration) -> S3Result<CORSConfiguration> {
    let rules = &configuration.cors_rules;
    if rules.is_empty() || rules.len() > MOST_RULES {
        return Err(malformed("There are 1 to 100 CORS rules."));
    }
    let has_two_stars = |texts: &[String]| texts.iter().any(|text| text.matches('*').count() > 1);
    for rule in rules {
        if rule.allowed_methods.is_empty() || rule.allowed_origins.is_empty() {
            return Err(malformed(
                "A CORS rule needs an AllowedMethod and an AllowedOrigin.",
            ));
        }
        if let Some(method) = rule
            .allowed_methods
            .iter()
            .find(|method| !METHODS.contains(&method.as_str()))
        {
            return Err(s3_error!(
                InvalidRequest,
                "Found unsupported HTTP method in CORS config. Unsupported method is {method}"
            ));
        }
        let headers = rule.allowed_headers.as_deref().unwrap_or_default();
        if has_two_stars(&rule.allowed_origins) || has_two_stars(headers) {
            return Err(s3_error!(
                InvalidRequest,
                "AllowedOrigin and AllowedHeader can not have more than one wildcard."
            ));
        }
        if rule
            .expose_headers
            .iter()
            .flatten()
            .any(|header| header.contains('*'))
        {
            return Err(s3_error!(
                InvalidRequest,
                "ExposeHeader can not have a wildcard, it is compared as it is."
            ));
        }
    }
    Ok(configuration)
}

/// Whether `text` is what `pattern` says, in which one star stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((begin, end)) => {
            text.len() >= begin.len() + end.len() && text.starts_with(begin) && text.ends_with(end)
        }
    }
}

fn rule_for<'r>(
    configuration: &'r CORSConfiguration,
    origin: &str,
    method: &str,
    asked: &[String],
) -> Option<&'r CORSRule> {
    configuration.cors_rules.iter().find(|rule| {
        let may_send = |header: &String| {
            let allowed = rule.allowed_headers.iter().flatten();
            allowed
                .into_iter()
                .any(|pattern| fits(&pattern.to_ascii_lowercase(), header))
        };
        rule.allowed_origins.iter().any(|pattern| fits(pattern, origin))
            && rule.allowed_methods.iter().any(|allowed| allowed == method)
            && asked.iter().all(may_send)
    })
}

/// What an answer says of a rule that its origin meets.
fn allow(headers: &mut HeaderMap, rule: &CORSRule, origin: &HeaderValue) {
    let for_all = rule.allowed_origins.iter().any(|origin| origin == "*");
    if for_all {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    } else {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
    put_list(
        headers,
        header::ACCESS_CONTROL_ALLOW_METHODS,
        &rule.allowed_methods,
    );
    put_list(
        headers,
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        rule.expose_headers.as_deref().unwrap_or_default(),
    );
    if let Some(age) = rule.max_age_seconds.and_then(|age| u64::try_from(age).ok()) {
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(age));
    }
    headers.append(
        header::VARY,
        HeaderValue::from_static("Origin, Access-Control-Request-Headers, Access-Control-Request-Method"),
    );
}

fn put_list(headers: &mut HeaderMap, name: HeaderName, words: &[String]) {
    if let Ok(list) = HeaderValue::try_from(words.join(", "))
        && !words.is_empty()
    {
        headers.insert(name, list);
    }
}

/// What a request's answer must say to the page that asked, if it was one of another origin.
pub(super) struct Asking {
    origin: HeaderValue,
    method: Method,
    bucket: String,
}

impl Asking {
    pub fn of<B>(front: &Front, request: &Request<B>) -> Option<Self> {
        Some(Self {
            origin: request.headers().get(header::ORIGIN)?.clone(),
            method: request.method().clone(),
            bucket: front.hosts.bucket(request)?,
        })
    }

    pub async fn tell(self, front: &Front, headers: &mut HeaderMap) {
        let (Ok(Some(rules)), Ok(origin)) = (CORS.find(front, &self.bucket).await, self.origin.to_str())
        else {
            return;
        };
        if let Some(rule) = rule_for(&rules, origin, self.method.as_str(), &[]) {
            allow(headers, rule, &self.origin);
        }
    }
}

/// The answer to a browser that asks what a page may ask. It is not signed.
pub(super) async fn preflight<B>(front: &Front, request: &Request<B>) -> S3Result<Response<Body>> {
    let text = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let (Some(origin), Some(asking), Some(method)) = (
        origin,
        text(header::ORIGIN),
        text(header::ACCESS_CONTROL_REQUEST_METHOD),
    ) else {
        return Err(bad_request(
            "Insufficient information. Origin and Access-Control-Request-Method request headers needed.",
        ));
    };
    if !METHODS.contains(&method) {
        return Err(bad_request("Invalid Access-Control-Request-Method"));
    }
    let asked: Vec<String> = text(header::ACCESS_CONTROL_REQUEST_HEADERS)
        .unwrap_or_default()
        .split(',')
        .map(|header| header.trim().to_ascii_lowercase())
        .filter(|header| !header.is_empty())
        .collect();
    let rules = match front.hosts.bucket(request) {
        Some(bucket) => CORS.find(front, &bucket).await?,
        None => None,
    };
    let Some(rules) = rules else {
        return Err(forbidden("CORSResponse: CORS is not enabled for this bucket."));
    };
    let Some(rule) = rule_for(&rules, asking, method, &asked) else {
        return Err(forbidden(
            "CORSResponse: This CORS request is not allowed. This is usually because the evalution of Origin, request method / Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the resource's CORS spec.",
        ));
    };
    let mut answer = Response::new(Body::empty());
    allow(answer.headers_mut(), rule, &origin);
    put_list(answer.headers_mut(), header::ACCESS_CONTROL_ALLOW_HEADERS, &asked);
    Ok(answer)
}

fn bad_request(message: &'static str) -> S3Error {
    error::coded("BadRequest", StatusCode::BAD_REQUEST, message)
}

fn forbidden(message: &'static str) -> S3Error {
    error::coded("AccessForbidden", StatusCode::FORBIDDEN, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_once() {
        for (pattern, text, expected) in [
            ("*", "http://a", true),
            ("http://a", "http://a", true),
            ("http://a", "http://ab", false),
            ("http://*.a", "http://b.a", true),
            ("http://*.a", "http://.a", true),
            ("aXb*bXc", "aXbXc", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }
}
