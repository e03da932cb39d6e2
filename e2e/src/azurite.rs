//! An Azure Blob Storage: Azurite, one for a world, on a free port of 127.0.0.1.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::daemon::Daemon;
use crate::parts;
use crate::world::World;

/// The storage account of every test server.
pub const ACCOUNT: &str = "holdfasttest";
/// Its key.
pub const ACCOUNT_KEY: &str =
    "aG9sZGZhc3QtdGVzdC1ob2xkZmFzdC10ZXN0LWhvbGRmYXN0LXRlc3QtaG9sZGZhc3Q=";

/// The version of the protocol by which signatures are made.
const VERSION: &str = "2022-11-02";
/// Until when they are good.
const EXPIRY: &str = "2099-01-01T00:00:00Z";

/// An Azurite server for blobs. It ends with the world.
#[derive(Debug)]
pub struct Azurite {
    port: u16,
    _daemon: Daemon,
}

impl Azurite {
    /// Starts a server.
    ///
    /// # Errors
    /// If the part is missing or it does not answer; with its log.
    pub async fn start(world: &World) -> Result<Self> {
        let data = world.make_dir("azurite")?;
        let program: PathBuf = world.reachable(&parts::azurite()?)?.join("blob.js");
        let command = |port: u16| {
            let mut command = world.command("node");
            command
                .arg(&program)
                .args(["--silent", "--disableTelemetry", "--blobHost", "127.0.0.1"])
                .args(["--blobPort", &port.to_string(), "--location"])
                .arg(&data)
                .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{ACCOUNT_KEY}"));
            command
        };
        let log = world.path("log/azurite.log");
        let (daemon, port) = Daemon::on_free_port("Azurite", &log, command).await?;
        Ok(Self {
            port,
            _daemon: daemon,
        })
    }

    /// The account's address.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)
    }

    /// Makes a container.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn container(&self, name: &str) -> Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let request = format!(
            "PUT /{ACCOUNT}/{name}?restype=container&{} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
            signature_of_the_account()?
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.lines().next().unwrap_or_default();
        ensure!(status.contains(" 201"), "making the container: {answer}");
        Ok(())
    }
}

/// A shared access signature of a container, with letters of what it allows: `r`ead, `c`reate, `w`rite (overwrite, too),
/// `d`elete and `l`ist, in the order of `rcwdl`.
///
/// # Errors
/// Never, as long as the key is base64.
pub fn shared_access_signature(container: &str, permissions: &str) -> Result<String> {
    // Neither a start nor a policy nor an address nor a protocol; no snapshot, no encryption scope, no headers.
    let text = format!(
        "{permissions}\n\n{EXPIRY}\n/blob/{ACCOUNT}/{container}\n\n\n\n{VERSION}\nc\n\n\n\n\n\n\n"
    );
    let signature = sign(&text)?;
    Ok(format!(
        "sv={VERSION}&sr=c&sp={permissions}&se={EXPIRY}&sig={signature}"
    ))
}

/// One of the account, for making containers.
fn signature_of_the_account() -> Result<String> {
    let text = format!("{ACCOUNT}\nc\nb\nc\n\n{EXPIRY}\n\n\n{VERSION}\n\n");
    let signature = sign(&text)?;
    Ok(format!(
        "sv={VERSION}&ss=b&srt=c&sp=c&se={EXPIRY}&sig={signature}"
    ))
}

fn sign(text: &str) -> Result<String> {
    let key = STANDARD.decode(ACCOUNT_KEY).context("the account's key")?;
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), text.as_bytes());
    let signature = STANDARD.encode(signature.as_ref());
    Ok(signature
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D"))
}
