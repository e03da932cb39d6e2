//! Work that keeps a thread busy.

use std::panic::resume_unwind;

/// Runs work that reads files or keeps a processor busy on a thread where it holds up nobody. It is begun at once, and
/// goes on when the answer is not waited for. Its panic is passed on.
pub fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> {
    let working = tokio::task::spawn_blocking(work);
    async move {
        match working
            .await
            .map_err(tokio::task::JoinError::try_into_panic)
        {
            Ok(done) => done,
            Err(Ok(panic)) => resume_unwind(panic),
            // Never begun, for the program ends: nobody waits for the answer any more.
            Err(Err(_)) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_begun_at_once() {
        let (send, receive) = std::sync::mpsc::channel();
        let answer = blocking(move || send.send(3));
        assert_eq!(receive.recv(), Ok(3));
        assert_eq!(answer.await, Ok(()));
    }

    #[tokio::test]
    #[should_panic(expected = "out of ideas")]
    async fn its_panic_is_passed_on() {
        blocking(|| panic!("out of ideas")).await
    }
}
