//! Files that the storage node lends, into GPU memory of the same host; with `PENSTOCK_TEST_GPU=cuda` into that of a real GPU.

use crate::{local_path::Host, node::files, pattern};
use penstock_rdma::{
    Condition, Error, ObjectHeaders, Range, Via,
    gpu::{Gpu, cuda, fake::FakeGpu},
};
use std::os::unix::fs::FileExt;

fn gpu() -> Gpu {
    match std::env::var("PENSTOCK_TEST_GPU").as_deref() {
        Ok("cuda") => cuda::open(0).expect("a GPU"),
        _ => FakeGpu::create(true).0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lent_files_reach_the_gpu_and_come_back() {
    let gpu = gpu();
    // By copies, and by DMA from the page cache where the driver can.
    for reads_files in [false, true] {
        gpu.set_reads_files(reads_files);
        round_trips(&gpu).await;
    }
}

async fn round_trips(gpu: &Gpu) {
    let host = Host::start().await;
    let client = host.local();
    let (headers, always) = (ObjectHeaders::default(), Condition::default());
    for (number, size) in [0, 1, 4097, 4 << 20, (37 << 20) + 11].into_iter().enumerate() {
        let (key, content) = (format!("k{size}"), pattern(number as u64, size));
        let memory = gpu.allocate(size + 4096).unwrap();
        memory.allocation().write(100, &content).unwrap();
        let (memory, sent) = client
            .put_from_gpu("bucket", &key, &headers, &always, memory, 100..100 + size)
            .await;
        let sent = sent.unwrap();
        assert_eq!(sent.written.moved.bytes, size as u64);
        let memory = if size > 0 {
            assert_eq!(sent.written.moved.via, Via::Shm);
            memory.allocation().write(0, &vec![0; size + 4096]).unwrap();
            let (memory, landed) = client
                .get_into_gpu("bucket", &key, None, &always, memory, 7..7 + size)
                .await;
            let landed = landed.unwrap();
            assert_eq!((landed.moved.bytes, landed.moved.via), (size as u64, Via::Shm));
            assert!(landed.staged.unwrap().contains("on this host"));
            assert_eq!(landed.moved.checksum, sent.written.crc64nvme);
            memory
        } else {
            memory
        };
        let mut back = vec![0; size];
        memory.allocation().read(7, &mut back).unwrap();
        assert!(size == 0 || back == content, "{size}");
    }
    let range = Range::From {
        first: 5_000_000,
        last: Some(14_999_999),
    };
    let memory = gpu.allocate(10_000_000).unwrap();
    let (memory, landed) = client
        .get_into_gpu("bucket", "k38797323", Some(range), &always, memory, 0..10_000_000)
        .await;
    assert_eq!(landed.unwrap().moved.bytes, 10_000_000);
    let mut back = vec![0; 10_000_000];
    memory.allocation().read(0, &mut back).unwrap();
    assert!(back == pattern(4, (37 << 20) + 11)[5_000_000..15_000_000]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_on_the_disk_is_found_on_the_way_to_the_gpu() {
    let (host, gpu) = (Host::start().await, gpu());
    let client = host.local();
    host.put("k", &pattern(1, 9 << 20)).await;
    let data = files(&host.folder.path().join("data").join("data"));
    let file = std::fs::OpenOptions::new().write(true).open(&data[0]).unwrap();
    file.write_all_at(b"damaged", 5 << 20).unwrap();
    let memory = gpu.allocate(9 << 20).unwrap();
    let always = Condition::default();
    let (memory, landed) = client
        .get_into_gpu("bucket", "k", None, &always, memory, 0..9 << 20)
        .await;
    assert!(matches!(landed, Err(Error::Damaged)), "{landed:?}");
    assert_eq!(memory.len(), 9 << 20, "the memory comes back");
}
