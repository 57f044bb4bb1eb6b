//! From the JSON of [`super::document`] to Cedar's own values.
//!
//! Cedar can read that JSON itself, checking it against the schema on the way; that takes ten times as long as the
//! evaluation. What `document` makes fits the schema by construction, which the tests check with Cedar's own reader.

use std::collections::{HashMap, HashSet};
use std::str::FromStr as _;
use std::sync::LazyLock;

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression,
};
use serde_json::{Map, Value};

/// The schema's entity types; parsing a name takes longer than all that is done with it.
static TYPES: LazyLock<HashMap<&'static str, EntityTypeName>> = LazyLock::new(|| {
    let names = [
        "User",
        "Group",
        "Unit",
        "Slice",
        "Container",
        "Pod",
        "Namespace",
        "Executable",
        "Process",
        "ServerGroup",
        "Server",
        "Database",
        "Action",
    ];
    let parsed = names
        .into_iter()
        .map(|name| Some((name, EntityTypeName::from_str(name).ok()?)));
    parsed.flatten().collect()
});

/// An entity's name.
///
/// # Errors
/// When it is of no type of the schema's.
pub(super) fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind = TYPES
        .get(kind)
        .ok_or_else(|| format!("no entity type {kind}"))?;
    Ok(EntityUid::from_type_name_and_id(
        kind.clone(),
        EntityId::new(id),
    ))
}

/// A list of entities.
///
/// # Errors
/// What does not have Cedar's form.
pub(super) fn entities(list: &Value) -> Result<Entities, String> {
    let entities = list.as_array().into_iter().flatten().map(entity);
    let entities = entities.collect::<Result<Vec<_>, _>>()?;
    Entities::from_entities(entities, None).map_err(|error| error.to_string())
}

/// A context.
///
/// # Errors
/// What does not have Cedar's form.
pub(super) fn context(fields: &Value) -> Result<Context, String> {
    let fields = fields.as_object().ok_or("a context is a record")?;
    Context::from_pairs(record(fields)?).map_err(|error| error.to_string())
}

fn entity(value: &Value) -> Result<Entity, String> {
    let field = |name: &str| value.get(name).unwrap_or(&Value::Null);
    let parents = field("parents").as_array().into_iter().flatten();
    let parents = parents.map(named).collect::<Result<HashSet<_>, _>>()?;
    let none = Map::new();
    let attributes = record(field("attrs").as_object().unwrap_or(&none))?;
    let attributes = attributes.into_iter().collect();
    Entity::new(named(field("uid"))?, attributes, parents).map_err(|error| error.to_string())
}

fn named(value: &Value) -> Result<EntityUid, String> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    uid(text("type"), text("id"))
}

fn record(fields: &Map<String, Value>) -> Result<Vec<(String, RestrictedExpression)>, String> {
    let fields = fields.iter();
    fields
        .map(|(name, value)| Ok((name.clone(), expression(value)?)))
        .collect()
}

fn expression(value: &Value) -> Result<RestrictedExpression, String> {
    Ok(match value {
        Value::Bool(value) => RestrictedExpression::new_bool(*value),
        Value::Number(number) => {
            let long = number
                .as_i64()
                .ok_or_else(|| format!("{number} is no long"))?;
            RestrictedExpression::new_long(long)
        }
        Value::String(text) => RestrictedExpression::new_string(text.clone()),
        Value::Array(items) => {
            let items = items.iter().map(expression);
            RestrictedExpression::new_set(items.collect::<Result<Vec<_>, _>>()?)
        }
        Value::Object(fields) => match fields.get("__extn") {
            Some(extension) => extended(extension)?,
            None => RestrictedExpression::new_record(record(fields)?)
                .map_err(|error| error.to_string())?,
        },
        Value::Null => return Err("Cedar has no null".to_owned()),
    })
}

/// A value of an extension type: a function's name and its argument.
fn extended(value: &Value) -> Result<RestrictedExpression, String> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    match text("fn") {
        "ip" => Ok(RestrictedExpression::new_ip(text("arg"))),
        "datetime" => Ok(RestrictedExpression::new_datetime(text("arg"))),
        other => Err(format!("no extension {other}")),
    }
}
