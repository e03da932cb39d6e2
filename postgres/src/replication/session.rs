//! A connection to a walsender: how it is opened, and what is sent over it.

use super::ReplicationError;
use super::wire::{self, Incoming};
use crate::server::{ConnectOptions, NOT_SO, SslMode, connector};
use crate::{Lsn, PgTimestamp};
use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use std::fmt;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

/// How far a standby is. What is not told is [`Lsn::INVALID`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Received.
    pub written: Lsn,
    /// Kept for good: a synchronous commit waits for it.
    pub flushed: Lsn,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection that has proved who it is.
pub(super) struct Session {
    io: Box<dyn Io>,
    received: BytesMut,
    address: String,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", self.address)
    }
}

impl Session {
    pub(super) async fn connect(options: &ConnectOptions) -> Result<Self, ReplicationError> {
        match Self::connect_as(options, options.ssl_mode).await {
            Err(error) if options.ssl_mode == SslMode::Prefer && error.code() == Some(NOT_SO) => {
                Self::connect_as(options, SslMode::Disable).await
            }
            done => done,
        }
    }

    async fn connect_as(options: &ConnectOptions, mode: SslMode) -> Result<Self, ReplicationError> {
        let address = format!("{}@{}:{}", options.user, options.host, options.port);
        let io = open(options, mode)
            .await
            .map_err(|source| ReplicationError::Connection {
                address: address.clone(),
                source,
            })?;
        let mut session = Self {
            io,
            received: BytesMut::new(),
            address,
        };
        session.start(options).await?;
        Ok(session)
    }

    async fn start(&mut self, options: &ConnectOptions) -> Result<(), ReplicationError> {
        let parameters = [
            ("user", options.user.as_str()),
            ("replication", "true"),
            ("application_name", options.application_name.as_str()),
            ("client_encoding", "UTF8"),
            // The server's own is a minute, and a client that hangs holds its shutdown up for so long.
            ("wal_sender_timeout", "10s"),
        ];
        self.send(|out| frontend::startup_message(parameters, out))
            .await?;
        let mut scram = None;
        loop {
            match self.receive().await? {
                Incoming::AuthenticationOk | Incoming::Notice => {}
                Incoming::ReadyForQuery => return Ok(()),
                Incoming::CleartextPassword => {
                    let password = self.password(options)?;
                    self.send(|out| frontend::password_message(password, out))
                        .await?;
                }
                Incoming::Md5Password(salt) => {
                    let password = self.password(options)?;
                    let hash = md5_hash(options.user.as_bytes(), password, salt);
                    self.send(|out| frontend::password_message(hash.as_bytes(), out))
                        .await?;
                }
                Incoming::Sasl(mechanisms) => {
                    let password = self.password(options)?;
                    if !mechanisms.iter().any(|name| name == SCRAM_SHA_256) {
                        return Err(self.nonsense(format!(
                            "asks for {mechanisms:?}, and Holdfast knows {SCRAM_SHA_256}"
                        )));
                    }
                    let begun = ScramSha256::new(password, ChannelBinding::unsupported());
                    self.send(|out| {
                        frontend::sasl_initial_response(SCRAM_SHA_256, begun.message(), out)
                    })
                    .await?;
                    scram = Some(begun);
                }
                Incoming::SaslContinue(data) => {
                    let Some(begun) = &mut scram else {
                        return Err(self.nonsense("goes on with what was not begun".to_owned()));
                    };
                    begun.update(&data).map_err(|e| self.failed(e))?;
                    self.send(|out| frontend::sasl_response(begun.message(), out))
                        .await?;
                }
                // It knows the password, too.
                Incoming::SaslFinal(data) => match scram.take() {
                    Some(mut begun) => begun.finish(&data).map_err(|e| self.failed(e))?,
                    None => {
                        return Err(self.nonsense("ends what was not begun".to_owned()));
                    }
                },
                Incoming::OtherAuthentication(number) => {
                    return Err(self.nonsense(format!(
                        "asks for a way to authenticate (number {number}) that Holdfast does not know: use trust, peer, scram-sha-256, md5 or password in pg_hba.conf"
                    )));
                }
                other => return Err(self.unexpected(&other, "opened a session")),
            }
        }
    }

    fn password<'a>(&self, options: &'a ConnectOptions) -> Result<&'a [u8], ReplicationError> {
        match &options.password {
            Some(password) => Ok(password.as_bytes()),
            None => Err(self.nonsense(
                "asks for a password, and none is configured: set postgres.passwordFile".to_owned(),
            )),
        }
    }

    /// Sends a command whose answer is one row.
    pub(super) async fn row(
        &mut self,
        command: &str,
    ) -> Result<Vec<Option<String>>, ReplicationError> {
        self.send(|out| frontend::query(command, out)).await?;
        let mut found = Vec::new();
        loop {
            match self.receive().await? {
                Incoming::RowDescription | Incoming::CommandComplete | Incoming::Notice => {}
                Incoming::Row(row) => found = row,
                Incoming::ReadyForQuery => return Ok(found),
                other => return Err(self.unexpected(&other, command)),
            }
        }
    }

    /// Sends a command after which both sides stream.
    pub(super) async fn copy_both(&mut self, command: &str) -> Result<(), ReplicationError> {
        self.send(|out| frontend::query(command, out)).await?;
        loop {
            match self.receive().await? {
                Incoming::Notice => {}
                Incoming::CopyBoth => return Ok(()),
                other => return Err(self.unexpected(&other, command)),
            }
        }
    }

    pub(super) async fn send_status(
        &mut self,
        position: Position,
        now: PgTimestamp,
    ) -> Result<(), ReplicationError> {
        self.send(|out| {
            wire::status(position, now, out);
            Ok(())
        })
        .await
    }

    async fn send(
        &mut self,
        message: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), ReplicationError> {
        let mut out = BytesMut::new();
        let sent = match message(&mut out) {
            Ok(()) => match self.io.write_all(&out).await {
                Ok(()) => self.io.flush().await,
                failed => failed,
            },
            failed => failed,
        };
        sent.map_err(|e| self.failed(e))
    }

    /// The next message. Safe to drop: what was read stays.
    ///
    /// # Errors
    /// The connection's, or what the server says is wrong.
    pub(super) async fn receive(&mut self) -> Result<Incoming, ReplicationError> {
        loop {
            match wire::take(&mut self.received) {
                Ok(Some(Incoming::Error(reason))) => {
                    return Err(ReplicationError::Refused {
                        address: self.address.clone(),
                        reason: Box::new(reason),
                    });
                }
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(error) => return Err(self.nonsense(format!("sent {error}"))),
            }
            let read = self.io.read_buf(&mut self.received).await;
            match read.map_err(|e| self.failed(e))? {
                0 if self.received.is_empty() => return Ok(Incoming::Closed),
                0 => return Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
                _ => {}
            }
        }
    }

    fn failed(&self, source: io::Error) -> ReplicationError {
        ReplicationError::Connection {
            address: self.address.clone(),
            source,
        }
    }

    pub(super) fn silent(&self, within: Duration) -> ReplicationError {
        ReplicationError::Silent {
            address: self.address.clone(),
            within,
        }
    }

    pub(super) fn nonsense(&self, what: String) -> ReplicationError {
        ReplicationError::Protocol {
            address: self.address.clone(),
            what,
        }
    }

    pub(super) fn unexpected(&self, message: &Incoming, during: &str) -> ReplicationError {
        match message {
            Incoming::Closed => self.failed(io::ErrorKind::UnexpectedEof.into()),
            other => self.nonsense(format!("sent {other:?} where it {during}")),
        }
    }
}

async fn open(options: &ConnectOptions, mode: SslMode) -> io::Result<Box<dyn Io>> {
    if options.host.starts_with('/') {
        let socket = format!("{}/.s.PGSQL.{}", options.host, options.port);
        return Ok(Box::new(UnixStream::connect(socket).await?));
    }
    if mode != SslMode::Disable {
        match encrypted(options).await {
            Ok(Some(stream)) => return Ok(stream),
            Ok(None) if mode == SslMode::Require => {
                return Err(io::Error::other(
                    "the server does not encrypt, and postgres.sslMode requires it",
                ));
            }
            Err(error) if mode == SslMode::Require => return Err(error),
            // As libpq does, on a connection of its own.
            Ok(None) | Err(_) => {}
        }
    }
    Ok(Box::new(tcp(options).await?))
}

async fn tcp(options: &ConnectOptions) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((options.host.as_str(), options.port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// None where the server would not.
async fn encrypted(options: &ConnectOptions) -> io::Result<Option<Box<dyn Io>>> {
    let mut stream = tcp(options).await?;
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    if stream.read_u8().await? != b'S' {
        return Ok(None);
    }
    let connector = connector();
    let mut connector =
        connector.ok_or_else(|| io::Error::other("this build knows no version of TLS"))?;
    let connect = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut connector, &options.host);
    let connect = connect.map_err(io::Error::other)?;
    let stream = connect.connect(stream).await.map_err(io::Error::other)?;
    Ok(Some(Box::new(stream)))
}
