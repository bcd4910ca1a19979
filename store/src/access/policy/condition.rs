//! Conditions of statements ("IAM JSON policy elements: Condition operators", "Condition keys for Amazon S3").

use super::{super::Principal, fits};
use http::HeaderMap;
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use std::{net::IpAddr, time::SystemTime};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// What is known of a request beside what it asks for.
#[derive(Debug, Clone)]
pub(crate) struct Situation<'r> {
    pub principal: &'r Principal,
    /// Whose end of the connection it came over; none of a socket of this host.
    pub address: Option<IpAddr>,
    /// Whether all of it goes over TLS, or does not leave the host.
    pub is_secure: bool,
    /// Whether it is HeadBucket, which lists nothing.
    pub is_head: bool,
    /// Whether a form is what is signed.
    pub is_form: bool,
    /// The version that is named.
    pub version: Option<String>,
    headers: Option<&'r HeaderMap>,
    /// Name and value, decoded.
    query: Vec<(String, String)>,
    now: SystemTime,
}

impl<'r> Situation<'r> {
    pub fn of(principal: &'r Principal) -> Self {
        Self {
            principal,
            address: None,
            is_secure: false,
            is_head: false,
            is_form: false,
            version: None,
            headers: None,
            query: Vec::new(),
            now: SystemTime::now(),
        }
    }

    /// With what a request says.
    pub fn asked(mut self, query: Option<&str>, headers: &'r HeaderMap) -> Self {
        let pairs = query.unwrap_or("").split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        self.query = pairs
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        self.version = self.parameter("versionId").map(str::to_owned);
        self.headers = Some(headers);
        self
    }

    /// A parameter of the query; the first, as S3 reads it, where there are several.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// What a listing is of.
    pub fn prefix(&self) -> Option<&str> {
        self.parameter("prefix")
    }

    /// As if it were a listing of what begins so.
    pub fn list(&mut self, prefix: &str) {
        self.query = vec![("prefix".to_owned(), prefix.to_owned())];
    }

    /// Whether the answer is to have other headers than the object.
    pub fn overrides_answer(&self) -> bool {
        self.query.iter().any(|(name, _)| name.starts_with("response-"))
    }

    fn header(&self, name: &str) -> Option<String> {
        let value = self.headers?.get(name)?;
        value.to_str().ok().map(str::to_owned)
    }

    fn tag(&self, name: &str) -> Option<String> {
        let tags = self.header("x-amz-tagging")?;
        let pairs = tags
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs
            .map(|(known, value)| (decoded(known), decoded(value)))
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    }
}

/// A name or a value of a query, or of what is written like one.
fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    SourceIp,
    SecureTransport,
    CurrentTime,
    EpochTime,
    Username,
    PrincipalType,
    Version,
    Header(&'static str),
    Parameter(&'static str),
    /// A tag that the object gets with the request.
    RequestTag(String),
    SignatureVersion,
    AuthType,
}

impl Key {
    /// `None` for a key that is not known. Keys are compared without regard to case, but for the names of tags.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "aws:sourceip" => Self::SourceIp,
            "aws:securetransport" => Self::SecureTransport,
            "aws:currenttime" => Self::CurrentTime,
            "aws:epochtime" => Self::EpochTime,
            "aws:username" => Self::Username,
            "aws:principaltype" => Self::PrincipalType,
            "aws:referer" => Self::Header("referer"),
            "aws:useragent" => Self::Header("user-agent"),
            "s3:prefix" => Self::Parameter("prefix"),
            "s3:delimiter" => Self::Parameter("delimiter"),
            "s3:max-keys" => Self::Parameter("max-keys"),
            "s3:versionid" => Self::Version,
            "s3:x-amz-acl" => Self::Header("x-amz-acl"),
            "s3:x-amz-copy-source" => Self::Header("x-amz-copy-source"),
            "s3:x-amz-metadata-directive" => Self::Header("x-amz-metadata-directive"),
            "s3:x-amz-storage-class" => Self::Header("x-amz-storage-class"),
            "s3:x-amz-server-side-encryption" => Self::Header("x-amz-server-side-encryption"),
            "s3:x-amz-server-side-encryption-customer-algorithm" => {
                Self::Header("x-amz-server-side-encryption-customer-algorithm")
            }
            "s3:x-amz-content-sha256" => Self::Header("x-amz-content-sha256"),
            "s3:object-lock-mode" => Self::Header("x-amz-object-lock-mode"),
            "s3:object-lock-legal-hold" => Self::Header("x-amz-object-lock-legal-hold"),
            "s3:object-lock-retain-until-date" => Self::Header("x-amz-object-lock-retain-until-date"),
            "s3:signatureversion" => Self::SignatureVersion,
            "s3:authtype" => Self::AuthType,
            lower => {
                let prefix = "s3:requestobjecttag/";
                let name = text.get(prefix.len()..).filter(|name| !name.is_empty())?;
                lower
                    .starts_with(prefix)
                    .then(|| Self::RequestTag(name.to_owned()))?
            }
        })
    }

    /// Its value in a request that has one.
    fn of(&self, situation: &Situation<'_>) -> Option<String> {
        let is_signed = !matches!(situation.principal, Principal::Anonymous);
        match self {
            Self::SourceIp => situation.address.map(|address| address.to_string()),
            Self::SecureTransport => Some(situation.is_secure.to_string()),
            Self::CurrentTime => OffsetDateTime::from(situation.now).format(&Rfc3339).ok(),
            Self::EpochTime => Some(OffsetDateTime::from(situation.now).unix_timestamp().to_string()),
            Self::Username => situation.principal.name().map(str::to_owned),
            Self::PrincipalType => Some(
                match situation.principal {
                    Principal::Anonymous => "Anonymous",
                    Principal::Root => "Account",
                    Principal::Key(_) | Principal::Gateway => "User",
                }
                .to_owned(),
            ),
            Self::Version => situation.version.clone(),
            Self::Header(name) => situation.header(name),
            Self::Parameter(name) => situation.parameter(name).map(str::to_owned),
            Self::RequestTag(name) => situation.tag(name),
            Self::SignatureVersion => is_signed.then(|| "AWS4-HMAC-SHA256".to_owned()),
            Self::AuthType if situation.is_form => is_signed.then(|| "POST".to_owned()),
            Self::AuthType => is_signed.then(|| match situation.parameter("X-Amz-Signature") {
                Some(_) => "REST-QUERY-STRING".to_owned(),
                None => "REST-HEADER".to_owned(),
            }),
        }
    }
}

/// How a value is compared.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Test {
    Equal(Vec<String>),
    EqualIgnoringCase(Vec<String>),
    Like(Vec<String>),
    Number(Order, Vec<f64>),
    /// In seconds of the epoch.
    Date(Order, Vec<f64>),
    Bool(bool),
    Address(Vec<IpNet>),
    /// That there is none, or, if false, that there is one.
    Null(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    #[expect(clippy::float_cmp, reason = "equal is what the operator asks for")]
    fn holds(self, one: f64, other: f64) -> bool {
        match self {
            Self::Equal => one == other,
            Self::Less => one < other,
            Self::LessOrEqual => one <= other,
            Self::Greater => one > other,
            Self::GreaterOrEqual => one >= other,
        }
    }
}

/// One operator on one key.
#[derive(Debug)]
pub(super) struct Condition {
    pub key: Key,
    pub test: Test,
    /// Of `StringNotEquals` and its like, which hold too where there is no value.
    pub negated: bool,
    /// Of `…IfExists`: holds where there is no value.
    pub if_exists: bool,
}

impl Condition {
    /// Reads the values of an operator; an error says what is wrong with them.
    pub fn parse(operator: &str, key: Key, values: Vec<String>) -> Result<Self, String> {
        let (name, if_exists) = match operator.strip_suffix("IfExists") {
            Some(name) => (name, true),
            None => (operator, false),
        };
        let unusable = |what: &str, text: &str| format!("{text:?} is no {what}");
        let number = |text: &String| text.parse::<f64>().map_err(|_| unusable("number", text));
        let date = |text: &String| seconds(text).ok_or_else(|| unusable("date of ISO 8601", text));
        let ordered = |order| {
            let numbers: Result<Vec<f64>, String> = values.iter().map(number).collect();
            numbers.map(|numbers| Test::Number(order, numbers))
        };
        let dated = |order| {
            let dates: Result<Vec<f64>, String> = values.iter().map(date).collect();
            dates.map(|dates| Test::Date(order, dates))
        };
        let one_bool = || match values.as_slice() {
            [value] => value
                .parse::<bool>()
                .map_err(|_| unusable("true or false", value)),
            _ => Err("there is one value, true or false".to_owned()),
        };
        let (test, negated) = match name {
            "StringEquals" => (Test::Equal(values), false),
            "StringNotEquals" => (Test::Equal(values), true),
            "StringEqualsIgnoreCase" => (Test::EqualIgnoringCase(values), false),
            "StringNotEqualsIgnoreCase" => (Test::EqualIgnoringCase(values), true),
            "StringLike" => (Test::Like(values), false),
            "StringNotLike" => (Test::Like(values), true),
            "NumericEquals" => (ordered(Order::Equal)?, false),
            "NumericNotEquals" => (ordered(Order::Equal)?, true),
            "NumericLessThan" => (ordered(Order::Less)?, false),
            "NumericLessThanEquals" => (ordered(Order::LessOrEqual)?, false),
            "NumericGreaterThan" => (ordered(Order::Greater)?, false),
            "NumericGreaterThanEquals" => (ordered(Order::GreaterOrEqual)?, false),
            "DateEquals" => (dated(Order::Equal)?, false),
            "DateNotEquals" => (dated(Order::Equal)?, true),
            "DateLessThan" => (dated(Order::Less)?, false),
            "DateLessThanEquals" => (dated(Order::LessOrEqual)?, false),
            "DateGreaterThan" => (dated(Order::Greater)?, false),
            "DateGreaterThanEquals" => (dated(Order::GreaterOrEqual)?, false),
            "Bool" => (Test::Bool(one_bool()?), false),
            "IpAddress" | "NotIpAddress" => {
                let nets: Result<Vec<IpNet>, String> = values
                    .iter()
                    .map(|text| net(text).ok_or_else(|| unusable("address or range of them", text)))
                    .collect();
                (Test::Address(nets?), name == "NotIpAddress")
            }
            "Null" if !if_exists => (Test::Null(one_bool()?), false),
            _ => return Err(format!("the operator {operator} is not known")),
        };
        Ok(Self {
            key,
            test,
            negated,
            if_exists,
        })
    }

    pub fn holds(&self, situation: &Situation<'_>) -> bool {
        let value = self.key.of(situation);
        if let Test::Null(is_null) = self.test {
            return value.is_none() == is_null;
        }
        match value {
            None => self.if_exists || self.negated,
            Some(value) => self.fits(&value) != self.negated,
        }
    }

    fn fits(&self, value: &str) -> bool {
        match &self.test {
            Test::Equal(texts) => texts.iter().any(|text| text == value),
            Test::EqualIgnoringCase(texts) => {
                let value = value.to_lowercase();
                texts.iter().any(|text| text.to_lowercase() == value)
            }
            Test::Like(patterns) => patterns.iter().any(|pattern| fits(pattern, value)),
            Test::Number(order, numbers) => value
                .parse()
                .is_ok_and(|value| numbers.iter().any(|number| order.holds(value, *number))),
            Test::Date(order, dates) => {
                seconds(value).is_some_and(|value| dates.iter().any(|date| order.holds(value, *date)))
            }
            Test::Bool(wanted) => value.parse() == Ok(*wanted),
            Test::Address(nets) => value
                .parse::<IpAddr>()
                .is_ok_and(|address| nets.iter().any(|net| net.contains(&address.to_canonical()))),
            Test::Null(_) => false,
        }
    }

    /// Whether it holds only for some addresses, or some keys.
    pub fn narrows(&self) -> bool {
        if self.negated || self.if_exists {
            return false;
        }
        match (&self.key, &self.test) {
            (Key::SourceIp, Test::Address(nets)) => nets.iter().all(|net| net.prefix_len() > 0),
            (Key::Username, Test::Equal(_)) => true,
            _ => false,
        }
    }
}

/// A range, or one address.
fn net(text: &str) -> Option<IpNet> {
    let one = || text.parse::<IpAddr>().map(IpNet::from).ok();
    text.parse().ok().or_else(one)
}

/// Of ISO 8601 or the epoch.
#[expect(clippy::cast_precision_loss, reason = "seconds of the epoch have few digits")]
fn seconds(text: &str) -> Option<f64> {
    if let Ok(date) = OffsetDateTime::parse(text, &Rfc3339) {
        return Some(date.unix_timestamp_nanos() as f64 / 1e9);
    }
    if let Ok(day) = time::Date::parse(text, time::macros::format_description!("[year]-[month]-[day]")) {
        return Some(day.midnight().assume_utc().unix_timestamp() as f64);
    }
    text.parse::<i64>().ok().map(|seconds| seconds as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(operator: &str, key: &str, values: &[&str], situation: &Situation<'_>) -> bool {
        let values = values.iter().map(|&value| value.to_owned()).collect();
        Condition::parse(operator, Key::parse(key).unwrap(), values)
            .unwrap()
            .holds(situation)
    }

    #[test]
    fn operators_compare_as_they_say() {
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", "Tool/1.0".parse().unwrap());
        headers.insert("x-amz-tagging", "color=dark+red&size=1".parse().unwrap());
        let principal = Principal::Root;
        let situation =
            Situation::of(&principal).asked(Some("prefix=a%2Fb&max-keys=10&list-type=2"), &headers);
        let yes = [
            ("StringEquals", "s3:prefix", &["x", "a/b"][..]),
            ("StringNotEquals", "s3:prefix", &["x", "y"]),
            ("StringNotEquals", "aws:Referer", &["x"]),
            ("StringEqualsIfExists", "aws:Referer", &["x"]),
            ("StringEqualsIgnoreCase", "aws:UserAgent", &["tool/1.0"]),
            ("StringLike", "aws:userAgent", &["Tool/*"]),
            ("NumericLessThanEquals", "s3:max-keys", &["10"]),
            ("NumericNotEquals", "s3:max-keys", &["11"]),
            ("DateGreaterThan", "aws:CurrentTime", &["2020-01-01"]),
            ("DateLessThan", "aws:EpochTime", &["99999999999"]),
            ("Null", "aws:Referer", &["true"]),
            ("Null", "s3:prefix", &["false"]),
            ("StringEquals", "s3:RequestObjectTag/color", &["dark red"]),
            ("StringEquals", "s3:authType", &["REST-HEADER"]),
            ("NotIpAddress", "aws:SourceIp", &["10.0.0.0/8"]),
        ];
        for (operator, key, values) in yes {
            assert!(holds(operator, key, values, &situation), "{operator} {key}");
        }
        let no = [
            ("StringEquals", "s3:prefix", &["a"][..]),
            ("StringNotEquals", "s3:prefix", &["x", "a/b"]),
            ("StringEquals", "aws:Referer", &["x"]),
            ("NumericGreaterThan", "s3:max-keys", &["10"]),
            ("IpAddress", "aws:SourceIp", &["0.0.0.0/0"]),
            ("Bool", "aws:SecureTransport", &["true"]),
            ("Null", "aws:Referer", &["false"]),
            ("StringEquals", "aws:username", &["somebody"]),
        ];
        for (operator, key, values) in no {
            assert!(!holds(operator, key, values, &situation), "{operator} {key}");
        }
    }

    #[test]
    fn what_is_not_known_is_no_condition() {
        for key in [
            "aws:SourceVpc",
            "s3:ExistingObjectTag/a",
            "s3:RequestObjectTag/",
            "prefix",
            "",
        ] {
            assert_eq!(Key::parse(key), None, "{key}");
        }
        for (operator, value) in [
            ("StringResembles", "a"),
            ("NumericEquals", "a"),
            ("DateEquals", "yesterday"),
            ("Bool", "maybe"),
            ("IpAddress", "10.0.0.0/40"),
            ("NullIfExists", "true"),
        ] {
            assert!(
                Condition::parse(operator, Key::SourceIp, vec![value.to_owned()]).is_err(),
                "{operator}"
            );
        }
    }
}
