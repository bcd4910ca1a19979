//! Keys with scopes and bytes by RDMA: no more goes by it than by HTTP, and with the key its sessions end.

use crate::{
    matrix::{get, put},
    setup::{BUCKET, Fabric, Node, client_as, eventually, in_time, pattern},
};
use penstock_rdma::{
    Client, Condition, Credentials, Error, ObjectHeaders, Options, Policy, Via,
    admin::{Access, KeyRequest, NewKey, Scope},
    fabric::{Device, Rails},
};
use penstock_store::rdma::Limits;
use std::sync::Arc;

fn request(name: &str, prefix: &str, access: Access) -> KeyRequest {
    let scope = Scope {
        bucket: BUCKET.to_owned(),
        prefix: prefix.to_owned(),
        access,
    };
    KeyRequest {
        name: name.to_owned(),
        scopes: vec![scope],
        expires: None,
    }
}

fn client(node: &Node, key: &NewKey, device: &Arc<dyn Device>) -> Client {
    let credentials = Credentials::new(&key.info.access_key_id, &key.secret_access_key);
    let options = Options {
        rails: Some(Rails::of([Arc::clone(device)])),
        policy: Policy::Require,
        retries: 0,
        ..Options::default()
    };
    client_as(&node.endpoint, credentials, options)
}

fn is_refused<T>(outcome: Result<T, Error>, expected: &str) -> bool {
    matches!(outcome, Err(Error::Refused { code, .. }) if code == expected)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scope_holds_for_rdma_and_a_revoked_key_has_no_session() {
    let fabric = Fabric::of_this_run();
    let node = Node::start(Some(fabric.device("server")), Limits::default()).await;
    let device = fabric.device("client");
    let root = node.client(None, Policy::Off);
    let content = pattern(1, 3 << 20);
    for key in ["own/k", "other/k"] {
        put(&root, key, &content).await;
    }
    let reader = root
        .create_key(&request("reader", "own/", Access::Read))
        .await
        .unwrap();
    let reading = client(&node, &reader, &device);
    let (via, read) = in_time(get(&reading, "own/k", None)).await;
    assert!(via == Via::Rdma && read == content);
    let moved = node.moved_by_rdma();
    let other = reading.get(BUCKET, "other/k", None, &Condition::default()).await;
    assert!(is_refused(other.map(drop), "AccessDenied"));
    let body = futures::stream::iter([Ok(bytes::Bytes::from(content.clone()))]);
    let (headers, always) = (ObjectHeaders::default(), Condition::default());
    let length = Some(content.len() as u64);
    let written = reading
        .put(BUCKET, "own/new", length, &headers, &always, body)
        .await;
    assert!(is_refused(written, "AccessDenied"));
    assert_eq!(node.moved_by_rdma(), moved, "nothing moves that is refused");

    assert!(node.rdma.sessions() > 0);
    root.revoke_key(&reader.info.access_key_id).await.unwrap();
    eventually("its sessions end", || node.rdma.sessions() == 0).await;
    let late = in_time(reading.get(BUCKET, "own/k", None, &Condition::default())).await;
    assert!(is_refused(late.map(drop), "InvalidAccessKeyId"));
    assert_eq!(node.moved_by_rdma(), moved);

    // Others go on.
    let writer = root
        .create_key(&request("writer", "", Access::ReadWrite))
        .await
        .unwrap();
    let writing = client(&node, &writer, &device);
    put(&writing, "own/new", &content).await;
    let (via, read) = in_time(get(&writing, "own/new", None)).await;
    assert!(via == Via::Rdma && read == content);
}
