//! Moves objects by RDMA between registered memory and a storage node, and says how fast it went, for `e2e/bench`.
//!
//! ```sh
//! rdma_transfer ENDPOINT get|get-unverified|put BUCKET SIZE TIMES CLIENTS
//! ```
//! Each client has the device, a session and an object (`object-0` …) for itself, and moves it TIMES times, one after the other;
//! all clients at once. `get` reads what `put` has written; `get-unverified` does not compare the bytes with their checksum. The key pair comes from `AWS_ACCESS_KEY_ID` and
//! `AWS_SECRET_ACCESS_KEY`, the storage node's CA from the file `AWS_CA_BUNDLE`, if that is set. It prints one line of JSON.

use penstock_rdma::{
    Client, Condition, Credentials, ObjectHeaders, Options, Policy, Via,
    fabric::{Memory, Rails},
    verbs,
};
use std::{error::Error, time::Instant};

const USAGE: &str = "usage: rdma_transfer ENDPOINT get|get-unverified|put BUCKET SIZE TIMES CLIENTS";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [
        endpoint,
        work @ ("get" | "get-unverified" | "put"),
        bucket,
        size,
        times,
        clients,
    ] = words[..]
    else {
        return Err(USAGE.into());
    };
    let (size, times, clients): (usize, u64, usize) = (size.parse()?, times.parse()?, clients.parse()?);
    let mut ready = Vec::new();
    for number in 0..clients {
        ready.push(Mover::prepare(endpoint, bucket, number, size, work != "get-unverified").await?);
    }
    let begun = Instant::now();
    let before = processor_seconds()?;
    let moving = ready.iter_mut().map(|mover| async move {
        for _ in 0..times {
            mover.step(work != "put").await?;
        }
        Ok::<_, Box<dyn Error>>(())
    });
    futures::future::try_join_all(moving).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let used = processor_seconds()? - before;
    let bytes = size as u64 * times * clients as u64;
    println!(r#"{{"bytes": {bytes}, "seconds": {seconds}, "cpu": {used}}}"#);
    for mover in ready {
        mover.client.disconnect().await;
    }
    Ok(())
}

struct Mover {
    client: Client,
    bucket: String,
    key: String,
    size: usize,
    /// Away while an operation has it.
    memory: Option<Memory>,
}

impl Mover {
    /// Connected, with memory that is registered: both happen once in the life of a client.
    async fn prepare(
        endpoint: &str,
        bucket: &str,
        number: usize,
        size: usize,
        verify: bool,
    ) -> Result<Self, Box<dyn Error>> {
        let device = verbs::open(&verbs::Options::default())?;
        let options = Options {
            policy: Policy::Require,
            rails: Some(Rails::of([device])),
            verify,
            ca_pem: std::env::var_os("AWS_CA_BUNDLE").map(std::fs::read).transpose()?,
            ..Options::default()
        };
        let credentials = Credentials::new(
            std::env::var("AWS_ACCESS_KEY_ID")?,
            std::env::var("AWS_SECRET_ACCESS_KEY")?,
        );
        let client = Client::new(endpoint.parse()?, credentials, options)?;
        let way = client.way().await?;
        if way.via != Via::Rdma {
            return Err(format!("there is no RDMA: {}", way.why.unwrap_or_default()).into());
        }
        match client.create_bucket(bucket).await {
            Err(error) if error.code() != Some("BucketAlreadyOwnedByYou") => return Err(error.into()),
            _ => {}
        }
        let mut memory = client.memory(size, None).await?;
        memory[..size].fill(u8::try_from(number % 256)?);
        Ok(Self {
            client,
            bucket: bucket.to_owned(),
            key: format!("object-{number}"),
            size,
            memory: Some(memory),
        })
    }

    async fn step(&mut self, get: bool) -> Result<(), Box<dyn Error>> {
        let (client, always) = (&self.client, Condition::default());
        let memory = self.memory.take().ok_or("the memory was not given back")?;
        let moved = if get {
            let (memory, outcome) = client
                .get_into_memory(&self.bucket, &self.key, None, &always, memory, 0..self.size)
                .await;
            self.memory = Some(memory);
            outcome?.1
        } else {
            let headers = ObjectHeaders::default();
            let (memory, outcome) = client
                .put_from_memory(&self.bucket, &self.key, &headers, &always, memory, 0..self.size)
                .await;
            self.memory = Some(memory);
            outcome?.moved
        };
        if moved.via != Via::Rdma || moved.bytes != self.size as u64 {
            return Err(format!("{} bytes went by {}", moved.bytes, moved.via.name()).into());
        }
        Ok(())
    }
}

/// User and system time of this process (`proc_pid_stat(5)`, in ticks of 10 ms on every Linux).
fn processor_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/self/stat is odd")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // Counted from the state, which is field 3.
    let ticks = |field: usize| {
        fields
            .get(field - 3)
            .and_then(|text| text.parse::<f64>().ok())
            .ok_or("/proc/self/stat is odd")
    };
    Ok((ticks(14)? + ticks(15)?) / 100.0)
}
