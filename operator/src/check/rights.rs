//! Whether the operator's service account may do what the operator does.

use super::{Found, Installation};
use holdfast_crds::GROUP;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};

const CHECK: &str = "rights";

/// Where a right is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Wherever archives are looked after.
    Archives,
    /// In the operator's own namespace.
    Own,
    /// In the whole cluster.
    Cluster,
}

/// One line of the chart's rules.
#[derive(Debug, Clone, Copy)]
struct Need {
    place: Place,
    group: &'static str,
    resource: &'static str,
    name: &'static str,
    verbs: &'static [&'static str],
}

/// What stands for the name of the webhook's configuration.
const CONFIGURATION: &str = "CONFIGURATION";

const fn need(
    place: Place,
    group: &'static str,
    resource: &'static str,
    name: &'static str,
    verbs: &'static [&'static str],
) -> Need {
    Need {
        place,
        group,
        resource,
        name,
        verbs,
    }
}

const READ: &[&str] = &["get", "list", "watch"];

/// What the chart grants: templates/_helpers.tpl and templates/rbac.yaml tell why.
const NEEDS: &[Need] = &[
    need(Place::Archives, GROUP, "repositories", "", READ),
    need(Place::Archives, GROUP, "archives", "", READ),
    need(
        Place::Archives,
        GROUP,
        "backups",
        "",
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    need(Place::Archives, GROUP, "scheduledbackups", "", READ),
    need(
        Place::Archives,
        GROUP,
        "restores",
        "",
        &["get", "list", "watch", "patch"],
    ),
    need(
        Place::Archives,
        GROUP,
        "repositories/status",
        "",
        &["patch"],
    ),
    need(Place::Archives, GROUP, "archives/status", "", &["patch"]),
    need(Place::Archives, GROUP, "backups/status", "", &["patch"]),
    need(
        Place::Archives,
        GROUP,
        "scheduledbackups/status",
        "",
        &["patch"],
    ),
    need(Place::Archives, GROUP, "restores/status", "", &["patch"]),
    need(
        Place::Archives,
        "",
        "pods",
        "",
        &["get", "list", "watch", "delete"],
    ),
    need(Place::Archives, "apps", "statefulsets", "", &["get"]),
    need(
        Place::Archives,
        "",
        "persistentvolumeclaims",
        "",
        &["get", "create"],
    ),
    need(Place::Archives, "batch", "jobs", "", &["get", "create"]),
    need(
        Place::Archives,
        "",
        "secrets",
        "",
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    need(
        Place::Archives,
        "events.k8s.io",
        "events",
        "",
        &["create", "patch"],
    ),
    need(Place::Own, "", "secrets", "", &["create"]),
    need(
        Place::Own,
        "",
        "secrets",
        "holdfast-authority",
        &["get", "update"],
    ),
    need(
        Place::Own,
        "",
        "secrets",
        "holdfast-webhook",
        &["get", "update"],
    ),
    need(Place::Own, "", "pods", "", &["get"]),
    need(Place::Own, "coordination.k8s.io", "leases", "", &["create"]),
    need(
        Place::Own,
        "coordination.k8s.io",
        "leases",
        "holdfast-operator",
        &["get", "update"],
    ),
    need(Place::Cluster, "", "namespaces", "kube-system", &["get"]),
    need(
        Place::Cluster,
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        CONFIGURATION,
        &["get", "list", "watch", "patch"],
    ),
];

/// Rights: create on SubjectAccessReviews, unless it is the operator itself that asks.
pub async fn check(client: &Client, installation: &Installation<'_>) -> Found {
    let user = format!(
        "system:serviceaccount:{}:{}",
        installation.namespace, installation.service_account
    );
    let itself = match who(client).await {
        Ok(name) => name == user,
        Err(error) => return Found::unanswered(CHECK, "who asks can't be told", &error),
    };
    let asked = questions(installation);
    let mut refused = Vec::new();
    for attributes in &asked {
        match may(client, &user, itself, attributes).await {
            Ok(true) => {}
            Ok(false) => refused.push(sentence(attributes)),
            Err(error) => return Found::unanswered(CHECK, "rights can't be asked for", &error),
        }
    }
    judge(&user, asked.len(), &refused)
}

fn judge(user: &str, asked: usize, refused: &[String]) -> Found {
    if refused.is_empty() {
        return Found::ok(
            CHECK,
            format!("{user} may do all that it needs ({asked} questions)"),
        );
    }
    Found::wrong(
        CHECK,
        format!("{user} may not {}", refused.join("; ")),
        "install the roles of this version's chart: templates/rbac.yaml tells what each is for",
    )
}

/// Every right, everywhere that it is needed.
fn questions(installation: &Installation<'_>) -> Vec<ResourceAttributes> {
    let mut asked = Vec::new();
    for need in NEEDS {
        let name = match (need.name, installation.webhook_configuration) {
            (CONFIGURATION, None) => continue,
            (CONFIGURATION, Some(name)) => name,
            (name, _) => name,
        };
        let places = match need.place {
            Place::Own => vec![installation.namespace],
            Place::Archives if !installation.watch_namespaces.is_empty() => {
                installation.watch_namespaces.clone()
            }
            // No namespace says: in all of them.
            Place::Archives | Place::Cluster => vec![""],
        };
        let (resource, subresource) = match need.resource.split_once('/') {
            Some((resource, part)) => (resource, Some(part)),
            None => (need.resource, None),
        };
        for place in places {
            asked.extend(need.verbs.iter().map(|verb| ResourceAttributes {
                group: Some(need.group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: subresource.map(str::to_owned),
                name: (!name.is_empty()).then(|| name.to_owned()),
                namespace: (!place.is_empty()).then(|| place.to_owned()),
                verb: Some((*verb).to_owned()),
                ..ResourceAttributes::default()
            }));
        }
    }
    asked
}

fn sentence(attributes: &ResourceAttributes) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut resource = text(&attributes.resource);
    if let Some(part) = &attributes.subresource {
        resource += &format!("/{part}");
    }
    let group = text(&attributes.group);
    if !group.is_empty() {
        resource += &format!(".{group}");
    }
    if let Some(name) = &attributes.name {
        resource += &format!(" {name}");
    }
    let place = match &attributes.namespace {
        Some(namespace) => format!(" in the namespace {namespace}"),
        None => String::new(),
    };
    format!("{} {resource}{place}", text(&attributes.verb))
}

async fn who(client: &Client) -> Result<String, kube::Error> {
    let api: Api<SelfSubjectReview> = Api::all(client.clone());
    let review = api
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await?;
    let user = review.status.and_then(|status| status.user_info);
    Ok(user.and_then(|user| user.username).unwrap_or_default())
}

async fn may(
    client: &Client,
    user: &str,
    itself: bool,
    attributes: &ResourceAttributes,
) -> Result<bool, kube::Error> {
    let parameters = PostParams::default();
    let status = if itself {
        let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes.clone()),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        api.create(&parameters, &review).await?.status
    } else {
        let api: Api<SubjectAccessReview> = Api::all(client.clone());
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                resource_attributes: Some(attributes.clone()),
                user: Some(user.to_owned()),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        api.create(&parameters, &review).await?.status
    };
    Ok(status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn asked(watch: &[&str], configuration: Option<&str>) -> Vec<String> {
        let installation = Installation {
            namespace: "system",
            service_account: "holdfast",
            webhook_configuration: configuration,
            watch_namespaces: watch.to_vec(),
        };
        questions(&installation).iter().map(sentence).collect()
    }

    #[test]
    fn rights_are_asked_for_where_they_are_needed() {
        let everywhere = asked(&[], Some("hook"));
        for question in [
            "patch archives/status.holdfast.dev",
            "create secrets in the namespace system",
            "update leases.coordination.k8s.io holdfast-operator in the namespace system",
            "get namespaces kube-system",
            "patch mutatingwebhookconfigurations.admissionregistration.k8s.io hook",
        ] {
            assert!(
                everywhere.iter().any(|asked| asked == question),
                "{question}: {everywhere:#?}"
            );
        }
        let some = asked(&["a", "b"], None);
        for question in [
            "list pods in the namespace a",
            "list pods in the namespace b",
        ] {
            assert!(some.iter().any(|asked| asked == question), "{some:#?}");
        }
        let not =
            |question: &String| question == "list pods" || question.contains("mutatingwebhook");
        assert!(!some.iter().any(not), "{some:#?}");
    }

    #[test]
    fn what_is_not_granted_is_named() {
        assert_eq!(judge("u", 3, &[]).verdict, Verdict::Ok);
        let found = judge("u", 3, &["list pods".into(), "get secrets".into()]);
        assert_eq!(found.verdict, Verdict::Wrong);
        assert_eq!(found.message, "u may not list pods; get secrets");
    }
}
