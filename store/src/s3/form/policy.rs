//! The policy of a form (S3 API, "Creating a POST Policy"): which forms whoever signed it lets others send, and until when.

use super::fields::Fields;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::StatusCode;
use s3s::{S3Error, S3Result, s3_error};
use serde_json::Value;
use std::{ops::RangeInclusive, time::SystemTime};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

pub(super) struct Policy {
    expires: OffsetDateTime,
    conditions: Vec<Condition>,
}

/// Names are in lower case, as they are compared.
#[derive(Debug, PartialEq, Eq)]
enum Condition {
    Equal(String, String),
    StartsWith(String, String),
    Length(u64, u64),
}

fn invalid(message: &'static str) -> S3Error {
    crate::s3::error::coded("InvalidPolicyDocument", StatusCode::BAD_REQUEST, message)
}

impl Policy {
    /// From the base64 of its JSON.
    pub fn parse(text: &str) -> S3Result<Self> {
        let text = BASE64_STANDARD
            .decode(text)
            .map_err(|_| invalid("Invalid Policy: it is not base64."))?;
        let Ok(Value::Object(document)) = serde_json::from_slice::<Value>(&text) else {
            return Err(invalid("Invalid Policy: it is no JSON object."));
        };
        let expires = document.get("expiration").and_then(Value::as_str);
        let expires = expires.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
        let expires =
            expires.ok_or_else(|| invalid("Invalid Policy: it needs an expiration in ISO 8601."))?;
        let Some(Value::Array(conditions)) = document.get("conditions") else {
            return Err(invalid("Invalid Policy: it needs a list of conditions."));
        };
        let conditions = conditions.iter().map(condition).collect::<Option<Vec<_>>>();
        let conditions = conditions.ok_or_else(|| {
            invalid("Invalid Policy: a condition is {name: value}, [\"eq\" or \"starts-with\", \"$name\", value] or [\"content-length-range\", from, to].")
        })?;
        Ok(Self { expires, conditions })
    }

    /// Whether the form is one of those; returns how many bytes its file may have.
    pub fn check(&self, bucket: &str, key: &str, fields: &Fields) -> S3Result<RangeInclusive<u64>> {
        if OffsetDateTime::from(SystemTime::now()) >= self.expires {
            return Err(s3_error!(
                AccessDenied,
                "Invalid according to Policy: Policy expired."
            ));
        }
        let value = |name: &str| match name {
            "bucket" => Some(bucket),
            "key" => Some(key),
            other => fields.get(other),
        };
        let (mut least, mut most) = (0, u64::MAX);
        for condition in &self.conditions {
            let holds = match condition {
                Condition::Equal(name, wanted) => value(name) == Some(wanted),
                Condition::StartsWith(name, wanted) => {
                    value(name).is_some_and(|value| value.starts_with(wanted))
                }
                Condition::Length(from, to) => {
                    (least, most) = (least.max(*from), most.min(*to));
                    true
                }
            };
            if !holds {
                let message = format!("Invalid according to Policy: Policy Condition failed: {condition}");
                return Err(crate::s3::error::coded(
                    "AccessDenied",
                    StatusCode::FORBIDDEN,
                    message,
                ));
            }
        }
        let is_named = |name: &str| {
            self.conditions
                .iter()
                .any(|condition| condition.name() == Some(name))
        };
        let needed = ["bucket", "key"].into_iter().chain(fields.to_be_named());
        for name in needed {
            if !is_named(name) {
                return Err(s3_error!(
                    AccessDenied,
                    "Invalid according to Policy: Extra input fields: {name}"
                ));
            }
        }
        Ok(least..=most)
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Equal(name, value) => write!(f, "[\"eq\", \"${name}\", {value:?}]"),
            Self::StartsWith(name, value) => write!(f, "[\"starts-with\", \"${name}\", {value:?}]"),
            Self::Length(from, to) => write!(f, "[\"content-length-range\", {from}, {to}]"),
        }
    }
}

impl Condition {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Equal(name, _) | Self::StartsWith(name, _) => Some(name),
            Self::Length(..) => None,
        }
    }
}

fn condition(value: &Value) -> Option<Condition> {
    if let Value::Object(pairs) = value {
        let mut pairs = pairs.iter();
        let ((name, value), None) = (pairs.next()?, pairs.next()) else {
            return None;
        };
        return Some(Condition::Equal(
            name.to_ascii_lowercase(),
            value.as_str()?.to_owned(),
        ));
    }
    let [kind, first, second] = value.as_array()?.as_slice() else {
        return None;
    };
    let kind = kind.as_str()?.to_ascii_lowercase();
    if kind == "content-length-range" {
        let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
        return Some(Condition::Length(number(first)?, number(second)?));
    }
    let name = first.as_str()?.strip_prefix('$')?.to_ascii_lowercase();
    let value = second.as_str()?.to_owned();
    match kind.as_str() {
        "eq" => Some(Condition::Equal(name, value)),
        "starts-with" => Some(Condition::StartsWith(name, value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn conditions_have_three_forms() {
        let read = |text: &str| condition(&serde_json::from_str(text).unwrap());
        let named = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let (name, value) = named("acl", "private");
        assert_eq!(read(r#"{"ACL":"private"}"#), Some(Condition::Equal(name, value)));
        let (name, value) = named("key", "a/");
        assert_eq!(
            read(r#"["starts-with","$Key","a/"]"#),
            Some(Condition::StartsWith(name, value))
        );
        assert_eq!(
            read(r#"["content-length-range",1,"10"]"#),
            Some(Condition::Length(1, 10))
        );
        for text in [
            "5",
            "[]",
            "{}",
            r#"{"a":1}"#,
            r#"{"a":"1","b":"2"}"#,
            r#"["eq","key","k"]"#,
            r#"["eq","$key"]"#,
            r#"["like","$key","k"]"#,
            r#"["content-length-range",-1,10]"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            let _any = Policy::parse(&BASE64_STANDARD.encode(&text));
            let _raw = Policy::parse(&text);
        }
    }
}
