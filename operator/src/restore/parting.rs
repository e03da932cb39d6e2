//! What the deletion of a Restore's object does: as long as no pod was told to go on, the order is taken back. Later the
//! object stays until the restore has ended, for without the order an unfinished data directory can't be finished. A
//! namespace that goes, an Archive or StatefulSet that is gone and a Restore that takes its place let it go.

use super::finalizer;
use super::phase::{Phase, was_started};
use super::{Look, Restores};
use crate::backup::namespace_ends;
use crate::controller::{Outcome, ReconcileError};
use holdfast_crds::InPlace;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::Resource;
use kube::api::Api;

/// Why an object may go, or not. Pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parting {
    /// It has ended, or was never ordered.
    Over,
    /// Nothing was written: the pods go on as they were.
    TakenBack,
    /// Every pod has what it needs.
    Spent,
    /// Another Restore takes its place.
    Replaced,
    /// It is carried out.
    Stays,
}

fn parting(phase: Phase, started: bool, is_spent: bool, is_replaced: bool) -> Parting {
    match phase {
        Phase::Waiting | Phase::Complete | Phase::Failed => Parting::Over,
        Phase::Ordered if !started => Parting::TakenBack,
        Phase::Ordered if is_spent => Parting::Spent,
        Phase::Ordered if is_replaced => Parting::Replaced,
        Phase::Ordered => Parting::Stays,
    }
}

impl Restores {
    pub(super) async fn part(
        &self,
        look: &mut Look<'_>,
        phase: Phase,
        in_place: &InPlace,
    ) -> Result<Outcome, ReconcileError> {
        if !finalizer::has(&look.restore) {
            return Ok(Outcome::Done);
        }
        let rivals = self.rivals(look, in_place);
        let is_replaced = rivals
            .iter()
            .any(|rival| rival.phase == Phase::Ordered && !rival.going);
        let is_spent = self.pace(look.key).is_spent;
        match parting(phase, was_started(&look.status()), is_spent, is_replaced) {
            Parting::Over => {}
            Parting::TakenBack => {
                let note =
                    "the order is taken back: nothing was written, and Postgres starts as it was";
                self.say(look, "TakenBack", note).await;
            }
            Parting::Spent => {
                let note = "every data directory is whole; Postgres goes on with its recovery, which nobody follows any more";
                self.say(look, "NotFollowed", note).await;
            }
            Parting::Replaced => {
                let note = "another Restore for the same StatefulSet takes its place";
                self.say(look, "Replaced", note).await;
            }
            Parting::Stays => {
                let namespace = &look.key.namespace;
                let archive = self.context.watched.archives.get(&look.archive);
                let sets: Api<StatefulSet> =
                    Api::namespaced(self.context.client.clone(), namespace);
                let set = sets.get_opt(&in_place.name).await;
                let set = set.map_err(ReconcileError::api("can't read a StatefulSet"))?;
                let left = if archive.is_none() {
                    Some("the Archive is gone")
                } else if set.is_none() {
                    Some("the StatefulSet is gone")
                } else if namespace_ends(&self.context.client, namespace).await? {
                    Some("the namespace is being deleted")
                } else {
                    None
                };
                let Some(why) = left else {
                    let note = "it stays until the restore has ended: the data directory is unfinished and can't be started without it; make another Restore for the same StatefulSet to have that one instead";
                    self.say(look, "NotDeletedYet", note).await;
                    return self.follow(look, &in_place.name).await;
                };
                let note = format!(
                    "{why}: a data directory that is unfinished stays so, and can be restored again from the repository"
                );
                self.say(look, "LeftUnfinished", &note).await;
            }
        }
        self.set_finalizer(look, false).await?;
        self.context.wakers.archives.wake(look.archive.clone());
        Ok(Outcome::Done)
    }

    async fn say(&self, look: &Look<'_>, reason: &str, note: &str) {
        let about = look.restore.object_ref(&());
        self.context
            .events
            .note(&about, reason, "Delete", note)
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_taken_back_until_something_may_have_been_written() {
        for (phase, started, is_spent, is_replaced, expected) in [
            (Phase::Waiting, false, false, false, Parting::Over),
            (Phase::Failed, true, false, false, Parting::Over),
            (Phase::Complete, true, true, false, Parting::Over),
            (Phase::Ordered, false, false, false, Parting::TakenBack),
            (Phase::Ordered, true, false, false, Parting::Stays),
            (Phase::Ordered, true, true, false, Parting::Spent),
            (Phase::Ordered, true, false, true, Parting::Replaced),
        ] {
            let parting = parting(phase, started, is_spent, is_replaced);
            assert_eq!(parting, expected, "{phase:?} {started}");
        }
    }
}
