//! From JSON to statements, with every rule of the grammar.

use super::{
    super::action::{Action, Kind},
    Choice, Effect, Policy, Resource, Statement, Who,
    condition::{Condition, Key},
    fits,
};
use crate::access::ACCOUNT;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use std::fmt;

/// Why a text is no policy of a bucket.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub(crate) struct PolicyError(String);

type Result<T> = std::result::Result<T, PolicyError>;

fn wrong<T>(what: impl Into<String>) -> Result<T> {
    Err(PolicyError(what.into()))
}

const VERSIONS: [&str; 2] = ["2012-10-17", "2008-10-17"];
const STATEMENT: [&str; 10] = [
    "Sid",
    "Effect",
    "Principal",
    "NotPrincipal",
    "Action",
    "NotAction",
    "Resource",
    "NotResource",
    "Condition",
    "Id",
];

pub(super) fn policy(text: &[u8], bucket: &str) -> Result<Policy> {
    let document = match serde_json::from_slice::<Strict>(text) {
        Ok(Strict(document)) => document,
        Err(error) => return wrong(format!("The policy is not valid JSON: {error}.")),
    };
    let Value::Object(document) = document else {
        return wrong("A policy is a JSON object.");
    };
    if let Some(name) = document
        .keys()
        .find(|name| !["Version", "Id", "Statement"].contains(&name.as_str()))
    {
        return wrong(format!("{name:?} is no element of a policy."));
    }
    match document.get("Version") {
        None => {}
        Some(Value::String(version)) if VERSIONS.contains(&version.as_str()) => {}
        Some(_) => return wrong("The policy must contain a valid version string: 2012-10-17."),
    }
    let statements = match document.get("Statement") {
        Some(Value::Array(statements)) if !statements.is_empty() => statements.iter().collect(),
        Some(one @ Value::Object(_)) => vec![one],
        _ => return wrong("A policy needs one statement or more."),
    };
    let statements = statements
        .into_iter()
        .map(|one| statement(one, bucket))
        .collect::<Result<_>>()?;
    Ok(Policy { statements })
}

/// JSON in which no name is there twice: of two conditions the first would be lost.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some((name, Strict(value))) = map.next_entry::<String, _>()? {
            if values.contains_key(&name) {
                return Err(A::Error::custom(format!("{name:?} is there twice")));
            }
            values.insert(name, value);
        }
        Ok(Value::Object(values))
    }
}

fn statement(value: &Value, bucket: &str) -> Result<Statement> {
    let Value::Object(value) = value else {
        return wrong("A statement is a JSON object.");
    };
    if let Some(name) = value.keys().find(|name| !STATEMENT.contains(&name.as_str())) {
        return wrong(format!("{name:?} is no element of a statement."));
    }
    let effect = match value.get("Effect").and_then(Value::as_str) {
        Some("Allow") => Effect::Allow,
        Some("Deny") => Effect::Deny,
        _ => return wrong("The Effect of a statement is Allow or Deny."),
    };
    let (who, negated) = either(value, "Principal", "NotPrincipal")?;
    if negated && effect == Effect::Allow {
        return wrong("NotPrincipal is for denials: with Allow it would let in everybody who is not named.");
    }
    let principals = Choice {
        of: principals(who)?,
        negated,
    };
    let (named, negated) = either(value, "Action", "NotAction")?;
    let of = texts(named, "Action")?
        .into_iter()
        .map(|text| action(&text))
        .collect::<Result<_>>()?;
    let actions = Choice { of, negated };
    let (named, negated) = either(value, "Resource", "NotResource")?;
    let of = texts(named, "Resource")?
        .into_iter()
        .map(|text| resource(&text, bucket))
        .collect::<Result<_>>()?;
    let resources = Choice { of, negated };
    check_kinds(&actions, &resources)?;
    let conditions = match value.get("Condition") {
        None => Vec::new(),
        Some(given) => conditions(given)?,
    };
    check_documents(&actions, &conditions)?;
    Ok(Statement {
        effect,
        principals,
        actions,
        resources,
        conditions,
    })
}

/// The one of two elements that is there, and whether it is the second.
fn either<'v>(value: &'v Map<String, Value>, name: &str, negated: &str) -> Result<(&'v Value, bool)> {
    match (value.get(name), value.get(negated)) {
        (Some(found), None) => Ok((found, false)),
        (None, Some(found)) => Ok((found, true)),
        _ => wrong(format!("A statement has a {name} or a {negated}.")),
    }
}

/// One text or several.
fn texts(value: &Value, name: &str) -> Result<Vec<String>> {
    let texts = match value {
        Value::String(text) => vec![Some(text.clone())],
        Value::Array(values) => values
            .iter()
            .map(|value| value.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    };
    match texts.into_iter().collect::<Option<Vec<_>>>() {
        Some(texts) if !texts.is_empty() => Ok(texts),
        _ => wrong(format!(
            "{name} is a string, or a list of strings that is not empty."
        )),
    }
}

fn principals(value: &Value) -> Result<Vec<Who>> {
    let named = match value {
        Value::String(text) if text == "*" => return Ok(vec![Who::Everybody]),
        Value::Object(kinds) if kinds.len() == 1 => kinds.get("AWS"),
        _ => None,
    };
    let Some(named) = named else {
        return wrong("Invalid principal in policy: it is \"*\" or {\"AWS\": …}.");
    };
    let who = |text: String| {
        let arn = text.strip_prefix("arn:aws:iam::");
        let named = arn.and_then(|rest| rest.strip_prefix(ACCOUNT).unwrap_or(rest).strip_prefix(':'));
        match (text.as_str(), named) {
            ("*", _) => Ok(Who::Everybody),
            (ACCOUNT, _) | (_, Some("root")) => Ok(Who::Root),
            (_, Some(named)) if named.strip_prefix("user/").is_some_and(|name| !name.is_empty()) => {
                Ok(Who::Key(named["user/".len()..].to_owned()))
            }
            _ => wrong(format!(
                "Invalid principal in policy: {text:?}. Keys are arn:aws:iam::{ACCOUNT}:user/NAME, the root key is \
                 arn:aws:iam::{ACCOUNT}:root, and everybody is \"*\"."
            )),
        }
    };
    texts(named, "AWS")?.into_iter().map(who).collect()
}

/// The pattern of an action, without `s3:`, in lower case.
fn action(text: &str) -> Result<String> {
    let lower = text.to_ascii_lowercase();
    let pattern = if lower == "*" {
        Some("*")
    } else {
        lower.strip_prefix("s3:")
    };
    let is_known =
        |pattern: &&str| Action::all().any(|action| fits(pattern, &action.name().to_ascii_lowercase()));
    match pattern.filter(is_known) {
        Some(pattern) => Ok(pattern.to_owned()),
        None => wrong(format!("Policy has invalid action: {text:?}.")),
    }
}

fn resource(text: &str, bucket: &str) -> Result<Resource> {
    if text.contains("${") {
        return wrong(format!("Policy variables are not supported, as in {text:?}."));
    }
    let invalid = || {
        wrong(format!(
            "Policy has invalid resource: {text:?}. Resources are arn:aws:s3:::{bucket} and those below it."
        ))
    };
    let Some(rest) = text
        .strip_prefix("arn:aws:s3:::")
        .and_then(|rest| rest.strip_prefix(bucket))
    else {
        return invalid();
    };
    match rest.strip_prefix('/') {
        Some("") => invalid(),
        Some(keys) => Ok(Resource::Objects(keys.to_owned())),
        None if rest.is_empty() => Ok(Resource::Bucket),
        None => invalid(),
    }
}

/// That an action is not named which the resources can have nothing to do with: it would do nothing.
fn check_kinds(actions: &Choice<String>, resources: &Choice<Resource>) -> Result<()> {
    if actions.negated || resources.negated {
        return Ok(());
    }
    let has = |kind: Kind| resources.of.iter().any(|resource| resource.kind() == kind);
    for pattern in &actions.of {
        let mut meant = Action::all().filter(|action| fits(pattern, &action.name().to_ascii_lowercase()));
        if !meant.any(|action| has(action.kind())) {
            return wrong(format!(
                "Action does not apply to any resource(s) in statement: s3:{pattern}."
            ));
        }
    }
    Ok(())
}

/// That no condition looks at a header of what comes in a document.
fn check_documents(actions: &Choice<String>, conditions: &[Condition]) -> Result<()> {
    let does = |names: &[&str]| {
        let mut names = names.iter().map(|name| name.to_ascii_lowercase());
        names.any(|name| actions.holds(|pattern| fits(pattern, &name)))
    };
    for condition in conditions {
        let unseen: &[&str] = match &condition.key {
            Key::RequestTag(_) => &["PutObjectTagging", "PutObjectVersionTagging"],
            Key::Header(name) if name.starts_with("x-amz-object-lock-") => {
                &["PutObjectRetention", "PutObjectLegalHold"]
            }
            _ => continue,
        };
        if does(unseen) {
            return wrong(format!(
                "A condition on what a request gives an object is not supported with {}, where it comes in a document: name other \
                 actions, as s3:PutObject.",
                unseen.join(", ")
            ));
        }
    }
    Ok(())
}

fn conditions(value: &Value) -> Result<Vec<Condition>> {
    let Some(operators) = value.as_object().filter(|operators| !operators.is_empty()) else {
        return wrong("A Condition is a JSON object that is not empty.");
    };
    let mut conditions = Vec::new();
    for (operator, keys) in operators {
        let Some(keys) = keys.as_object().filter(|keys| !keys.is_empty()) else {
            return wrong(format!("The operator {operator} needs keys and values."));
        };
        for (name, values) in keys {
            let Some(key) = Key::parse(name) else {
                return wrong(format!("Policy has an invalid condition key: {name:?}."));
            };
            let plain = |value: &Value| match value {
                Value::String(text) => Some(text.clone()),
                Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
                _ => None,
            };
            let values: Option<Vec<_>> = match values {
                Value::Array(values) => values.iter().map(plain).collect(),
                one => plain(one).map(|one| vec![one]),
            };
            let values = values.filter(|values| !values.is_empty());
            let read = values
                .ok_or_else(|| "there is no value".to_owned())
                .and_then(|values| Condition::parse(operator, key, values));
            match read {
                Ok(condition) => conditions.push(condition),
                Err(cause) => return wrong(format!("Policy has an invalid condition on {name}: {cause}.")),
            }
        }
    }
    Ok(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(statement: &str) -> Result<Policy> {
        policy(format!(r#"{{"Statement":{statement}}}"#).as_bytes(), "b")
    }

    #[test]
    fn principals_are_everybody_the_root_key_or_a_named_one() {
        for (given, expected) in [
            (r#""*""#, Who::Everybody),
            (r#"{"AWS":["*"]}"#, Who::Everybody),
            (r#"{"AWS":"penstock"}"#, Who::Root),
            (r#"{"AWS":"arn:aws:iam::penstock:root"}"#, Who::Root),
            (r#"{"AWS":"arn:aws:iam:::user/ci"}"#, Who::Key("ci".into())),
            (
                r#"{"AWS":"arn:aws:iam::penstock:user/ci"}"#,
                Who::Key("ci".into()),
            ),
        ] {
            let text = format!(
                r#"{{"Effect":"Deny","Principal":{given},"Action":"*","Resource":"arn:aws:s3:::b/*"}}"#
            );
            assert_eq!(
                of(&text).unwrap().statements[0].principals.of,
                [expected],
                "{given}"
            );
        }
        for given in [
            r#""me""#,
            "{}",
            r#"{"AWS":[]}"#,
            r#"{"AWS":"arn:aws:iam::123:user/ci"}"#,
            r#"{"AWS":"arn:aws:iam:::user/"}"#,
        ] {
            let text = format!(
                r#"{{"Effect":"Deny","Principal":{given},"Action":"*","Resource":"arn:aws:s3:::b/*"}}"#
            );
            assert!(of(&text).is_err(), "{given}");
        }
    }

    #[test]
    fn what_would_be_lost_is_refused() {
        let text = |condition: &str, action: &str| {
            format!(
                r#"{{"Effect":"Deny","Principal":"*","Action":"{action}","Resource":"arn:aws:s3:::b/*","Condition":{condition}}}"#
            )
        };
        let good = r#"{"StringEquals":{"aws:username":"ci"},"StringLike":{"aws:Referer":["a","b"]}}"#;
        assert!(of(&text(good, "s3:PutObject")).is_ok());
        for bad in [
            "{}",
            r#"{"IpAddress":{}}"#,
            r#"{"StringEquals":{"aws:username":"ci"},"StringEquals":{"s3:prefix":"x"}}"#,
            r#"{"StringEquals":{"aws:username":"ci","aws:username":"cd"}}"#,
        ] {
            assert!(of(&text(bad, "s3:PutObject")).is_err(), "{bad}");
        }
        let tag = r#"{"StringEquals":{"s3:RequestObjectTag/a":"b"}}"#;
        let lock = r#"{"StringEquals":{"s3:object-lock-mode":"COMPLIANCE"}}"#;
        assert!(of(&text(tag, "s3:PutObject")).is_ok() && of(&text(lock, "s3:PutObject")).is_ok());
        assert!(of(&text(tag, "s3:*")).is_err() && of(&text(lock, "s3:PutObjectRetention")).is_err());
    }

    #[test]
    fn who_is_not_named_is_only_denied() {
        let text = |effect: &str| {
            format!(
                r#"{{"Effect":"{effect}","NotPrincipal":"*","Action":"*","Resource":"arn:aws:s3:::b/*"}}"#
            )
        };
        assert!(of(&text("Deny")).is_ok());
        assert!(of(&text("Allow")).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            let _any = policy(text.as_bytes(), "b");
        }
    }
}
