//! The path to clients on this host (docs/local-path.md).

use super::{Error, Serve};
use penstock_store::{
    local::Local,
    local_path::{self, Ledger, LocalServer, SocketOptions},
    metrics::Metrics,
    s3::Service,
};
use std::path::PathBuf;

/// The socket, who may connect, what is lent.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Clients on this host")]
pub struct LocalArgs {
    /// Unix socket that serves S3 too, and lends files to clients on this host.
    #[arg(
        long,
        env = "PENSTOCK_LOCAL_SOCKET",
        value_name = "PATH",
        conflicts_with = "local_sockets"
    )]
    local_socket: Option<PathBuf>,

    /// As --local-socket, at DIR/<identity of this node>.sock, where clients look that know only its address.
    #[arg(long, env = "PENSTOCK_LOCAL_SOCKETS", value_name = "DIR")]
    local_sockets: Option<PathBuf>,

    /// Permissions of the socket, in octal.
    #[arg(long, default_value = "0660", value_name = "MODE", value_parser = octal)]
    local_socket_mode: u32,

    /// User that may connect; can be repeated. Without it and --local-allow-gid: the user of this process alone.
    #[arg(long, value_name = "UID")]
    local_allow_uid: Vec<u32>,

    /// Group whose processes may connect; can be repeated.
    #[arg(long, value_name = "GID")]
    local_allow_gid: Vec<u32>,

    /// A read-only mount of the data folder. Files are lent through it, so that no borrower can open them for writing, not
    /// even one with the user id of this process, or root.
    #[arg(long, env = "PENSTOCK_LOCAL_VIEW", value_name = "DIR")]
    local_view: Option<PathBuf>,

    /// MiB of deleted objects that one user may keep from being freed by what it was lent; beyond it nothing is lent to it.
    #[arg(long, value_name = "MIB", default_value_t = 8192)]
    local_held_limit: u64,
}

impl LocalArgs {
    fn socket(&self, id: &str) -> Option<PathBuf> {
        let named = self
            .local_sockets
            .as_ref()
            .map(|folder| folder.join(format!("{id}.sock")));
        self.local_socket.clone().or(named)
    }
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("permissions are octal digits, as 0660".into()),
    }
}

/// Makes the socket for clients on this host, if there is to be one.
pub fn serve_locally(
    serve: &Serve,
    engine: &Local,
    door: Service,
    id: &str,
    metrics: &Metrics,
) -> Result<Option<LocalServer>, Error> {
    let args = &serve.local;
    let Some(path) = args.socket(id) else {
        return Ok(None);
    };
    match &args.local_view {
        Some(view) => engine.lend_through(view)?,
        None => tracing::info!(
            "lent files are not opened through a read-only mount (--local-view), so a client with this process' user id, or \
             root, could open them for writing"
        ),
    }
    penstock_service::limits::raise_open_files();
    let limits = local_path::Limits {
        held: args.local_held_limit.saturating_mul(1 << 20),
        ..local_path::Limits::default()
    };
    let options = SocketOptions {
        path: path.clone(),
        mode: args.local_socket_mode,
        uids: args.local_allow_uid.clone(),
        gids: args.local_allow_gid.clone(),
        max_connections: usize::try_from(serve.max_connections).unwrap_or(usize::MAX),
    };
    let server = LocalServer::bind(
        options,
        door,
        Ledger::new(limits, metrics.clone()),
        metrics.clone(),
    )?;
    println!("penstock-store serves clients on this host at {}", path.display());
    tracing::info!(socket = %path.display(), "serving clients on this host");
    Ok(Some(server))
}
