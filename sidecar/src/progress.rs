//! How far long work has come: a bar on a terminal, plain lines elsewhere.

use crate::status::ProgressStatus;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BAR_EVERY: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A moment's figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes done.
    pub bytes_done: u64,
    /// Bytes in all; 0 while unknown.
    pub bytes_total: u64,
    /// Files done.
    pub files_done: u64,
}

/// Counters that workers add to. Cheap enough for every page.
#[derive(Debug, Default)]
pub struct Counters {
    bytes_done: Arc<AtomicU64>,
    bytes_total: AtomicU64,
    files_done: AtomicU64,
    waiting: Mutex<Option<String>>,
}

impl Counters {
    /// Sets what there is to do, in bytes.
    pub fn set_total(&self, bytes: u64) {
        self.bytes_total.store(bytes, Ordering::Relaxed);
    }

    /// Takes over what another process has counted.
    pub fn set(&self, bytes_done: u64, bytes_total: u64) {
        self.bytes_done.store(bytes_done, Ordering::Relaxed);
        self.set_total(bytes_total);
    }

    /// What is done, for workers that know no more of this.
    pub fn bytes(&self) -> Arc<AtomicU64> {
        self.bytes_done.clone()
    }

    /// Adds to what is done.
    pub fn add_bytes(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says what the work waits for, and what would end the wait.
    pub fn wait_for(&self, what: Option<String>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// What the work waits for, if it does.
    pub fn waiting(&self) -> Option<String> {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// One more file is done.
    pub fn add_file(&self) {
        self.files_done.fetch_add(1, Ordering::Relaxed);
    }

    /// As of now.
    pub fn figures(&self) -> Figures {
        Figures {
            bytes_done: self.bytes_done.load(Ordering::Relaxed),
            bytes_total: self.bytes_total.load(Ordering::Relaxed),
            files_done: self.files_done.load(Ordering::Relaxed),
        }
    }

    /// As of now, for a status.
    pub fn status(&self) -> ProgressStatus {
        let figures = self.figures();
        ProgressStatus::new(figures.bytes_done, figures.bytes_total)
    }
}

/// Shows figures on stderr until it is dropped.
#[derive(Debug)]
pub struct Progress {
    phase: Arc<Mutex<String>>,
    messages: Option<Sender<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Shows what `figures` returns: a bar where stderr is a terminal, else a line every few seconds, else, with
    /// `json`, nothing.
    pub fn show(json: bool, phase: &str, figures: impl Fn() -> Figures + Send + 'static) -> Self {
        let terminal = std::io::stderr().is_terminal();
        if json && !terminal {
            return Self::silent();
        }
        let phase = Arc::new(Mutex::new(phase.to_owned()));
        let (messages, received) = channel::<String>();
        let shown = phase.clone();
        let thread = std::thread::spawn(move || {
            let mut display: Box<dyn Display> = if terminal {
                Box::new(Bar::new())
            } else {
                Box::new(Lines {
                    begun: Instant::now(),
                    last: String::new(),
                })
            };
            loop {
                match received.recv_timeout(display.every()) {
                    Ok(message) => display.say(&message),
                    Err(RecvTimeoutError::Timeout) => {
                        let phase = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
                        display.draw(&phase, figures());
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            display.end();
        });
        Self {
            phase,
            messages: Some(messages),
            thread: Some(thread),
        }
    }

    /// Shows nothing.
    pub fn silent() -> Self {
        Self {
            phase: Arc::default(),
            messages: None,
            thread: None,
        }
    }

    /// Names what is being done now.
    pub fn phase(&self, phase: &str) {
        phase.clone_into(&mut self.phase.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Prints a line, above the bar where there is one.
    pub fn say(&self, line: &str) {
        if let Some(messages) = &self.messages {
            // Fails only when the thread has ended, and nothing is shown any more.
            let _ = messages.send(line.to_owned());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.messages.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

trait Display {
    fn every(&self) -> Duration;
    fn draw(&mut self, phase: &str, figures: Figures);
    fn say(&mut self, line: &str);
    fn end(&mut self);
}

struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        Self(bar.with_style(style))
    }
}

impl Display for Bar {
    fn every(&self) -> Duration {
        BAR_EVERY
    }

    fn draw(&mut self, phase: &str, figures: Figures) {
        self.0.set_message(phase.to_owned());
        self.0
            .set_length(figures.bytes_total.max(figures.bytes_done));
        self.0.set_position(figures.bytes_done);
    }

    fn say(&mut self, line: &str) {
        self.0.println(line);
    }

    fn end(&mut self) {
        self.0.finish_and_clear();
    }
}

struct Lines {
    begun: Instant,
    last: String,
}

impl Display for Lines {
    fn every(&self) -> Duration {
        LINE_EVERY
    }

    /// Nothing new is not said again.
    fn draw(&mut self, phase: &str, figures: Figures) {
        let line = plain(phase, figures, self.begun.elapsed());
        let news = format!("{phase} {}", figures.bytes_done);
        if news != self.last {
            self.say(&line);
            self.last = news;
        }
    }

    fn say(&mut self, line: &str) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    fn end(&mut self) {}
}

/// One line about a moment.
fn plain(phase: &str, figures: Figures, elapsed: Duration) -> String {
    let Figures {
        bytes_done,
        bytes_total,
        ..
    } = figures;
    if bytes_total == 0 {
        return phase.to_owned();
    }
    let percent = ProgressStatus::new(bytes_done, bytes_total).percent;
    let rate = bytes_done as f64 / elapsed.as_secs_f64().max(0.001);
    let mut line = format!(
        "{phase}: {} of {} ({percent} %), {}/s",
        HumanBytes(bytes_done),
        HumanBytes(bytes_total),
        HumanBytes(rate as u64)
    );
    let left = bytes_total.saturating_sub(bytes_done) as f64 / rate;
    if left > 0.0 && left < 1e9 {
        line.push_str(&format!(
            ", {} left",
            HumanDuration(Duration::from_secs_f64(left))
        ));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let at = |bytes_done, bytes_total| Figures {
            bytes_done,
            bytes_total,
            files_done: 0,
        };
        for (figures, seconds, expected) in [
            (at(0, 0), 5, "copying"),
            (at(0, 1 << 30), 5, "copying: 0 B of 1.00 GiB (0 %), 0 B/s"),
            (
                at(1 << 29, 1 << 30),
                8,
                "copying: 512.00 MiB of 1.00 GiB (50 %), 64.00 MiB/s, 8 seconds left",
            ),
            (
                at(1 << 30, 1 << 30),
                8,
                "copying: 1.00 GiB of 1.00 GiB (100 %), 128.00 MiB/s",
            ),
        ] {
            assert_eq!(
                plain("copying", figures, Duration::from_secs(seconds)),
                expected
            );
        }
    }

    #[test]
    fn counters_add_up() {
        let counters = Counters::default();
        counters.set_total(10);
        counters.add_bytes(4);
        counters.bytes().fetch_add(1, Ordering::Relaxed);
        counters.add_file();
        assert_eq!(
            counters.figures(),
            Figures {
                bytes_done: 5,
                bytes_total: 10,
                files_done: 1
            }
        );
        assert_eq!(counters.status().percent, 50);
    }
}
