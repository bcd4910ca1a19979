//! The short form of fuzzing, on the pinned compiler: what is in the corpus, and for a second what is like it. It is included by the
//! unit tests of the packages whose parsers are fuzzed; no coverage leads it, so the long form (`make fuzz`) finds more.

use std::{
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

/// Inputs are cut to this length.
const LONGEST: usize = 4096;

/// Gives a target its corpus, `fuzz/corpus/<name>`, then mutations of it. A panic is reported with the bytes that lead to it.
pub fn run(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    let soak = std::env::var("PENSTOCK_SOAK").is_ok_and(|value| value == "1");
    mutate(&corpus, Duration::from_secs(if soak { 60 } else { 1 }), target);
}

/// The same for a corpus at hand.
pub fn mutate(corpus: &[Vec<u8>], time: Duration, target: fn(&[u8])) {
    assert!(!corpus.is_empty(), "there is no corpus");
    let seed = match std::env::var("PENSTOCK_FUZZ_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    };
    println!("PENSTOCK_FUZZ_SEED={seed}");
    let mut random = Random(seed | 1);
    for input in corpus {
        try_one(target, input);
    }
    let begun = Instant::now();
    while begun.elapsed() < time {
        let mut input = corpus[random.below(corpus.len())].clone();
        for _ in 0..=random.below(6) {
            random.change(&mut input, corpus);
        }
        input.truncate(LONGEST);
        try_one(target, &input);
    }
}

fn try_one(target: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let hex = input.iter().fold(String::new(), |mut hex, byte| {
            let _fits = write!(hex, "{byte:02x}");
            hex
        });
        println!(
            "this input fails (printf {hex} | xxd -r -p): {:?}",
            String::from_utf8_lossy(input)
        );
        resume_unwind(panic);
    }
}

/// Marsaglia's xorshift: a seed is all there is to know of a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// One change of the kinds that libFuzzer makes.
    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        const TELLING: [&[u8]; 12] = [
            b"\0",
            b"\xff",
            b"\xff\xff\xff\xff",
            b"\xff\xff\xff\x7f",
            b"0",
            b"18446744073709551615",
            b"4294967296",
            b"ffffffff",
            b":",
            b";",
            b"\r\n",
            b"\xc3\xa9",
        ];
        let at = self.below(input.len() + 1);
        let end = (at + 1 + self.below(8)).min(input.len());
        match self.below(8) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.next() as u8,
            2 if at < end => drop(input.drain(at..end)),
            3 if at < end => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            4 => input.truncate(at),
            5 => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len() + 1);
                input.splice(at.., other[from..].iter().copied());
            }
            6 => {
                let bytes = TELLING[self.below(TELLING.len())];
                let until = (at + bytes.len()).min(input.len());
                input.splice(at..until, bytes.iter().copied());
            }
            _ => {
                let bytes = TELLING[self.below(TELLING.len())];
                input.splice(at..at, bytes.iter().copied());
            }
        }
    }
}
