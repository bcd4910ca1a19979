//! What forbids that a version is deleted (S3 API, "Locking objects with Object Lock").

use super::rows::{Attribute, BucketV2, Instant, LockModeRow, ObjectV2};
use crate::engine::{Error, LockMode, Period, Retention};
use std::time::SystemTime;

/// Whether a lock is asked for.
pub(super) fn asks(attributes: &[Attribute]) -> bool {
    let is_lock =
        |attribute: &Attribute| matches!(attribute, Attribute::Retention(..) | Attribute::LegalHold(_));
    attributes.iter().any(is_lock)
}

/// Gives an object the retention of its bucket, where its writer said nothing; refuses locks where there are none.
pub(super) fn apply(bucket: &BucketV2, row: &mut ObjectV2) -> Result<(), Error> {
    let Some(default) = bucket.lock() else {
        return match asks(&row.more) {
            true => Err(Error::NoLock),
            false => Ok(()),
        };
    };
    let says = row
        .more
        .iter()
        .any(|attribute| matches!(attribute, Attribute::Retention(..)));
    if let Some((mode, period)) = default
        && !says
    {
        let until = Instant::from(row.modified.to_time() + Period::from(period).time());
        row.more.push(Attribute::Retention(mode, until));
    }
    Ok(())
}

/// Whether a version may be deleted for good; else why not.
pub(super) fn may_go(row: &ObjectV2, bypasses_governance: bool) -> Result<(), &'static str> {
    for attribute in &row.more {
        match attribute {
            Attribute::LegalHold(true) => return Err("a legal hold is on it"),
            Attribute::Retention(mode, until)
                if until.to_time() > SystemTime::now()
                    && (*mode == LockModeRow::Compliance || !bypasses_governance) =>
            {
                return Err("its retention has not ended");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a retention may be changed so; else why not.
pub(super) fn may_change(
    before: Option<Retention>,
    after: Option<Retention>,
    bypasses_governance: bool,
) -> Result<(), &'static str> {
    let Some(before) = before.filter(|before| before.until > SystemTime::now()) else {
        return Ok(());
    };
    let is_as_strict = after.is_some_and(|after| after.until >= before.until && after.mode == before.mode);
    match before.mode {
        _ if is_as_strict => Ok(()),
        LockMode::Governance if bypasses_governance => Ok(()),
        LockMode::Governance => Err("making its retention weaker needs the right to bypass it"),
        LockMode::Compliance => Err("its retention cannot be made weaker by anybody"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_retention_only_grows_unless_it_is_one_that_may_be_bypassed() {
        let soon = SystemTime::now() + Duration::from_secs(1000);
        let of = |mode, until| Some(Retention { mode, until });
        let later = soon + Duration::from_secs(1);
        let past = SystemTime::now() - Duration::from_secs(1);
        use LockMode::{Compliance, Governance};
        for (before, after, bypasses, may) in [
            (None, of(Compliance, soon), false, true),
            (of(Governance, soon), of(Governance, later), false, true),
            (of(Governance, soon), of(Compliance, soon), false, false),
            (of(Governance, soon), of(Compliance, soon), true, true),
            (of(Governance, later), of(Governance, soon), false, false),
            (of(Governance, later), of(Governance, soon), true, true),
            (of(Governance, soon), None, false, false),
            (of(Governance, soon), None, true, true),
            (of(Compliance, soon), None, true, false),
            (of(Compliance, soon), of(Governance, later), true, false),
            (of(Compliance, soon), of(Compliance, later), false, true),
            (of(Compliance, past), None, false, true),
        ] {
            assert_eq!(
                may_change(before, after, bypasses).is_ok(),
                may,
                "{before:?} to {after:?}"
            );
        }
    }
}
