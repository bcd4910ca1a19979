//! The registration service, as kubelet calls it.

use super::*;
use crate::{
    grpc::{Calls, tests::connect},
    proto::registration::registration_client::RegistrationClient,
};
use penstock_service::Health;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::JoinHandle,
};

/// What grpc-go 1.82.1 sent when it dialled a registration socket as kubelet 1.36.3 does, and called GetInfo twice and
/// NotifyRegistrationStatus{true}: one frame a line. The first request has the socket's path as a new `:authority`; the others
/// name it by its place in the dynamic table.
const KUBELET: &str = "
505249202a20485454502f322e300d0a0d0a534d0d0a0d0a 000000 04 00 00000000
000000 04 01 00000000
000076 01 04 00000001 8386459c62ba2d98d558598c84d83498f52fb4b31909b06931ea63115392a94f419e5458534d6a8b0d85995161ae8b6635488ac2cc6426cf4a8b09faae8393af5f8b1d75d0620d263d4c4d65647a8a9acac8b4c7602bbc25c340027465864d833505b11f40899acac8b24d494f6a7f867df7de6c2f5b
000005 00 01 00000001 0000000000
00000f 01 04 00000003 8386c3c2c1c0bf7e867df7dd75d6ad
000005 00 01 00000003 0000000000
000039 01 04 00000005 838645a862ba2d98d558598c84d83498f52fb4b31909b06931ea6349d2697d6d2cc6426c1a4c7ab72469b51fc4c3c2c17f00867df7dd69f72d
000007 00 01 00000005 00000000020801
000021 07 00 00000000 0000000500000000636c69656e74207472616e73706f72742073687574646f776e
";
/// RST_STREAM (RFC 9113, 6.4) and its error code PROTOCOL_ERROR (7).
const RST_STREAM: u8 = 3;
const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];

struct Served {
    registry: PathBuf,
    health: Health,
    shutdown: CancellationToken,
    server: JoinHandle<Result<(), ServeError>>,
    _folder: tempfile::TempDir,
}

async fn served() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let registry = folder.path().join("plugins_registry/csi.penstock.io-reg.sock");
    let health = Health::default();
    let flag = health.flag("registration");
    let shutdown = CancellationToken::new();
    let csi = PathBuf::from("/var/lib/kubelet/plugins/csi.penstock.io/csi.sock");
    let server = tokio::spawn(serve(
        registry.clone(),
        Plugin::csi("csi.penstock.io", csi),
        flag,
        Calls::default(),
        shutdown.clone(),
    ));
    while !registry.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Served {
        registry,
        health,
        shutdown,
        server,
        _folder: folder,
    }
}

#[tokio::test]
async fn kubelet_learns_where_the_driver_is_and_says_how_it_went() {
    let served = served().await;
    let mut client = RegistrationClient::new(connect(served.registry.clone()).await.unwrap());
    let info = client.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (info.r#type.as_str(), info.name.as_str()),
        ("CSIPlugin", "csi.penstock.io")
    );
    assert_eq!(info.endpoint, "/var/lib/kubelet/plugins/csi.penstock.io/csi.sock");
    assert_eq!(info.supported_versions, ["1.0.0"]);

    assert!(served.health.report().await.is_err());
    let mut status = RegistrationStatus {
        plugin_registered: true,
        error: String::new(),
    };
    client.notify_registration_status(status.clone()).await.unwrap();
    assert!(served.health.report().await.is_ok());
    status = RegistrationStatus {
        plugin_registered: false,
        error: "no CSINode".into(),
    };
    client.notify_registration_status(status).await.unwrap();
    assert!(served.health.report().await.unwrap_err().contains("no CSINode"));

    served.shutdown.cancel();
    served.server.await.unwrap().unwrap();
    assert!(
        !served.registry.exists(),
        "kubelet forgets the driver when the socket goes"
    );
}

/// Sends what kubelet sent, and gives the kinds and payloads of the frames that come back.
async fn replay(socket: &PathBuf) -> Vec<(u8, Vec<u8>)> {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    for (index, line) in KUBELET.trim().lines().enumerate() {
        stream
            .write_all(&hex::decode(line.replace(' ', "")).unwrap())
            .await
            .unwrap();
        if index == 0 {
            // The next line acknowledges the server's settings, so they must have come.
            stream.readable().await.unwrap();
        }
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let (mut rest, mut frames) = (&answer[..], Vec::new());
    while let [a, b, c, kind, _, _, _, _, _, tail @ ..] = rest {
        let (payload, next) = tail.split_at(u32::from_be_bytes([0, *a, *b, *c]) as usize);
        frames.push((*kind, payload.to_vec()));
        rest = next;
    }
    frames
}

#[tokio::test]
async fn the_requests_of_a_real_kubelet_are_answered() {
    let served = served().await;
    let frames = replay(&served.registry).await;
    assert!(frames.iter().all(|(kind, _)| *kind != RST_STREAM), "{frames:?}");
    assert_eq!(served.health.report().await, Ok("registration: ok\n".into()));
}

/// When this fails, `h2` has become lenient and the rewriting can go.
#[tokio::test]
async fn without_another_authority_they_would_be_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reg.sock");
    let health = Health::default();
    let registration = Registration {
        plugin: Plugin::csi("csi.penstock.io", PathBuf::new()),
        flag: health.flag("registration"),
    };
    let routes = Routes::new(RegistrationServer::new(registration));
    let shutdown = CancellationToken::new();
    let socket = Socket::bind(&path).unwrap();
    let server = tokio::spawn(grpc::serve_on(
        socket,
        routes,
        Calls::default(),
        shutdown,
        |stream| stream,
    ));
    let frames = replay(&path).await;
    let refused = frames
        .iter()
        .filter(|frame| **frame == (RST_STREAM, PROTOCOL_ERROR.to_vec()));
    assert_eq!(refused.count(), 3, "{frames:?}");
    assert!(health.report().await.is_err());
    server.abort();
}
