//! A real S3: MinIO, one for a world, on a free port of 127.0.0.1.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::daemon::Daemon;
use crate::parts;
use crate::world::{World, eventually};

/// The account of every test server.
pub const ACCESS_KEY: &str = "holdfast-test";
/// Its password.
pub const SECRET_KEY: &str = "holdfast-test-secret";

/// A MinIO server. Stopping it keeps its data and its port.
#[derive(Debug)]
pub struct Minio {
    world: World,
    port: u16,
    data: PathBuf,
    certificates: Option<PathBuf>,
    daemon: Option<Daemon>,
}

/// A bucket, and how to reach it.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// The bucket's name.
    pub name: String,
    /// The server's address, with scheme and port.
    pub endpoint: String,
}

impl Minio {
    /// Starts a server.
    ///
    /// # Errors
    /// If the part is missing or it does not answer; with its log.
    pub async fn start(world: &World) -> Result<Self> {
        Self::with_certificates(world, None).await
    }

    /// Starts a server that speaks TLS with a certificate it signed itself.
    ///
    /// # Errors
    /// If openssl or the part is missing or it does not answer; with its log.
    pub async fn start_tls(world: &World) -> Result<Self> {
        let folder = world.make_dir("minio-certificates")?;
        let mut openssl = world.command("openssl");
        openssl
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "30",
                "-subj",
                "/CN=127.0.0.1",
            ])
            // Not an authority, or it could not stand for the server as well.
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args([
                "-addext",
                "subjectAltName=IP:127.0.0.1,DNS:localhost",
                "-keyout",
            ])
            .arg(folder.join("private.key"))
            .arg("-out")
            .arg(folder.join("public.crt"));
        world.run(openssl).await?.success()?;
        Self::with_certificates(world, Some(folder)).await
    }

    async fn with_certificates(world: &World, certificates: Option<PathBuf>) -> Result<Self> {
        let mut last = None;
        // Between finding a free port and listening on it, another may take it.
        for attempt in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let mut minio = Self {
                world: world.clone(),
                port,
                data: world.make_dir(&format!("minio-{attempt}"))?,
                certificates: certificates.clone(),
                daemon: None,
            };
            match minio.restart().await {
                Ok(()) => return Ok(minio),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("five attempts")?)
    }

    /// Starts it again on the same port and data, after a stop or a kill.
    ///
    /// # Errors
    /// If it runs already or does not answer; with its log.
    pub async fn restart(&mut self) -> Result<()> {
        if let Some(daemon) = &mut self.daemon
            && daemon.is_running()?
        {
            bail!("MinIO runs already");
        }
        let program = self.world.reachable(&parts::minio()?)?;
        let mut command = self.world.command(program);
        command
            .args(["server", "--quiet", "--address"])
            .arg(format!("127.0.0.1:{}", self.port))
            .arg("--certs-dir")
            .arg(
                self.certificates
                    .clone()
                    .unwrap_or_else(|| self.world.path("home")),
            )
            .arg(&self.data)
            .env("MINIO_ROOT_USER", ACCESS_KEY)
            .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
            .env("MINIO_BROWSER", "off")
            .env("MINIO_UPDATE", "off")
            // Whoever reaches it may count its requests.
            .env("MINIO_PROMETHEUS_AUTH_TYPE", "public")
            .env("GOMAXPROCS", "2");
        let mut daemon = Daemon::spawn("MinIO", command, &self.world.path("log/minio.log"))?;
        let port = self.port;
        let tls = self.certificates.is_some();
        let ready = async {
            loop {
                if let Ok(true) = answers(port, tls).await {
                    return Ok(());
                }
                if !daemon.is_running()? {
                    bail!("MinIO ended at once\n{}", daemon.tail());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(60), ready).await {
            Ok(result) => result?,
            Err(_) => bail!("MinIO does not answer\n{}", daemon.tail()),
        }
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Makes a bucket, or finds it.
    ///
    /// # Errors
    /// If the folder can't be made.
    pub fn bucket(&self, name: &str) -> Result<Bucket> {
        // A folder on MinIO's single drive is a bucket.
        let relative = self.data.strip_prefix(self.world.dir())?.join(name);
        self.world.make_dir(&relative.to_string_lossy())?;
        Ok(Bucket {
            name: name.to_owned(),
            endpoint: self.endpoint(),
        })
    }

    /// Makes a bucket with versions, in which nothing that was stored can be removed for a day, by nobody.
    ///
    /// # Errors
    /// With what the server says.
    pub async fn locked_bucket(&self, name: &str) -> Result<Bucket> {
        let lock = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
                    <Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
        let lock = self.world.write("home/lock.xml", lock)?;
        let lock = lock.to_string_lossy().into_owned();
        let bucket = format!("{}/{name}", self.endpoint());
        let make = [
            "--request",
            "PUT",
            "--header",
            "x-amz-bucket-object-lock-enabled: true",
        ];
        self.curl("s3", &[&make[..], &[&bucket]].concat()).await?;
        let configure = [
            "--header",
            "x-amz-content-sha256: UNSIGNED-PAYLOAD",
            "--upload-file",
        ];
        let configured = format!("{bucket}?object-lock=");
        self.curl("s3", &[&configure[..], &[&lock, &configured]].concat())
            .await?;
        Ok(Bucket {
            name: name.to_owned(),
            endpoint: self.endpoint(),
        })
    }

    /// Credentials for an hour that may do what this policy lets: a key's id, its secret, and a session token.
    ///
    /// # Errors
    /// With what the server says.
    pub async fn allowed(&self, policy: &str) -> Result<[String; 3]> {
        let policy = format!("Policy={policy}");
        let mut arguments = Vec::new();
        for field in [
            "Action=AssumeRole",
            "Version=2011-06-15",
            "DurationSeconds=3600",
            &policy,
        ] {
            arguments.extend(["--data-urlencode", field]);
        }
        let endpoint = format!("{}/", self.endpoint());
        arguments.push(&endpoint);
        let answer = self.curl("sts", &arguments).await?;
        let part = |name: &str| {
            let (_, rest) = answer.split_once(&format!("<{name}>"))?;
            Some(rest.split_once('<')?.0.to_owned())
        };
        let parts = || {
            Some([
                part("AccessKeyId")?,
                part("SecretAccessKey")?,
                part("SessionToken")?,
            ])
        };
        parts().with_context(|| format!("credentials in {answer}"))
    }

    /// All versions of an object, as the server tells it.
    ///
    /// # Errors
    /// With what the server says.
    pub async fn versions(&self, bucket: &str, key: &str) -> Result<String> {
        let key = key.replace('/', "%2F");
        let listing = format!("{}/{bucket}?prefix={key}&versions=", self.endpoint());
        self.curl("s3", &[&listing]).await
    }

    async fn curl(&self, service: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.world.command("curl");
        command
            .args(["--silent", "--show-error", "--fail-with-body", "--user"])
            .arg(format!("{ACCESS_KEY}:{SECRET_KEY}"))
            .arg("--aws-sigv4")
            .arg(format!("aws:amz:us-east-1:{service}"))
            .args(arguments);
        Ok(self.world.run(command).await?.success()?.stdout)
    }

    /// `http://127.0.0.1:PORT`, or https.
    pub fn endpoint(&self) -> String {
        let scheme = if self.certificates.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The server's own certificate, as PEM, where it speaks TLS.
    pub fn certificate(&self) -> Option<PathBuf> {
        Some(self.certificates.as_ref()?.join("public.crt"))
    }

    /// The running program: to pause, resume or kill it.
    ///
    /// # Errors
    /// If it has been stopped.
    pub fn daemon(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().context("MinIO has been stopped")
    }

    /// Stops it; connections are refused from then on.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn stop(&mut self) -> Result<()> {
        self.daemon()?.stop(Signal::TERM).await?;
        self.daemon = None;
        Ok(())
    }

    /// The folder on disk.
    pub fn data(&self) -> &Path {
        &self.data
    }
}

/// Whether it says that it is ready; over TLS, whether it accepts connections.
async fn answers(port: u16, tls: bool) -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    if tls {
        return Ok(true);
    }
    stream
        .write_all(b"GET /minio/health/ready HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    Ok(answer.ends_with(b" 200"))
}

impl Bucket {
    /// A client of its own, with which a test looks at, damages or removes objects behind Holdfast's back.
    ///
    /// # Errors
    /// If the settings are wrong.
    pub fn store(&self) -> Result<AmazonS3> {
        Ok(AmazonS3Builder::new()
            .with_bucket_name(&self.name)
            .with_region("us-east-1")
            .with_endpoint(&self.endpoint)
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(SECRET_KEY)
            .with_allow_http(true)
            .build()?)
    }

    /// Waits until the server answers for this bucket.
    ///
    /// # Errors
    /// If it does not within two minutes.
    pub async fn wait(&self) -> Result<()> {
        let store = self.store()?;
        eventually("the bucket answers", async || {
            object_store::ObjectStore::list_with_delimiter(&store, None).await?;
            Ok(())
        })
        .await
    }
}
