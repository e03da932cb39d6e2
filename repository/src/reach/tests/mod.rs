mod branches;
mod property;
mod simulation;
mod stops;

use super::sample::Model;
use super::*;
use futures::executor::block_on;

fn request(target: Target, exclusive: bool) -> Request {
    Request {
        target,
        exclusive,
        timeline: TimelineChoice::Latest,
        backup: None,
    }
}

fn planned(model: &Model, request: &Request) -> Result<Plan, Refusal> {
    block_on(plan(&model.catalogue(), model, request))
}
