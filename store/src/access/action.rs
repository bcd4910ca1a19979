//! What each S3 operation asks for, in the words of policies ("Actions, resources, and condition keys for Amazon S3").

use http::{HeaderMap, HeaderName};
use std::borrow::Cow;

/// Which keys with scopes may do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    Read,
    Write,
    /// Setting buckets up, which scopes do not give.
    Manage,
}

/// What an action is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Service,
    Bucket,
    Object,
}

/// An action that policies can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Action(&'static Known);

#[derive(Debug, PartialEq, Eq)]
struct Known {
    /// Without `s3:`.
    name: &'static str,
    kind: Kind,
    rights: Rights,
}

const fn known(name: &'static str, kind: Kind, rights: Rights) -> Known {
    Known { name, kind, rights }
}

/// All of them, by name.
static ACTIONS: [Known; 66] = {
    use Kind::{Bucket, Object, Service};
    use Rights::{Manage, Read, Write};
    [
        known("AbortMultipartUpload", Object, Write),
        known("BypassGovernanceRetention", Object, Manage),
        known("CreateBucket", Bucket, Manage),
        known("DeleteBucket", Bucket, Manage),
        known("DeleteBucketPolicy", Bucket, Manage),
        known("DeleteBucketWebsite", Bucket, Manage),
        known("DeleteObject", Object, Write),
        known("DeleteObjectTagging", Object, Write),
        known("DeleteObjectVersion", Object, Write),
        known("DeleteObjectVersionTagging", Object, Write),
        known("GetAccelerateConfiguration", Bucket, Manage),
        known("GetBucketAcl", Bucket, Manage),
        known("GetBucketCORS", Bucket, Manage),
        known("GetBucketLocation", Bucket, Read),
        known("GetBucketLogging", Bucket, Manage),
        known("GetBucketNotification", Bucket, Manage),
        known("GetBucketObjectLockConfiguration", Bucket, Read),
        known("GetBucketOwnershipControls", Bucket, Manage),
        known("GetBucketPolicy", Bucket, Manage),
        known("GetBucketPolicyStatus", Bucket, Manage),
        known("GetBucketPublicAccessBlock", Bucket, Manage),
        known("GetBucketRequestPayment", Bucket, Read),
        known("GetBucketTagging", Bucket, Manage),
        known("GetBucketVersioning", Bucket, Read),
        known("GetBucketWebsite", Bucket, Manage),
        known("GetEncryptionConfiguration", Bucket, Read),
        known("GetLifecycleConfiguration", Bucket, Manage),
        known("GetObject", Object, Read),
        known("GetObjectAcl", Object, Read),
        known("GetObjectAttributes", Object, Read),
        known("GetObjectLegalHold", Object, Read),
        known("GetObjectRetention", Object, Read),
        known("GetObjectTagging", Object, Read),
        known("GetObjectVersion", Object, Read),
        known("GetObjectVersionAcl", Object, Read),
        known("GetObjectVersionAttributes", Object, Read),
        known("GetObjectVersionTagging", Object, Read),
        known("GetReplicationConfiguration", Bucket, Manage),
        known("ListAllMyBuckets", Service, Read),
        known("ListBucket", Bucket, Read),
        known("ListBucketMultipartUploads", Bucket, Read),
        known("ListBucketVersions", Bucket, Read),
        known("ListMultipartUploadParts", Object, Read),
        known("PutAccelerateConfiguration", Bucket, Manage),
        known("PutBucketAcl", Bucket, Manage),
        known("PutBucketCORS", Bucket, Manage),
        known("PutBucketLogging", Bucket, Manage),
        known("PutBucketNotification", Bucket, Manage),
        known("PutBucketObjectLockConfiguration", Bucket, Manage),
        known("PutBucketOwnershipControls", Bucket, Manage),
        known("PutBucketPolicy", Bucket, Manage),
        known("PutBucketPublicAccessBlock", Bucket, Manage),
        known("PutBucketRequestPayment", Bucket, Manage),
        known("PutBucketTagging", Bucket, Manage),
        known("PutBucketVersioning", Bucket, Manage),
        known("PutBucketWebsite", Bucket, Manage),
        known("PutEncryptionConfiguration", Bucket, Manage),
        known("PutLifecycleConfiguration", Bucket, Manage),
        known("PutObject", Object, Write),
        known("PutObjectAcl", Object, Write),
        known("PutObjectLegalHold", Object, Write),
        known("PutObjectRetention", Object, Write),
        known("PutObjectTagging", Object, Write),
        known("PutObjectVersionAcl", Object, Write),
        known("PutObjectVersionTagging", Object, Write),
        known("PutReplicationConfiguration", Bucket, Manage),
    ]
};

impl Action {
    pub const LIST_BUCKETS: Self = Self::at("ListAllMyBuckets");
    pub const LIST_BUCKET: Self = Self::at("ListBucket");
    pub const GET_OBJECT: Self = Self::at("GetObject");
    pub const GET_OBJECT_VERSION: Self = Self::at("GetObjectVersion");
    pub const PUT_OBJECT: Self = Self::at("PutObject");
    pub const GET_TAGS: Self = Self::at("GetObjectTagging");
    pub const GET_VERSION_TAGS: Self = Self::at("GetObjectVersionTagging");
    pub const PUT_TAGS: Self = Self::at("PutObjectTagging");
    pub const BYPASS_GOVERNANCE: Self = Self::at("BypassGovernanceRetention");
    pub const DELETE_OBJECT: Self = Self::at("DeleteObject");
    pub const DELETE_OBJECT_VERSION: Self = Self::at("DeleteObjectVersion");

    /// One that is known to be there: the compiler refuses others.
    #[expect(clippy::panic, reason = "in constants, so while it is compiled")]
    const fn at(name: &str) -> Self {
        let mut place = 0;
        while place < ACTIONS.len() {
            if same(ACTIONS[place].name.as_bytes(), name.as_bytes()) {
                return Self(&ACTIONS[place]);
            }
            place += 1;
        }
        panic!("there is no such action")
    }

    fn named(name: &str) -> Option<Self> {
        let place = ACTIONS.binary_search_by(|known| known.name.cmp(name)).ok()?;
        ACTIONS.get(place).map(Self)
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        ACTIONS.iter().map(Self)
    }

    /// As policies write it, without `s3:`.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    pub(super) fn kind(self) -> Kind {
        self.0.kind
    }

    pub(super) fn rights(self) -> Rights {
        self.0.rights
    }

    pub(super) fn lists(self) -> bool {
        matches!(
            self.0.name,
            "ListBucket" | "ListBucketVersions" | "ListBucketMultipartUploads"
        )
    }

    pub(super) fn is_of_policies(self) -> bool {
        matches!(
            self.0.name,
            "GetBucketPolicy" | "PutBucketPolicy" | "DeleteBucketPolicy"
        )
    }
}

const fn same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut place = 0;
    while place < one.len() {
        if one[place] != other[place] {
            return false;
        }
        place += 1;
    }
    true
}

/// What something is done to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target<'r> {
    Service,
    Bucket(&'r str),
    Object(&'r str, Cow<'r, str>),
}

impl Target<'_> {
    pub fn bucket(&self) -> Option<&str> {
        match self {
            Self::Service => None,
            Self::Bucket(bucket) | Self::Object(bucket, _) => Some(bucket),
        }
    }
}

/// One thing that a request needs to be allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Demand<'r> {
    pub action: Action,
    pub target: Target<'r>,
}

impl<'r> Demand<'r> {
    pub fn on_object(action: Action, bucket: &'r str, key: &'r str) -> Self {
        let target = Target::Object(bucket, Cow::Borrowed(key));
        Self { action, target }
    }

    pub fn listing(bucket: &'r str) -> Self {
        Self {
            action: Action::LIST_BUCKET,
            target: Target::Bucket(bucket),
        }
    }

    /// Reading an object, or one of its versions by name.
    pub fn reading(bucket: &'r str, key: &'r str, names_version: bool) -> Self {
        let action = if names_version {
            Action::GET_OBJECT_VERSION
        } else {
            Action::GET_OBJECT
        };
        Self::on_object(action, bucket, key)
    }

    /// Reading the tags of an object, or of one of its versions by name.
    pub fn reading_tags(bucket: &'r str, key: &'r str, names_version: bool) -> Self {
        let action = if names_version {
            Action::GET_VERSION_TAGS
        } else {
            Action::GET_TAGS
        };
        Self::on_object(action, bucket, key)
    }

    /// Giving it tags.
    pub fn writing(bucket: &'r str, key: &'r str) -> Self {
        Self::on_object(Action::PUT_OBJECT, bucket, key)
    }

    pub fn writing_tags(bucket: &'r str, key: &'r str) -> Self {
        Self::on_object(Action::PUT_TAGS, bucket, key)
    }

    /// Passing over a retention for governance.
    pub fn bypassing(bucket: &'r str, key: &'r str) -> Self {
        Self::on_object(Action::BYPASS_GOVERNANCE, bucket, key)
    }

    /// Deleting it, likewise.
    pub fn deleting(bucket: &'r str, key: &'r str, names_version: bool) -> Self {
        let action = if names_version {
            Action::DELETE_OBJECT_VERSION
        } else {
            Action::DELETE_OBJECT
        };
        Self::on_object(action, bucket, key)
    }
}

const TAGGING: HeaderName = HeaderName::from_static("x-amz-tagging");
const ACL: HeaderName = HeaderName::from_static("x-amz-acl");
const LOCK_MODE: HeaderName = HeaderName::from_static("x-amz-object-lock-mode");
const LEGAL_HOLD: HeaderName = HeaderName::from_static("x-amz-object-lock-legal-hold");
const BYPASS: HeaderName = HeaderName::from_static("x-amz-bypass-governance-retention");

/// What an operation of S3 needs to be allowed, but for what only its parameters say: the source of a copy, and the objects of
/// DeleteObjects, for which nothing is asked here. `None` for operations that are not known; those are for the root key alone.
pub(crate) fn demands<'r>(
    operation: &str,
    target: &Target<'r>,
    headers: &HeaderMap,
    names_version: bool,
) -> Option<Vec<Demand<'r>>> {
    let by_version = |plain: &'static str, of_version: &'static str| {
        if names_version { of_version } else { plain }
    };
    let mut names = match operation {
        "HeadBucket" | "ListObjects" | "ListObjectsV2" => vec!["ListBucket"],
        "ListBuckets" => vec!["ListAllMyBuckets"],
        "ListObjectVersions" => vec!["ListBucketVersions"],
        "ListMultipartUploads" => vec!["ListBucketMultipartUploads"],
        "ListParts" => vec!["ListMultipartUploadParts"],
        "GetObject" | "HeadObject" => vec![by_version("GetObject", "GetObjectVersion")],
        "GetObjectAttributes" => vec![
            by_version("GetObject", "GetObjectVersion"),
            by_version("GetObjectAttributes", "GetObjectVersionAttributes"),
        ],
        "PutObject"
        | "CopyObject"
        | "CreateMultipartUpload"
        | "UploadPart"
        | "UploadPartCopy"
        | "CompleteMultipartUpload" => vec!["PutObject"],
        "DeleteObject" => vec![by_version("DeleteObject", "DeleteObjectVersion")],
        "DeleteObjects" => vec![],
        "GetObjectTagging" => vec![by_version("GetObjectTagging", "GetObjectVersionTagging")],
        "PutObjectTagging" => vec![by_version("PutObjectTagging", "PutObjectVersionTagging")],
        "DeleteObjectTagging" => vec![by_version("DeleteObjectTagging", "DeleteObjectVersionTagging")],
        "GetObjectAcl" => vec![by_version("GetObjectAcl", "GetObjectVersionAcl")],
        "PutObjectAcl" => vec![by_version("PutObjectAcl", "PutObjectVersionAcl")],
        "GetObjectLockConfiguration" => vec!["GetBucketObjectLockConfiguration"],
        "PutObjectLockConfiguration" => vec!["PutBucketObjectLockConfiguration"],
        "GetBucketCors" => vec!["GetBucketCORS"],
        "PutBucketCors" | "DeleteBucketCors" => vec!["PutBucketCORS"],
        "DeleteBucketTagging" => vec!["PutBucketTagging"],
        "GetBucketLifecycleConfiguration" => vec!["GetLifecycleConfiguration"],
        "PutBucketLifecycleConfiguration" | "DeleteBucketLifecycle" => vec!["PutLifecycleConfiguration"],
        "GetBucketEncryption" => vec!["GetEncryptionConfiguration"],
        "PutBucketEncryption" | "DeleteBucketEncryption" => vec!["PutEncryptionConfiguration"],
        "GetPublicAccessBlock" => vec!["GetBucketPublicAccessBlock"],
        "PutPublicAccessBlock" | "DeletePublicAccessBlock" => vec!["PutBucketPublicAccessBlock"],
        "DeleteBucketOwnershipControls" => vec!["PutBucketOwnershipControls"],
        "GetBucketReplication" => vec!["GetReplicationConfiguration"],
        "PutBucketReplication" | "DeleteBucketReplication" => vec!["PutReplicationConfiguration"],
        "GetBucketNotificationConfiguration" => vec!["GetBucketNotification"],
        "PutBucketNotificationConfiguration" => vec!["PutBucketNotification"],
        "GetBucketAccelerateConfiguration" => vec!["GetAccelerateConfiguration"],
        "PutBucketAccelerateConfiguration" => vec!["PutAccelerateConfiguration"],
        // The others are called in policies what they are called in the API.
        other => vec![Action::named(other)?.name()],
    };
    let writes = matches!(operation, "PutObject" | "CopyObject" | "CreateMultipartUpload");
    for (header, name) in [
        (TAGGING, "PutObjectTagging"),
        (ACL, "PutObjectAcl"),
        (LOCK_MODE, "PutObjectRetention"),
        (LEGAL_HOLD, "PutObjectLegalHold"),
    ] {
        if writes && headers.contains_key(header) {
            names.push(name);
        }
    }
    if matches!(operation, "DeleteObject" | "PutObjectRetention") && bypasses_governance(headers) {
        names.push("BypassGovernanceRetention");
    }
    let demand = |name| {
        let action = Action::named(name)?;
        let is_theirs = match action.kind() {
            Kind::Service => *target == Target::Service,
            Kind::Bucket => matches!(target, Target::Bucket(_)),
            Kind::Object => matches!(target, Target::Object(..)),
        };
        is_theirs.then(|| Demand {
            action,
            target: target.clone(),
        })
    };
    names.into_iter().map(demand).collect()
}

/// Whether a request asks to pass over a retention for governance.
pub(crate) fn bypasses_governance(headers: &HeaderMap) -> bool {
    let value = headers
        .get(BYPASS)
        .map(|value| value.as_bytes().to_ascii_lowercase());
    value.is_some_and(|value| value != b"false")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_found_by_name() {
        assert!(ACTIONS.is_sorted_by(|a, b| a.name < b.name));
        for action in Action::all() {
            assert_eq!(Action::named(action.name()), Some(action));
        }
        assert_eq!(Action::named("Fly"), None);
    }

    #[test]
    fn every_operation_asks_for_something_of_its_own_kind() {
        let (bucket, object) = (Target::Bucket("b"), Target::Object("b", "k".into()));
        let none = HeaderMap::new();
        let named = |operation: &str, target: &Target<'static>, version| {
            let asked = demands(operation, target, &none, version)?;
            Some(
                asked
                    .iter()
                    .map(|demand| demand.action.name())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(named("HeadBucket", &bucket, false).unwrap(), ["ListBucket"]);
        assert_eq!(named("HeadObject", &object, true).unwrap(), ["GetObjectVersion"]);
        assert_eq!(
            named("DeleteBucketCors", &bucket, false).unwrap(),
            ["PutBucketCORS"]
        );
        assert_eq!(
            named("PutBucketVersioning", &bucket, false).unwrap(),
            ["PutBucketVersioning"]
        );
        assert_eq!(named("SelectObjectContent", &object, false), None);
        assert_eq!(
            named("GetObject", &bucket, false),
            None,
            "what does not fit is for root alone"
        );
    }

    #[test]
    fn headers_ask_for_more() {
        let object = Target::Object("b", "k".into());
        let mut headers = HeaderMap::new();
        headers.insert(TAGGING, "a=b".parse().unwrap());
        headers.insert(LOCK_MODE, "GOVERNANCE".parse().unwrap());
        headers.insert(BYPASS, "true".parse().unwrap());
        let asked = demands("PutObject", &object, &headers, false).unwrap();
        let names: Vec<_> = asked.iter().map(|demand| demand.action.name()).collect();
        assert_eq!(names, ["PutObject", "PutObjectTagging", "PutObjectRetention"]);
        let asked = demands("DeleteObject", &object, &headers, true).unwrap();
        let names: Vec<_> = asked.iter().map(|demand| demand.action.name()).collect();
        assert_eq!(names, ["DeleteObjectVersion", "BypassGovernanceRetention"]);
    }
}
