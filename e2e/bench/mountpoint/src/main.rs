//! Mountpoint for Amazon S3 with the settings of its command `mount-s3` on a machine that is not EC2, and deleting and
//! overwriting allowed. usage: mount-s3 BUCKET DIR URL; keys come from the environment.

use anyhow::Context;
use mountpoint_s3_client::{config::AddressingStyle, user_agent::UserAgent};
use mountpoint_s3_fs::{
    MountpointConfig, Runtime, S3FilesystemConfig, Superblock, SuperblockConfig,
    data_cache::DataCacheConfig,
    fuse::config::{FuseOptions, FuseSessionConfig, MountPoint},
    memory::{CandidateSize, PagedPool},
    s3::{
        Bucket, S3Path,
        config::{ClientConfig, MemoryLimitSetting, PartConfig, Region, TargetThroughputSetting},
    },
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const PART: usize = 8 << 20;
const MEMORY: usize = 4 << 30;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bucket, folder, url] = arguments.as_slice() else {
        anyhow::bail!("usage: mount-s3 BUCKET DIR URL");
    };
    let settings = S3FilesystemConfig {
        allow_delete: true,
        allow_overwrite: true,
        ..S3FilesystemConfig::default()
    };
    let client = ClientConfig {
        region: Region::new_user_specified("us-east-1".to_owned()),
        endpoint_url: Some(url.clone()),
        addressing_style: AddressingStyle::Path,
        dual_stack: false,
        transfer_acceleration: false,
        auth_config: Default::default(),
        requester_pays: false,
        expected_bucket_owner: None,
        throughput_target: TargetThroughputSetting::Default,
        bind: None,
        part_config: PartConfig::with_part_size(PART).validate(MemoryLimitSetting::Default(MEMORY))?,
        user_agent: UserAgent::new(None),
        tls_config: None,
    };
    let pool = PagedPool::config()
        .with_candidate_sizes([CandidateSize::new(PART)])
        .with_memory_limit(MEMORY)
        .build();
    let path = S3Path::new(Bucket::new(bucket)?, Default::default());
    let client = client.create_client(pool.clone(), Some(&path))?;
    let runtime = Runtime::new(client.event_loop_group());
    let names = Superblock::new(
        client.clone(),
        path,
        SuperblockConfig {
            cache_config: settings.cache_config.clone(),
            s3_personality: settings.s3_personality,
        },
    );
    let options = FuseOptions {
        allow_other: true,
        ..FuseOptions::default()
    };
    let fuse = FuseSessionConfig::new(MountPoint::new(folder)?, options, 16)?;
    MountpointConfig::new(fuse, settings, DataCacheConfig::default())?
        .create_fuse_session(names, client, runtime, pool)
        .context("cannot mount")?
        .join()
        .context("the session failed")
}
