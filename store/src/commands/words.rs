//! Sizes, times and scopes as people write them.

use penstock_rdma::admin::{Access, BrokenObject, Scope};
use std::time::Duration;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

const UNITS: [(&str, u64); 5] = [
    ("", 1),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
];

/// Bytes, with a unit as Kubernetes writes it (`10Gi`) or without.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit = text[digits.len()..].trim().trim_end_matches('B');
    let factor = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor);
    let number = digits.parse::<u64>().ok();
    number
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .ok_or_else(|| format!("{text:?} is no size: write bytes, or a number with Ki, Mi, Gi or Ti"))
}

/// Bytes for people, in the largest unit that leaves a number of one or more.
pub fn shown(bytes: u64) -> String {
    let (name, factor) = UNITS
        .iter()
        .rev()
        .find(|(_, factor)| bytes >= *factor)
        .unwrap_or(&UNITS[0]);
    if *factor == 1 {
        return format!("{bytes} B");
    }
    let (whole, tenths) = (bytes / factor, bytes % factor * 10 / factor);
    format!("{whole}.{tenths} {name}B")
}

/// A time: RFC 3339, or how long from now (`30d`, `12h`, `45m`).
pub fn moment(text: &str) -> Result<OffsetDateTime, String> {
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(time);
    }
    let wrong = || {
        format!(
            "{text:?} is no time: write one as 2030-01-31T12:00:00Z, or how long from now as 30d, 12h or 45m"
        )
    };
    let unit = text.chars().last().ok_or_else(wrong)?;
    let number = text
        .strip_suffix(unit)
        .and_then(|number| number.parse::<u64>().ok());
    let seconds = match unit {
        'd' => 86_400,
        'h' => 3600,
        'm' => 60,
        _ => return Err(wrong()),
    };
    let from_now = number
        .and_then(|number| number.checked_mul(seconds))
        .map(Duration::from_secs);
    let from_now = from_now.and_then(|from_now| time::Duration::try_from(from_now).ok());
    from_now
        .and_then(|from_now| OffsetDateTime::now_utc().checked_add(from_now))
        .ok_or_else(wrong)
}

/// `BUCKET` or `BUCKET/PREFIX`.
pub fn scope(text: &str, access: Access) -> Scope {
    let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
    Scope {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        access,
    }
}

/// A scope as it is told.
pub fn scope_shown(scope: &Scope) -> String {
    let access = match scope.access {
        Access::Read => "read",
        Access::ReadWrite => "read-write",
    };
    if scope.prefix.is_empty() {
        format!("{access} {}", scope.bucket)
    } else {
        format!("{access} {}/{}", scope.bucket, scope.prefix)
    }
}

/// A time as it is told.
pub fn time_shown(time: Option<OffsetDateTime>) -> String {
    match time.map(|time| time.format(&Rfc3339)) {
        None => "never".to_owned(),
        Some(Ok(text)) => text,
        Some(Err(_)) => "unknown".to_owned(),
    }
}

/// An object that is not what was written, as it is told.
pub fn broken_shown(object: &BrokenObject) -> String {
    let version = match object.version.as_str() {
        "null" => String::new(),
        version => format!(" version {version}"),
    };
    format!(
        "broken: {}/{}{version}: {}",
        object.bucket, object.key, object.cause
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("10", 10),
            ("1Ki", 1024),
            ("10Gi", 10 << 30),
            ("2 TiB", 2 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "Gi", "10G", "-1", "1.5Gi", "99999999999Ti", "ten"] {
            assert!(size(text).is_err(), "{text}");
        }
        let told: Vec<_> = [0, 1023, 1536, 10 << 30].into_iter().map(shown).collect();
        assert_eq!(told, ["0 B", "1023 B", "1.5 KiB", "10.0 GiB"]);
    }

    #[test]
    fn times_are_given_or_from_now() {
        let given = moment("2030-01-31T12:00:00Z").unwrap();
        assert_eq!(given.unix_timestamp(), 1_896_091_200);
        let soon = moment("12h").unwrap() - OffsetDateTime::now_utc();
        assert!((soon.whole_seconds() - 12 * 3600).abs() < 5);
        for text in ["", "d", "soon", "5", "5y", "-5d", "99999999999999999d"] {
            assert!(moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn scopes_are_buckets_with_or_without_a_prefix() {
        let scope = scope("models/a/b", Access::Read);
        assert_eq!((scope.bucket.as_str(), scope.prefix.as_str()), ("models", "a/b"));
        assert_eq!(scope_shown(&scope), "read models/a/b");
        assert_eq!(
            scope_shown(&super::scope("x*", Access::ReadWrite)),
            "read-write x*"
        );
    }
}
