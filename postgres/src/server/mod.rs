//! What is asked of a running server, over its SQL protocol.

mod backup;
mod error;
mod outside;
mod settings;
mod tls;

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config};

pub use backup::{BackupStart, BackupStop, HeldBy, LockError};
pub use error::{Reason, ServerError};
pub use settings::{ARCHIVING, Recovery, Settings};
pub use tls::SslMode;
pub(crate) use tls::{NOT_SO, connector};

/// Where the server is and who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// The directory of a Unix socket (begins with `/`), or a host name or address.
    pub host: String,
    /// The port; it names the socket too.
    pub port: u16,
    /// A superuser, or one that may do what is asked.
    pub user: String,
    /// If the server asks for one.
    pub password: Option<String>,
    /// Any database: nothing in it is read.
    pub database: String,
    /// How the session is named in `pg_stat_activity`.
    pub application_name: String,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// Whether a connection over TCP is encrypted.
    pub ssl_mode: SslMode,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            host: "/var/run/postgresql".into(),
            port: 5432,
            user: "postgres".into(),
            password: None,
            database: "postgres".into(),
            application_name: "holdfast".into(),
            connect_timeout: Duration::from_secs(10),
            ssl_mode: SslMode::default(),
        }
    }
}

impl std::fmt::Debug for ConnectOptions {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}@{}:{}/{}",
            self.user, self.host, self.port, self.database
        )
    }
}

/// A session on a server. A backup lasts as long as the session that began it.
#[derive(Debug)]
pub struct Server {
    client: Client,
    driver: JoinHandle<()>,
    version: u32,
    address: String,
}

impl Server {
    /// Opens a session: over a Unix socket as it is, over TCP encrypted as `ssl_mode` says.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, ServerError> {
        let address = format!("{options:?}");
        let mut config = Config::new();
        config
            .host(&options.host)
            .port(options.port)
            .user(&options.user)
            .dbname(&options.database)
            .application_name(&options.application_name)
            // A backup's session is idle for as long as its copying takes, and its checkpoint may be slow.
            .options("-c statement_timeout=0 -c idle_session_timeout=0 -c lock_timeout=0")
            .connect_timeout(options.connect_timeout);
        if let Some(password) = &options.password {
            config.password(password);
        }
        let (client, driver) = tls::open(config, options.ssl_mode)
            .await
            .map_err(|source| ServerError::connect(&address, source))?;
        let mut server = Self {
            client,
            driver,
            version: 0,
            address,
        };
        server.version = server
            .show("server_version_num")
            .await?
            .parse()
            .unwrap_or(0);
        if !crate::version::SUPPORTED.contains(&server.major()) {
            return Err(ServerError::Unsupported {
                version: server.version,
                address: server.address.clone(),
            });
        }
        Ok(server)
    }

    /// The server's major.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }

    /// Whether the session has ended, and with it a backup that it began.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// The value of a setting, as `SHOW` prints it.
    pub async fn show(&self, name: &str) -> Result<String, ServerError> {
        let row = self
            .query_one("SELECT current_setting($1)", &[&name], "read a setting")
            .await?;
        self.column(&row, 0)
    }

    /// Tablespaces outside the data directory: oid and where `pg_tblspc/<oid>` points.
    pub async fn tablespaces(&self) -> Result<Vec<(u32, String)>, ServerError> {
        let rows = self
            .client
            .query(
                "SELECT oid, pg_tablespace_location(oid) FROM pg_tablespace \
                 WHERE pg_tablespace_location(oid) <> '' ORDER BY oid",
                &[],
            )
            .await
            .map_err(|source| self.failed("list the tablespaces", source))?;
        rows.iter()
            .map(|row| Ok((self.column(row, 0)?, self.column(row, 1)?)))
            .collect()
    }

    async fn query_one(
        &self,
        sql: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
        what: &'static str,
    ) -> Result<tokio_postgres::Row, ServerError> {
        self.client
            .query_one(sql, parameters)
            .await
            .map_err(|source| self.failed(what, source))
    }

    fn column<'r, T: tokio_postgres::types::FromSql<'r>>(
        &self,
        row: &'r tokio_postgres::Row,
        index: usize,
    ) -> Result<T, ServerError> {
        row.try_get(index)
            .map_err(|source| self.failed("read an answer", source))
    }

    fn failed(&self, what: &'static str, source: tokio_postgres::Error) -> ServerError {
        ServerError::query(what, &self.address, source)
    }
}

impl Drop for Server {
    /// Ends the session; a backup that was not stopped is aborted by the server.
    fn drop(&mut self) {
        self.driver.abort();
    }
}
