//! A peer that speaks HTTP and RDMA by hand, so that it can say what no client says.

use crate::setup::{ACCESS, SECRET};
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use http::{HeaderMap, HeaderName};
use penstock_rdma::{
    Credentials,
    fabric::{Connection, Device, Memory, Pages, Purpose, QueuePair, Window},
    protocol::{GatewaySignature, Grant, NAME, Offer, Psn, QpToken, SessionId, WindowToken},
};
use std::{collections::HashMap, sync::Arc, time::SystemTime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A request; headers that are added after `sign` are not signed.
pub struct Raw {
    method: &'static str,
    path: String,
    host: String,
    /// Where it differs from whom it is sent to.
    said_host: Option<String>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: String,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn code(&self) -> &str {
        let code = self
            .body
            .split_once("<Code>")
            .and_then(|(_, rest)| rest.split_once("</Code>"));
        code.map_or("", |(code, _)| code)
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

impl Raw {
    pub fn new(endpoint: &str, method: &'static str, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            host: endpoint.strip_prefix("http://").unwrap().to_owned(),
            said_host: None,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    pub fn sign(self) -> Self {
        self.sign_as(ACCESS, SECRET)
    }

    pub fn sign_as(self, access: &str, secret: &str) -> Self {
        self.sign_at(access, secret, SystemTime::now())
    }

    pub fn sign_at(self, access: &str, secret: &str, time: SystemTime) -> Self {
        let body = self.body.clone();
        self.sign_body((access, secret), time, SignableBody::Bytes(&body))
            .0
    }

    /// As [`Raw::sign_at`], of a body whose hash is given; returns the signature too.
    pub fn sign_body(
        mut self,
        (access, secret): (&str, &str),
        time: SystemTime,
        body: SignableBody<'_>,
    ) -> (Self, String) {
        let identity = aws_credential_types::Credentials::new(access, secret, None, None, "test").into();
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region("us-east-1")
            .name("s3")
            .time(time)
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let uri = format!("http://{}{}", self.host, self.path);
        let headers = self.headers.clone();
        let plain = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let request = SignableRequest::new(self.method, uri, plain, body).unwrap();
        let (instructions, signature) = sign(request, &params).unwrap().into_parts();
        for header in instructions.into_parts().0 {
            self.headers
                .push((header.name().to_owned(), header.value().to_owned()));
        }
        (self, signature)
    }

    /// Adds what a gateway adds: the headers of the protocol must be there, and the client's signature.
    pub fn carry(self, gateway: &Credentials) -> Self {
        let method = self.method.parse().unwrap();
        let signature =
            GatewaySignature::sign(gateway, SystemTime::now(), &method, &self.path, &self.map()).unwrap();
        self.header("x-amz-rdma-gateway", signature.encode())
    }

    fn map(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            map.append(HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        map
    }

    /// The same, word for word, to somebody else.
    pub fn to(mut self, endpoint: &str) -> Self {
        let host = std::mem::replace(
            &mut self.host,
            endpoint.strip_prefix("http://").unwrap().to_owned(),
        );
        self.said_host = Some(self.said_host.unwrap_or(host));
        self
    }

    /// The value of a header.
    pub fn value(&self, name: &str) -> String {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.unwrap().1.clone()
    }

    /// Sends it; the answer is not waited for.
    pub async fn begin(&self) -> TcpStream {
        let mut stream = self.begin_without_body().await;
        // Whoever refuses need not read it all.
        let _refused = stream.write_all(&self.body).await;
        stream
    }

    pub async fn begin_without_body(&self) -> TcpStream {
        let mut stream = TcpStream::connect(&self.host).await.unwrap();
        let mut head = format!(
            "{} {} HTTP/1.1\r\nhost: {}\r\n",
            self.method,
            self.path,
            self.said_host.as_ref().unwrap_or(&self.host)
        );
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let has_length = self.headers.iter().any(|(name, _)| name == "content-length");
        if !has_length {
            head += &format!("content-length: {}\r\n", self.body.len());
        }
        head += "connection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    pub async fn send(&self) -> Answer {
        Self::read(self.begin().await).await
    }

    /// As [`Raw::send`], without its body: what is answered before it.
    pub async fn send_head(&self) -> Answer {
        Self::read(self.begin_without_body().await).await
    }

    async fn read(mut stream: TcpStream) -> Answer {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        Answer {
            status,
            headers: lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect(),
            body: body.to_owned(),
            bytes: {
                let end = bytes.windows(4).position(|end| end == b"\r\n\r\n");
                bytes.split_off(end.map_or(bytes.len(), |end| end + 4))
            },
        }
    }
}

/// A connect request for a queue pair, with what must be in it.
pub fn connect(endpoint: &str, queue_pair: &dyn QueuePair, psn: Psn, offer: &Offer) -> Raw {
    Raw::new(endpoint, "POST", "/.s3rdma-rc/connect")
        .header("x-amz-rdma-protocol", NAME)
        .header("x-amz-rdma-token", QpToken(queue_pair.address()).encode())
        .header("x-amz-rdma-psn", psn.encode())
        .header("x-amz-rdma-caps", offer.encode())
}

/// A session by hand.
pub struct Peer {
    pub endpoint: String,
    pub device: Arc<dyn Device>,
    pub queue_pair: Arc<dyn QueuePair>,
    pub session: SessionId,
    pub grant: Grant,
}

impl Peer {
    pub async fn connect(endpoint: &str, device: &Arc<dyn Device>) -> Self {
        Self::try_connect(endpoint, device, &Offer::default())
            .await
            .unwrap()
    }

    pub async fn try_connect(
        endpoint: &str,
        device: &Arc<dyn Device>,
        offer: &Offer,
    ) -> Result<Self, Answer> {
        Self::connect_as((ACCESS, SECRET), endpoint, device, offer).await
    }

    pub async fn connect_as(
        (access, secret): (&str, &str),
        endpoint: &str,
        device: &Arc<dyn Device>,
        offer: &Offer,
    ) -> Result<Self, Answer> {
        let queue_pair = device.queue_pair(16).unwrap();
        let psn = Psn::random();
        let answer = connect(endpoint, &*queue_pair, psn, offer)
            .sign_as(access, secret)
            .send()
            .await;
        if answer.status != 200 {
            return Err(answer);
        }
        let grant = Grant::parse(answer.header("x-amz-rdma-caps")).unwrap();
        queue_pair
            .connect(&Connection {
                peer: QpToken::parse_reply(answer.header("x-amz-rdma-reply")).unwrap().0,
                local_psn: psn.number(),
                peer_psn: Psn::parse(answer.header("x-amz-rdma-psn")).unwrap().number(),
                mtu: grant.mtu,
                read_depth: grant.read_depth,
            })
            .unwrap();
        Ok(Self {
            endpoint: endpoint.to_owned(),
            device: Arc::clone(device),
            queue_pair,
            session: SessionId::parse(answer.header("x-amz-rdma-session")).unwrap(),
            grant,
        })
    }

    pub fn memory(&self, length: usize) -> Memory {
        self.device
            .register(Pages::new(length).unwrap(), Purpose::Windows)
            .unwrap()
    }

    pub fn token(&self, window: Window) -> String {
        WindowToken {
            session: self.session,
            window,
        }
        .encode()
    }

    /// A request with a token, not signed yet.
    pub fn request(&self, method: &'static str, path: &str, token: &str, sequence: u64) -> Raw {
        Raw::new(&self.endpoint, method, path)
            .header("x-amz-rdma-token", token)
            .header("x-amz-rdma-seq", sequence.to_string())
    }
}
