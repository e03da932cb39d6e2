//! Asks the sidecar of the same pod, in one line.

use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// For the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of an answer, in bytes.
const LARGEST: u64 = 64 << 10;

/// What follows the `OK` of the answer to a request; none where nobody answers so.
pub async fn ask(socket: &Path, request: &str) -> Option<String> {
    let asked = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(format!("{request}\n").as_bytes()).await?;
        let mut text = String::new();
        stream.take(LARGEST).read_to_string(&mut text).await?;
        Ok::<_, io::Error>(text)
    };
    let text = timeout(PATIENCE, asked).await.ok()?.ok()?;
    let answer = text.lines().find(|line| !line.starts_with("WAIT"))?;
    answer.strip_prefix("OK ").map(str::to_owned)
}
