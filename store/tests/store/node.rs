//! The real storage node as a process, which ends with the test.

use penstock_rdma::{Client, Credentials, Options};
use penstock_store::remote::Remote;
use std::{
    ffi::OsString,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

pub const ACCESS: &str = "test-access-key";
pub const SECRET: &str = "test-secret-key";

pub struct Node {
    child: Child,
    pub endpoint: String,
}

impl Node {
    /// Starts a storage node on a free loopback port and waits until it serves.
    pub fn start(data: &Path, more: &[&str]) -> Self {
        Self::try_start(data, more).expect("the storage node ended instead of serving")
    }

    pub fn try_start(data: &Path, more: &[&str]) -> Option<Self> {
        Self::start_in(data, more, Vec::new())
    }

    /// As [`Node::try_start`], with more in its environment.
    pub fn start_in(data: &Path, more: &[&str], environment: Vec<(&str, OsString)>) -> Option<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_penstock-store"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(more)
            .env("PENSTOCK_ROOT_ACCESS_KEY", ACCESS)
            .env("PENSTOCK_ROOT_SECRET_KEY", SECRET)
            .env("RUST_LOG", "warn,s3s=off")
            .envs(environment)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let endpoint = loop {
            let Some(line) = lines.next() else {
                child.wait().unwrap();
                return None;
            };
            if let Some((_, endpoint)) = line.unwrap().split_once(" serves S3 at ") {
                break endpoint.to_owned();
            }
        };
        Some(Self { child, endpoint })
    }

    pub fn client(&self, options: Options) -> Client {
        let endpoint = self.endpoint.parse().unwrap();
        Client::new(endpoint, Credentials::new(ACCESS, SECRET), options).unwrap()
    }

    pub fn remote(&self) -> Remote {
        Remote::new(self.client(Options::default()))
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; returns whether it ended well, within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> bool {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let begun = std::time::Instant::now();
        while begun.elapsed() < limit {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}

/// All files below `folder`, by what is below it.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}
