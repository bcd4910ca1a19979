//! Moves objects between a storage node and GPU memory, and says how fast it went, for `e2e/bench`.
//!
//! ```sh
//! gpu_transfer ENDPOINT get|put BUCKET SIZE TIMES [SOCKET]    objects, by the best way there is
//! gpu_transfer ceiling SIZE TIMES                             the driver's own copies, from pinned and from other memory
//! ```
//! With `GPU_READS_FILES=1` the GPU reads lent files from the page cache; else they are copied into pinned memory.
//! The key pair comes from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. It prints one line of JSON.

use penstock_rdma::{
    Client, Condition, Credentials, ObjectHeaders, Options, Via,
    fabric::{Foreign, Purpose, Rails},
    gpu::{Gpu, GpuInfo, GpuMemory, Pinning, cuda},
    verbs,
};
use std::{error::Error, time::Instant};

const USAGE: &str =
    "usage: gpu_transfer ENDPOINT get|put BUCKET SIZE TIMES [SOCKET] | gpu_transfer ceiling SIZE TIMES";

/// What to move.
struct Work<'a> {
    endpoint: &'a str,
    get: bool,
    bucket: &'a str,
    size: usize,
    times: u32,
    socket: Option<&'a str>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["ceiling", size, times] = words[..] {
        return ceiling(&cuda::open(0)?, size.parse()?, times.parse()?);
    }
    let [
        endpoint,
        direction @ ("get" | "put"),
        bucket,
        size,
        times,
        socket @ ..,
    ] = &words[..]
    else {
        return Err(USAGE.into());
    };
    let work = Work {
        endpoint,
        get: *direction == "get",
        bucket,
        size: size.parse()?,
        times: times.parse()?,
        socket: socket.first().copied(),
    };
    let gpu = cuda::open(0)?;
    gpu.set_reads_files(std::env::var("GPU_READS_FILES").is_ok_and(|value| value == "1"));
    transfer(&gpu, &work).await
}

/// One buffer of `size` bytes, copied `times` times each way.
fn ceiling(gpu: &Gpu, size: usize, times: u32) -> Result<(), Box<dyn Error>> {
    let memory = gpu.allocate(size)?;
    let mut pinned = gpu.host_memory(size)?;
    let mut plain = vec![1_u8; size];
    pinned[..size].fill(1);
    let there = memory.allocation();
    let timed = |copy: &mut dyn FnMut() -> Result<(), Box<dyn Error>>| {
        copy()?;
        let begun = Instant::now();
        for _ in 0..times {
            copy()?;
        }
        Ok::<_, Box<dyn Error>>(f64::from(times) * size as f64 / begun.elapsed().as_secs_f64())
    };
    let in_pinned = timed(&mut || Ok(there.write(0, &pinned[..size])?))?;
    let in_plain = timed(&mut || Ok(there.write(0, &plain)?))?;
    let out_pinned = timed(&mut || Ok(there.read(0, &mut pinned[..size])?))?;
    let out_plain = timed(&mut || Ok(there.read(0, &mut plain)?))?;
    let GpuInfo { name, exports, .. } = gpu.info();
    println!(
        r#"{{"gpu": "{name}", "exports": {exports}, "exported": {}, "in_pinned": {in_pinned:.0}, "in_plain": {in_plain:.0}, "out_pinned": {out_pinned:.0}, "out_plain": {out_plain:.0}}}"#,
        memory.dma_buf().is_some()
    );
    Ok(())
}

async fn transfer(gpu: &Gpu, work: &Work<'_>) -> Result<(), Box<dyn Error>> {
    let options = Options {
        rails: Some(Rails::watch(
            Pinning::new(
                verbs::Machine::new(verbs::Options::default(), Purpose::Windows),
                gpu.clone(),
            ),
            verbs::PAUSE,
        )),
        local_socket: work.socket.map(Into::into),
        part_size: 64 << 20,
        ..Options::default()
    };
    let credentials = Credentials::new(
        std::env::var("AWS_ACCESS_KEY_ID")?,
        std::env::var("AWS_SECRET_ACCESS_KEY")?,
    );
    let client = Client::new(work.endpoint.parse()?, credentials, options)?;
    match client.create_bucket(work.bucket).await {
        Err(error) if error.code() != Some("BucketAlreadyOwnedByYou") => return Err(error.into()),
        _ => {}
    }
    let mut memory = gpu.allocate(work.size)?;
    memory.allocation().write(0, &vec![0x5a; work.size])?;
    // The first time is for connections, and for memory that is pinned once.
    let (mut begun, mut used, mut how) = (Instant::now(), 0.0, (Via::Http, None));
    for number in 0..=work.times {
        if number == 1 {
            (begun, used) = (Instant::now(), processor_seconds()?);
        }
        (memory, how) = once(&client, work, memory).await?;
    }
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), processor_seconds()? - used);
    let bytes = work.size as u64 * u64::from(work.times);
    let (via, staged) = (how.0.name(), how.1.is_some());
    println!(
        r#"{{"bytes": {bytes}, "seconds": {seconds}, "cpu": {cpu}, "via": "{via}", "staged": {staged}}}"#
    );
    client.disconnect().await;
    Ok(())
}

type How = (Via, Option<String>);

async fn once(
    client: &Client,
    work: &Work<'_>,
    memory: GpuMemory,
) -> Result<(GpuMemory, How), Box<dyn Error>> {
    let (always, all) = (Condition::default(), 0..work.size);
    if work.get {
        let (memory, landed) = client
            .get_into_gpu(work.bucket, "object", None, &always, memory, all)
            .await;
        let landed = landed?;
        if landed.moved.bytes != work.size as u64 {
            return Err(format!("the object has {} bytes", landed.moved.bytes).into());
        }
        return Ok((memory, (landed.moved.via, landed.staged)));
    }
    let (memory, sent) = client
        .put_from_gpu(
            work.bucket,
            "object",
            &ObjectHeaders::default(),
            &always,
            memory,
            all,
        )
        .await;
    let sent = sent?;
    Ok((memory, (sent.written.moved.via, sent.staged)))
}

/// User and system time of this process (`proc_pid_stat(5)`, in ticks of 10 ms on every Linux).
fn processor_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/self/stat is odd")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || {
        fields
            .next()
            .and_then(|text| text.parse::<f64>().ok())
            .ok_or("/proc/self/stat is odd")
    };
    Ok((ticks()? + ticks()?) / 100.0)
}
