//! Connections that were signed for: what is answered on them without a signature, and that nothing else is.

use crate::{
    gateway::raw::{presigned, signature},
    local_path::Host,
    node::{ACCESS, SECRET},
    pattern,
};
use penstock_rdma::{
    Client, Condition, Credentials, ObjectHeaders, Options, Policy, Range, Via,
    admin::{Access, KeyRequest, Scope},
    local::{CONNECT_FIRST, UNBOUND},
};
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

const HOST: &str = "node";
const LEND: &str = "x-penstock-lend";
const LENT: &str = "x-penstock-lent";
const CONNECT: &str = "x-penstock-local-connect";

/// A connection by hand. Descriptors that come along are lost.
struct Connection(UnixStream);

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn challenge(&self) -> &str {
        let said = self.headers.get(CONNECT).map_or("", String::as_str);
        said.split(';').next().unwrap_or("")
    }

    fn is_bound(&self) -> bool {
        self.headers.get(CONNECT).is_some_and(|said| said.contains(';'))
    }

    fn is_unbound(&self) -> bool {
        self.status == 403 && self.body.contains(UNBOUND) && !self.headers.contains_key(LENT)
    }

    /// What does not differ from one answer to the same question to the next.
    fn facts(mut self) -> (u16, BTreeMap<String, String>, String) {
        self.headers.remove("date");
        self.headers.remove(CONNECT);
        if let Some(lent) = self.headers.get_mut(LENT) {
            *lent = lent.split_once(';').unwrap().1.to_owned();
        }
        (self.status, self.headers, self.body)
    }
}

impl Connection {
    fn to(socket: &Path) -> Self {
        Self(UnixStream::connect(socket).unwrap())
    }

    fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {HOST}\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.0.write_all((head + "\r\n").as_bytes()).unwrap();
        self.answer(method)
    }

    fn answer(&mut self, method: &str) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let (status, headers) = head.split_once("\r\n").unwrap();
        let headers: BTreeMap<String, String> = headers
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let length = headers
            .get("content-length")
            .map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; if method == "HEAD" { 0 } else { length }];
        self.0.read_exact(&mut body).unwrap();
        Answer {
            status: status.split(' ').nth(1).unwrap().parse().unwrap(),
            headers,
            body: String::from_utf8(body).unwrap(),
        }
    }

    /// A GET of descriptors with all of `headers` signed by `secret`.
    fn signed_by(&mut self, key: (&str, &str), path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![(LEND, "prefer")];
        all.extend(headers);
        let proof = signature("GET", &format!("http://{HOST}{path}"), &all, &[], Some(key));
        all.extend(proof.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        self.ask("GET", path, &all)
    }

    fn signed(&mut self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.signed_by((ACCESS, SECRET), path, headers)
    }

    /// The same without a signature, with `challenge` in its place.
    fn bare(&mut self, path: &str, challenge: &str, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![(LEND, "prefer"), (CONNECT, challenge)];
        all.extend(headers);
        self.ask("GET", path, &all)
    }

    /// Signs for it; returns its challenge.
    fn bind(&mut self, path: &str) -> String {
        self.bind_by((ACCESS, SECRET), path)
    }

    fn bind_by(&mut self, key: (&str, &str), path: &str) -> String {
        let hello = self.signed_by(key, path, &[(CONNECT, CONNECT_FIRST)]);
        let challenge = hello.challenge().to_owned();
        assert!(challenge.len() == 32 && !hello.is_bound());
        assert!(self.signed_by(key, path, &[(CONNECT, &challenge)]).is_bound());
        challenge
    }
}

async fn by_hand(host: &Host, test: impl FnOnce(&Path) + Send + 'static) {
    let socket = host.socket.clone();
    tokio::task::spawn_blocking(move || test(&socket)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_signature_over_its_own_challenge_binds_a_connection() {
    let host = Host::start().await;
    host.put("object", &pattern(1, 1000)).await;
    by_hand(&host, |socket| {
        let path = "/bucket/object";
        let (mut one, mut other) = (Connection::to(socket), Connection::to(socket));
        let refused = one.bare(path, CONNECT_FIRST, &[]);
        assert!(refused.is_unbound() && !refused.is_bound());
        let challenge = refused.challenge().to_owned();
        let theirs = other.bare(path, "", &[]).challenge().to_owned();
        assert!(challenge.len() == 32 && theirs.len() == 32 && challenge != theirs);

        // A signature over something else, or of somebody else, or that leaves it out.
        for presented in [CONNECT_FIRST, theirs.as_str(), "", &challenge[..31]] {
            let signed = one.signed(path, &[(CONNECT, presented)]);
            assert!(signed.status == 200 && !signed.is_bound(), "{presented:?}");
            assert!(one.bare(path, &challenge, &[]).is_unbound(), "{presented:?}");
        }
        let forged = one.signed_by((ACCESS, "another-secret"), path, &[(CONNECT, &challenge)]);
        assert!(forged.status == 403 && !forged.is_bound());
        let mut beside = vec![(LEND, "only"), (CONNECT, &challenge)];
        let uri = format!("http://{HOST}{path}");
        let proof = signature("GET", &uri, &[], &[], Some((ACCESS, SECRET)));
        beside.extend(proof.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let unsigned = one.ask("GET", path, &beside);
        assert!(
            unsigned.status == 200 && !unsigned.is_bound(),
            "{}",
            unsigned.body
        );
        assert!(one.bare(path, &challenge, &[]).is_unbound());

        // A signature in the query is given to others; what another header says beside it was signed by nobody.
        let query = presigned(&uri, (ACCESS, SECRET));
        let given = format!("{path}?{query}");
        let forged = "AWS4-HMAC-SHA256 Credential=x/20200101/us-east-1/s3/aws4_request, \
                      SignedHeaders=host;x-penstock-local-connect, Signature=0";
        let asked = [(LEND, "only"), (CONNECT, challenge.as_str())];
        assert_eq!(
            one.ask("GET", &given, &asked[..1]).status,
            200,
            "it is a good one"
        );
        let both = [asked[0], asked[1], ("authorization", forged)];
        let both = one.ask("GET", &given, &both);
        assert!(both.status == 400 && !both.is_bound(), "{}", both.body);
        let hidden = given.replace("X-Amz-Signature", "X-Amz%2DSignature");
        let hidden = one.ask("GET", &hidden, &[asked[0], asked[1], ("authorization", forged)]);
        assert!(hidden.status >= 400 && !hidden.is_bound(), "{}", hidden.body);
        assert!(one.bare(path, &challenge, &[]).is_unbound());

        let bound = one.signed(path, &[(CONNECT, &challenge)]);
        assert!(bound.status == 200 && bound.is_bound());
        let lent = one.bare(path, &challenge, &[]);
        assert!(lent.status == 200 && lent.headers.contains_key(LENT));
        // It is the connection that is bound, not the challenge, and not the process.
        assert!(other.bare(path, &challenge, &[]).is_unbound());
        assert!(other.bare(path, &theirs, &[]).is_unbound());
        assert!(Connection::to(socket).bare(path, &challenge, &[]).is_unbound());
        assert!(one.bare(path, &theirs, &[]).is_unbound());
        assert_eq!(
            one.bare(path, &challenge, &[]).status,
            200,
            "a refusal ends nothing"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_with_scopes_has_no_more_without_a_signature() {
    let host = Host::start().await;
    for key in ["own/k", "other/k"] {
        host.put(key, &pattern(1, 1000)).await;
    }
    let root = host.local();
    let scope = Scope {
        bucket: "bucket".to_owned(),
        prefix: "own/".to_owned(),
        access: Access::Read,
    };
    let request = KeyRequest {
        name: "reader".to_owned(),
        scopes: vec![scope],
        expires: None,
    };
    let key = root.create_key(&request).await.unwrap();
    let (access, secret) = (key.info.access_key_id, key.secret_access_key);
    let named = access.clone();
    let (bound, late) = std::sync::mpsc::channel();
    by_hand(&host, move |socket| {
        let mut connection = Connection::to(socket);
        let challenge = connection.bind_by((&named, &secret), "/bucket/own/k");
        let lent = connection.bare("/bucket/own/k", &challenge, &[]);
        assert!(lent.status == 200 && lent.headers.contains_key(LENT));
        let other = connection.bare("/bucket/other/k", &challenge, &[]);
        assert!(
            other.status == 403 && other.body.contains("AccessDenied"),
            "{}",
            other.body
        );
        assert!(!other.headers.contains_key(LENT));
        bound.send((connection, challenge)).unwrap();
    })
    .await;
    root.revoke_key(&access).await.unwrap();
    by_hand(&host, move |_| {
        let (mut connection, challenge) = late.recv().unwrap();
        assert!(connection.bare("/bucket/own/k", &challenge, &[]).is_unbound());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_without_a_signature_is_what_is_answered_with_one() {
    let host = Host::start().await;
    let headers = ObjectHeaders {
        content_type: Some("text/plain".to_owned()),
        content_encoding: Some("gzip".to_owned()),
        content_disposition: Some("inline".to_owned()),
        content_language: Some("en".to_owned()),
        cache_control: Some("no-cache".to_owned()),
        metadata: [("of".to_owned(), "one line".to_owned())].into(),
    };
    let content = crate::body([pattern(1, 1000)]);
    let written = host
        .local()
        .put(
            "bucket",
            "a key/ü",
            Some(1000),
            &headers,
            &Condition::default(),
            content,
        )
        .await
        .unwrap();
    host.put("empty", &bytes::Bytes::new()).await;
    let tag = format!("\"{}\"", written.etag);
    by_hand(&host, move |socket| {
        let path = "/bucket/a%20key/%C3%BC";
        let mut connection = Connection::to(socket);
        let challenge = connection.bind(path);
        let checked = ("x-amz-checksum-mode", "ENABLED");
        let range = |range| ("range", range);
        for (path, headers, status) in [
            (path, vec![], 200),
            (path, vec![checked], 200),
            ("/bucket/empty", vec![checked], 200),
            (path, vec![range("bytes=10-19"), checked], 206),
            (path, vec![range("bytes=-5")], 206),
            (path, vec![range("bytes=990-5000")], 206),
            (path, vec![range("bytes=1000-")], 416),
            ("/bucket/empty", vec![range("bytes=0-")], 416),
            (path, vec![("if-match", &tag)], 200),
            (path, vec![("if-match", "\"other\"")], 412),
            (path, vec![("if-none-match", &tag)], 304),
            (path, vec![("if-none-match", "*")], 304),
            (path, vec![("if-none-match", "\"other\"")], 200),
            ("/bucket/none", vec![], 404),
            ("/nowhere/none", vec![], 404),
        ] {
            let signed = connection.signed(path, &headers);
            let bare = connection.bare(path, &challenge, &headers);
            assert_eq!(bare.status, status, "{path} {headers:?}: {}", bare.body);
            assert_eq!(bare.facts(), signed.facts(), "{path} {headers:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_but_a_plain_get_of_descriptors_goes_without_a_signature() {
    let host = Host::start().await;
    host.put("object", &pattern(1, 1000)).await;
    by_hand(&host, |socket| {
        let path = "/bucket/object";
        let mut connection = Connection::to(socket);
        let challenge = connection.bind(path);
        let (lend, connect) = ((LEND, "only"), (CONNECT, challenge.as_str()));
        for (method, path, more) in [
            ("HEAD", path, None),
            ("DELETE", path, None),
            ("PUT", path, Some(("content-length", "0"))),
            (
                "PUT",
                "/bucket/copy",
                Some(("x-amz-copy-source", "bucket/object")),
            ),
            ("POST", "/bucket/object?uploads", None),
            ("GET", "/", None),
            ("GET", "/bucket", None),
            ("GET", "/bucket?list-type=2", None),
            ("GET", "/bucket/object?partNumber=1", None),
            ("GET", "/bucket/object?uploadId=1", None),
            ("GET", path, Some(("x-amz-rdma-token", "rc:0"))),
            ("GET", path, Some(("x-amz-copy-source", "bucket/object"))),
            ("GET", path, Some(("x-penstock-handed", "0,1"))),
            (
                "GET",
                path,
                Some(("if-modified-since", "Wed, 21 Oct 2015 07:28:00 GMT")),
            ),
            ("GET", path, Some(("range", "bytes=x"))),
            ("GET", path, Some(("x-unknown", "1"))),
        ] {
            let mut headers = vec![lend, connect];
            headers.extend(more);
            let answer = connection.ask(method, path, &headers);
            let said = method == "HEAD" || answer.body.contains(UNBOUND);
            assert!(
                answer.status == 403 && said,
                "{method} {path} {more:?}: {}",
                answer.body
            );
        }
        let without = connection.ask("GET", path, &[connect]);
        assert!(without.is_unbound(), "it asks for no descriptors");
        let bare = connection.ask("GET", path, &[lend]);
        assert!(bare.status == 403 && bare.body.contains("AccessDenied"));
        assert_eq!(
            connection.bare(path, &challenge, &[]).status,
            200,
            "it is all there still"
        );
        assert_eq!(connection.signed("/bucket/copy", &[]).status, 404);
    })
    .await;
    let stored = host.local().head("bucket", "object").await.unwrap();
    assert_eq!(stored.size, 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_network_no_connection_is_bound() {
    let host = Host::start().await;
    host.put("object", &pattern(1, 1000)).await;
    let address = host.endpoint.trim_start_matches("http://").to_owned();
    let raw = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let request = format!(
            "GET /bucket/object HTTP/1.1\r\nhost: x\r\n{CONNECT}: {CONNECT_FIRST}\r\n{LEND}: prefer\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        std::io::read_to_string(stream).unwrap()
    });
    let raw = raw.await.unwrap();
    assert!(raw.starts_with("HTTP/1.1 403") && !raw.contains(CONNECT), "{raw}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_signs_what_its_bound_connection_is_not_answered() {
    let host = Host::start().await;
    let client = host.local();
    let content = pattern(1, 1000);
    // What would need an encoding is not answered without a signature.
    let mut headers = ObjectHeaders::default();
    headers.metadata.insert("odd".to_owned(), "=?x".to_owned());
    let (anything, plain) = (Condition::default(), ObjectHeaders::default());
    for (key, headers) in [("odd", &headers), ("plain", &plain)] {
        let body = crate::body([content.clone()]);
        let put = client.put("bucket", key, Some(1000), headers, &anything, body);
        put.await.unwrap();
    }
    for round in 0..6 {
        for key in ["odd", "plain"] {
            let mut buffer = vec![0; 1000];
            let range = (round % 2 == 0).then_some(Range::Suffix { length: 1000 });
            let (head, moved) = client
                .get_into("bucket", key, range, &anything, &mut buffer)
                .await
                .unwrap();
            assert!(
                moved.via == Via::Shm && buffer == content[..],
                "{key} in round {round}"
            );
            assert_eq!(head.headers.metadata.contains_key("odd"), key == "odd");
        }
    }
    let missing = client.get("bucket", "none", None, &anything).await.err().unwrap();
    assert_eq!(missing.code(), Some("NoSuchKey"));
    // Another key on the same socket is another connection's.
    let stranger = Client::new(
        host.endpoint.parse().unwrap(),
        Credentials::new(ACCESS, "wrong-secret"),
        Options {
            local_socket: Some(host.socket.clone()),
            policy: Policy::Require,
            ..Options::default()
        },
    );
    let refused = stranger.unwrap().get("bucket", "plain", None, &anything).await;
    assert_eq!(refused.err().unwrap().code(), Some("SignatureDoesNotMatch"));
}
