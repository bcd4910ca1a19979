//! The driver's processes and a storage node, in a folder of their own. They end with this value, and so does what they left
//! mounted; they die with the thread that started them, too, if that has no time to end them.

use penstock_csi::access::Access;
use penstock_store::{
    engine::{Engine, ListQuery},
    remote::Remote,
};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};
use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const ACCESS_KEY: &str = "test-access-key";
const SECRET_KEY: &str = "never-to-be-seen-in-a-log";
/// The agent's user, as in the chart.
const AGENT: u32 = 65532;
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// A driver that runs.
pub struct Driver {
    processes: Vec<Process>,
    endpoint: String,
    folder: TempDir,
}

struct Process {
    name: &'static str,
    child: Child,
    output: ChildStdout,
}

impl Driver {
    pub fn start() -> Self {
        let mut driver = Self {
            processes: Vec::new(),
            endpoint: String::new(),
            folder: tempfile::tempdir().unwrap(),
        };
        // The agent walks through the folder and makes its socket in a folder of its own.
        fs::set_permissions(driver.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(driver.at("run")).unwrap();
        chown(driver.at("run"), Some(AGENT), Some(AGENT)).unwrap();
        let path = |name: &str| driver.at(name).to_str().unwrap().to_owned();
        let (store, state, agent) = (path("store"), path("state"), path("run/agent.sock"));
        let (node, controller) = (driver.node_endpoint(), driver.controller_endpoint());

        let csi = Path::new(env!("CARGO_BIN_EXE_penstock-csi"));
        let storage = csi.with_file_name("penstock-store");
        assert!(
            storage.exists(),
            "{} is missing: cargo build -p penstock-store",
            storage.display()
        );
        driver.spawn(
            "store",
            &storage,
            0,
            &["serve", "--listen", "127.0.0.1:0", "--data", &store],
        );
        driver.spawn(
            "controller",
            csi,
            0,
            &["controller", "--csi-endpoint", &controller],
        );
        driver.spawn(
            "agent",
            csi,
            AGENT,
            &["agent", "--socket", &agent, "--state-dir", &state],
        );
        let arguments = [
            "node",
            "--node-name",
            "here",
            "--no-registration",
            "--csi-endpoint",
            &node,
        ];
        let of_agent = ["--agent-socket", &agent, "--agent-state-dir", &state];
        driver.spawn("node", csi, 0, &[&arguments[..], &of_agent].concat());

        driver.endpoint = driver.told_endpoint();
        for socket in ["controller.sock", "node.sock", "run/agent.sock"] {
            driver.wait(&format!("{socket} is there"), || driver.at(socket).exists());
        }
        driver
    }

    /// A path in the driver's folder.
    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn controller_endpoint(&self) -> String {
        format!("unix://{}", self.at("controller.sock").display())
    }

    pub fn node_endpoint(&self) -> String {
        format!("unix://{}", self.at("node.sock").display())
    }

    /// How the storage node is reached.
    pub fn access(&self) -> Access {
        Access {
            endpoint: self.endpoint.clone(),
            region: "us-east-1".into(),
            access_key_id: ACCESS_KEY.into(),
            secret_access_key: SECRET_KEY.into(),
            ca_pem: None,
        }
    }

    /// The storage node, for looking past the driver.
    pub fn storage(&self) -> Remote {
        self.access().engine().unwrap()
    }

    /// Every object of the storage node, as `bucket/key`, and `bucket/` for each bucket.
    pub async fn stored(&self) -> Vec<String> {
        let storage = self.storage();
        let mut all = Vec::new();
        for bucket in storage.buckets().await.unwrap() {
            let query = ListQuery {
                limit: 1000,
                ..ListQuery::default()
            };
            let page = storage.list(&bucket.name, &query).await.unwrap();
            all.push(format!("{}/", bucket.name));
            all.extend(
                page.objects
                    .into_iter()
                    .map(|(key, _)| format!("{}/{key}", bucket.name)),
            );
        }
        all
    }

    /// What is mounted below the driver's folder.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        let points = table
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .map(PathBuf::from);
        points
            .filter(|point| point.starts_with(self.folder.path()))
            .collect()
    }

    /// Everything that the processes have logged so far.
    pub fn logs(&self) -> String {
        let log =
            |process: &Process| fs::read_to_string(self.at(process.name).with_extension("log")).unwrap();
        self.processes
            .iter()
            .map(|process| format!("== {}\n{}", process.name, log(process)))
            .collect()
    }

    /// Fails when a key shows in a log, or when a process has ended.
    pub fn must_be_sound(&mut self) {
        assert!(
            !self.logs().contains(SECRET_KEY),
            "a secret key was logged:\n{}",
            self.logs()
        );
        for process in &mut self.processes {
            let ended = process.child.try_wait().unwrap();
            assert!(ended.is_none(), "{} has ended: {ended:?}", process.name);
        }
    }

    fn spawn(&mut self, name: &'static str, program: &Path, user: u32, arguments: &[&str]) {
        let log = fs::File::create(self.at(name).with_extension("log")).unwrap();
        let user = user.to_string();
        let mut child = Command::new("setpriv")
            .args([
                "--pdeathsig=KILL",
                "--reuid",
                &user,
                "--regid",
                &user,
                "--clear-groups",
                "--",
            ])
            .arg(program)
            .args(arguments)
            .env("PENSTOCK_ROOT_ACCESS_KEY", ACCESS_KEY)
            .env("PENSTOCK_ROOT_SECRET_KEY", SECRET_KEY)
            .env("RUST_LOG", "info,s3s=off")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("setpriv (util-linux) runs");
        let output = child.stdout.take().unwrap();
        self.processes.push(Process { name, child, output });
    }

    /// The endpoint that the storage node prints once it serves.
    fn told_endpoint(&mut self) -> String {
        let output = &mut self.processes[0].output;
        let mut lines = BufReader::new(output).lines().map(Result::unwrap);
        let told = lines.find_map(|line| Some(line.split_once(" serves S3 at ")?.1.to_owned()));
        told.unwrap_or_else(|| panic!("the storage node has ended:\n{}", self.logs()))
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(
                begun.elapsed() < PATIENCE,
                "waited in vain until {what}:\n{}",
                self.logs()
            );
            sleep(POLL);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        // The last one first: what is staged goes to the storage node before that ends.
        while let Some(mut process) = self.processes.pop() {
            process.end();
        }
        let mut left = self.mounts();
        left.sort();
        for point in left.iter().rev() {
            if let Err(error) = unmount(point, UnmountFlags::DETACH) {
                eprintln!("{} stays mounted: {error}", point.display());
            }
        }
    }
}

impl Process {
    /// SIGTERM, and SIGKILL to what does not end by that.
    fn end(&mut self) {
        let begun = Instant::now();
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ended_already = kill_process(pid, Signal::TERM);
        }
        while begun.elapsed() < PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            sleep(POLL);
        }
        eprintln!("{} does not end and is killed", self.name);
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}
