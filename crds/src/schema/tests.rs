use super::*;
use kube::CustomResourceExt;
use serde_json::Value;

fn schemas() -> Vec<(String, JSONSchemaProps)> {
    crate::all()
        .into_iter()
        .map(|crd| {
            let version = crd.spec.versions.into_iter().next().unwrap();
            let schema = version.schema.unwrap().open_api_v3_schema.unwrap();
            (crd.spec.names.kind, schema)
        })
        .collect()
}

/// Calls `check` with every schema and its place.
fn each(check: impl Fn(&str, &JSONSchemaProps)) {
    for (kind, schema) in schemas() {
        visit(&kind, &schema, &check);
    }
}

fn visit(at: &str, schema: &JSONSchemaProps, check: &impl Fn(&str, &JSONSchemaProps)) {
    check(at, schema);
    for (name, property) in schema.properties.iter().flatten() {
        visit(&format!("{at}.{name}"), property, check);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        visit(&format!("{at}[]"), items, check);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        visit(&format!("{at}{{}}"), values, check);
    }
}

#[test]
fn numbers_have_formats_that_kubernetes_knows() {
    each(|at, schema| {
        let format = schema.format.as_deref();
        match schema.type_.as_deref() {
            Some("integer") => {
                assert!(
                    matches!(format, Some("int32" | "int64")),
                    "{at}: {format:?}"
                );
                let signed = ["observedGeneration", "configurationGeneration", "missed"];
                let bounded = schema.minimum.is_some();
                assert!(
                    bounded || signed.iter().any(|name| at.ends_with(name)),
                    "{at}"
                );
            }
            Some("number") => assert_eq!(format, Some("double"), "{at}"),
            _ => {}
        }
    });
}

#[test]
fn every_schema_is_structural() {
    each(|at, schema| {
        assert!(schema.type_.is_some(), "{at} has no type");
        for combined in [&schema.any_of, &schema.one_of, &schema.all_of] {
            assert!(combined.is_none(), "{at} is a combination");
        }
        assert!(schema.not.is_none() && schema.ref_path.is_none(), "{at}");
        let both = schema.properties.is_some() && schema.additional_properties.is_some();
        assert!(!both, "{at} is both a struct and a map");
        assert_eq!(schema.x_kubernetes_preserve_unknown_fields, None, "{at}");
    });
}

#[test]
fn what_people_write_is_bounded() {
    each(|at, schema| {
        if let Some("array") = schema.type_.as_deref() {
            assert!(schema.max_items.is_some(), "{at} has no maxItems");
            assert!(
                schema.x_kubernetes_list_type.is_some(),
                "{at} has no list type"
            );
        }
        let (_, path) = at.split_once('.').unwrap_or((at, ""));
        if !path.starts_with("spec") {
            return;
        }
        match schema.type_.as_deref() {
            Some("string") => assert!(
                schema.max_length.is_some() || schema.enum_.is_some() || at.ends_with("{}"),
                "{at} has no maxLength"
            ),
            Some("object") if schema.additional_properties.is_some() => {
                assert!(schema.max_properties.is_some(), "{at} has no maxProperties");
            }
            _ => {}
        }
    });
}

#[test]
fn every_field_is_described() {
    each(|at, schema| {
        // What every object has is described by the API server.
        let (_, path) = at.split_once('.').unwrap_or(("", "spec"));
        let ours = path.starts_with("spec") || path.starts_with("status");
        if !ours || at.ends_with("[]") || at.ends_with("{}") {
            return;
        }
        let description = schema.description.as_deref().unwrap_or_default();
        assert!(description.len() > 8, "{at}: {description:?}");
        assert!(description.ends_with('.'), "{at}: {description:?}");
        assert!(!description.contains('\n'), "{at}: {description:?}");
    });
}

#[test]
fn what_has_a_default_says_so() {
    each(|at, schema| {
        let Some(default) = schema.default.as_ref().filter(|_| at.contains(".spec")) else {
            assert!(schema.default.is_none(), "{at}: a status has no defaults");
            return;
        };
        let said = match &default.0 {
            Value::Object(_) => return,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let description = schema.description.as_deref().unwrap_or_default();
        assert!(
            description.contains(&format!("Default: {said}.")),
            "{at}: {description:?} and {said}"
        );
    });
}

#[test]
fn what_may_be_left_out_says_what_happens_then() {
    each(|at, schema| {
        if !at.contains(".spec") {
            return;
        }
        let required = schema.required.clone().unwrap_or_default();
        let optional = schema.properties.iter().flatten();
        for (name, field) in optional.filter(|(name, _)| !required.contains(name)) {
            let description = field.description.as_deref().unwrap_or_default();
            // A struct's fields say it.
            let said = field.properties.is_some() || description.contains("Default: ");
            assert!(said, "{at}.{name}: {description:?}");
        }
    });
}

#[test]
fn conditions_are_a_map_by_type() {
    let mut seen = 0;
    for (kind, schema) in schemas() {
        let status = &schema.properties.as_ref().unwrap()["status"];
        let conditions = &status.properties.as_ref().unwrap()["conditions"];
        assert_eq!(
            conditions.x_kubernetes_list_type.as_deref(),
            Some("map"),
            "{kind}"
        );
        assert_eq!(
            conditions.x_kubernetes_list_map_keys,
            Some(vec!["type".into()]),
            "{kind}"
        );
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[test]
fn no_two_kinds_share_a_name() {
    let mut seen = std::collections::BTreeSet::new();
    for crd in crate::all() {
        let names = crd.spec.names;
        let short = names.short_names.unwrap_or_default();
        for name in short
            .into_iter()
            .chain([names.plural])
            .chain(names.singular)
        {
            assert!(seen.insert(name.clone()), "{name}");
        }
    }
}

#[test]
fn names_are_those_of_the_group() {
    for crd in crate::all() {
        assert_eq!(crd.spec.group, crate::GROUP);
        assert_eq!(crd.spec.versions[0].name, crate::VERSION);
        assert_eq!(crd.spec.scope, "Namespaced");
        assert_eq!(crd.spec.names.categories, Some(vec!["holdfast".into()]));
        let short = crd.spec.names.short_names.unwrap();
        assert!(short.iter().all(|name| name.starts_with("hf")), "{short:?}");
    }
    assert_eq!(crate::Repository::crd_name(), "repositories.holdfast.dev");
}

#[test]
fn lines_of_a_comment_become_paragraphs() {
    for (text, expected) in [
        ("one", "one"),
        ("one\ntwo", "one two"),
        ("one\n two\n\nthree", "one two\n\nthree"),
    ] {
        assert_eq!(paragraphs(text), expected);
    }
}
