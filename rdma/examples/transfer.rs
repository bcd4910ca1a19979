//! Reads objects and says how fast it went and which way the bytes came, for `e2e/bench`.
//!
//! ```sh
//! transfer ENDPOINT SOCKET|- large BUCKET KEY TIMES        # whole, into memory, one after the other
//! transfer ENDPOINT SOCKET|- small BUCKET PREFIX COUNT SECONDS CONNECTIONS   # PREFIX0 … PREFIX<COUNT - 1>, at once
//! ```
//! The key pair comes from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. It prints one line of JSON.

use penstock_rdma::{Client, Condition, Credentials, Options, Policy};
use std::{
    error::Error,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [endpoint, socket, work @ ..] = &words[..] else {
        return Err("usage: transfer ENDPOINT SOCKET|- large|small …".into());
    };
    let options = Options {
        local_socket: (*socket != "-").then(|| socket.into()),
        policy: if *socket == "-" {
            Policy::Off
        } else {
            Policy::Require
        },
        ..Options::default()
    };
    let (access, secret) = (
        std::env::var("AWS_ACCESS_KEY_ID")?,
        std::env::var("AWS_SECRET_ACCESS_KEY")?,
    );
    let client = Client::new(endpoint.parse()?, Credentials::new(access, secret), options)?;
    match work {
        ["large", bucket, key, times] => large(&client, bucket, key, times.parse()?).await,
        ["small", bucket, prefix, count, seconds, connections] => {
            let seconds = Duration::from_secs_f64(seconds.parse()?);
            small(&client, bucket, prefix, count.parse()?, seconds, connections.parse()?).await
        }
        _ => Err("usage: transfer ENDPOINT SOCKET|- large BUCKET KEY TIMES, or small BUCKET PREFIX COUNT SECONDS CONNECTIONS".into()),
    }
}

async fn large(client: &Client, bucket: &str, key: &str, times: u32) -> Result<(), Box<dyn Error>> {
    let size = usize::try_from(client.head(bucket, key).await?.size)?;
    // Every page is there before the clock runs: giving them out is the kernel's work and not the transfer's.
    let mut buffer = vec![1; size];
    let begun = Instant::now();
    let mut via = "";
    for _ in 0..times {
        let (_, moved) = client
            .get_into(bucket, key, None, &Condition::default(), &mut buffer)
            .await?;
        via = moved.via.name();
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        r#"{{"via": "{via}", "bytes": {}, "seconds": {seconds}}}"#,
        size as u64 * u64::from(times)
    );
    Ok(())
}

async fn small(
    client: &Client,
    bucket: &str,
    prefix: &str,
    count: u64,
    limit: Duration,
    connections: u64,
) -> Result<(), Box<dyn Error>> {
    let (begun, next) = (Instant::now(), AtomicU64::new(0));
    let readers = (0..connections).map(|_| async {
        let (mut buffer, mut done, mut bytes, mut via) = (vec![0; 1 << 20], 0_u64, 0, "");
        while begun.elapsed() < limit {
            let key = format!("{prefix}{}", next.fetch_add(1, Ordering::Relaxed) % count);
            let (_, moved) = client
                .get_into(bucket, &key, None, &Condition::default(), &mut buffer)
                .await?;
            (done, bytes, via) = (done + 1, bytes + moved.bytes, moved.via.name());
        }
        Ok::<_, penstock_rdma::Error>((done, bytes, via))
    });
    let ended = futures::future::try_join_all(readers).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let (requests, bytes) = ended
        .iter()
        .fold((0, 0), |sum, (done, bytes, _)| (sum.0 + done, sum.1 + bytes));
    let via = ended.first().map_or("", |(_, _, via)| via);
    println!(r#"{{"via": "{via}", "requests": {requests}, "bytes": {bytes}, "seconds": {seconds}}}"#);
    Ok(())
}
