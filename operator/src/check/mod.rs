//! `holdfast-operator check`: whether an installation works, asked of the cluster itself. Run by `helm test`, or by hand.
//!
//! It changes nothing: the pod that it has made is a dry run.

mod definitions;
mod lease;
mod rights;
mod webhook;

use crate::cli::CheckArgs;
use kube::Client;
use serde::Serialize;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::Instant;

/// For one check: an API server that does not answer is told, not waited for.
const LONGEST: Duration = Duration::from_secs(40);

/// Between two looks at what does not work yet.
const PAUSE: Duration = Duration::from_secs(2);

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Verdict {
    /// It is as it has to be.
    Ok,
    /// It could not be seen.
    Unknown,
    /// It is not as it has to be.
    Wrong,
}

/// One check, in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// What was looked at.
    pub check: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was seen.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

impl Found {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, message, "")
    }

    fn wrong(check: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(check, Verdict::Wrong, message, advice)
    }

    fn unknown(check: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(check, Verdict::Unknown, message, advice)
    }

    /// An answer of the API server that says nothing about the installation.
    fn unanswered(check: &'static str, what: &str, error: &kube::Error) -> Self {
        let advice = match error {
            kube::Error::Api(refused) if refused.code == 403 => {
                "run this with the rights that `helm test` has, or as an administrator"
            }
            _ => "see that the API server can be reached, and run this again",
        };
        Self::unknown(check, format!("{what}: {}", said(error)), advice)
    }

    fn new(
        check: &'static str,
        verdict: Verdict,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            check,
            verdict,
            // One line, whatever others say.
            message: one_line(&message.into()),
            advice: one_line(&advice.into()),
        }
    }

    fn line(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Unknown => "unknown",
            Verdict::Wrong => "WRONG",
        };
        let advice = match self.advice.as_str() {
            "" => String::new(),
            advice => format!(". What to do: {advice}"),
        };
        format!("{verdict:8}{:12}{}{advice}", self.check, self.message)
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What the API server said, without what a program reads.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(refused) => refused.message.clone(),
        error => error.to_string(),
    }
}

/// What an installation is called.
struct Installation<'a> {
    namespace: &'a str,
    service_account: &'a str,
    /// None: somebody else fills in whom the API server trusts.
    webhook_configuration: Option<&'a str>,
    /// Empty: all.
    watch_namespaces: Vec<&'a str>,
}

impl<'a> Installation<'a> {
    fn of(args: &'a CheckArgs) -> Self {
        let namespaces = args.watch_namespaces.iter().map(|name| name.trim());
        Self {
            namespace: &args.namespace,
            service_account: &args.service_account,
            webhook_configuration: args
                .webhook_configuration
                .as_deref()
                .filter(|name| !name.is_empty()),
            watch_namespaces: namespaces.filter(|name| !name.is_empty()).collect(),
        }
    }

    /// How people look at what the operator's replicas say.
    fn look(&self) -> String {
        format!(
            "see `kubectl --namespace {0} get pods` and `kubectl --namespace {0} logs deployment/{1}`",
            self.namespace, self.service_account
        )
    }
}

/// Looks at everything, prints what was found, and says how it went: 0 all is well, 1 something is wrong, 2 something
/// could not be seen, and nothing is known to be wrong.
pub async fn run(args: CheckArgs) -> ExitCode {
    let deadline = Instant::now() + Duration::from_secs(args.wait_seconds);
    let found = loop {
        let found = everything(&Installation::of(&args)).await;
        let well = found.iter().all(|found| found.verdict == Verdict::Ok);
        if well || Instant::now() + PAUSE >= deadline {
            break found;
        }
        tokio::time::sleep(PAUSE).await;
    };
    print(&found, args.json);
    ExitCode::from(exit_code(&found))
}

async fn everything(installation: &Installation<'_>) -> Vec<Found> {
    let client = match Client::try_default().await {
        Ok(client) => client,
        Err(error) => {
            let advice = "run this in a pod with a service account, or set KUBECONFIG";
            return vec![Found::unknown("cluster", error.to_string(), advice)];
        }
    };
    vec![
        bounded("definitions", definitions::check(&client)).await,
        bounded("rights", rights::check(&client, installation)).await,
        bounded("leader", lease::check(&client, installation)).await,
        bounded("webhook", webhook::check(&client, installation)).await,
    ]
}

async fn bounded(check: &'static str, looking: impl Future<Output = Found>) -> Found {
    match tokio::time::timeout(LONGEST, looking).await {
        Ok(found) => found,
        Err(_) => Found::unknown(
            check,
            format!("no answer in {} s", LONGEST.as_secs()),
            "see that the API server can be reached, and run this again",
        ),
    }
}

fn print(found: &[Found], as_json: bool) {
    if as_json {
        println!("{}", serde_json::json!({"checks": found}));
        return;
    }
    for found in found {
        println!("{}", found.line());
    }
}

fn exit_code(found: &[Found]) -> u8 {
    match found.iter().map(|found| found.verdict).max() {
        None | Some(Verdict::Ok) => 0,
        Some(Verdict::Wrong) => 1,
        Some(Verdict::Unknown) => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_outweighs_what_could_not_be_seen() {
        let found = |verdicts: &[Verdict]| -> Vec<Found> {
            let found = |verdict: &Verdict| Found::new("x", *verdict, "", "");
            verdicts.iter().map(found).collect()
        };
        use Verdict::{Ok, Unknown, Wrong};
        for (verdicts, code) in [
            (&[][..], 0),
            (&[Ok, Ok], 0),
            (&[Ok, Wrong], 1),
            (&[Unknown, Ok], 2),
            (&[Wrong, Unknown, Ok], 1),
        ] {
            assert_eq!(exit_code(&found(verdicts)), code, "{verdicts:?}");
        }
    }

    #[test]
    fn a_check_is_one_line() {
        let found = Found::wrong("webhook", "it said:\n  no", "ask\nagain");
        assert_eq!(
            found.line(),
            "WRONG   webhook     it said: no. What to do: ask again"
        );
        assert_eq!(
            Found::ok("leader", "x acts").line(),
            "ok      leader      x acts"
        );
        let json = serde_json::to_value(Found::ok("leader", "x acts")).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"check": "leader", "verdict": "Ok", "message": "x acts"})
        );
    }
}
