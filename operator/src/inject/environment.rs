//! A container's variables, as far as the pod tells their values.

use super::pod::Variable;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// No path is longer, and references to references could grow without bound.
const LONGEST: usize = 4096;

/// What the pod says of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lookup {
    /// Nothing in `env`.
    Absent,
    /// This is its value.
    Literal(String),
    /// It comes from elsewhere, or refers to what does.
    Elsewhere,
}

/// The variables of `env`.
#[derive(Debug)]
pub(super) struct Environment<'a> {
    env: &'a [Variable],
    values: BTreeMap<&'a str, Option<String>>,
}

impl<'a> Environment<'a> {
    /// Works out the values in order, as the kubelet does: a reference means what was defined before it.
    pub(super) fn new(env: &'a [Variable]) -> Self {
        let mut values: BTreeMap<&str, Option<String>> = BTreeMap::new();
        for variable in env {
            let value = match (&variable.value, &variable.value_from) {
                (_, Some(_)) => None,
                (text, None) => expand(text.as_deref().unwrap_or(""), |name| {
                    values.get(name).cloned().flatten()
                }),
            };
            values.insert(&variable.name, value);
        }
        Self { env, values }
    }

    /// What is said of that one. An empty value is as good as none.
    pub(super) fn get(&self, name: &str) -> Lookup {
        match self.values.get(name) {
            None => Lookup::Absent,
            Some(None) => Lookup::Elsewhere,
            Some(Some(value)) if value.is_empty() => Lookup::Absent,
            Some(Some(value)) => Lookup::Literal(value.clone()),
        }
    }

    /// The text with its references replaced; none if one of them is not known.
    pub(super) fn expand(&self, text: &str) -> Option<String> {
        expand(text, |name| self.values.get(name).cloned().flatten())
    }

    /// The entries of `env` that these texts need, in their order, for another container of the same pod; or the name
    /// of the variable that can't be passed on.
    pub(super) fn needed_by<'t>(
        &self,
        texts: impl IntoIterator<Item = &'t str>,
    ) -> Result<Vec<Value>, String> {
        let mut needed: BTreeSet<String> = texts.into_iter().flat_map(references).collect();
        let mut found = Vec::new();
        for variable in self.env.iter().rev() {
            if !needed.remove(&variable.name) {
                continue;
            }
            // Ours are set by us.
            if variable.name.starts_with("HOLDFAST_") {
                return Err(variable.name.clone());
            }
            match (&variable.value, &variable.value_from) {
                (value, None) => {
                    let value = value.as_deref().unwrap_or("");
                    needed.extend(references(value));
                    found.push(json!({"name": variable.name, "value": value}));
                }
                (_, Some(source)) if source.len() == 1 && source.contains_key("fieldRef") => {
                    found.push(json!({"name": variable.name, "valueFrom": source}));
                }
                _ => return Err(variable.name.clone()),
            }
        }
        found.reverse();
        match needed.pop_first() {
            Some(missing) => Err(missing),
            None => Ok(found),
        }
    }
}

/// A piece of a text with `$(NAME)` in it; `$$` stands for a dollar.
enum Piece<'a> {
    Text(&'a str),
    Reference(&'a str),
}

fn pieces(mut text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    while let Some(dollar) = text.find('$') {
        pieces.push(Piece::Text(&text[..dollar]));
        let rest = &text[dollar + 1..];
        let reference = rest.strip_prefix('(').and_then(|r| r.split_once(')'));
        if let Some(after) = rest.strip_prefix('$') {
            pieces.push(Piece::Text("$"));
            text = after;
        } else if let Some((name, after)) = reference {
            pieces.push(Piece::Reference(name));
            text = after;
        } else {
            pieces.push(Piece::Text("$"));
            text = rest;
        }
    }
    pieces.push(Piece::Text(text));
    pieces
}

fn references(text: &str) -> Vec<String> {
    let names = pieces(text).into_iter().filter_map(|piece| match piece {
        Piece::Reference(name) => Some(name.to_owned()),
        Piece::Text(_) => None,
    });
    names.collect()
}

fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut expanded = String::new();
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => expanded.push_str(text),
            Piece::Reference(name) => expanded.push_str(&value(name)?),
        }
        if expanded.len() > LONGEST {
            return None;
        }
    }
    Some(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(env: Value) -> Vec<Variable> {
        serde_json::from_value(env).unwrap()
    }

    #[test]
    fn values_are_worked_out_as_the_kubelet_does() {
        let env = variables(json!([
            {"name": "EARLY", "value": "$(ROOT)/x"},
            {"name": "ROOT", "value": "/data"},
            {"name": "PGDATA", "value": "$(ROOT)/pg$(NUMBER)"},
            {"name": "NUMBER", "value": "17"},
            {"name": "LATE", "value": "$(ROOT)/pg$(NUMBER)"},
            {"name": "DOLLAR", "value": "a$$(ROOT)$b$"},
            {"name": "FIELD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "OF_FIELD", "value": "/d/$(FIELD)"},
            {"name": "TWICE", "value": "1"},
            {"name": "TWICE", "value": "2"},
            {"name": "EMPTY"},
        ]));
        let environment = Environment::new(&env);
        let literal = |text: &str| Lookup::Literal(text.to_owned());
        for (name, expected) in [
            ("EARLY", Lookup::Elsewhere),
            ("ROOT", literal("/data")),
            ("PGDATA", Lookup::Elsewhere),
            ("LATE", literal("/data/pg17")),
            ("DOLLAR", literal("a$(ROOT)$b$")),
            ("FIELD", Lookup::Elsewhere),
            ("OF_FIELD", Lookup::Elsewhere),
            ("TWICE", literal("2")),
            ("EMPTY", Lookup::Absent),
            ("MISSING", Lookup::Absent),
        ] {
            assert_eq!(environment.get(name), expected, "{name}");
        }
        assert_eq!(environment.expand("$(ROOT)/a").as_deref(), Some("/data/a"));
        assert_eq!(environment.expand("$(MISSING)"), None);
    }

    #[test]
    fn references_that_double_do_not_grow_for_ever() {
        let mut env = vec![json!({"name": "V0", "value": "x"})];
        for n in 1..200 {
            let before = n - 1;
            env.push(
                json!({"name": format!("V{n}"), "value": format!("$(V{before})$(V{before})")}),
            );
        }
        let env = variables(Value::Array(env));
        let environment = Environment::new(&env);
        assert_eq!(environment.get("V12"), Lookup::Literal("x".repeat(4096)));
        assert_eq!(environment.get("V199"), Lookup::Elsewhere);
    }

    #[test]
    fn what_an_expression_needs_is_passed_on() {
        let name =
            json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}});
        let env = variables(json!([
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "POD_NAME", "value": "hidden by the later one"},
            name,
            {"name": "DIRECTORY", "value": "data/$(POD_NAME)"},
            {"name": "OTHER", "value": "x"},
            {"name": "OF_SECRET", "value": "$(PASSWORD)"},
            {"name": "HOLDFAST_CONFIG", "value": "x"},
        ]));
        let environment = Environment::new(&env);
        assert_eq!(
            environment
                .needed_by(["$(DIRECTORY)/x", "$$(OTHER)"])
                .unwrap(),
            [
                name,
                json!({"name": "DIRECTORY", "value": "data/$(POD_NAME)"})
            ]
        );
        assert_eq!(
            environment.needed_by(["plain"]).unwrap(),
            Vec::<Value>::new()
        );
        for (expression, variable) in [
            ("$(MISSING)", "MISSING"),
            ("$(PASSWORD)", "PASSWORD"),
            ("$(OF_SECRET)", "PASSWORD"),
            ("$(HOLDFAST_CONFIG)", "HOLDFAST_CONFIG"),
        ] {
            assert_eq!(environment.needed_by([expression]).unwrap_err(), variable);
        }
    }
}
