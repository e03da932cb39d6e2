//! Before a target is checked, every sidecar of the set archives what is not stored yet: only so are the last minutes
//! reachable. Nothing is changed by it.

use super::report::State;
use super::{Look, Restores};
use crate::archive::Member;
use crate::text;
use holdfast_protocol::control::Drain;
use std::time::Duration;
use tokio::time::Instant;

/// A pod that does not answer is waited for so long: whatever its volume holds is archived before the volume is
/// written. So long, too, with `force`, where a pod can't archive.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether there is nothing to wait for, else why. Pure.
fn verdict(
    answers: &[(&str, Result<Drain, String>)],
    waited: Duration,
    force: bool,
) -> Result<(), State> {
    let mut waits = None;
    for (pod, answer) in answers {
        let why = match answer {
            Ok(Drain { done: true, .. }) => continue,
            Ok(Drain {
                trouble: Some(_), ..
            }) if force && waited >= PATIENCE => continue,
            Err(_) if waited >= PATIENCE => continue,
            Ok(Drain {
                trouble: Some(why), ..
            }) => {
                let why = text::line(why);
                State::unknown(
                    "Draining",
                    format!(
                        "{pod} can't archive what is not stored yet: {why}; mend it, or make another Restore with force: true, which goes on without what can't be archived"
                    ),
                )
            }
            Ok(Drain { retrying, .. }) => {
                let mut message =
                    format!("{pod} archives what is not stored yet, so that it can be restored to");
                if let Some(why) = retrying {
                    message += &format!(", and tries again: {}", text::line(why));
                }
                State::unknown("Draining", message)
            }
            Err(why) => State::unknown(
                "Draining",
                format!("the sidecar of {pod} does not answer yet: {why}"),
            ),
        };
        // Trouble is told before what only takes time.
        let is_trouble = matches!(
            answer,
            Ok(Drain {
                trouble: Some(_),
                ..
            })
        );
        if is_trouble {
            return Err(why);
        }
        waits = waits.or(Some(why));
    }
    waits.map_or(Ok(()), Err)
}

impl Restores {
    /// Asks every pod that has not said yet that it is done.
    pub(super) async fn drain(
        &self,
        look: &Look<'_>,
        members: &[Member],
        force: bool,
    ) -> Result<(), State> {
        let (begun, done) = {
            let mut paces = self.paces();
            let pace = paces.entry(look.key.clone()).or_default();
            let begun = *pace.draining.get_or_insert_with(Instant::now);
            (begun, pace.drained.clone())
        };
        let injected = members
            .iter()
            .filter(|member| member.injected && !member.finished && !done.contains(&member.uid));
        let answers = futures::future::join_all(injected.map(|member| async move {
            let answer = match member.sidecar() {
                None => Err("it does not listen".to_owned()),
                Some(sidecar) => self
                    .context
                    .sidecars
                    .drain(&sidecar)
                    .await
                    .map_err(|error| text::line(&error.to_string())),
            };
            (member, answer)
        }))
        .await;
        for (member, answer) in &answers {
            if matches!(answer, Ok(Drain { done: true, .. })) {
                self.set_pace(look.key, |pace| {
                    pace.drained.insert(member.uid.clone());
                });
            }
        }
        let answers: Vec<(&str, Result<Drain, String>)> = answers
            .into_iter()
            .map(|(member, answer)| (member.name.as_str(), answer))
            .collect();
        verdict(&answers, begun.elapsed(), force)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_holds_unless_forced_and_silence_for_a_minute() {
        let done = || {
            Ok(Drain {
                done: true,
                ..Drain::default()
            })
        };
        let under_way = || Ok(Drain::default());
        let trouble = || {
            Ok(Drain {
                trouble: Some("the store is away".into()),
                ..Drain::default()
            })
        };
        let retrying = || {
            Ok(Drain {
                retrying: Some("another key".into()),
                ..Drain::default()
            })
        };
        let silent = || Err("gone".to_owned());
        for (answers, seconds, force, words) in [
            (vec![], 0, false, None),
            (vec![done(), done()], 0, false, None),
            (vec![done(), under_way()], 600, true, Some("b archives")),
            (vec![trouble()], 600, false, Some("the store is away")),
            (vec![retrying()], 600, true, Some("again: another key")),
            (vec![under_way(), trouble()], 0, true, Some("b can't")),
            (vec![trouble()], 59, true, Some("the store is away")),
            (vec![trouble()], 60, true, None),
            (vec![silent()], 59, true, Some("does not answer")),
            (vec![silent()], 60, false, None),
            (vec![silent(), under_way()], 60, false, Some("b archives")),
        ] {
            let named: Vec<_> = ["a", "b"].into_iter().zip(answers).collect();
            let verdict = verdict(&named, Duration::from_secs(seconds), force);
            match (verdict, words) {
                (Ok(()), None) => {}
                (Err(State::Waiting { message, .. }), Some(words)) => {
                    assert!(message.contains(words), "{message}");
                }
                other => panic!("{named:?}: {other:?}"),
            }
        }
    }
}
