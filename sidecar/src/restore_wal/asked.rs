//! The repositories that recovery reads from: all are asked, and whoever has a good answer first is heard.
//!
//! A required one is waited for where its word is needed, which is wherever there is nothing to serve. One that is best-effort
//! and silent is told of, and not waited for; what it says in time counts like anybody's.

use super::Trouble;
use super::decide::Until;
use crate::budget::{Budget, Room};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use holdfast_postgres::WalFileName;
use holdfast_repository::WalStore;
use holdfast_repository::wal::{CHUNK_BYTES, PartialSegment, WalFile};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Who is waited for, and for how long.
const WAITS: Waits = Waits {
    required: Duration::from_secs(10),
    best_effort: Duration::from_secs(2),
};
/// Whoever was silent is not asked for so long, unless its word is needed.
const LEFT_ALONE: Duration = Duration::from_secs(60);
/// How long a best-effort one may take to send a file.
const SENT: Duration = Duration::from_secs(60);
/// A file is fetched from the next repository, too, when one has not sent it for so long.
const HEDGE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Waits {
    /// For a required one once another has answered: then it counts as one that can't be reached.
    required: Duration,
    /// For a best-effort one once all required ones have.
    best_effort: Duration,
}

/// A repository that answers.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// In the settings.
    pub(super) name: String,
    pub(super) store: WalStore,
    /// Whether absence must be proven there.
    pub(super) counts: bool,
}

/// One that is being opened.
pub(super) struct Opening<'a> {
    pub(super) name: &'a str,
    pub(super) counts: bool,
    pub(super) store: BoxFuture<'a, Result<WalStore, Trouble>>,
}

/// Who was silent, by name, and since when.
#[derive(Debug, Default)]
pub(super) struct Silent(Mutex<BTreeMap<String, Instant>>);

impl Silent {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is better left alone for now.
    pub(super) fn holds(&self, name: &str) -> bool {
        let silent = self.lock();
        let since = silent.get(name);
        since.is_some_and(|since| since.elapsed() < LEFT_ALONE)
    }

    fn insert(&self, name: &str) {
        self.lock().insert(name.to_owned(), Instant::now());
    }
}

/// Who is asked in one attempt, and why somebody is not whose word is needed.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) sources: Vec<Source>,
    /// Nothing is absent then.
    pub(super) trouble: Option<Trouble>,
    silent: Arc<Silent>,
}

impl Asked {
    /// Nobody yet.
    pub(super) fn new(silent: Arc<Silent>) -> Self {
        Self {
            sources: Vec::new(),
            trouble: None,
            silent,
        }
    }

    /// One whose word is needed is not asked.
    pub(super) fn missing(&mut self, repository: &str) {
        self.trouble.get_or_insert(unanswered(repository));
    }

    /// The part of a segment that reaches furthest, and at least to its end. None: what there is does not. `last`: nothing
    /// follows, and so each one's word is needed that counts.
    pub(super) async fn find_part(
        &mut self,
        wanted: Until,
        last: bool,
    ) -> Result<Option<PartialSegment>, Trouble> {
        let (mut furthest, mut trouble) = (None, None);
        for source in &self.sources {
            let part = source.store.part(wanted.segment);
            let part = match source.counts {
                true => part.await.map_err(Trouble::from),
                false => match timeout(SENT, part).await {
                    Ok(part) => part.map_err(Trouble::from),
                    Err(_) => Err(Trouble::Unknown("it does not answer".to_owned())),
                },
            };
            match part {
                Ok(part) => {
                    let further = |part: &PartialSegment| {
                        let so_far = furthest.as_ref().map(PartialSegment::end);
                        part.end() >= wanted.end && Some(part.end()) > so_far
                    };
                    if let Some(part) = part.filter(further) {
                        furthest = Some(part);
                    }
                }
                Err(error) => {
                    tracing::warn!(segment = %wanted.segment, repository = source.name, %error, "its parts were not read");
                    if source.counts {
                        trouble = Some(error);
                    }
                }
            }
        }
        match (furthest, trouble) {
            (Some(part), trouble) if trouble.is_none() || !last => Ok(Some(part)),
            (_, Some(trouble)) => Err(trouble),
            (_, None) => Ok(None),
        }
    }

    pub(super) fn stores(&self) -> Vec<WalStore> {
        self.sources
            .iter()
            .map(|source| source.store.clone())
            .collect()
    }

    /// Opens them, all at once.
    pub(super) async fn open(&mut self, places: Vec<Opening<'_>>) -> Result<(), Trouble> {
        let counts: Vec<bool> = places.iter().map(|place| place.counts).collect();
        let (names, opening): (Vec<&str>, Vec<_>) = places
            .into_iter()
            .map(|place| (place.name, place.store))
            .unzip();
        let answers = answers(&counts, opening, WAITS).await;
        for ((name, counts), answer) in names.into_iter().zip(counts).zip(answers) {
            if let Some(store) = self.heard(name, counts, answer) {
                self.sources.push(Source {
                    name: name.to_owned(),
                    store,
                    counts,
                });
            }
        }
        self.somebody()
    }

    /// What each says. Whoever fails or is silent is not asked any more; an error if nobody is left.
    pub(super) async fn each<'f, T>(
        &mut self,
        ask: impl Fn(Source) -> BoxFuture<'f, Result<T, Trouble>>,
    ) -> Result<Vec<T>, Trouble> {
        let sources = std::mem::take(&mut self.sources);
        let counts: Vec<bool> = sources.iter().map(|source| source.counts).collect();
        let asking = sources.iter().map(|source| ask(source.clone()));
        let answers = answers(&counts, asking.collect(), WAITS).await;
        let mut said = Vec::new();
        for (source, answer) in sources.into_iter().zip(answers) {
            if let Some(value) = self.heard(&source.name, source.counts, answer) {
                said.push(value);
                self.sources.push(source);
            }
        }
        self.somebody()?;
        Ok(said)
    }

    /// The file, from whoever sends it first, and the memory that it takes. None: nobody who was heard has it.
    pub(super) async fn find(
        &mut self,
        budget: &Budget,
        name: WalFileName,
    ) -> Option<(WalFile, Room)> {
        let mut waiting = std::mem::take(&mut self.sources);
        // In the settings' order, those whose word is needed first.
        waiting.sort_by_key(|source| !source.counts);
        let mut waiting = waiting.into_iter();
        let mut asked = FuturesUnordered::new();
        loop {
            let next = match asked.is_empty() {
                true => waiting.next(),
                false => None,
            };
            asked.extend(next.map(|source| fetch(source, budget, name)));
            let answer = if waiting.len() == 0 {
                asked.next().await
            } else if let Ok(answer) = timeout(HEDGE, asked.next()).await {
                answer
            } else {
                asked.extend(waiting.next().map(|source| fetch(source, budget, name)));
                continue;
            };
            let (source, answer) = answer?;
            match self.heard(&source.name, source.counts, answer) {
                Some(None) => self.sources.push(source),
                Some(found) => {
                    // What comes next is looked for there first, and not where this one was waited for.
                    self.sources.insert(0, source);
                    self.sources.extend(waiting);
                    return found;
                }
                None => {}
            }
        }
    }

    /// An error if nobody answers.
    fn somebody(&mut self) -> Result<(), Trouble> {
        if !self.sources.is_empty() {
            return Ok(());
        }
        let silent = || Trouble::Unknown("no repository answers".to_owned());
        Err(self.trouble.take().unwrap_or_else(silent))
    }

    /// Keeps in mind who gives no answer.
    fn heard<T>(
        &mut self,
        repository: &str,
        counts: bool,
        answer: Option<Result<T, Trouble>>,
    ) -> Option<T> {
        let why = match answer {
            Some(Ok(value)) => return Some(value),
            Some(Err(why)) => why,
            None => {
                self.silent.insert(repository);
                unanswered(repository)
            }
        };
        if counts {
            tracing::warn!(repository, error = %why, "not heard");
            self.trouble.get_or_insert(why);
        } else {
            tracing::warn!(repository, error = %why, "not heard, and not waited for: it is best-effort");
        }
        None
    }
}

fn unanswered(repository: &str) -> Trouble {
    Trouble::Unknown(format!("the repository {repository} does not answer"))
}

/// Each answer, in order: none where it was not waited for any longer. `counts`: whose word is needed.
async fn answers<T>(
    counts: &[bool],
    asking: Vec<BoxFuture<'_, Result<T, Trouble>>>,
    waits: Waits,
) -> Vec<Option<Result<T, Trouble>>> {
    let mut answers: Vec<_> = counts.iter().map(|_| None).collect();
    let mut required = counts.iter().filter(|counts| **counts).count();
    let asking = asking.into_iter().enumerate();
    let mut asked: FuturesUnordered<_> = asking
        .map(|(at, answer)| async move { (at, answer.await) })
        .collect();
    let (mut heard, mut until) = (false, None);
    loop {
        let answer = match until {
            None => asked.next().await,
            Some(until) => timeout_at(until, asked.next()).await.unwrap_or(None),
        };
        let Some((at, answer)) = answer else {
            return answers;
        };
        heard |= answer.is_ok();
        required -= usize::from(counts.get(at) == Some(&true));
        if let Some(place) = answers.get_mut(at) {
            *place = Some(answer);
        }
        until = match (heard, required) {
            (true, 0) => Some(Instant::now() + waits.best_effort),
            // Somebody's answer is needed.
            (false, 0) => Some(Instant::now() + waits.required),
            (true, _) => until.or(Some(Instant::now() + waits.required)),
            (false, _) => None,
        };
    }
}

/// The file, if that one has it. Whether a best-effort one has it is told soon or not at all.
async fn fetch(
    mut source: Source,
    budget: &Budget,
    name: WalFileName,
) -> (Source, Option<Result<Option<(WalFile, Room)>, Trouble>>) {
    let store = source.store.clone();
    let Some(mut room) = budget.take(WalStore::READ_MEMORY).await else {
        let ending = Trouble::Unknown("the program is ending".to_owned());
        return (source, Some(Err(ending)));
    };
    let read = async {
        match store.read_file(&name).await {
            Ok(file) => {
                // Here already; of a larger one chunks are still to be read.
                if file.length() <= CHUNK_BYTES {
                    room.shrink(file.length());
                }
                Ok(Some((file, room)))
            }
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    };
    let answer = match name {
        _ if source.counts => Some(read.await),
        WalFileName::Segment(segment) => {
            match timeout(WAITS.best_effort, store.has(segment)).await {
                // Perhaps it is nowhere else: what keeps it from being read is trouble, and not the end.
                Ok(Ok(true)) => {
                    source.counts = true;
                    let late = |_| {
                        Err(Trouble::Unknown(
                            "it has the file and does not send it".to_owned(),
                        ))
                    };
                    Some(timeout(SENT, read).await.unwrap_or_else(late))
                }
                Ok(Ok(false)) => Some(Ok(None)),
                Ok(Err(e)) => Some(Err(e.into())),
                Err(_) => None,
            }
        }
        _ => timeout(WAITS.best_effort, read).await.ok(),
    };
    (source, answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::time::sleep;

    #[derive(Debug, Clone, Copy)]
    enum Says {
        Yes,
        /// An error.
        No,
        /// Yes, after a while.
        Later,
        Never,
    }

    async fn heard(asking: &[(bool, Says)]) -> Vec<Option<bool>> {
        let waits = Waits {
            required: Duration::from_millis(900),
            best_effort: Duration::from_millis(400),
        };
        let counts: Vec<bool> = asking.iter().map(|(counts, _)| *counts).collect();
        let asking = asking.iter().map(|(_, says)| {
            let says = *says;
            async move {
                match says {
                    Says::Yes => Ok(()),
                    Says::No => Err(Trouble::Unknown("no".to_owned())),
                    Says::Later => {
                        sleep(Duration::from_millis(50)).await;
                        Ok(())
                    }
                    Says::Never => std::future::pending().await,
                }
            }
            .boxed()
        });
        let answers = answers(&counts, asking.collect(), waits).await;
        let answers = answers.into_iter().map(|answer| Some(answer?.is_ok()));
        answers.collect()
    }

    #[tokio::test]
    async fn whose_word_is_needed_is_waited_for_and_nobody_for_ever() {
        use Says::{Later, Never, No, Yes};
        let (required, best_effort) = (true, false);
        let (yes, no) = (Some(true), Some(false));
        for (asking, expected) in [
            (vec![(required, Later)], vec![yes]),
            (vec![(required, Yes), (required, Later)], vec![yes, yes]),
            (vec![(required, Never), (required, Yes)], vec![None, yes]),
            // An error says nothing about how long the other takes.
            (vec![(required, Later), (required, No)], vec![yes, no]),
            (vec![(best_effort, Never), (required, Yes)], vec![None, yes]),
            (vec![(best_effort, Later), (required, Yes)], vec![yes, yes]),
            // It may have what the other can't be asked for.
            (vec![(best_effort, Later), (required, No)], vec![yes, no]),
            (vec![(best_effort, Never), (required, No)], vec![None, no]),
            (vec![(best_effort, Yes), (required, Later)], vec![yes, yes]),
            (vec![(best_effort, Yes), (required, Never)], vec![yes, None]),
            (vec![], vec![]),
        ] {
            assert_eq!(heard(&asking).await, expected, "{asking:?}");
        }
    }

    #[test]
    fn who_was_silent_is_left_alone() {
        let silent = Silent::default();
        silent.insert("far");
        assert!(silent.holds("far") && !silent.holds("near"));
    }
}
