//! `holdfast check`: looks at everything that archiving, backups and restores need, changes nothing that lasts, and
//! says for each thing that is wrong the line that mends it.

pub(crate) mod database;
mod local;
mod store;

use crate::commands::print;
use crate::config::{self, Settings};
use crate::control::client;
use crate::exit::{ExitClass, Failure};
use crate::stream;
use std::path::Path;

/// What was found about one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    Problem,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) verdict: Verdict,
    /// What was looked at.
    pub(crate) subject: String,
    /// What was found.
    pub(crate) message: String,
    /// The line that mends it.
    pub(crate) mend: Option<String>,
}

impl Finding {
    fn good(subject: &str, message: impl Into<String>) -> Self {
        Self::new(Verdict::Good, subject, message, None)
    }

    fn problem(subject: &str, message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(Verdict::Problem, subject, message, Some(mend.into()))
    }

    /// A problem whose message says what to do.
    fn told(subject: &str, message: impl Into<String>) -> Self {
        Self::new(Verdict::Problem, subject, message, None)
    }

    fn unknown(subject: &str, message: impl Into<String>) -> Self {
        Self::new(Verdict::Unknown, subject, message, None)
    }

    fn new(
        verdict: Verdict,
        subject: &str,
        message: impl Into<String>,
        mend: Option<String>,
    ) -> Self {
        Self {
            verdict,
            subject: subject.to_owned(),
            message: message.into(),
            mend,
        }
    }
}

/// Runs the command and prints what it finds. Problems are a failure; else what could not be told is unknown.
pub async fn run(file: &Path) -> Result<ExitClass, Failure> {
    let findings = match config::load(file) {
        Err(error) => error
            .to_string()
            .lines()
            .map(|line| Finding::told("settings", line))
            .collect(),
        Ok(settings) => look(&settings).await,
    };
    print(&findings.iter().map(told).collect::<String>())?;
    Ok(conclude(&findings))
}

async fn look(settings: &Settings) -> Vec<Finding> {
    let file = settings.file.display();
    let mut findings = vec![Finding::good(
        "settings",
        format!("{file} describes the archive {}", settings.archive),
    )];
    let (control, local) = local::look(&settings.postgres.data_directory);
    findings.extend(local);
    for repository in &settings.repositories {
        findings.extend(store::look(settings, repository, control.as_ref()).await);
    }
    findings.extend(database::look(settings, control.as_ref()).await);
    findings.extend(streaming(settings).await);
    findings.push(sidecar(settings).await);
    findings
}

async fn streaming(settings: &Settings) -> Option<Finding> {
    settings.streaming?;
    Some(match stream::may_follow(settings).await? {
        Ok(()) => Finding::good("streaming", "the server lets us follow what it writes"),
        Err(why) => Finding::told("streaming", why),
    })
}

async fn sidecar(settings: &Settings) -> Finding {
    let socket = settings.control_socket();
    match client::status(&socket).await {
        Ok(_) => Finding::good("sidecar", format!("serves {}", settings.socket.display())),
        Err(error) => Finding::problem(
            "sidecar",
            error.to_string(),
            format!("holdfast --config {} sidecar", settings.file.display()),
        ),
    }
}

fn conclude(findings: &[Finding]) -> ExitClass {
    let any = |verdict| findings.iter().any(|f| f.verdict == verdict);
    if any(Verdict::Problem) {
        ExitClass::Failed
    } else if any(Verdict::Unknown) {
        ExitClass::Unknown
    } else {
        ExitClass::Done
    }
}

fn told(finding: &Finding) -> String {
    let word = match finding.verdict {
        Verdict::Good => "ok",
        Verdict::Problem => "PROBLEM",
        Verdict::Unknown => "unknown",
    };
    let line = format!("{word:<8} {}: {}\n", finding.subject, finding.message);
    match &finding.mend {
        Some(mend) => format!("{line}         mend it with: {mend}\n"),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides() {
        let good = Finding::good("a", "b");
        let unknown = Finding::unknown("a", "b");
        let problem = Finding::problem("a", "b", "c");
        for (findings, expected) in [
            (vec![good.clone()], ExitClass::Done),
            (vec![good.clone(), unknown.clone()], ExitClass::Unknown),
            (
                vec![unknown, problem.clone(), good.clone()],
                ExitClass::Failed,
            ),
        ] {
            assert_eq!(conclude(&findings), expected);
        }
        assert_eq!(told(&good), "ok       a: b\n");
        assert_eq!(told(&problem), "PROBLEM  a: b\n         mend it with: c\n");
    }

    #[tokio::test]
    async fn wrong_settings_are_a_problem() {
        let class = run(Path::new("/nowhere.yaml")).await.unwrap();
        assert_eq!(class, ExitClass::Failed);
    }
}
