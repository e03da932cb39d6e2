//! A Google Cloud Storage: fake-gcs-server behind `e2e/gcs`, one for a world, on a free port of 127.0.0.1.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use crate::daemon::Daemon;
use crate::parts;
use crate::world::World;

/// The server, with one bucket and one service account that may use it. It ends with the world.
#[derive(Debug)]
pub struct Gcs {
    port: u16,
    account: ServiceAccount,
    _daemon: Daemon,
}

/// A service account with a key of its own.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    /// Its key, as Google writes it: JSON.
    pub key: String,
    public_key: PathBuf,
}

impl Gcs {
    /// Starts a server with a bucket.
    ///
    /// # Errors
    /// If openssl or the part is missing or it does not answer; with its log.
    pub async fn start(world: &World, bucket: &str) -> Result<Self> {
        let data = world.make_dir("gcs")?;
        let account = ServiceAccount::create(world, "gcs-account").await?;
        let program = world.reachable(&parts::gcs()?)?;
        let command = |port: u16| {
            let mut command = world.command(&program);
            command
                .args(["-listen", &format!("127.0.0.1:{port}"), "-bucket", bucket])
                .arg("-data")
                .arg(&data)
                .arg("-public-key")
                .arg(&account.public_key)
                .env("GOMAXPROCS", "2");
            command
        };
        let log = world.path("log/gcs.log");
        let (daemon, port) = Daemon::on_free_port("fake-gcs-server", &log, command).await?;
        Ok(Self {
            port,
            account,
            _daemon: daemon,
        })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Who may use the bucket.
    pub fn account(&self) -> &ServiceAccount {
        &self.account
    }
}

impl ServiceAccount {
    /// Makes one. A server that was started with another does not let it in.
    ///
    /// # Errors
    /// If openssl is missing.
    pub async fn create(world: &World, name: &str) -> Result<Self> {
        let key = world.path(&format!("home/{name}.pem"));
        let public_key = world.path(&format!("home/{name}.pub"));
        let mut openssl = world.command("openssl");
        openssl
            .args(["genpkey", "-quiet", "-algorithm", "RSA", "-out"])
            .arg(&key);
        world.run(openssl).await?.success()?;
        let mut openssl = world.command("openssl");
        openssl
            .args(["pkey", "-pubout", "-in"])
            .arg(&key)
            .arg("-out")
            .arg(&public_key);
        world.run(openssl).await?.success()?;
        let key = json!({
            "type": "service_account",
            "project_id": "test",
            "private_key_id": name,
            "private_key": std::fs::read_to_string(&key)?,
            "client_email": format!("{name}@test.iam.gserviceaccount.com"),
        });
        Ok(Self {
            key: key.to_string(),
            public_key,
        })
    }
}
