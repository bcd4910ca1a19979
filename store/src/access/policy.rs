//! Bucket policies ("Policies and permissions in Amazon S3", the IAM policy grammar): read strictly, so that nothing is kept that
//! would not be acted on as it says.

mod condition;
mod parse;

pub(crate) use condition::Situation;
pub(crate) use parse::PolicyError;

use super::{
    Principal,
    action::{Action, Demand, Kind, Target},
};
use condition::Condition;

/// What a statement does to what it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Allow,
    Deny,
}

/// A bucket's policy.
#[derive(Debug)]
pub(crate) struct Policy {
    statements: Vec<Statement>,
}

#[derive(Debug)]
struct Statement {
    effect: Effect,
    principals: Choice<Who>,
    /// Patterns, without `s3:`, in lower case: actions are compared without regard to it.
    actions: Choice<String>,
    resources: Choice<Resource>,
    conditions: Vec<Condition>,
}

/// What is named, or, of `NotAction` and its like, everything else.
#[derive(Debug)]
struct Choice<T> {
    of: Vec<T>,
    negated: bool,
}

impl<T> Choice<T> {
    fn holds(&self, is_it: impl Fn(&T) -> bool) -> bool {
        self.of.iter().any(is_it) != self.negated
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Who {
    Everybody,
    Root,
    /// A key, by its name.
    Key(String),
}

impl Who {
    fn is(&self, principal: &Principal) -> bool {
        match self {
            Self::Everybody => true,
            Self::Root => matches!(principal, Principal::Root),
            Self::Key(name) => principal.name() == Some(name),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Resource {
    Bucket,
    /// Keys, by a pattern.
    Objects(String),
}

impl Resource {
    fn is(&self, target: &Target<'_>) -> bool {
        match (self, target) {
            (Self::Bucket, Target::Bucket(_)) => true,
            (Self::Objects(pattern), Target::Object(_, key)) => fits(pattern, key),
            _ => false,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Bucket => Kind::Bucket,
            Self::Objects(_) => Kind::Object,
        }
    }
}

impl Policy {
    /// Reads the policy of `bucket`.
    pub fn parse(text: &[u8], bucket: &str) -> Result<Self, PolicyError> {
        parse::policy(text, bucket)
    }

    /// What the policy says of a demand; nothing where no statement is of it.
    pub(super) fn effect(&self, demand: &Demand<'_>, situation: &Situation<'_>) -> Option<Effect> {
        let mut said = None;
        for statement in &self.statements {
            if said != Some(statement.effect) && statement.is_of(demand, situation) {
                said = Some(statement.effect);
                if statement.effect == Effect::Deny {
                    break;
                }
            }
        }
        said
    }

    /// Whether it lets in whoever comes ("The meaning of public"): what holds only for some addresses or some keys does not.
    pub fn is_public(&self) -> bool {
        self.statements.iter().any(|statement| {
            let for_all = statement.principals.of.contains(&Who::Everybody);
            let narrowed = statement.conditions.iter().any(Condition::narrows);
            statement.effect == Effect::Allow && for_all && !narrowed
        })
    }

    /// Whether it lets anybody do this to some object.
    pub fn opens(&self, action: Action) -> bool {
        let name = action.name().to_ascii_lowercase();
        self.statements.iter().any(|statement| {
            statement.effect == Effect::Allow
                && statement.principals.of.contains(&Who::Everybody)
                && statement.actions.holds(|pattern| fits(pattern, &name))
        })
    }

    /// The keys that it names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let all = self
            .statements
            .iter()
            .flat_map(|statement| &statement.principals.of);
        all.filter_map(|who| match who {
            Who::Key(name) => Some(name.as_str()),
            _ => None,
        })
    }
}

impl Statement {
    fn is_of(&self, demand: &Demand<'_>, situation: &Situation<'_>) -> bool {
        let action = demand.action.name().to_ascii_lowercase();
        self.actions.holds(|pattern| fits(pattern, &action))
            && self.resources.holds(|resource| resource.is(&demand.target))
            && self.principals.holds(|who| who.is(situation.principal))
            && self.conditions.iter().all(|condition| condition.holds(situation))
    }
}

/// Whether `text` is what `pattern` says, in which `*` stands for anything and `?` for any one character. Takes no longer than the
/// product of both lengths.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    // Where to go on when the last star stands for one character more.
    let mut again = None;
    loop {
        let (before, wanted) = (pattern.clone(), pattern.next());
        match wanted {
            Some('*') => {
                again = Some((pattern.clone(), text.clone()));
                continue;
            }
            Some(wanted) => {
                let mut rest = text.clone();
                if rest.next().is_some_and(|found| wanted == '?' || wanted == found) {
                    text = rest;
                    continue;
                }
            }
            None if text.as_str().is_empty() => return true,
            None => {}
        }
        drop(before);
        let Some((after_star, from)) = &mut again else {
            return false;
        };
        if from.next().is_none() {
            return false;
        }
        pattern = after_star.clone();
        text = from.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn policy(statements: &str) -> Policy {
        let text = format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#);
        Policy::parse(text.as_bytes(), "b").unwrap()
    }

    fn get(key: &str) -> Demand<'_> {
        Demand::on_object(Action::GET_OBJECT, "b", key)
    }

    #[test]
    fn stars_and_question_marks() {
        for (pattern, text) in [
            ("*", ""),
            ("a*c", "abbc"),
            ("a*c*e", "acce"),
            ("?x*", "ax"),
            ("**", "x"),
            ("ä?", "äö"),
            ("a/*/c?.txt", "a/b/b/c1.txt"),
        ] {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("a", ""),
            ("a*c", "ab"),
            ("?", ""),
            ("a?", "a"),
            ("", "a"),
            ("*a", "ab"),
            ("A", "a"),
        ] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
        let (stars, text) = ("a*".repeat(60) + "b", "a".repeat(5000));
        assert!(!fits(&stars, &text));
    }

    #[test]
    fn a_denial_wins_and_what_is_not_named_is_not_said() {
        let policy = policy(
            r#"{"Effect":"Allow","Principal":"*","Action":"s3:Get*","Resource":"arn:aws:s3:::b/*"},
               {"Effect":"Deny","Principal":"*","NotAction":"s3:PutObject","Resource":"arn:aws:s3:::b/closed/*"}"#,
        );
        let situation = Situation::of(&Principal::Anonymous);
        assert_eq!(policy.effect(&get("k"), &situation), Some(Effect::Allow));
        assert_eq!(policy.effect(&get("closed/k"), &situation), Some(Effect::Deny));
        let put = Demand::on_object(Action::PUT_OBJECT, "b", "closed/k");
        assert_eq!(policy.effect(&put, &situation), None);
        assert_eq!(policy.effect(&Demand::listing("b"), &situation), None);
    }

    #[test]
    fn conditions_narrow() {
        let policy = policy(
            r#"{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*",
                "Condition":{"IpAddress":{"aws:SourceIp":["10.0.0.0/8","2001:db8::/32"]},"Bool":{"aws:SecureTransport":true}}}"#,
        );
        let at = |address: Option<&str>, is_secure: bool| {
            let mut situation = Situation::of(&Principal::Anonymous);
            situation.address = address.map(|text| text.parse::<IpAddr>().unwrap());
            situation.is_secure = is_secure;
            policy.effect(&get("k"), &situation)
        };
        assert_eq!(at(Some("10.1.2.3"), true), Some(Effect::Allow));
        assert_eq!(at(Some("2001:db8::1"), true), Some(Effect::Allow));
        assert_eq!(at(Some("10.1.2.3"), false), None);
        assert_eq!(at(Some("11.1.2.3"), true), None);
        assert_eq!(at(None, true), None);
        assert!(!policy.is_public());
    }
}
