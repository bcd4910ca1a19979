//! The node gateway: ordinary HTTP clients in pods, with ordinary presigned URLs, and what the agents count.

use aws_sigv4::{
    http_request::{
        PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use penstock_e2e::{
    Context, Namespace, Result, chart, client, ensure, gateway, in_namespace, nodes, object, storage,
};
use serde_json::json;
use std::time::{Duration, SystemTime};

const CLUSTER: &str = "near";
const LENGTH: u64 = 9_000_000;

#[tokio::test]
async fn pods_reach_a_storage_node_by_the_gateway_of_their_node() -> Result<()> {
    in_namespace("gateway", async |ns| {
        through(&ns).await?;
        ends(&ns).await
    })
    .await
}

async fn through(ns: &Namespace) -> Result<()> {
    let names = nodes(&client().await?).await?;
    let first = names.first().context("the cluster has no node")?.clone();
    let second = names.get(1).unwrap_or(&first).clone();
    let cluster = storage::cluster(ns, CLUSTER)
        .await?
        .with(json!({
            "gateway": {"enabled": true}, "localPath": "/var/lib/penstock-sockets", "nodeSelector": {"kubernetes.io/hostname": first},
        }))
        .created()
        .await?;
    let host = served_at(ns).await?;
    for node in [&first, &second] {
        // The kubelet brings a changed Secret to a running pod, which takes it up without a restart.
        counts(ns, node, "upstream_reachable", "", |value| value == 1).await?;
    }
    let keys = Keys::of(ns, &host, &cluster.credentials).await?;
    let bucket = keys.url("PUT", "/bucket")?;
    let (put, get) = (keys.url("PUT", "/bucket/key")?, keys.url("GET", "/bucket/key")?);
    let (name, port) = host.split_once(':').context("no port")?;
    // PUT by hand, because busybox' wget cannot. Its nc ends its side with the input, which ends an HTTP request: so the input ends late.
    let send = format!(
        "send() {{ {{ printf 'PUT %s HTTP/1.1\\r\\nHost: {host}\\r\\nContent-Length: %s\\r\\nConnection: close\\r\\n\\r\\n' \
         \"${{1#http://*:9000}}\" \"$2\"; cat \"$3\"; sleep 3; }} | nc {name} {port} | head -n 1 | grep -q ' 200 '; }}"
    );
    let written = ns
        .pod("near")
        .on(&first)
        .runs(&format!(
            "{send}
             cd /tmp
             head -c {LENGTH} /dev/urandom > f
             send '{bucket}' 0 /dev/null
             send '{put}' {LENGTH} f
             wget -q -O g '{get}'
             cmp f g
             sha256sum < g"
        ))
        .succeeds()
        .await?;
    counts(
        ns,
        &first,
        "bytes_total",
        r#"direction="read",via="shm""#,
        |value| value >= LENGTH,
    )
    .await?;
    counts(
        ns,
        &first,
        "bytes_total",
        r#"direction="write",via="socket""#,
        |value| value >= LENGTH,
    )
    .await?;
    counts(
        ns,
        &first,
        "bytes_total",
        r#"direction="read",via="http""#,
        |value| value == 0,
    )
    .await?;
    // Whoever has no key is refused by the storage node, by the same words.
    ns.pod("stranger")
        .on(&first)
        .runs(&format!(
            "{{ printf 'GET /bucket/key HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n'; sleep 3; }} | nc {name} {port} > /tmp/answer
             head -n 1 /tmp/answer | grep -q ' 403 '
             grep -q AccessDenied /tmp/answer"
        ))
        .succeeds()
        .await?;
    if first == second {
        return Ok(());
    }
    let read = ns
        .pod("far")
        .on(&second)
        .runs(&format!("wget -q -O - '{get}' | sha256sum"))
        .succeeds()
        .await?;
    ensure!(
        written == read,
        "written {written}, read on the other node {read}"
    );
    counts(
        ns,
        &second,
        "bytes_total",
        r#"direction="read",via="http""#,
        |value| value >= LENGTH,
    )
    .await?;
    counts(
        ns,
        &second,
        "bytes_total",
        r#"direction="read",via="shm""#,
        |value| value == 0,
    )
    .await?;
    counts(ns, &second, "upstream_local", "", |value| value == 0).await
}

/// Host and port, as the StorageCluster tells them.
async fn served_at(ns: &Namespace) -> Result<String> {
    let object = ns
        .until("StorageCluster", CLUSTER, "has a gateway", |object| {
            storage::condition(object, "GatewayReady") == "True"
        })
        .await?;
    let endpoint = object["status"]["gateway"]["endpoint"]
        .as_str()
        .context("no endpoint")?;
    Ok(endpoint
        .strip_prefix("http://")
        .context("another scheme")?
        .to_owned())
}

/// Where it is not wanted any more, nothing of it is left.
async fn ends(ns: &Namespace) -> Result<()> {
    let host = served_at(ns).await?;
    let service = host.split('.').next().unwrap_or_default();
    storage::cluster(ns, CLUSTER)
        .await?
        .with(json!({"gateway": {"enabled": false}}))
        .applied()
        .await?;
    ns.until("StorageCluster", CLUSTER, "has no gateway", |object| {
        storage::condition(object, "GatewayReady") == "True" && object["status"]["gateway"].is_null()
    })
    .await?;
    let services = object::api(&ns.client, "v1", "Service", Some(chart::NAMESPACE));
    ensure!(
        services.get_opt(service).await?.is_none(),
        "Service {service} is left"
    );
    Ok(())
}

/// Waits until the agent of a node counts so much for the upstream.
async fn counts(
    ns: &Namespace,
    node: &str,
    name: &str,
    labels: &str,
    good: impl Fn(u64) -> bool,
) -> Result<()> {
    gateway::counts(ns, CLUSTER, node, name, labels, good).await
}

struct Keys {
    host: String,
    access: String,
    secret: String,
}

impl Keys {
    async fn of(ns: &Namespace, host: &str, secret: &str) -> Result<Self> {
        Ok(Self {
            host: host.to_owned(),
            access: storage::secret_value(ns, secret, "accessKeyId").await?,
            secret: storage::secret_value(ns, secret, "secretAccessKey").await?,
        })
    }

    /// A URL of the gateway that whoever has it may use, as any SDK makes it.
    fn url(&self, method: &str, path: &str) -> Result<String> {
        let identity =
            aws_credential_types::Credentials::new(&self.access, &self.secret, None, None, "test").into();
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(Duration::from_secs(3600));
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region("us-east-1")
            .name("s3")
            .time(SystemTime::now())
            .settings(settings)
            .build()?
            .into();
        let url = format!("http://{}{path}", self.host);
        let request = SignableRequest::new(method, &url, std::iter::empty(), SignableBody::UnsignedPayload)?;
        let (instructions, _) = sign(request, &params)?.into_parts();
        let (_, query) = instructions.into_parts();
        // Values of the query come as they are.
        let encoded: Vec<String> = query
            .iter()
            .map(|(name, value)| format!("{name}={}", value.replace('/', "%2F").replace(';', "%3B")))
            .collect();
        Ok(format!("{url}?{}", encoded.join("&")))
    }
}
