//! From the schemas as derived to schemas as Kubernetes wants them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// How many entries a list of a `status` may have. Whoever writes a status cuts its lists to this: the API server
/// refuses the whole status otherwise.
pub mod limits {
    /// `Archive.status.instances`.
    pub const INSTANCES: usize = 100;
    /// `Backup.status.badPages`.
    pub const BAD_PAGES: usize = 100;
    /// Repositories of an Archive, and so of a Backup.
    pub const REPOSITORIES: usize = 16;
    /// `Restore.status.pods`.
    pub const PODS: usize = 100;
    /// Conditions, of whatever they are.
    pub const CONDITIONS: usize = 32;
}

/// Lists that come from types shared with the sidecar, which know nothing of Kubernetes: name, entries, and the field
/// that tells one entry from another. Without one, the list is replaced as a whole.
const LISTS: &[(&str, usize, Option<&str>)] = &[
    ("badPages", limits::BAD_PAGES, None),
    ("conditions", limits::CONDITIONS, Some("type")),
    ("instances", limits::INSTANCES, None),
    ("pods", limits::PODS, Some("name")),
    ("repositories", limits::REPOSITORIES, Some("name")),
];

/// Rewrites every version's schema.
pub(crate) fn rewrite(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut();
        let Some(root) = schema.and_then(|s| s.open_api_v3_schema.as_mut()) else {
            continue;
        };
        walk(root, &mut |schema| {
            // The struct's name: `kubectl explain` has the kind's.
            schema.title = None;
            numbers(schema);
            if let Some(description) = &mut schema.description {
                *description = paragraphs(description);
            }
            for (name, property) in schema.properties.iter_mut().flatten() {
                list(name, property);
            }
        });
        let properties = root.properties.get_or_insert_default();
        properties.insert("metadata".to_owned(), metadata());
        let status = root.properties.as_mut().and_then(|p| p.get_mut("status"));
        if let Some(status) = status {
            // Defaults are for what people leave out; what a status does not say is not known.
            walk(status, &mut |schema| schema.default = None);
        }
    }
    crd
}

/// Lets a rule's answer point at `metadata.name`. More of `metadata` can't be declared; the API server knows it.
fn metadata() -> JSONSchemaProps {
    let of_type = |name: &str| JSONSchemaProps {
        type_: Some(name.to_owned()),
        ..JSONSchemaProps::default()
    };
    JSONSchemaProps {
        properties: Some([("name".to_owned(), of_type("string"))].into()),
        ..of_type("object")
    }
}

/// Calls `visit` with this schema and all within it.
fn walk(schema: &mut JSONSchemaProps, visit: &mut impl FnMut(&mut JSONSchemaProps)) {
    visit(schema);
    for property in schema.properties.iter_mut().flatten().map(|(_, p)| p) {
        walk(property, visit);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => walk(items, visit),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => {
            items.iter_mut().for_each(|item| walk(item, visit));
        }
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        walk(values, visit);
    }
}

/// OpenAPI knows int32 and int64; the bounds say the rest.
fn numbers(schema: &mut JSONSchemaProps) {
    let format = match schema.format.as_deref() {
        Some("uint8" | "uint16" | "int8" | "int16") => "int32",
        Some("uint32" | "uint64" | "uint") => "int64",
        _ => return,
    };
    if schema.format.as_deref() == Some("uint8") {
        schema.maximum = schema.maximum.filter(|most| *most < f64::from(u8::MAX));
    }
    schema.format = Some(format.to_owned());
    schema.minimum = schema.minimum.or(Some(0.0));
}

/// Comments are broken into lines, which means nothing: an empty line ends a paragraph.
fn paragraphs(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(|paragraph| {
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        words.join(" ")
    });
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

fn list(name: &str, schema: &mut JSONSchemaProps) {
    let known = LISTS.iter().find(|(list, ..)| *list == name);
    let Some((_, most, key)) = known.filter(|_| schema.type_.as_deref() == Some("array")) else {
        return;
    };
    schema.max_items = schema.max_items.or(i64::try_from(*most).ok());
    if schema.x_kubernetes_list_type.is_none() {
        let kind = if key.is_some() { "map" } else { "atomic" };
        schema.x_kubernetes_list_type = Some(kind.to_owned());
        schema.x_kubernetes_list_map_keys = key.map(|key| vec![key.to_owned()]);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
