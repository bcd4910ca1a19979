//! Condition types and reasons: what `kubectl describe` shows and users write scripts against.

/// The cluster serves requests, every node with the wanted spec.
pub const READY: &str = "Ready";
/// The operator is changing something, or waits for a change to take effect.
pub const PROGRESSING: &str = "Progressing";
/// Something is wrong that the operator cannot mend by itself.
pub const DEGRADED: &str = "Degraded";
/// Step: the Secret with the root key pair is complete.
pub const CREDENTIALS_READY: &str = "CredentialsReady";
/// Step: the server certificate is valid and current.
pub const TLS_READY: &str = "TlsReady";
/// Step: the StorageClass is there.
pub const STORAGE_CLASS_READY: &str = "StorageClassReady";
/// Step: the storage nodes run.
pub const NODES_READY: &str = "NodesReady";

/// All is as wanted.
pub const REASON_READY: &str = "Ready";
/// The spec says that this step is not wanted.
pub const REASON_DISABLED: &str = "Disabled";
/// A new spec is being rolled out.
pub const REASON_ROLLING_OUT: &str = "RollingOut";
/// A storage node cannot start or stay up; the message says which and why.
pub const REASON_NODE_FAILING: &str = "NodeFailing";
/// A Secret lacks a key.
pub const REASON_INCOMPLETE_SECRET: &str = "IncompleteSecret";
/// An object of that name exists and is not Penstock's.
pub const REASON_NAME_TAKEN: &str = "NameTaken";
/// The API server refused something; the message says what.
pub const REASON_API_REFUSED: &str = "ApiRefused";
/// Nothing is waited for.
pub const REASON_SETTLED: &str = "Settled";
