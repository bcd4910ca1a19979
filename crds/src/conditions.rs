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

/// The storage nodes have an RDMA device that works. `False` says why not, also where none is wanted; it counts for `Ready`
/// with policy `Require` only.
pub const RDMA_READY: &str = "RdmaReady";

/// Agents serve S3 for the cluster to the pods of their nodes. `False` says why not; it does not count for `Ready`, because the storage
/// nodes serve all the same.
pub const GATEWAY_READY: &str = "GatewayReady";

/// Step of a VectorIndex: Milvus has a key for its bucket.
pub const STORAGE_READY: &str = "StorageReady";
/// Step of a VectorIndex: etcd, Milvus and workers run.
pub const MILVUS_READY: &str = "MilvusReady";
/// Step of a VectorIndex: every file of the source is in the collection.
pub const IMPORTED: &str = "Imported";
/// Step of a VectorIndex: the index holds every row.
pub const INDEXED: &str = "Indexed";
/// Step of a VectorIndex: the collection is in memory.
pub const LOADED: &str = "Loaded";
/// Step of a VectorIndex: searches find what is there, and the alias leads to the collection.
pub const VERIFIED: &str = "Verified";

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
/// A PersistentVolumeClaim that the spec names is not there.
pub const REASON_NO_CLAIM: &str = "NoClaim";
/// An object of that name exists and is not Penstock's.
pub const REASON_NAME_TAKEN: &str = "NameTaken";
/// The installation does not have what the spec asks for; the message says which value of the chart gives it.
pub const REASON_NOT_INSTALLED: &str = "NotInstalled";
/// A port is another StorageCluster's.
pub const REASON_PORT_TAKEN: &str = "PortTaken";
/// The API server refused something; the message says what.
pub const REASON_API_REFUSED: &str = "ApiRefused";
/// Nothing is waited for.
pub const REASON_SETTLED: &str = "Settled";
/// The storage node has not yet said how its RDMA device stands.
pub const REASON_NOT_TOLD: &str = "NotTold";
/// The process has no RDMA library.
pub const REASON_NO_LIBRARY: &str = "NoLibrary";
/// The Kubernetes node's kernel has no RDMA.
pub const REASON_KERNEL_MODULE_MISSING: &str = "KernelModuleMissing";
/// The pod has no RDMA device.
pub const REASON_NO_DEVICE: &str = "NoDevice";
/// The device's port is not active.
pub const REASON_PORT_DOWN: &str = "PortDown";
/// The device's port has no address for RoCE v2.
pub const REASON_NO_ROCE_V2_GID: &str = "NoRoceV2Gid";
/// The pod may not pin enough memory.
pub const REASON_MEMLOCK_TOO_LOW: &str = "MemlockTooLow";
/// The device does not do what it was asked.
pub const REASON_DEVICE_FAILED: &str = "DeviceFailed";
/// There is no StorageCluster of the name that the spec has.
pub const REASON_NO_STORAGE_CLUSTER: &str = "NoStorageCluster";
/// The StorageCluster is not Ready.
pub const REASON_STORAGE_NOT_READY: &str = "StorageNotReady";
/// The storage node does not answer, or refuses.
pub const REASON_STORAGE_UNREACHABLE: &str = "StorageUnreachable";
/// There is no bucket of the name that the spec has.
pub const REASON_NO_BUCKET: &str = "NoBucket";
/// A pod of Milvus cannot start or stay up; the message says which and why.
pub const REASON_POD_FAILING: &str = "PodFailing";
/// Milvus runs, and does not answer or is not healthy.
pub const REASON_MILVUS_UNHEALTHY: &str = "MilvusUnhealthy";
/// Milvus refuses what the spec asks for; the message says what.
pub const REASON_MILVUS_REFUSED: &str = "MilvusRefused";
/// This version of Milvus does not have what the spec asks for.
pub const REASON_UNSUPPORTED: &str = "Unsupported";
/// There is no file to import.
pub const REASON_NO_SOURCE: &str = "NoSource";
/// A file cannot be imported; the message says which and why.
pub const REASON_IMPORT_FAILED: &str = "ImportFailed";
/// Files are being imported.
pub const REASON_IMPORTING: &str = "Importing";
/// Rows are being indexed.
pub const REASON_INDEXING: &str = "Indexing";
/// Milvus gave up building the index.
pub const REASON_INDEX_FAILED: &str = "IndexFailed";
/// The collection is being loaded.
pub const REASON_LOADING: &str = "Loading";
/// The index misses more than it may.
pub const REASON_LOW_RECALL: &str = "LowRecall";
/// A step before this one is not done.
pub const REASON_NOT_REACHED: &str = "NotReached";
/// An import, a build or a load makes no progress.
pub const REASON_STALLED: &str = "Stalled";
