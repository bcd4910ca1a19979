//! Requests by hand, so that nothing of an answer is hidden, and a body can wait.

use crate::node::{ACCESS, SECRET};
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation,
        SigningInstructions, SigningSettings, UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use std::time::{Duration, SystemTime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub struct Request {
    method: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    key: Option<(&'static str, &'static str)>,
}

pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map_or("", |(_, value)| value)
    }
}

impl Request {
    pub fn new(method: &'static str, path: &'static str) -> Self {
        Self {
            method,
            path,
            headers: Vec::new(),
            body: Vec::new(),
            key: Some((ACCESS, SECRET)),
        }
    }

    /// A header that is not signed.
    pub fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    pub fn key(mut self, access: &'static str, secret: &'static str) -> Self {
        self.key = Some((access, secret));
        self
    }

    pub fn unsigned(mut self) -> Self {
        self.key = None;
        self
    }

    pub fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    /// Its headers, signed for this host.
    pub fn head(&self, host: &str) -> String {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n",
            self.method,
            self.path,
            self.body.len()
        );
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        for (name, value) in self.signature(host) {
            head += &format!("{name}: {value}\r\n");
        }
        head + "\r\n"
    }

    fn signature(&self, host: &str) -> Vec<(String, String)> {
        let uri = format!("http://{host}{}", self.path);
        // As AWS asks, and as the AWS SDKs for C++ and Java do with the length.
        let length = self.body.len().to_string();
        let amz = self
            .headers
            .iter()
            .filter(|(name, _)| name.starts_with("x-amz-"))
            .map(|&(name, value)| -> (&str, &str) { (name, value) });
        let signed: Vec<_> = amz.chain([("content-length", length.as_str())]).collect();
        signature(self.method, &uri, &signed, &self.body, self.key)
    }

    pub async fn begin_without_body(&self, endpoint: &str) -> TcpStream {
        let host = endpoint.trim_start_matches("http://");
        let mut stream = TcpStream::connect(host).await.unwrap();
        stream.write_all(self.head(host).as_bytes()).await.unwrap();
        stream
    }

    /// Sends it; the answer is not read.
    pub async fn begin(&self, endpoint: &str) -> TcpStream {
        let mut stream = self.begin_without_body(endpoint).await;
        // Whoever refuses need not read it all.
        let _refused = stream.write_all(&self.body).await;
        stream
    }

    pub async fn send(&self, endpoint: &str) -> Answer {
        read(&mut self.begin(endpoint).await, self.method).await
    }
}

/// The headers that sign a request and these of its headers; none without a key.
pub fn signature(
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    key: Option<(&str, &str)>,
) -> Vec<(String, String)> {
    let Some(key) = key else {
        return Vec::new();
    };
    let signed = signed(
        (method, uri),
        headers,
        SignableBody::Bytes(body),
        key,
        SignatureLocation::Headers,
    );
    let headers = signed.into_parts().0;
    headers
        .iter()
        .map(|header| (header.name().to_owned(), header.value().to_owned()))
        .collect()
}

/// The query that signs a GET of a URL, for whoever has it.
pub fn presigned(uri: &str, key: (&str, &str)) -> String {
    let place = SignatureLocation::QueryParams;
    let signed = signed(("GET", uri), &[], SignableBody::UnsignedPayload, key, place);
    let parameters = signed.into_parts().1;
    let pairs: Vec<String> = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", value.replace('/', "%2F")))
        .collect();
    pairs.join("&")
}

fn signed(
    (method, uri): (&str, &str),
    headers: &[(&str, &str)],
    body: SignableBody<'_>,
    (access, secret): (&str, &str),
    place: SignatureLocation,
) -> SigningInstructions {
    let identity = aws_credential_types::Credentials::new(access, secret, None, None, "test").into();
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.signature_location = place;
    if place == SignatureLocation::QueryParams {
        settings.expires_in = Some(Duration::from_secs(60));
    } else {
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("s3")
        .time(SystemTime::now())
        .settings(settings)
        .build()
        .unwrap()
        .into();
    let request = SignableRequest::new(method, uri, headers.iter().copied(), body).unwrap();
    sign(request, &params).unwrap().into_parts().0
}

/// The next answer, whose body has a length or ends with the connection.
pub async fn read(stream: &mut TcpStream, method: &str) -> Answer {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut answer = Answer {
        status,
        headers,
        body: Vec::new(),
    };
    if method != "HEAD" && status != 100 && status != 204 && status != 304 {
        if answer.header("transfer-encoding") == "chunked" {
            answer.body = chunks(stream).await;
        } else {
            answer.body = vec![0; answer.header("content-length").parse().unwrap_or(0)];
            stream.read_exact(&mut answer.body).await.unwrap();
        }
    }
    answer
}

async fn chunks(stream: &mut TcpStream) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(stream.read_u8().await.unwrap());
        }
        let length = usize::from_str_radix(String::from_utf8(line).unwrap().trim(), 16).unwrap();
        let mut chunk = vec![0; length + 2];
        stream.read_exact(&mut chunk).await.unwrap();
        body.extend_from_slice(&chunk[..length]);
        if length == 0 {
            return body;
        }
    }
}
