//! The compiled descriptor against the contract of CRI 0.37, both ways: nothing missing, nothing added, no number moved.

#![allow(clippy::unwrap_used, reason = "a test: a failure is what it reports")]

use std::collections::BTreeMap;

use prost_reflect::{Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Value, json};

const PACKAGE: &str = "runtime.v1";

fn pool() -> DescriptorPool {
    DescriptorPool::decode(berth_cri_api::FILE_DESCRIPTOR_SET).unwrap()
}

fn short(full: &str) -> &str {
    full.strip_prefix("runtime.v1.").unwrap_or(full)
}

fn scalar(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => short(message.full_name()).to_owned(),
        Kind::Enum(of) => short(of.full_name()).to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn describe(field: &FieldDescriptor) -> Value {
    let kind = field.kind();
    let typed = match &kind {
        Kind::Message(entry) if field.is_map() => format!(
            "map<{}, {}>",
            scalar(&entry.map_entry_key_field().kind()),
            scalar(&entry.map_entry_value_field().kind())
        ),
        _ if field.cardinality() == Cardinality::Repeated => format!("repeated {}", scalar(&kind)),
        _ => scalar(&kind),
    };
    let mut value = json!({"number": field.number(), "type": typed});
    if field.field_descriptor_proto().options.as_ref().is_some_and(|o| o.deprecated()) {
        value["deprecated"] = true.into();
    }
    assert!(field.containing_oneof().is_none(), "{} is in a oneof", field.full_name());
    value
}

fn message(message: &MessageDescriptor) -> Value {
    let fields: BTreeMap<String, Value> =
        message.fields().map(|f| (f.name().to_owned(), describe(&f))).collect();
    json!({ "fields": fields })
}

fn values(of: &EnumDescriptor) -> Value {
    of.values().map(|v| (v.name().to_owned(), v.number().into())).collect::<serde_json::Map<_, _>>().into()
}

fn compiled() -> Value {
    let pool = pool();
    let messages: serde_json::Map<_, _> = pool
        .all_messages()
        .filter(|m| m.package_name() == PACKAGE && !m.is_map_entry())
        .map(|m| (short(m.full_name()).to_owned(), message(&m)))
        .collect();
    let enums: serde_json::Map<_, _> =
        pool.all_enums().map(|e| (short(e.full_name()).to_owned(), values(&e))).collect();
    let mut services = serde_json::Map::new();
    for service in pool.services() {
        let methods = service.methods().map(|m| {
            let side = |streams, of: MessageDescriptor| match streams {
                true => format!("stream {}", short(of.full_name())),
                false => short(of.full_name()).to_owned(),
            };
            let call = json!({
                "request": side(m.is_client_streaming(), m.input()),
                "response": side(m.is_server_streaming(), m.output()),
            });
            (m.name().to_owned(), call)
        });
        services.insert(service.name().to_owned(), methods.collect::<serde_json::Map<_, _>>().into());
    }
    json!({"package": PACKAGE, "syntax": "proto3", "services": services, "messages": messages, "enums": enums})
}

/// Every path at which two documents differ.
fn differences(path: &str, left: &Value, right: &Value, found: &mut Vec<String>) {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            for key in left.keys().chain(right.keys().filter(|k| !left.contains_key(*k))) {
                let at = format!("{path}/{key}");
                match (left.get(key), right.get(key)) {
                    (Some(left), Some(right)) => differences(&at, left, right, found),
                    (Some(_), None) => found.push(format!("{at} is in the contract but not compiled")),
                    _ => found.push(format!("{at} is compiled but not in the contract")),
                }
            }
        }
        (left, right) if left != right => found.push(format!("{path}: contract {left}, compiled {right}")),
        _ => {}
    }
}

#[test]
fn the_descriptor_is_the_contract() {
    let contract: Value = serde_json::from_str(include_str!("data/cri-v1.json")).unwrap();
    let compiled = compiled();
    let mut found = Vec::new();
    differences("", &contract, &compiled, &mut found);
    assert!(found.is_empty(), "{}", found.join("\n"));
    let rpcs: usize =
        compiled["services"].as_object().unwrap().values().map(|s| s.as_object().unwrap().len()).sum();
    assert_eq!(rpcs, 43);
}
