//! Writes whose every outcome is known: one writer has keys of its own and remembers what each may hold.

use crate::{crash::splitmix, pattern};
use futures::{TryStreamExt, stream};
use penstock_rdma::{Client, Condition, Error, ObjectHeaders, Options, PartId};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

pub const WRITERS: u64 = 6;
const KEYS: u64 = 8;
const PART: usize = 5 << 20;

/// What a key may hold: content by number, `None` for no object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fate {
    pub acknowledged: Option<u64>,
    /// What operations since then that failed or were cut would have made of it: each may have happened or not.
    pub open: Vec<Option<u64>>,
}

impl Fate {
    /// Only this may be there from now on.
    pub fn settle(&mut self, content: Option<u64>) {
        self.acknowledged = content;
        self.open.clear();
    }
}

pub type Fates = BTreeMap<String, Fate>;

/// The bytes of this number.
pub fn content(number: u64) -> bytes::Bytes {
    let length = match number % 64 {
        0 => PART + 1000,
        1..6 => 550_000 + (number % 500_000) as usize,
        6 => 0,
        _ => (number % 30_000) as usize,
    };
    pattern(number, length)
}

/// What the writers are told, and tell.
#[derive(Default)]
pub struct Signals {
    /// The storage node was killed, or is about to be: from here on nothing needs to succeed.
    pub killed: AtomicBool,
    /// The disk fails: writes may.
    pub failing: AtomicBool,
    /// The disk fails under the index, which is opened anew after that: whoever is reading meanwhile may fail.
    pub index_failing: AtomicBool,
    /// Writes that were acknowledged while the disk worked.
    pub acknowledged: AtomicU64,
}

pub struct Writer {
    pub client: Client,
    pub number: u64,
    pub random: u64,
    pub fates: Fates,
    pub signals: Arc<Signals>,
}

pub fn impatient() -> Options {
    Options {
        retries: 0,
        part_size: PART,
        ..Options::default()
    }
}

impl Writer {
    fn throw(&mut self) -> u64 {
        self.random = splitmix(self.random);
        self.random
    }

    fn key(&mut self) -> String {
        let key = self.throw() % KEYS;
        format!("writer-{}/key-{key}", self.number)
    }

    /// Writes, copies, deletes and reads its keys until the storage node is gone; or what is wrong.
    pub async fn run(mut self) -> Result<Fates, String> {
        while !self.signals.killed.load(Ordering::SeqCst) {
            let failing = self.signals.failing.load(Ordering::SeqCst);
            let key = self.key();
            let kind = self.throw() % 16;
            let (wanted, outcome) = match kind {
                0..8 => self.put(&key).await,
                8 => self.put_parts(&key).await,
                9..11 => self.copy(&key).await,
                11..13 => self.delete(&key).await,
                _ => {
                    self.read(&key).await?;
                    continue;
                }
            };
            let fate = self.fates.entry(key.clone()).or_default();
            match outcome {
                Ok(()) => {
                    fate.settle(wanted);
                    if !failing && !self.signals.failing.load(Ordering::SeqCst) {
                        self.signals.acknowledged.fetch_add(1, Ordering::SeqCst);
                    }
                }
                Err(error) => {
                    fate.open.push(wanted);
                    if self.signals.killed.load(Ordering::SeqCst) {
                        continue;
                    }
                    // The disk failed while it was written, or is still what failed before. An answer that comes before the body is
                    // taken ends the connection, and a node that is gone does not recover.
                    let may_fail = failing || self.signals.failing.load(Ordering::SeqCst);
                    let is_plain =
                        !matches!(&error, Error::Refused { status, .. } if !matches!(status, 500 | 507));
                    if !may_fail || !is_plain {
                        return Err(format!("{key}: {error}"));
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
        Ok(self.fates)
    }

    async fn put(&mut self, key: &str) -> (Option<u64>, Result<(), Error>) {
        let number = self.throw() >> 16;
        let body = content(number);
        let size = Some(body.len() as u64);
        let pieces: Vec<_> = body
            .chunks(100_000)
            .map(|piece| Ok(body.slice_ref(piece)))
            .collect();
        let (headers, always) = (ObjectHeaders::default(), Condition::default());
        let put = self
            .client
            .put("bucket", key, size, &headers, &always, stream::iter(pieces));
        (Some(number), put.await.map(drop))
    }

    /// An upload by hand: a part is replaced, and parts are left out at the end.
    async fn put_parts(&mut self, key: &str) -> (Option<u64>, Result<(), Error>) {
        let number = self.throw() >> 16;
        let (client, body) = (&self.client, content(number));
        let upload = async {
            let id = client
                .create_upload("bucket", key, &ObjectHeaders::default())
                .await?;
            let _replaced = client
                .upload_part("bucket", key, &id, 1, content(number ^ 1))
                .await?;
            let part = client.upload_part("bucket", key, &id, 1, body).await?;
            let _left_out = client
                .upload_part("bucket", key, &id, 2, content(number ^ 2))
                .await?;
            let parts = [PartId {
                number: part.number,
                etag: part.etag,
            }];
            let always = Condition::default();
            client
                .complete_upload("bucket", key, &id, &parts, &always)
                .await?;
            Ok(())
        };
        (Some(number), upload.await)
    }

    async fn copy(&mut self, to: &str) -> (Option<u64>, Result<(), Error>) {
        let from = self.key();
        // What is copied has to be known.
        let known = self.fates.get(&from).filter(|fate| fate.open.is_empty());
        match known.and_then(|fate| fate.acknowledged) {
            Some(number) if from != to => {
                let copied = self.client.copy(("bucket", &from), ("bucket", to), None).await;
                (Some(number), copied.map(drop))
            }
            _ => self.put(to).await,
        }
    }

    async fn delete(&mut self, key: &str) -> (Option<u64>, Result<(), Error>) {
        (None, self.client.delete("bucket", key).await)
    }

    /// What is read is what was acknowledged, also while the disk refuses what is written.
    async fn read(&mut self, key: &str) -> Result<(), String> {
        let fate = self.fates.get(key).cloned().unwrap_or_default();
        let index_failing = || self.signals.index_failing.load(Ordering::SeqCst);
        let began_failing = index_failing();
        let found = read(&self.client, "bucket", key).await;
        let may_fail = began_failing || index_failing();
        match found {
            Ok(found) => match holds(&fate, found.as_deref()) {
                Ok(_) => Ok(()),
                Err(cause) => Err(format!("{key}: {cause}")),
            },
            Err(_) if self.signals.killed.load(Ordering::SeqCst) => Ok(()),
            Err(Error::Refused { status: 500, .. }) if may_fail => Ok(()),
            Err(error) => Err(format!("{key} cannot be read: {error}")),
        }
    }
}

/// Which of the contents that a key may hold these bytes are.
pub fn holds(fate: &Fate, found: Option<&[u8]>) -> Result<Option<u64>, String> {
    let is = |number: &Option<u64>| found == number.map(content).as_deref();
    let mut allowed = [fate.acknowledged].into_iter().chain(fate.open.iter().copied());
    allowed.find(is).ok_or_else(|| {
        let length = found.map(<[u8]>::len);
        format!(
            "it holds {length:?} bytes, which is neither what was acknowledged nor what was cut: {fate:?}"
        )
    })
}

/// All bytes of an object, `None` where there is none.
pub async fn read(client: &Client, bucket: &str, key: &str) -> Result<Option<Vec<u8>>, Error> {
    let mut opened = match client.get(bucket, key, None, &Condition::default()).await {
        Ok(opened) => opened,
        Err(error) if error.code() == Some("NoSuchKey") => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    while let Some(piece) = opened.body.try_next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(Some(bytes))
}
