//! `penstock-store key`.

use super::{
    Connection, Error, Output,
    words::{moment, scope, scope_shown, time_shown},
};
use penstock_rdma::admin::{Access, KeyInfo, KeyRequest};
use time::OffsetDateTime;

/// Keys beside the root key: limited to buckets and prefixes, for as long as they are good for something.
#[derive(Debug, clap::Subcommand)]
pub enum KeyCommand {
    /// Make a key; its secret is told this once.
    Create(Create),
    /// Tell of all keys.
    List(List),
    /// Take a key away. From then on it gives access to nothing.
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("scopes").required(true).multiple(true).args(["read", "read_write"]))]
pub struct Create {
    /// What the key is for, and what bucket policies call it (arn:aws:iam::penstock:user/NAME).
    #[arg(long, value_name = "NAME")]
    name: String,

    /// Bucket, or bucket and the beginning of keys, that may be listed and read; can be repeated. A star at the end of the
    /// bucket stands for all that begin so.
    #[arg(long, value_name = "BUCKET[/PREFIX]")]
    read: Vec<String>,

    /// The same, to write and delete as well.
    #[arg(long, value_name = "BUCKET[/PREFIX]")]
    read_write: Vec<String>,

    /// When the key ends: 2030-01-31T12:00:00Z, or how long from now as 30d, 12h, 45m. Never, without.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    expires: Option<OffsetDateTime>,

    #[arg(long, value_enum, default_value = "text")]
    output: Output,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub struct List {
    #[arg(long, value_enum, default_value = "text")]
    output: Output,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub struct Revoke {
    /// The access key, as `key list` tells it.
    #[arg(value_name = "ACCESS-KEY")]
    access_key: String,

    #[command(flatten)]
    connection: Connection,
}

impl KeyCommand {
    pub async fn run(&self) -> Result<(), Error> {
        match self {
            Self::Create(create) => create.run().await,
            Self::List(list) => list.run().await,
            Self::Revoke(revoke) => {
                let client = revoke.connection.open()?;
                client.revoke_key(&revoke.access_key).await?;
                println!("revoked {}", revoke.access_key);
                Ok(())
            }
        }
    }
}

impl Create {
    async fn run(&self) -> Result<(), Error> {
        let scopes =
            |texts: &[String], access| -> Vec<_> { texts.iter().map(|text| scope(text, access)).collect() };
        let mut all = scopes(&self.read, Access::Read);
        all.extend(scopes(&self.read_write, Access::ReadWrite));
        let request = KeyRequest {
            name: self.name.clone(),
            scopes: all,
            expires: self.expires,
        };
        let made = self.connection.open()?.create_key(&request).await?;
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&made)?),
            Output::Text => {
                println!("access key: {}", made.info.access_key_id);
                println!("secret key: {}", made.secret_access_key);
                tell(&made.info);
            }
        }
        Ok(())
    }
}

impl List {
    async fn run(&self) -> Result<(), Error> {
        let keys = self.connection.open()?.keys().await?;
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&keys)?),
            Output::Text if keys.is_empty() => println!("there is no key beside the root key"),
            Output::Text => {
                for (place, key) in keys.iter().enumerate() {
                    if place > 0 {
                        println!();
                    }
                    println!("access key: {}", key.access_key_id);
                    tell(key);
                }
            }
        }
        Ok(())
    }
}

fn tell(key: &KeyInfo) {
    println!("name:       {}", key.name);
    for scope in &key.scopes {
        println!("scope:      {}", scope_shown(scope));
    }
    println!("created:    {}", time_shown(Some(key.created)));
    println!("expires:    {}", time_shown(key.expires));
}
